r"""Fine-tuning a diffusion model by continuous-time RL, the score as the action (2409.08400).

One step: roll out the policy, score the end states, estimate the advantage of every transition,
take minibatch updates of the policy with the penalty acting directly through the mean, then fit the
value network, where there is one,

    A_i = \sum_k trace^k [V(t_{i+k+1}, x_{i+k+1}) - lambda KL_{i+k} - V(t_{i+k}, x_{i+k})],    (1)
    policy:  E \sum_i [surrogate(ratio_i, A_i) + lambda KL_i(mu_theta)],                        (2)
    value:   E \sum_i (R - lambda \sum_{j>=i} KL_j - V(t_i, x_i))^2 / 2.                        (3)

With trace = 1, or with the true value, (1) and (2) give the exact gradient of the penalized
objective for the chain: KL_i inside (1) is the price of the future, KL_i in (2) the direct
derivative.

An algorithm is a surrogate and an advantage: `make_ppo` (clipped ratio), `make_policy_gradient`
(score function), `make_value_gradient` (q is linear in the action, so its gradient is \nabla V),
and `make_ddpo` and `make_dpok`, which use terminal rewards only. All of a step is one pure
function, `learn` after `collect`; with rewards from outside JAX the two are called by themselves:

    rollout = collect(state, batch)
    state, metrics = learn(state, rollout, rewards_of(rollout.states[-1]))
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ctrl_jax._checks import check_fraction, refuse
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import (
    Algorithm,
    Learner,
    Metrics,
    RunState,
    finish,
    keep_if,
    start,
)
from ctrl_jax.algorithms.diffusion.adjoint import adjoint
from ctrl_jax.algorithms.diffusion.critic import (
    Critic,
    Evaluated,
    evaluate_critic,
    fit_critic,
    remove_martingale,
    returns_from,
)
from ctrl_jax.algorithms.diffusion.policy_update import (
    PolicyUpdate,
    Surrogate,
    Transitions,
    update_policy,
)
from ctrl_jax.algorithms.diffusion.problem import (
    Batch,
    DiffusionControl,
    Rollout,
    mask_rewards,
    path_metrics,
    path_price,
    roll_out,
)
from ctrl_jax.losses import advantage

DEFAULT_POLICY_UPDATE = PolicyUpdate()

AdvantageFn = Callable[[DiffusionControl, Rollout, Array, Array | None], Array]
"""``advantage(problem, rollout, rewards, values)`` of every step, (steps, batch)."""


@dataclasses.dataclass(frozen=True)
class Control(Algorithm):
    """An algorithm whose step is cut where rewards are asked for.

    Args:
        init: ``state = init(key)``.
        step: ``learn(state, rollout, rewards)`` of ``rollout = collect(state, batch)`` and of the
            rewards of the problem; one pure function.
        collect: ``rollout = collect(state, batch)``, the trajectories of a batch.
        learn: ``state, metrics = learn(state, rollout, rewards)``, the state as `collect` saw it;
            rewards (batch,), or `Rewards` whose parts appear in the metrics.
    """

    collect: Callable[[RunState, Batch], Any]
    learn: Callable[[RunState, Any, Any], tuple[RunState, Metrics]]


class Scoring(NamedTuple):
    """What becomes of the rewards before advantages are made of them, with a memory of its own.

    Fields:
        init: ``memory = init(dtype)``, a tree of arrays, for rewards of this type; None where
            nothing is remembered, and the memory is ().
        score: ``memory, scores, metrics = score(memory, rewards, batch)``, scores (batch,).
    """

    init: Callable[[Any], Any] | None
    score: Callable[[Any, Array, Batch], tuple[Any, Array, Metrics]]


def generalized_advantage(trace: float) -> AdvantageFn:
    r"""Return the generalized advantage of a value network, for `make_control`.

        A_i = \sum_k trace^k [V(t_{i+k+1}, x_{i+k+1}) - lambda KL_{i+k} - V(t_{i+k}, x_{i+k})],

    with the reward R in the place of V at the end. V is the value network, KL_i the divergence of
    step i from the reference, in nats, and lambda the penalty of the problem.

    Args:
        trace: in [0, 1]: 0 trusts the value, 1 the trajectory.

    Returns:
        ``advantage(problem, rollout, rewards, values)``, shape (steps, batch), in units of the
        reward.

    Raises:
        ValueError: trace is not in [0, 1]; of the function returned, there are no values.

    Source: arXiv 1506.02438; of a path penalty arXiv 2409.08400.
    """
    check_fraction("trace", trace)

    def advantages(problem, rollout, rewards, values):
        if values is None:
            raise refuse("critic", None, "this advantage reads values", "give a critic")
        running = -path_price(problem, rollout)
        return advantage.generalized(values, running, rewards, trace=trace)

    return advantages


def make_control(
    problem: DiffusionControl,
    policy_model: Model,
    optimizer: optax.GradientTransformation,
    surrogate: Surrogate,
    advantage_fn: AdvantageFn | None,
    *,
    critic: Critic | None = None,
    scoring: Scoring | None = None,
    update: PolicyUpdate = DEFAULT_POLICY_UPDATE,
) -> Control:
    r"""Return the actor-critic with the score as the action, for any surrogate and advantage.

    A step rolls out the policy, asks for the rewards R, estimates the advantage A_i of every
    transition, takes minibatch updates of the policy, then fits the value network if there is one.
    With KL_i the step's divergence from the reference, in nats, both descend means over steps i of

        policy:  surrogate(ratio_i, A_i) + lambda KL_i(mu_theta),
        value:   (R - lambda \sum_{j >= i} KL_j - V(t_i, x_i))^2 / 2,

    where lambda is the penalty of the problem, ratio_i the step's density under the learning policy
    over that under the old one, and mu_theta the learning policy's prediction at the stored state.

    Args:
        problem: what to control.
        policy_model: the acting model, of the problem's prediction; its ``init`` returns the
            pretrained parameters.
        optimizer: of the policy.
        surrogate: what the policy descends.
        advantage_fn: the advantage of every step; None for a surrogate that reads none.
        critic: value network; None for algorithms without one. Where the surrogate reads the
            value's gradient at the next state, None stands for the derivative of
            ``problem.reward_fn`` and the penalty along the simulated path; `learn` then takes the
            rewards that it is given for the metrics alone.
        scoring: what the advantage reads in place of the rewards; the rewards by default.
        update: how the policy learns from a batch.

    Returns:
        The algorithm; its batch is a `Batch`.

    Raises:
        ValueError: the minibatches do not fit the solver steps, or there is no critic where the
            surrogate or the advantage reads one: without, the problem must have a `reward_fn` and
            no window, and there must be no `scoring`.

    Source: arXiv 2409.08400.
    """
    along_paths = critic is None and surrogate.gradient_at == "next"
    if critic is None and surrogate.gradient_at is not None:
        rule = f"the surrogate reads the value's gradient at {surrogate.gradient_at!r}"
        if not along_paths:
            raise refuse("critic", None, rule, "give a critic")
        if problem.reward_fn is None or problem.window is not None or scoring is not None:
            rule += "; without a critic that is the derivative of problem.reward_fn along all steps"
            repair = "give a critic, or a reward_fn and neither window nor scoring"
            raise refuse("critic", None, rule, repair)
    update.check_steps(problem.trained_steps)
    if critic is not None:
        if problem.window is not None:
            rule = "a value network learns from every step"
            repair = "leave it out, or take make_grpo, make_ddpo or make_dpok"
            raise refuse("problem.window", problem.window, rule, repair)
        critic.update.check_steps(problem.steps)

    def init(key: Array) -> RunState:
        learners = {"policy": (policy_model.init, optimizer.init)}
        if critic is not None:
            learners["value"] = (critic.model.init, critic.optimizer.init)
        if scoring is not None and (remember := scoring.init) is not None:
            learners["rewards"] = (lambda key: remember(problem.grid.dtype), lambda params: ())
        averaged = update.average_decay > 0
        reference = problem.reference.init if problem.compares else None
        return start(key, learners, reference=reference, averaged=averaged)

    def collect(state: RunState, batch: Batch) -> Rollout:
        params, rollout_key = state.policy.params, jax.random.split(state.key, 4)[1]
        return roll_out(
            rollout_key,
            problem,
            policy_model,
            params,
            state.reference,
            batch,
            update=state.update,
        )

    def learn(state: RunState, rollout: Rollout, rewards) -> tuple[RunState, Metrics]:
        key, _, policy_key, value_key = jax.random.split(state.key, 4)
        scored = mask_rewards(rewards, rollout.states[-1], rollout.batch)
        rewards = scored.values
        learners, evaluated = dict(state.learners), None
        if critic is not None:
            at = surrogate.gradient_at
            evaluated = evaluate_critic(critic, learners["value"], problem, rollout, at)
        scores, counted = rewards, {}
        before = learners["rewards"].params if "rewards" in learners else ()
        memory = before
        if scoring is not None:
            memory, scores, counted = scoring.score(before, rewards, rollout.batch)
        transitions = _transitions(problem, rollout, scores, evaluated, surrogate, advantage_fn)
        if along_paths:
            params = learners["policy"].params
            found = adjoint(problem, policy_model, params, state.reference, rollout)
            transitions = transitions._replace(gradients=jnp.swapaxes(found, 0, 1))
        learners["policy"], finite, metrics = update_policy(
            policy_key,
            policy_model,
            state.policy,
            optimizer,
            transitions,
            surrogate,
            problem.penalty,
            update,
            rollout.batch.gathered,
        )
        if critic is not None:
            assert evaluated is not None
            returns = returns_from(problem, rollout, rewards)
            learners["value"], fitted, value_metrics = fit_critic(
                value_key, critic, learners["value"], problem, rollout, evaluated, returns
            )
            finite, metrics = finite & fitted, metrics | value_metrics
        if "rewards" in learners:
            learners["rewards"] = Learner(keep_if(finite, memory, before), ())
        kl = None if rollout.kl is None else rollout.path_kl
        metrics |= counted | path_metrics(problem, scored, kl, rollout.failed_at, rollout.batch)
        state, counts = finish(state, key, learners, finite, decay=update.average_decay)
        return state, metrics | counts

    def step(state: RunState, batch: Batch) -> tuple[RunState, Metrics]:
        rollout = collect(state, batch)
        return learn(state, rollout, problem.scored(rollout))

    return Control(init, step, collect, learn)


def _transitions(
    problem: DiffusionControl,
    rollout: Rollout,
    rewards: Float[Array, " batch"],
    evaluated: Evaluated | None,
    surrogate: Surrogate,
    advantage_fn: AdvantageFn | None,
) -> Transitions:
    values = None if evaluated is None else evaluated.values
    gradients = None if evaluated is None else evaluated.gradients
    advantages = jnp.zeros(rollout.noise.shape[:2], rollout.noise.dtype)
    if advantage_fn is not None:
        advantages = advantage_fn(problem, rollout, rewards, values)
    if surrogate.gradient_at == "mean":
        assert evaluated is not None
        advantages = remove_martingale(advantages, evaluated, problem, rollout)

    batch_major = partial(jax.tree.map, lambda array: jnp.swapaxes(array, 0, 1))

    return Transitions(
        number=jnp.arange(rollout.times.shape[0]),
        times=rollout.times,
        kernel=rollout.kernel,
        states=batch_major(rollout.states[:-1]),
        noise=batch_major(rollout.noise),
        actions=batch_major(rollout.actions),
        reference=batch_major(rollout.reference),
        advantages=batch_major(advantages),
        gradients=batch_major(gradients),
        weights=rollout.batch.weights,
    )
