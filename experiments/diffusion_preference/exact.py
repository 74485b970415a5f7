r"""Where the optimum is known: three losses, each with annotators of its own link, reach it.

On a Gaussian with a quadratic reward the minimum of the population loss is the optimum of the
penalized control problem at lambda, whenever the loss's link is that of the annotators: from
g(beta m) = g(k (R - R')) follows beta m = k (R - R'), lambda = beta / k, for any increasing g.

| setting | annotators | loss | beta |
|---|---|---|---|
| dpo | Bradley and Terry, which is spearman at phi = e^{-1/2} | DPO | lambda |
| theta | spearman at phi = 1/2 | Mallows-theta told phi | lambda |
| phi | kendall at phi = 1/2 | Mallows-phi told phi | lambda |
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Batch, DiffusionControl, PreferenceUpdate, roll_out
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from experiments import known_optima
from experiments.diffusion_preference.annotators import Law
from experiments.diffusion_preference.methods import LIKE_DPO, Runs, online
from experiments.diffusion_preference.training import Show, repeat
from experiments.fine_tuning import Task
from experiments.study import Conduct

SETTINGS: dict[str, tuple[Law, float]] = {
    "dpo": ("spearman", LIKE_DPO),
    "theta": ("spearman", 0.5),
    "phi": ("kendall", 0.5),
}
SPEC = known_optima.SPECS["gaussian"]
STEPS = 20
PAIRS = 2048
RATE = 3e-2
SAMPLES = 20_000


def affine_policy(task: Task, problem: DiffusionControl) -> Model:
    """Return the score plus slope(t) x + intercept(t), a family that the optimum is in.

    Slope and intercept are tables over the sampler's times, interpolated.
    """
    times = problem.forward_times()[::-1]

    def apply(params, t, x):
        rows = jnp.broadcast_to(t, x.shape[:1])
        slope, intercept = (jnp.interp(rows, times, table)[:, None] for table in params)
        return task.reference.apply((), t, x) + slope * x + intercept

    return Model(lambda key: (jnp.zeros(STEPS + 1), jnp.zeros(STEPS + 1)), apply)


def reach_optimum(
    setting: str, updates: int, keys: jax.Array, show: Show, study: Conduct
) -> tuple[dict[str, np.ndarray], Any]:
    """Return W2 to the ideal law and the objectives, found and optimal, by seed, and parameters.

    Args:
        setting: one of `SETTINGS`.
        updates: of each.
        keys: one per seed.
        show: see `Show`.
        study: the run, which keeps the parameters.
    """
    law, phi = SETTINGS[setting]
    seeds = len(keys)
    task, environment = known_optima.make_task(SPEC), SPEC.environment()
    problem = task.problem(STEPS, SPEC.penalty)
    policy = affine_policy(task, problem)
    optimizer = adam(make_schedule(RATE, updates, final=0.02))
    config = PreferenceUpdate(average_decay=0.95)

    def batch_of(size):
        return Batch(jnp.ones(size), prompts=jnp.zeros(size, jnp.int32))

    def make(run):
        return online(problem, policy, law, 1.0, run, optimizer, config)

    def same(value):
        return jnp.full((seeds, 1), value)

    runs = Runs(
        keys,
        same(phi),
        same(phi),
        jnp.full(seeds, SPEC.penalty),
        jnp.full(seeds, setting == "phi"),
        jnp.ones((seeds, PAIRS)),
    )

    def train():
        return repeat(
            lambda run: make(run).init(run.key),
            lambda state, run: make(run).step(state, batch_of(PAIRS)),
            runs,
            updates,
            show,
        )[0]

    params = study.once(f"exact-{setting}", train, jax.eval_shape(jax.vmap(policy.init), keys))

    @jax.jit
    @jax.vmap
    def simulate(key, params):
        found = roll_out(key, problem, policy, params, (), batch_of(SAMPLES))
        return (
            found.states[-1],
            jnp.mean(problem.rewards(found)),
            jnp.mean(found.path_kl),
        )

    ends, rewards, kls = jax.device_get(simulate(keys, params))
    found = [
        known_optima.compare_with_optimum(environment, *row)
        for row in zip(ends, map(float, rewards), map(float, kls), strict=True)
    ]
    return {name: np.asarray([f[name] for f in found]) for name in found[0]}, params


def sampler_error(key: jax.Array) -> float:
    """Return W2 to the ideal law of the optimal policy itself, on this sampler."""
    task, environment = known_optima.make_task(SPEC), SPEC.environment()
    problem = task.problem(STEPS, SPEC.penalty)

    def apply(params, t, x):
        return environment.optimal_policy(SPEC.horizon - t, x)[0]

    optimal = Model(lambda key: (), apply)
    ends = roll_out(key, problem, optimal, (), (), Batch(jnp.ones(SAMPLES))).states[-1]
    return known_optima.compare_with_optimum(environment, np.asarray(ends), 0.0, 0.0)["w2/tilted"]
