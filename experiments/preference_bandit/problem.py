"""Five arms, sixteen preferences, and every loss with all its runs trained in one program."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax.losses import preference

ARMS = ("A1", "A2", "A3", "A4", "A5")
REWARDS = np.array(
    [
        20 * 0.5 + 11 * 0.5,
        30 * 0.5 + 3 * 0.5,
        18 * 0.5 + 15 * 0.5,
        15 * 0.99 + 10 * 0.01,
        1 * 0.99 + 4 * 0.01,
    ]
)
"""Mean reward of each arm, of its two outcomes."""
WINNERS = np.array([3, 2, 2, 1, 3, 1, 1, 1, 4, 2, 2, 2, 1, 3, 3, 4]) - 1
LOSERS = np.array([5, 5, 5, 2, 5, 5, 4, 5, 5, 4, 1, 5, 3, 5, 4, 2]) - 1

Loss = Callable[..., Array]
"""``loss(log_ratio_chosen, log_ratio_rejected, beta=beta)``, one value per pair."""


def make_losses(dispersion: float) -> dict[str, Loss]:
    """Return the losses compared, Mallows forms at one dispersion."""
    phi, losses = {"dispersion": dispersion}, preference
    return {
        "dpo": losses.dpo,
        "mallows_phi": partial(losses.mallows_phi, **phi),
        "mallows_theta": partial(losses.mallows_theta, **phi),
        "mallows_phi_sigmoid": partial(losses.mallows_phi, link="sigmoid", **phi),
        "mallows_phi_cubic": partial(losses.mallows_phi, link="cubic", **phi),
        "mallows_ipo": partial(losses.mallows_ipo, **phi),
        "ipo": losses.ipo,
        "hinge": losses.hinge,
        "dpo_smoothed": partial(losses.dpo, label_smoothing=0.1),
        "exo": losses.exo,
        "sppo": losses.sppo,
        "nca": losses.nca,
        "apo": losses.apo,
    }


LOSSES = tuple(make_losses(0.5))


class Descent(NamedTuple):
    """Logits of every run, (losses, betas, arms, starts), and what rounding left off them."""

    logits: Float[Array, "losses betas arms starts"]
    rest: Float[Array, "losses betas arms starts"]


def start(key: Array, losses: int, betas: int, random_starts: int) -> Descent:
    """Return the uniform policy and after it random ones, whose logits are standard normal."""
    logits = jnp.zeros((len(ARMS), 1 + random_starts))
    logits = logits.at[:, 1:].set(jax.random.normal(key, (len(ARMS), random_starts)))
    logits = jnp.broadcast_to(logits, (losses, betas, *logits.shape))
    return Descent(logits, jnp.zeros_like(logits))


def distinct_pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one-hot winners and losers (pairs, arms) of the distinct pairs, and their shares."""
    pairs, counts = np.unique(np.stack([WINNERS, LOSERS]), axis=1, return_counts=True)
    winners, losers = np.eye(len(ARMS), dtype=np.float32)[pairs]
    return winners, losers, (counts / counts.sum()).astype(np.float32)


def gradient(
    logits: Float[Array, "arms starts"], beta: Float[Array, ""], loss: Loss
) -> Float[Array, "arms starts"]:
    """Return the gradient of the mean loss over the sixteen pairs; the reference is uniform.

    The chain rule through the softmax is written out, and the barriers keep the compiler from
    evaluating the loss again for every arm that a pair has a share in.
    """
    winners, losers, shares = distinct_pairs()
    log_policy = jax.lax.optimization_barrier(jax.nn.log_softmax(logits, axis=0))
    log_ratio = log_policy + np.log(len(ARMS))
    chosen, rejected = (log_ratio[np.argmax(hot, axis=1)] for hot in (winners, losers))
    slopes = jax.grad(lambda w, r: jnp.sum(loss(w, r, beta=beta)), argnums=(0, 1))(chosen, rejected)
    of_chosen, of_rejected = jax.lax.optimization_barrier(slopes)
    direct = (shares[:, None] * winners).T @ of_chosen + (shares[:, None] * losers).T @ of_rejected
    return direct - jnp.exp(log_policy) * jnp.sum(direct, axis=0, keepdims=True)


def gradients(
    logits: Float[Array, "losses betas arms starts"], losses: Sequence[Loss], betas: Sequence[float]
) -> Float[Array, "losses betas arms starts"]:
    """Return `gradient` of every run."""
    each = [jax.vmap(partial(gradient, loss=loss)) for loss in losses]
    return jnp.stack([of(x, jnp.asarray(betas)) for of, x in zip(each, logits, strict=True)])


def make_descent(
    losses: Sequence[Loss], betas: Sequence[float], rate: float
) -> Callable[[Descent, int], Descent]:
    """Return ``descend(state, steps)``, gradient descent of every run in one program.

    Late gradients times the rate are below the rounding of float32 logits, and would be lost: the
    sum is compensated (Kahan's).
    """

    def step(state: Descent) -> Descent:
        move = -rate * gradients(state.logits, losses, betas) - state.rest
        logits = state.logits + move
        return Descent(logits, (logits - state.logits) - move)

    @partial(jax.jit, donate_argnums=0)
    def descend(state: Descent, steps: int) -> Descent:
        return jax.lax.fori_loop(0, steps, lambda _, s: step(s), state)

    return descend


def evaluate(logits: Float[Array, "losses betas arms starts"]) -> tuple[np.ndarray, ...]:
    """Return policies, their mean rewards and their KL from the uniform one, in float64."""
    wide = np.asarray(logits, np.float64)
    log_policy = wide - np.logaddexp.reduce(wide, axis=2, keepdims=True)
    policy = np.exp(log_policy)
    reward = np.einsum("lbas,a->lbs", policy, REWARDS)
    return policy, reward, np.sum(policy * (log_policy + np.log(len(ARMS))), axis=2)
