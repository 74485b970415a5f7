"""The same task where the optimum is known in closed form: `environments.GaussianSteering`.

gaussian is a Gaussian with a quadratic reward, mixture a mixture of two Gaussians with a quadratic
reward; both on the line, with the score of the noised data as the pretrained model. The policy is
that score plus an MLP which starts at zero.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model
from ctrl_jax.environments import GaussianSteering
from ctrl_jax.metrics import distances
from ctrl_jax.models import SteeringSpec
from ctrl_jax.networks import ValueMLP, as_model
from ctrl_jax.solvers import EulerMaruyama
from experiments.fine_tuning import Task, success_threshold

SPECS = {
    "gaussian": SteeringSpec((1.0,), (0.5,), (1.0,), 2.0, 2.5, penalty=2.5),
    "mixture": SteeringSpec((-1.5, 1.0), (0.1, 0.2), (0.3, 0.7), 1.5, -0.5, penalty=0.8),
}
"""The two, each with its own penalty."""


def make_spec(name: str, penalty: float | None) -> SteeringSpec:
    """Return the spec of an environment, at another penalty where one is given."""
    spec = SPECS[name]
    return spec if penalty is None else dataclasses.replace(spec, penalty=penalty)


def make_task(spec: SteeringSpec, dtype: jnp.dtype | None = None) -> Task:
    """Return the task; success is a reward above the median of the data.

    Args:
        spec: environment and policy.
        dtype: type of the networks' arithmetic.
    """
    environment, process = spec.environment(), spec.process()
    draws = environment.data.sample(jax.random.key(11), 100_000)
    threshold = success_threshold(np.asarray(environment.reward(draws)), share=0.5)
    value = {"width": spec.width, "depth": spec.depth, "horizon": spec.horizon, "dtype": dtype}

    def success(samples: np.ndarray) -> np.ndarray:
        return np.asarray(environment.reward(jnp.asarray(samples)) > threshold, np.float64)

    return Task(
        process=process,
        shape=(1,),
        reference=Model(lambda key: (), lambda params, t, x: environment.score(t, x)),
        policy=spec.model((1,), dtype),
        value=as_model(lambda rngs: ValueMLP((1,), rngs=rngs, **value)),
        reward_fn=environment.reward,
        success_fn=success,
        diversity_fn=None,
        end=spec.end,
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


def sampling_noise(environment: GaussianSteering, number: int, *, pairs: int = 8) -> float:
    """Return the mean W2 of two samples of the tilt: below it ``w2/tilted`` sees nothing.

    Args:
        environment: the environment.
        number: points of a sample.
        pairs: pairs averaged over.
    """
    keys = jax.random.split(jax.random.key(17), (pairs, 2))
    draw = jax.vmap(jax.vmap(lambda key: environment.tilted_law().sample(key, number)[:, 0]))
    return float(jnp.mean(jax.vmap(distances.wasserstein_1d)(*jnp.swapaxes(draw(keys), 0, 1))))


def optimal_objective(environment: GaussianSteering) -> float:
    """Return the best penalized reward from the start law, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    starts = environment.start_std() * jnp.asarray(nodes, jnp.float32)
    values = environment.optimal_value(jnp.zeros(()), starts)
    return float(np.average(np.asarray(values, np.float64), weights=weights))
