r"""Value networks: one number per example, and one that knows the reward.

Of a differentiable reward R the value at the end is known, and elsewhere it is near the reward of
what the state will become. `anchored_value` joins this to a network that learns the rest,

    V(t, x, c) = \cos(\pi t / 2T) R(\hat x_0(t, x, c), c) + \sin(\pi t / 2T) R'(t, x, c),     (1)

with \hat x_0 the data that a frozen model predicts of the noisy state: exact at t = 0, and
nothing but R' at the horizon T, where the prediction says least. R' is a network of its own, such
as a copy of R that is trained. Source: arXiv 2502.01819, the value network of its experiments.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax._typing import Model, RewardFn
from ctrl_jax.networks.score.mlp import MLP
from ctrl_jax.processes import LinearProcess
from ctrl_jax.processes.prediction import Prediction, check_prediction, read_data


class ValueMLP(nnx.Module):
    """V(t, x, *conditions), one number per example, by an `MLP`.

    Args:
        shape: shape of one example.
        rngs: random streams.
        **options: keyword arguments of `MLP`, such as its width, but for its output.
    """

    def __init__(self, shape: tuple[int, ...], *, rngs: nnx.Rngs, **options: Any):
        self.network = MLP(shape, out=1, rngs=rngs, **options)

    def __call__(self, t: Array, x: Array, *conditions: Array) -> Float[Array, " batch"]:
        """Return one value per example."""
        return self.network(t, x, *conditions)[:, 0]


def anchored_value(
    process: LinearProcess,
    predict_fn: Callable[..., Array],
    reward_fn: RewardFn,
    network: Model,
    *,
    prediction: Prediction = "score",
) -> Model:
    r"""Return V = cos(pi t / 2T) R(x_0(t, x, c), c) + sin(pi t / 2T) R'(t, x, c) as a `Model`.

    x_0 is the data that `predict_fn` stands for. It should be the pretrained model, which stays as
    it is: what the value sees of a state is then the same in every update, and is found once per
    trajectory. That costs one forward pass of the model and of the reward at each of the n + 1
    points of the grid, with a backward pass at n of them for the gradient of the value that
    `make_value_gradient` reads; for that of `make_ppo` with its control variate, elsewhere, a
    forward and a backward pass more. Parameters of both, where they are large, are handed to a
    compiled function as arguments, and the value and the algorithm made inside it: what a compiled
    function closes over becomes a part of the program.

    Args:
        process: the forward process; T is its horizon.
        predict_fn: ``predict_fn(t, x, *conditions)`` of x's shape.
        reward_fn: R(x, *conditions), differentiable in x where a gradient of the value is read.
        network: R', one value per example; its parameters are those of the value.
        prediction: what `predict_fn` returns: "score", "noise", "data", "v" or "flow".

    Returns:
        The value, for `Critic`; ``observe(t, x, *conditions)`` returns R(x_0) beside what `network`
        sees.

    Raises:
        ValueError: the prediction is not known.

    Source: arXiv 2502.01819.
    """
    check_prediction(prediction)

    def observe(t, x, *conditions):
        data = read_data(process, t, prediction).of(x, predict_fn(t, x, *conditions))
        seen = x if network.observe is None else network.observe(t, x, *conditions)
        return reward_fn(data, *conditions), seen

    def apply(params, t, observation, *conditions):
        reward, seen = observation
        angle = jnp.pi / 2 * t / process.horizon
        rest = network.apply(params, t, seen, *conditions)
        return jnp.cos(angle) * reward + jnp.sin(angle) * rest

    return Model(network.init, apply, observe)
