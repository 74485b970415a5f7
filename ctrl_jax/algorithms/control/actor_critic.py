r"""What the policy algorithms of continuous time share: rollout, occupation times, critic.

Objective E \int_0^\infty e^{-\beta s} [r - \gamma log \pi] ds. Its gradient and its local
approximation are means over the occupation measure, the law of X at a time of law Exp(beta),

    \nabla \eta = E_{d, \pi}[\nabla log \pi(a|x) A(x, a)]/\beta,  A = q - \gamma log \pi.  (1)

Trajectories of length T give it in two ways: `stopping` draws times of law Exp(beta) below T, some
per trajectory, `discounting` weights every step by e^{-\beta t}. The critic is fitted at the same
states. With residual rates \delta (`losses.advantage_rate`, entropy of the policy included),

    martingale:           target = V + h \sum_k e^{-\beta k h} \delta_{i+k},               (2)
    temporal difference:  target = V + h \sum_k e^{-(\beta + 1/l) k h} \delta_{i+k},       (3)

the return to T with V(x_T) for what follows, and its version with memory l. Where \delta has its
martingale increment removed (`pathwise`) or has no noise at all (`generator`), (2) and (3) gain as
much, with the same mean.
Source: arXiv 2305.18901, sections 3-4; Jia and Zhou 2022.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from ctrl_jax._checks import (
    check_all_positive,
    check_choice,
    check_count,
    check_divides,
    check_fields,
    check_unused,
)
from ctrl_jax._typing import Model, Params
from ctrl_jax.algorithms.base import (
    Algorithm,
    Learner,
    Metrics,
    RunState,
    apply_gradient,
    finish,
    start,
    state_metrics,
)
from ctrl_jax.environments import ControlledPath, ControlledSDE, simulate_control
from ctrl_jax.losses import advantage_rate, gaussian, value


class ContinuousControl(NamedTuple):
    """What to control, and how finely it is simulated.

    Fields:
        environment: with infinite horizon.
        dt: step h, in units of time.
        horizon: length T of a trajectory, in units of time; a few times 1 / beta.
    """

    environment: ControlledSDE
    dt: float
    horizon: float

    @property
    def steps(self) -> int:
        """Steps of a trajectory."""
        return check_divides("ContinuousControl.dt", self.dt, "horizon", self.horizon)


CHOICES = {
    "occupation": ("stopping", "discounting", "uniform"),
    "estimator": ("pathwise", "generator", "difference", "generalized"),
    "value_loss": ("martingale", "temporal_difference"),
}


@dataclasses.dataclass(frozen=True)
class OccupationConfig:
    r"""How trajectories become samples of the occupation measure, and what is estimated there.

    The occupation measure is the law of X at a time of law Exp(beta). At its samples the policy
    learns from q - gamma log pi(a|x), and the critic V from a target. beta is the discount of the
    environment, in 1 / time, gamma its temperature, and q the rate of advantage, what action a
    gains at x per unit of time. With h the step and delta_i an estimate of q at step i plus gamma
    times the policy's entropy there, the targets are

        martingale:           V_i + h \sum_k e^{-beta k h} delta_{i+k},
        temporal_difference:  V_i + h \sum_k e^{-(beta + 1/l) k h} delta_{i+k},

    and q itself is estimated from the step from x to x', with reward r per unit of time, by

        difference:   r + (e^{-beta h} V(x') - V(x)) / h,
        pathwise:     difference - \nabla V(x) . \sigma dW / h,
        generator:    r + b . \nabla V + tr(\sigma \sigma^T \nabla^2 V)/2 - beta V,
        generalized:  \sum_k e^{-(beta + 1/l) k h} delta_{i+k} - gamma entropy_i, by differences,

    with drift b and diffusion \sigma at (x, a), and dW the Brownian increment of the step.

    Args:
        occupation: "stopping" draws times of law Exp(beta) below the horizon; "discounting" weights
            every step by e^{-beta t}; "uniform" draws times uniformly, the habit of discrete-time
            algorithms, which are biased by it.
        draws: times per trajectory; not for "discounting", which takes every step.
        estimator: of q: "pathwise" (needs the simulator's noise), "generator" (needs its drift b
            and diffusion \sigma, and a critic with two derivatives), "difference" or "generalized".
        memory: l, in units of time, of the temporal difference and the generalized estimator; for
            these only.
        value_loss: the target, "martingale" or "temporal_difference".
        value_epochs: gradient steps of the critic per batch, each on all samples.

    Raises:
        ValueError: a choice has another name, a number is not positive, or one is set that the
            choices do not read.

    Source: arXiv 2305.18901, sections 3-4; Jia and Zhou 2022.
    """

    occupation: Literal["stopping", "discounting", "uniform"] = "stopping"
    draws: int = 16
    estimator: Literal["pathwise", "generator", "difference", "generalized"] = "pathwise"
    memory: float = 0.5
    value_loss: Literal["martingale", "temporal_difference"] = "martingale"
    value_epochs: int = 10

    def __post_init__(self):
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        check_fields(self, check_count, "draws", "value_epochs")
        check_all_positive("OccupationConfig", memory=self.memory)
        if self.occupation == "discounting":
            check_unused(self, ("draws",), "occupation='discounting' does not read it")
        if self.estimator != "generalized" and self.value_loss != "temporal_difference":
            check_unused(
                self, ("memory",), f"{self.estimator} and the martingale loss do not read it"
            )


DEFAULT_OCCUPATION = OccupationConfig()


class Samples(NamedTuple):
    """Transitions at occupation times.

    Fields:
        states: x.
        actions: a.
        means: mean of the acting policy at x.
        stds: its standard deviation.
        advantages: A of (1), in units of the reward per time.
        values: V(x) before the critic's update.
        corrections: target of the critic less `values`.
        weights: of each sample; they sum to one.
    """

    states: Float[Array, "samples d"]
    actions: Float[Array, "samples m"]
    means: Float[Array, "samples m"]
    stds: Float[Array, "samples m"]
    advantages: Float[Array, " samples"]
    values: Float[Array, " samples"]
    corrections: Float[Array, " samples"]
    weights: Float[Array, " samples"]


@dataclasses.dataclass(frozen=True)
class PolicyRule:
    """How samples move a policy, as a pair of functions like an optax transformation.

    Args:
        init: of parameters, the state that outlives an update.
        update: ``update(learner, samples)`` returns the learner, whether all was finite, and
            metrics.
    """

    init: Callable[[Params], Any]
    update: Callable[[Learner, Samples], tuple[Learner, Bool[Array, ""], Metrics]]


def make_continuous_control(
    problem: ContinuousControl,
    policy_model: Model,
    value_model: Model,
    value_optimizer: optax.GradientTransformation,
    rule: PolicyRule,
    *,
    occupation: OccupationConfig,
) -> Algorithm:
    """Return the actor-critic of this module's page for any rule that moves the policy.

    ``step(state, x_0)`` takes start states (batch, d).

    Args:
        problem: what to control.
        policy_model: ``apply(params, t, x)`` returns mean and std (batch, m).
        value_model: ``apply(params, t, x)`` returns values (batch,), at `observe(t, x)` if it has
            one.
        value_optimizer: of the critic.
        rule: what moves the policy.
        occupation: how samples are made.

    Raises:
        ValueError: dt or horizon is not positive, or dt does not divide the horizon.
    """
    check_all_positive("ContinuousControl", dt=problem.dt, horizon=problem.horizon)
    steps = problem.steps

    def init(key: Array) -> RunState:
        policy, value = (policy_model.init, rule.init), (value_model.init, value_optimizer.init)
        return start(key, {"policy": policy, "value": value})

    def step(state: RunState, x_0: Float[Array, "batch d"]) -> tuple[RunState, Metrics]:
        key, rollout_key, time_key = jax.random.split(state.key, 3)
        policy, critic = state.learners["policy"], state.learners["value"]
        policy_fn = partial(policy_model.apply, policy.params, jnp.zeros(()))
        path = simulate_control(
            rollout_key, problem.environment, policy_fn, x_0, dt=problem.dt, steps=steps
        )
        value_fn = partial(evaluate_value, value_model, critic.params)
        samples, metrics = sample_occupation(time_key, problem, path, value_fn, occupation)
        policy, finite, moved = rule.update(policy, samples)
        critic, value_finite, fitted = fit_values(
            value_model, critic, value_optimizer, samples, occupation
        )
        learners = {"policy": policy, "value": critic}
        state, counts = finish(state, key, learners, finite & value_finite)
        return state, metrics | moved | fitted | counts

    return Algorithm(init, step)


def evaluate_value(model: Model, params: Params, x: Float[Array, "batch d"]) -> Array:
    """Return V(x), (batch,), of what the model observes of x."""
    t = jnp.zeros(())
    return model.apply(params, t, x if model.observe is None else model.observe(t, x))


def sample_occupation(
    key: Array,
    problem: ContinuousControl,
    path: ControlledPath,
    value_fn: Callable[[Array], Array],
    config: OccupationConfig,
) -> tuple[Samples, Metrics]:
    """Return samples of the occupation measure, with advantages and targets, and metrics."""
    environment, h = problem.environment, problem.dt
    gamma, beta = environment.temperature, environment.discount
    entropies = gaussian.entropy(path.stds)
    values, rates = _residual_rates(problem, path, value_fn, gamma * entropies, config)
    log_probs = gaussian.log_prob(path.means, path.stds, path.actions)
    remembered = partial(advantage_rate.generalized, rates, dt=h, discount=beta)
    first = remembered(memory=config.memory) if config.estimator == "generalized" else rates
    memory = jnp.inf if config.value_loss == "martingale" else config.memory
    fields = (
        path.states[:-1],
        path.actions,
        path.means,
        path.stds,
        # The policy earns its entropy on average, and -log pi(a|x) by this action.
        first - gamma * (log_probs + entropies),
        values,
        h * remembered(memory=memory),
    )
    samples = _pick(key, problem, fields, config)
    discounts = jnp.exp(-beta * h * jnp.arange(problem.steps, dtype=rates.dtype))
    metrics = {
        "objective": jnp.mean(values[0] + h * (discounts @ rates)),
        "reward/mean": jnp.sum(jnp.mean(path.rewards, axis=1) * discounts) / jnp.sum(discounts),
        "policy/entropy": jnp.mean(entropies),
        "reward/finite": jnp.all(jnp.all(jnp.isfinite(path.rewards), axis=0) | ~path.ok),
    }
    return samples, metrics | state_metrics(path.failed_at)


def fit_values(
    model: Model,
    learner: Learner,
    optimizer: optax.GradientTransformation,
    samples: Samples,
    config: OccupationConfig,
) -> tuple[Learner, Bool[Array, ""], Metrics]:
    """Take gradient steps on the martingale loss (2) or the temporal difference (3)."""

    def loss_fn(params):
        predicted = evaluate_value(model, params, samples.states)
        if config.value_loss == "martingale":
            targets = samples.values + samples.corrections
            losses = value.martingale(predicted, targets, weights=samples.weights)
        else:
            losses = value.temporal_difference(
                predicted, samples.values, samples.corrections, weights=samples.weights
            )
        return jnp.sum(losses)

    def body(learner, _):
        loss, gradient = jax.value_and_grad(loss_fn)(learner.params)
        learner, finite = apply_gradient(learner, gradient, optimizer)
        return learner, (loss, finite)

    learner, (losses, finite) = jax.lax.scan(body, learner, length=config.value_epochs)
    return learner, jnp.all(finite), {"value/loss": losses[0]}


def _residual_rates(problem, path, value_fn, bonus, config):
    """V and the residual rate, entropy bonus included, at every step by the chosen estimator."""
    steps, batch, d = path.increments.shape
    environment, x = problem.environment, path.states[:-1].reshape(-1, d)
    rewards, discount = path.rewards + bonus, environment.discount
    if config.estimator == "generator":
        actions = path.actions.reshape(steps * batch, -1)
        rates = advantage_rate.generator(
            value_fn,
            x,
            environment.drift(x, actions),
            environment.diffusion(x, actions),
            rewards.reshape(-1),
            discount=discount,
        )
        return value_fn(x).reshape(steps, batch), rates.reshape(steps, batch)
    if config.estimator == "pathwise":
        increments = path.increments.reshape(-1, d)
        values, martingale = advantage_rate.martingale_increment(value_fn, x, increments)
    else:
        values, martingale = value_fn(x), jnp.zeros(steps * batch, x.dtype)
    values, martingale = values.reshape(steps, batch), martingale.reshape(steps, batch)
    later = jnp.concatenate([values[1:], value_fn(path.states[-1])[None]])
    rates = advantage_rate.pathwise(
        values, later, rewards, martingale, dt=problem.dt, discount=discount
    )
    return values, rates


def _pick(key, problem, fields, config) -> Samples:
    steps, batch = fields[-1].shape
    beta = problem.environment.discount
    if config.occupation == "discounting":
        weights = jnp.exp(-beta * problem.dt * jnp.arange(steps, dtype=fields[-1].dtype))
        weights = jnp.broadcast_to(weights[:, None], (steps, batch)).reshape(-1)
        rows = (field.reshape(-1, *field.shape[2:]) for field in fields)
        return Samples(*rows, weights=weights / jnp.sum(weights))
    # One time in each of equally likely intervals.
    jitter = jax.random.uniform(key, (config.draws, batch), fields[-1].dtype)
    u = (jnp.arange(config.draws, dtype=jitter.dtype)[:, None] + jitter) / config.draws
    if config.occupation == "stopping":
        u = -jnp.log1p(u * jnp.expm1(-beta * problem.horizon)) / (beta * problem.horizon)
    index = jnp.clip((u * steps).astype(jnp.int32), 0, steps - 1)
    trajectory = jnp.broadcast_to(jnp.arange(batch)[None], index.shape)
    rows = (field[index, trajectory].reshape(-1, *field.shape[2:]) for field in fields)
    size = config.draws * batch
    return Samples(*rows, weights=jnp.full((size,), 1 / size, fields[-1].dtype))
