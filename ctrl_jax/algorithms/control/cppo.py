r"""Proximal policy optimization in continuous time (CPPO).

With A = q - \gamma log \pi under the old policy \pi and its occupation measure d, an update
maximizes over \pi', by some optimizer steps on one batch,

    E_{d, \pi}[(\pi'/\pi) A] - \gamma E_d KL(\pi' || \pi) - C D,                            (1)
    D = E_d sqrt(KL(\pi' || \pi))   or   D = E_d KL(\pi' || \pi),                           (2)

or clips the ratio instead (C = 0). The second term is exact: E_{\pi'}[q - \gamma log \pi'] is the
performance difference to first order in the change of d, and it equals the first two. After an
update that leads to D > (1 + \epsilon) \delta the step is halved, in the policy's parameters, until
it does not, and C grows; after one with D < (1 - \epsilon) \delta, C shrinks. So every accepted
update has D <= (1 + \epsilon) \delta on its samples. The optimizer starts afresh in every update,
so a schedule runs over the epochs of one update.

\delta is a distance for sqrt(KL) and a divergence for KL: \delta_{KL} = \delta_{sqrt}^2 is the same
trust region. Source: arXiv 2305.18901, section 4, algorithm 2.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import (
    check_all_positive,
    check_choice,
    check_count,
    check_fields,
    check_finite,
    check_unused,
    refuse,
)
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Algorithm, Learner, apply_gradient, keep_if
from ctrl_jax.algorithms.control.actor_critic import (
    DEFAULT_OCCUPATION,
    ContinuousControl,
    OccupationConfig,
    PolicyRule,
    make_continuous_control,
)
from ctrl_jax.losses import gaussian, policy

HALVINGS = 12
UNUSED = {
    "sqrt_kl": ("clip",),
    "linear_kl": ("clip", "rounding"),
    "clipped": ("target", "tolerance", "factor", "start", "rounding"),
}


@dataclasses.dataclass(frozen=True)
class ProximalConfig:
    """How far and how hard one batch moves the policy.

    With A = q - gamma log pi under the old policy pi and its occupation measure d, an update
    maximizes over the new policy pi'

        E_{d, pi}[(pi'/pi) A] - gamma E_d KL(pi' || pi) - C D,

    or clips the ratio pi'/pi and has no C D. q is the rate of advantage of an action and gamma the
    temperature of the environment, in units of the reward per nat. After an update that leads to D
    above (1 + tolerance) target the step is halved, in the policy's parameters, until it does not,
    and C grows; after one with D below (1 - tolerance) target C shrinks.

    Args:
        penalty: what D is, "sqrt_kl" for E_d sqrt(KL(pi' || pi)) or "linear_kl" for
            E_d KL(pi' || pi); "clipped" for clipped ratios without one.
        target: of D, in sqrt(nat) or in nats; this and the next three are for penalties.
        tolerance: half-width of the interval around the target, as a share of it, in (0, 1).
        factor: by which C grows and shrinks, above 1.
        start: first C, in units of the reward per time and per unit of D.
        clip: half-width of the interval of the ratio, for "clipped" only.
        rounding: added to the divergence inside the root, in nats, for "sqrt_kl" only.
        epochs: optimizer steps per update, each on all samples.

    Raises:
        ValueError: a number is out of range, or is set and not read with this penalty.

    Source: arXiv 2305.18901, section 4, algorithm 2.
    """

    penalty: Literal["sqrt_kl", "linear_kl", "clipped"] = "sqrt_kl"
    target: float = 0.02
    tolerance: float = 0.1
    factor: float = 1.5
    start: float = 1.0
    clip: float = 0.2
    rounding: float = 1e-6
    epochs: int = 10

    def __post_init__(self):
        check_choice("penalty", self.penalty, tuple(UNUSED))
        check_all_positive(
            "ProximalConfig",
            target=self.target,
            start=self.start,
            clip=self.clip,
            rounding=self.rounding,
        )
        check_fields(self, check_finite, "tolerance", "factor")
        if not 0 < self.tolerance < 1:
            raise refuse("tolerance", self.tolerance, "it must lie in (0, 1)", "give 0.1")
        if not self.factor > 1:
            raise refuse("factor", self.factor, "it must be above 1", "give 1.5")
        check_count("epochs", self.epochs)
        check_unused(self, UNUSED[self.penalty], f"penalty={self.penalty!r} does not read it")


DEFAULT_PROXIMAL = ProximalConfig()


def make_cppo(
    problem: ContinuousControl,
    policy_model: Model,
    value_model: Model,
    optimizer: optax.GradientTransformation,
    value_optimizer: optax.GradientTransformation,
    config: ProximalConfig = DEFAULT_PROXIMAL,
    occupation: OccupationConfig = DEFAULT_OCCUPATION,
) -> Algorithm:
    """Return CPPO: some steps per batch on clipped or penalized ratios, within a trust region.

    Args:
        problem: what to control.
        policy_model: ``apply(params, t, x)`` returns mean and std of the action, (batch, m) each.
        value_model: ``apply(params, t, x)`` returns values (batch,).
        optimizer: of the policy, started afresh in every update.
        value_optimizer: of the critic.
        config: penalty and trust region.
        occupation: how trajectories become samples.

    Returns:
        The algorithm; its batch is an array of start states, (batch, d).

    Raises:
        ValueError: dt or horizon of the problem is not positive, or dt does not divide it.
    """
    temperature = problem.environment.temperature
    rule = proximal_rule(policy_model, optimizer, config, temperature=temperature)
    return make_continuous_control(
        problem, policy_model, value_model, value_optimizer, rule, occupation=occupation
    )


class TrustRegion(NamedTuple):
    """What a penalized update leaves to the next.

    Fields:
        penalty: C.
        backtracked: updates that were shortened to keep their trust region.
    """

    penalty: Float[Array, ""]
    backtracked: Int[Array, ""]


def proximal_rule(
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    config: ProximalConfig,
    *,
    temperature: Array | float,
) -> PolicyRule:
    """Return the rule of this module's page; `temperature` weighs the second term of (1)."""

    def divergences(params, samples):
        mean, std = policy_model.apply(params, jnp.zeros(()), samples.states)
        return mean, std, gaussian.kl(mean, std, samples.means, samples.stds)

    def distance(params, samples):
        """D of (2); for clipped ratios, whose region it is not, the mean divergence."""
        kl = jnp.maximum(divergences(params, samples)[2], 0.0)
        values = jnp.sqrt(kl) if config.penalty == "sqrt_kl" else kl
        return jnp.sum(samples.weights * values)

    def loss_fn(params, samples, region):
        mean, std, kl = divergences(params, samples)
        old = gaussian.log_prob(samples.means, samples.stds, samples.actions)
        log_ratio = gaussian.log_prob(mean, std, samples.actions) - old
        losses = _surrogate(config, log_ratio, samples.advantages, kl, region)
        loss = jnp.sum(samples.weights * (losses + temperature * kl))
        outside = jnp.abs(jnp.expm1(log_ratio)) > config.clip
        return loss, jnp.sum(samples.weights * outside)

    def init(params):
        if config.penalty == "clipped":
            return ()
        return TrustRegion(jnp.asarray(config.start, float), jnp.zeros((), jnp.int32))

    def update(learner, samples):
        old, region = learner

        def body(learner, _):
            gradient, outside = jax.grad(loss_fn, has_aux=True)(learner.params, samples, region)
            learner, finite = apply_gradient(learner, gradient, optimizer)
            return learner, (outside, finite, optax.tree.norm(gradient))

        (new, _), (outside, finite, norms) = jax.lax.scan(
            body, Learner(old, optimizer.init(old)), length=config.epochs
        )
        reached = distance(new, samples)
        metrics = {"kl/reached": reached, "policy/gradient_norm": jnp.mean(norms)}
        if config.penalty == "clipped":
            metrics["ppo/clip_fraction"] = outside[-1]
            return Learner(new, ()), jnp.all(finite), metrics
        limit = (1 + config.tolerance) * config.target
        scale = _admissible_scale(lambda p: distance(p, samples), old, new, limit)
        params = _interpolate(old, new, scale)
        region = keep_if(jnp.all(finite), _adapted(config, region, reached, scale), region)
        metrics |= {
            "kl/accepted": distance(params, samples),
            "trust_region/scale": scale,
            "trust_region/backtracked": region.backtracked,
            "trust_region/penalty": region.penalty,
        }
        return Learner(params, region), jnp.all(finite), metrics

    return PolicyRule(init, update)


def _adapted(config: ProximalConfig, region: TrustRegion, reached, scale) -> TrustRegion:
    penalty = policy.adapt_penalty(
        region.penalty, reached, config.target, tolerance=config.tolerance, factor=config.factor
    )
    shortened = (scale < 1) & jnp.isfinite(reached)
    return TrustRegion(penalty, region.backtracked + shortened.astype(jnp.int32))


def _surrogate(config, log_ratio, advantages, kl, region) -> Array:
    if config.penalty == "clipped":
        return policy.clipped_surrogate(log_ratio, advantages, clip=config.clip)
    if config.penalty == "linear_kl":
        return policy.linear_kl_surrogate(log_ratio, advantages, kl, penalty=region.penalty)
    return policy.sqrt_kl_surrogate(
        log_ratio, advantages, kl, penalty=region.penalty, epsilon=config.rounding
    )


def _admissible_scale(distance, old, new, limit):
    """The largest of 1, 1/2, 1/4, ... at which the distance keeps its limit, or 0."""
    scales = 0.5 ** jnp.arange(HALVINGS + 1, dtype=float)
    reached = jax.vmap(lambda scale: distance(_interpolate(old, new, scale)))(scales)
    return jnp.max(jnp.where(reached <= limit, scales, 0.0))


def _interpolate(old, new, scale):
    return jax.tree.map(lambda a, b: a + scale * (b - a), old, new)
