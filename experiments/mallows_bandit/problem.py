"""Five arms, sixteen preferences, and every loss with all its runs trained in one program."""

import math
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
    """Return every named loss of log-ratios, at its default options and Mallows forms at one phi.

    An arm is one token: sums over tokens and means are the same.
    """
    phi = {"dispersion": dispersion}
    return {
        name: partial(row.loss, **row.defaults, **(phi if row.dispersed else {}))
        for name, row in preference.NAMED.items()
        if row.inputs in ("log_ratios", "mean_log_ratios")
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


def gradients(
    logits: Float[Array, "losses betas arms starts"], losses: Sequence[Loss], betas: Sequence[float]
) -> Float[Array, "losses betas arms starts"]:
    """Return the gradient of the mean loss over the sixteen pairs; the reference is uniform.

    The chain rule through the softmax is written out: a slope belongs to a pair, and its share in
    every arm is a product with a constant matrix.
    """
    winners, losers, shares = distinct_pairs()
    log_policy = jax.nn.log_softmax(logits, axis=2)
    log_ratio = log_policy + math.log(len(ARMS))
    chosen, rejected = (log_ratio[:, :, np.argmax(hot, axis=1)] for hot in (winners, losers))
    each = [
        jax.vmap(partial(slopes, loss))(w, r, jnp.asarray(betas))
        for loss, w, r in zip(losses, chosen, rejected, strict=True)
    ]
    to_arms = np.concatenate([shares[:, None] * winners, shares[:, None] * losers])
    direct = jnp.einsum("pa,lbps->lbas", to_arms, jnp.stack(each))
    return direct - jnp.exp(log_policy) * jnp.sum(direct, axis=2, keepdims=True)


def slopes(
    loss: Loss,
    chosen: Float[Array, "pairs starts"],
    rejected: Float[Array, "pairs starts"],
    beta: Float[Array, ""],
) -> Float[Array, "2*pairs starts"]:
    """Return the derivatives of every pair's loss in its chosen and then its rejected log-ratio.

    A pair's loss depends on no other pair, so that forward mode gives all of them at once: over one
    long axis a third of the time that reverse mode takes here.
    """
    w, r = chosen.ravel(), rejected.ravel()
    in_chosen = jax.jvp(lambda x: loss(x, r, beta=beta), (w,), (jnp.ones_like(w),))[1]
    in_rejected = jax.jvp(lambda x: loss(w, x, beta=beta), (r,), (jnp.ones_like(r),))[1]
    return jnp.concatenate([in_chosen, in_rejected]).reshape(-1, chosen.shape[1])


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
