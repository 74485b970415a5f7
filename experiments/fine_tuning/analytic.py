"""The same task where the optimum is known in closed form: `environments.GaussianSteering`.

gaussian is oracle O4 and mixture oracle O5: data on the line, a quadratic reward, and the score of
the noised data as the pretrained model. The policy is that score plus an MLP which starts at zero.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model
from ctrl_jax.environments import GaussianSteering
from ctrl_jax.metrics import distances
from ctrl_jax.networks import MLP, ValueMLP, as_model
from ctrl_jax.processes import VP
from ctrl_jax.solvers import EulerMaruyama
from experiments.fine_tuning.task import Task

PROCESS = VP(0.2, 2.0, horizon=3.0)
END = 1e-2


def make_environment(name: str, penalty: float | None) -> GaussianSteering:
    """Return the environment "gaussian" (O4) or "mixture" (O5), with its own penalty by default."""
    if name == "gaussian":
        return GaussianSteering(PROCESS, 1.0, 0.5, 2.0, 2.5, 2.5 if penalty is None else penalty)
    return GaussianSteering(
        PROCESS,
        [-1.5, 1.0],
        [0.1, 0.2],
        1.5,
        -0.5,
        0.8 if penalty is None else penalty,
        weights=[0.3, 0.7],
    )


def make_task(environment: GaussianSteering) -> Task:
    """Return the task; success is a reward above the median of the data."""
    draws = environment.data.sample(jax.random.key(11), 100_000)
    threshold = float(jnp.median(environment.reward(draws)))
    correction = as_model(lambda rngs: MLP((1,), width=64, depth=2, horizon=3.0, rngs=rngs))

    def act(params, t, x):
        return environment.score(t, x) + correction.apply(params, t, x)

    def success(samples: np.ndarray) -> np.ndarray:
        return np.asarray(environment.reward(jnp.asarray(samples)) > threshold, np.float64)

    return Task(
        process=PROCESS,
        shape=(1,),
        reference=Model(lambda key: (), lambda params, t, x: environment.score(t, x)),
        policy=Model(correction.init, act),
        value=as_model(lambda rngs: ValueMLP((1,), width=64, depth=2, horizon=3.0, rngs=rngs)),
        reward_fn=environment.reward,
        success_fn=success,
        diversity_fn=None,
        end=END,
        facts={},
        solver=EulerMaruyama(),
        start_std=environment.start_std(),
    )


def compare_with_optimum(
    environment: GaussianSteering, samples: np.ndarray, reward: float, path_kl: float
) -> dict[str, float]:
    """Return how far a policy is from the known optimum.

    Args:
        environment: the environment.
        samples: end states of the policy, (n, 1).
        reward: their mean reward.
        path_kl: mean divergence of the paths, in nats.

    Returns:
        ``w2/tilted``: distance of the terminal law from the tilt, ``objective`` and its optimum.
    """
    ideal = environment.tilted_law().sample(jax.random.key(13), len(samples))
    return {
        "w2/tilted": float(distances.wasserstein_1d(jnp.asarray(samples)[:, 0], ideal[:, 0])),
        "objective": reward - environment.penalty * path_kl,
        "objective/optimal": optimal_objective(environment),
    }


def optimal_objective(environment: GaussianSteering) -> float:
    """Return the best penalised reward from the start law, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    starts = environment.start_std() * jnp.asarray(nodes, jnp.float32)
    values = environment.optimal_value(jnp.zeros(()), starts)
    return float(np.average(np.asarray(values, np.float64), weights=weights))
