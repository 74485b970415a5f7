r"""The control problem of 2409.08400: a sampler steered by its score, under a path penalty.

The reversal of a linear process is simulated on a fixed grid by a solver whose steps are Gaussian,
with the score a = mu(t, x, c) of a policy as its action, from x_0 ~ N(0, start_std^2). (Or with
whatever else the policy predicts, noise, data, v or flow: ratios and divergences do not depend on
it.) Maximize

    E[R(x_n, c)] - lambda E \sum_i KL_i(x_i),   KL_i = rate_i |mu - s_pre|^2 / 2,        (1)

with s_pre the reference (pretrained) score, or its prediction, and rate_i from
`solvers.gaussian_step`. `roll_out` draws the trajectories of one batch and what every algorithm
needs of them; what their ends are worth is asked afterwards, here or by anybody else. With a
`window` there is noise in a few steps only, and the sum of (1) is over these.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ctrl_jax._checks import check_count, check_non_negative, check_positive, check_shape, refuse
from ctrl_jax._numerics import all_each, expand, failure_of
from ctrl_jax._typing import Model, Params, RewardFn, Rewards, ScoreFn
from ctrl_jax.algorithms.base import Metrics, state_metrics, weighted_mean
from ctrl_jax.algorithms.diffusion.batch import Batch
from ctrl_jax.algorithms.diffusion.window import Window
from ctrl_jax.processes import LinearProcess, Prediction
from ctrl_jax.solvers import ExponentialEuler, GaussianSolver, Kernel, girsanov
from ctrl_jax.solvers.brownian import step_noise
from ctrl_jax.solvers.reverse_solver import check_first_time


class DiffusionControl(eqx.Module):
    r"""The problem of fine-tuning a diffusion model: a sampler steered under a path penalty.

    The reversal of `process` is simulated on `grid` from x_0 ~ N(0, start_std^2), with what a
    policy predicts, mu(t, x, c), in the place of the score. Maximized is

        E[R(x_n, c)] - lambda E \sum_i KL_i(x_i),   KL_i = rate_i |mu - s_pre|^2 / 2,

    with c the conditions, s_pre what the reference predicts at the same state, and of the step
    x' = state_gain x + action_gain mu + std z the rate_i = (action_gain / std)^2, so that KL_i is
    the divergence of the step in nats, exactly. With a `window` the sum is over its steps.

    Args:
        process: the forward process.
        reference: the pretrained score, or what `prediction` says; ``reference.init`` returns its
            parameters.
        reward_fn: R(x, *conditions), one value per example; None where all rewards come from
            outside, between `Control.collect` and `Control.learn`.
        shape: shape of one example.
        grid: increasing reverse times, shape (steps + 1,).
        penalty: lambda >= 0, in units of the reward per nat.
        solver: a solver with Gaussian steps.
        start_std: standard deviation of the start law; the process's prior by default.
        prediction: what reference and policies return: "score", "noise", "data", "v" or "flow".
        noise_level: l of the `ReverseSDE` that is stepped, above zero; 1 is the reversal of the
            process. `ExponentialEuler` multiplies its eta by it.
        path_kl: whether the reference is evaluated for the metric ``kl/path`` alone; with a penalty
            it is in any case. Without either the program holds no reference.
        together: examples that reference and critic are evaluated for at once along the paths, at
            least those of one time; bounds the memory. Large networks take the batch, or 1.
        window: the steps that have noise, are learned from and count in the penalty; all by
            default.

    Raises:
        ValueError: the solver's steps have no density, the grid is not increasing, the penalty is
            negative, the prediction is not known, or nothing is left of the data where the grid
            starts and the prediction does not tell of them, or the window does not fit the grid.

    Source: arXiv 2409.08400.
    """

    process: LinearProcess
    reference: Model
    reward_fn: RewardFn | None
    shape: tuple[int, ...] = eqx.field(static=True)
    grid: Float[Array, " points"]
    penalty: Float[Array, ""] | float
    solver: GaussianSolver = eqx.field(default_factory=ExponentialEuler)
    start_std: Float[Array, ""] | float | None = None
    prediction: Prediction = eqx.field(default="score", static=True)
    noise_level: float = eqx.field(default=1.0, static=True)
    path_kl: bool = eqx.field(default=False, static=True)
    together: int = eqx.field(default=4096, static=True)
    window: Window | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        if not isinstance(self.solver, GaussianSolver) or getattr(self.solver, "eta", 1.0) == 0:
            raise refuse(
                "DiffusionControl.solver",
                self.solver,
                "it must take Gaussian steps with noise",
                "use EulerMaruyama() or ExponentialEuler(eta=1.0)",
            )
        check_increasing("DiffusionControl.grid", self.grid)
        check_start("DiffusionControl", self.shape, self.start_std)
        check_non_negative("DiffusionControl.penalty", self.penalty)
        check_positive("DiffusionControl.noise_level", self.noise_level)
        check_count("DiffusionControl.together", self.together)
        level = self.noise_level
        if self.window is not None:
            self.window.check_steps(self.steps)
            level = level if self.window.first == 0 else 0.0
        sde = self.process.reverse(lambda t, x: x, noise_level=level, prediction=self.prediction)
        check_first_time(sde, self.solver, self.grid)

    @property
    def steps(self) -> int:
        """Number of steps of the grid."""
        return self.grid.shape[0] - 1

    @property
    def compares(self) -> bool:
        """Whether the paths are compared with the reference: for a penalty, or where asked for."""
        return self.path_kl or self.penalized

    @property
    def penalized(self) -> bool:
        """Whether there is a penalty, as far as is known while tracing."""
        return isinstance(self.penalty, Tracer) or bool(np.any(np.asarray(self.penalty) != 0))

    @property
    def trained_steps(self) -> int:
        """Number of steps that have noise and are learned from."""
        return self.steps if self.window is None else self.window.length

    def kernel(self) -> Kernel:
        """Return the coefficients of every step, each of shape (steps,).

        Steps that no window reaches are those without noise.
        """
        if self.window is None:
            return self._kernel(self.grid, self.noise_level)
        first, last = self.window.reach(self.steps)
        pieces = (0, first, 0.0), (first, last, self.noise_level), (last, self.steps, 0.0)
        found = [self._kernel(self.grid[i : j + 1], level) for i, j, level in pieces if i < j]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)

    def certain_kernel(self) -> Kernel:
        """Return the coefficients of every step as it is without noise, each of shape (steps,)."""
        return self._kernel(self.grid, 0.0)

    def _kernel(self, grid: Float[Array, " points"], noise_level: float) -> Kernel:
        return self.solver.kernel(
            self.process,
            grid[:-1],
            grid[1:],
            noise_level=noise_level,
            prediction=self.prediction,
        )

    def forward_times(self) -> Float[Array, " points"]:
        """Return the forward time of each grid point."""
        return self.process.forward_time(self.grid, self.prediction)

    def start(self, key: Array, batch: Batch) -> Float[Array, "batch ..."]:
        """Draw where the trajectories of a batch start; padding starts at the origin."""
        std = self.process.prior_std() if self.start_std is None else self.start_std
        return draw_start(key, batch, self.shape, std)

    def rewards(self, rollout: "Rollout") -> Float[Array, " batch"]:
        """Return the rewards of the ends of trajectories, zero for padding.

        Raises:
            ValueError: there is no `reward_fn`, or it does not return one value per example.
        """
        return self.scored(rollout).values

    def scored(self, rollout: "Rollout") -> Rewards:
        """Return the same with the parts that the rewards are made of, where there are any.

        Raises:
            ValueError: there is no `reward_fn`, or it does not return one value per example.
        """
        return terminal_rewards(self.reward_fn, rollout.states[-1], rollout.batch)


class Rollout(NamedTuple):
    """Trajectories of one batch; time-major where there is a time axis.

    The steps are those that have noise, all of the grid or those of its window.

    Fields:
        batch: what was asked for.
        times: forward time of each step, (steps,).
        kernel: coefficients of each step, (steps,).
        states: before each step, and the ends that are rewarded, (steps + 1, batch, ...).
        noise: standard normals of the steps, (steps, batch, ...).
        actions: the score that made each step, or the prediction, (steps, batch, ...).
        reference: that of the reference at the same states; None where it was not asked for.
        kl: divergence of each step from the reference, (steps, batch), in nats; None likewise.
        failed_at: the first of all states of the example that is not finite, as the number of
            steps before it, -1 where there is none, (batch,).
    """

    batch: Batch
    times: Float[Array, " steps"]
    kernel: Kernel
    states: Float[Array, "steps+1 batch ..."]
    noise: Float[Array, "steps batch ..."]
    actions: Float[Array, "steps batch ..."]
    reference: Float[Array, "steps batch ..."] | None
    kl: Float[Array, "steps batch"] | None
    failed_at: Int[Array, " batch"]

    @property
    def ok(self) -> Bool[Array, " batch"]:
        """Whether every state of the example is finite."""
        return self.failed_at < 0

    @property
    def path_kl(self) -> Float[Array, " batch"]:
        """Divergence of every whole path from the reference, in nats.

        Raises:
            ValueError: the reference was not evaluated.
        """
        if self.kl is None:
            rule = "the reference was not evaluated along these paths"
            repair = "make the problem with DiffusionControl(path_kl=True)"
            raise refuse("Rollout.kl", None, rule, repair)
        return jnp.sum(self.kl, axis=0)


def roll_out(
    key: Array,
    problem: DiffusionControl,
    policy: Model,
    params: Params,
    reference_params: Params,
    batch: Batch,
    *,
    x_0: Array | None = None,
    update: Int[Array, ""] | int = 0,
    compare: bool | None = None,
) -> Rollout:
    """Simulate one batch of trajectories under the policy, beside the reference score.

    Args:
        key: PRNG key; the noise of an example depends on the key, the step and its row only.
        problem: the control problem.
        policy: the acting model, of the problem's prediction.
        params: its parameters.
        reference_params: parameters of ``problem.reference``; not looked at where nothing is
            compared with it.
        batch: weights and conditions.
        x_0: where to start, by default `DiffusionControl.start` with a part of the key.
        update: number of the update, by which a sliding window is placed.
        compare: whether the reference is evaluated along the paths; by default where the problem
            has a penalty or asks for it.

    Returns:
        The `Rollout`.
    """
    start_key, path_key = jax.random.split(key)
    x_0 = problem.start(start_key, batch) if x_0 is None else x_0
    conditions = batch.gathered()
    sde = problem.process.reverse(
        lambda t, x: policy.apply(params, t, x, *conditions),
        noise_level=problem.noise_level,
        prediction=problem.prediction,
    )

    if problem.window is None:
        drawn = _with_noise(path_key, problem, sde.predict, x_0)
    else:
        place_key = jax.random.fold_in(path_key, problem.steps)
        place = problem.window.place(place_key, update, problem.steps)
        drawn = _with_window(path_key, problem, sde.predict, x_0, place)
    times, kernel, states, noise, actions, failed_at = drawn
    rollout = Rollout(batch, times, kernel, states, noise, actions, None, None, failed_at)
    if not (problem.compares if compare is None else compare):
        return rollout
    return compare_paths(problem, reference_params, rollout)


def _with_noise(key: Array, problem: DiffusionControl, predict: ScoreFn, x_0: Array):
    """Simulate with noise in every step; return what a `Rollout` holds of it."""

    @jax.checkpoint
    def advance(x, step, t, kernel_i):
        action, noise = predict(t, x), step_noise(key, step, x)
        x_next = kernel_i.mean(x, action) + kernel_i.std * noise
        return x_next, (x_next, noise, action)

    steps, kernel, times = jnp.arange(problem.steps), problem.kernel(), problem.forward_times()[:-1]
    _, (later, noise, actions) = jax.lax.scan(
        lambda x, inputs: advance(x, *inputs), x_0, (steps, times, kernel)
    )
    states = jnp.concatenate([x_0[None], later])
    return times, kernel, states, noise, actions, failure_of(states)


def _with_window(key: Array, problem: DiffusionControl, predict: ScoreFn, x_0: Array, place: Array):
    """Simulate with noise in a window alone; return what a `Rollout` holds of it."""
    assert problem.window is not None
    length, steps = problem.window.length, jnp.arange(problem.steps)
    inside = (steps >= place) & (steps < place + length)
    noisy, times = problem.kernel(), problem.forward_times()[:-1]
    kernel = jax.tree.map(partial(jnp.where, inside), noisy, problem.certain_kernel())
    # The row of the store that a step has; there is none behind the last.
    row = jnp.where(inside, steps - place, length)

    def body(carry, inputs):
        x, failed_at, stored = carry
        step, row, t, kernel_i = inputs
        action, noise = predict(t, x), step_noise(key, step, x)
        x_next = kernel_i.mean(x, action) + kernel_i.std * noise
        stored = jax.tree.map(
            lambda store, value: store.at[row].set(value, mode="drop"), stored, (x, noise, action)
        )
        fails = (failed_at < 0) & ~all_each(jnp.isfinite(x_next))
        return (x_next, jnp.where(fails, step + 1, failed_at), stored), None

    empty = (jnp.zeros((length, *x_0.shape), x_0.dtype),) * 3
    start = (x_0, failure_of(x_0[None]), empty)
    (x, failed_at, stored), _ = jax.lax.scan(body, start, (steps, row, times, kernel))
    states, noise, actions = stored

    def cut(array):
        return jax.lax.dynamic_slice_in_dim(array, place, length)

    states = jnp.concatenate([states, x[None]])
    return cut(times), jax.tree.map(cut, noisy), states, noise, actions, failed_at


def compare_paths(problem: DiffusionControl, reference_params: Params, rollout: Rollout) -> Rollout:
    """Return a rollout with what the reference predicts along it, and the divergence from that."""
    reference = along_path(
        partial(problem.reference.apply, reference_params),
        rollout.times,
        rollout.states[:-1],
        rollout.batch,
        rows=problem.together,
    )
    kl = jax.vmap(girsanov.kl_rate)(rollout.kernel.kl_rate, rollout.actions, reference)
    return rollout._replace(reference=reference, kl=kl)


def path_price(problem: DiffusionControl, rollout: Rollout) -> Float[Array, "steps batch"]:
    """Return lambda KL_i of every step of (1); zero where there is no penalty."""
    if rollout.kl is None:
        return jnp.zeros(rollout.noise.shape[:2], rollout.noise.dtype)
    return problem.penalty * rollout.kl


def draw_start(
    key: Array, batch: Batch, shape: tuple[int, ...], std: Array | float
) -> Float[Array, "batch ..."]:
    """Draw start states of N(0, std^2), one of `shape` for every row; padding is at the origin."""
    x_0 = std * jax.random.normal(key, (batch.weights.shape[0], *shape))
    return x_0 * expand((batch.weights > 0).astype(x_0.dtype), x_0)


def along_path(function, times, states, batch: Batch, *, rows: int):
    """Apply ``function(t, x, *conditions)`` to every point of a path, about `rows` rows at a time.

    Args:
        function: of rows, at one time or at a time for each.
        times: of the points, (points,).
        states: arrays (points, batch, ...), or a tree of such.
        batch: gives the conditions.
        rows: rows evaluated together; bounds the memory.

    Returns:
        What the function returns, (points, batch, ...).
    """
    points, size = jax.tree.leaves(states)[0].shape[:2]
    together = max(
        d for d in range(1, points + 1) if points % d == 0 and d * size <= max(rows, size)
    )
    if jax.sharding.get_abstract_mesh().shape.get("data", 1) == 1:
        conditions = batch.gathered()
        return jax.lax.map(
            lambda point: function(*point, *conditions), (times, states), batch_size=together
        )
    return _along_divided(function, times, states, batch.gathered(together), together)


def _along_divided(function, times, states, conditions, together: int):
    """`along_path` of a batch that is divided over devices, `together` points at once.

    The points of an example are neighbors, as in the updates of a policy, so that the batch stays
    divided, also in convolutions, and what examples share has its gradient summed once per call.
    """

    def flat(leaf):
        return jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:])

    def stacked(leaf):
        return jnp.swapaxes(leaf.reshape(-1, together, *leaf.shape[1:]), 0, 1)

    def some(part):
        t, x = part
        rows = jax.tree.map(flat, x)
        repeated = jnp.tile(t, len(jax.tree.leaves(rows)[0]) // together)
        return jax.tree.map(stacked, function(repeated, rows, *conditions))

    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, together, *leaf.shape[1:]), (times, states))
    if together == len(times):  # a loop would be in the way of the compiler
        return some(jax.tree.map(lambda leaf: leaf[0], parts))
    found = jax.lax.map(some, parts)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)


def check_increasing(name: str, grid: Float[Array, "..."]) -> None:
    """Raise ValueError unless a concrete grid is a vector of at least two increasing times."""
    if isinstance(grid, Tracer):
        return
    times = np.asarray(grid)
    real = jnp.issubdtype(times.dtype, jnp.floating) or times.dtype.kind in "iu"
    if not real or times.ndim != 1 or times.size < 2 or not (np.diff(times) > 0).all():
        rule = "it must be a vector of at least two increasing times"
        raise refuse(name, times, rule, "make it with processes.grids")


def check_start(owner: str, shape: Any, start_std: Any) -> None:
    """Raise ValueError unless a shape and the standard deviation of a start law are such."""
    if not isinstance(shape, tuple):
        raise refuse(f"{owner}.shape", shape, "it must be a tuple", "give one such as (2,)")
    check_shape(shape, name=f"{owner}.shape")
    if start_std is not None and not (isinstance(start_std, jax.Array) and start_std.ndim):
        check_non_negative(f"{owner}.start_std", start_std)


def terminal_rewards(reward_fn: RewardFn | None, x: Array, batch: Batch) -> Rewards:
    """Return the rewards of end states with their parts, checked for shape."""
    if reward_fn is None:
        rule = "the rewards of this problem come from outside"
        raise refuse("reward_fn", None, rule, "give one, or call collect and learn")
    scored = getattr(reward_fn, "scored", reward_fn)
    return mask_rewards(scored(x, *batch.gathered()), x, batch)


def mask_rewards(rewards: ArrayLike | Rewards, x: Array, batch: Batch) -> Rewards:
    """Return rewards of end states in their type, zero for padding.

    Raises:
        ValueError: there is not one reward per example.
    """
    expected = batch.weights.shape

    def masked(rewards):
        if (shape := jnp.shape(rewards)) != expected:
            rule = f"a reward function must return one value per example, shape {expected}"
            repair = "sum or average the remaining axes in it"
            raise refuse("the rewards' shape", shape, rule, repair)
        # What a reward says of a padding row is nobody's business, NaN included.
        return jnp.where(batch.weights > 0, jnp.asarray(rewards, x.dtype), 0.0)

    found = rewards if isinstance(rewards, Rewards) else Rewards(jnp.asarray(rewards))
    parts = {name: masked(part) for name, part in found.parts.items()}
    return Rewards(masked(found.values), parts)


def reward_metrics(rewards: Rewards, failed_at: Int[Array, "batch ..."], batch: Batch) -> Metrics:
    """Return mean and standard deviation of rewards and parts, and whether all was finite."""
    metrics = {}
    for name, values in {"": rewards.values, **rewards.parts}.items():
        which = f"reward/{name}/" if name else "reward/"
        mean = weighted_mean(values, batch.weights)
        spread = weighted_mean((values - mean) ** 2, batch.weights)
        metrics |= {f"{which}mean": mean, f"{which}std": jnp.sqrt(spread)}
    counted = expand(batch.weights, failed_at) > 0
    # Of a state that is not finite the reward may say anything.
    finite = jnp.all(jnp.isfinite(rewards.values) | (failed_at >= 0))
    return metrics | state_metrics(failed_at, counted) | {"reward/finite": finite}


def path_metrics(
    problem: DiffusionControl,
    rewards: Rewards,
    kl: Float[Array, "batch ..."] | None,
    failed_at: Int[Array, "batch ..."],
    batch: Batch,
) -> Metrics:
    """Return `reward_metrics`, the divergence of whole paths in nats, and the objective (1).

    Without a divergence, which only a problem without a penalty has not, there are the others.
    """
    metrics = reward_metrics(rewards, failed_at, batch)
    if kl is None:
        return metrics | {"objective": metrics["reward/mean"]}
    path_kl = weighted_mean(kl, batch.weights)
    objective = metrics["reward/mean"] - problem.penalty * path_kl
    return metrics | {"kl/path": path_kl, "objective": objective}
