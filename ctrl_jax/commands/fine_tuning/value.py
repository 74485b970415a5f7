"""The value network of a fine-tuning run, and the unit that it learns in."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ctrl_jax._checks import refuse
from ctrl_jax._typing import Model, RewardFn
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.inputs import Inputs
from ctrl_jax.commands.fine_tuning.scoring import parts_of
from ctrl_jax.networks import ValueMLP, anchored_value, as_model

FINEST = 32
"""Side of what a value network sees of a state, or up to twice of it."""


class Unit(NamedTuple):
    """Mean and spread of the reward on pictures of the pretrained model, also traced."""

    mean: Array | float
    std: Array | float


def value_model(
    config: Config, inputs: Inputs, frozen: Mapping[str, Any], unit: Unit, reference: Model
) -> Model:
    """Return the value network that the options name.

    Args:
        config: the options.
        inputs: what is fine-tuned, and by which rewards.
        frozen: what no gradient moves; also traced.
        unit: of the reward.
        reference: the pretrained model, guided as the policy is.

    Raises:
        ValueError: the reward is to be part of the network, and does not compile into it.
    """
    network = network_of_states(config, inputs, unit)
    if config.value.network == "state":
        return network
    reward_fn = reward_of(config, inputs, frozen)

    def predict(t, x, *conditions):
        return reference.apply((), t, x, *conditions)

    process, prediction = inputs.subject.process, inputs.subject.prediction
    return anchored_value(process, predict, reward_fn, network, prediction=prediction)


def reward_of(config: Config, inputs: Inputs, frozen: Mapping[str, Any]) -> RewardFn:
    """Return the weighted sum of the rewards as a function of latents, to be differentiated.

    Raises:
        ValueError: the rewards do not compile into it.
    """
    if inputs.rewards.outside or not inputs.summing.plain:
        rule = "it differentiates the rewards, which must be in JAX and as they are"
        repair = "take state" if inputs.rewards.outside else "leave out --reward-scale"
        raise refuse("value.network", config.value.network, rule, repair)
    subject, before = inputs.subject, len(inputs.network)

    def reward_fn(x, *conditions):
        pictures = subject.decode(frozen, x)
        parts = parts_of(inputs.rewards, frozen["rewards"], pictures, conditions[before:])
        weights = inputs.rewards.weights
        return jnp.sum(jnp.stack([w * parts[name] for name, w in weights.items()]), axis=0)

    return reward_fn


def network_of_states(config: Config, inputs: Inputs, unit: Unit) -> Model:
    """Return a network of the state, coarsened, and of the mean of each condition over tokens.

    It begins as the mean reward of the pretrained model, and learns in units of its spread.
    """
    subject, options = inputs.subject, config.value

    def observe(t, x, *conditions):
        own = conditions[: len(subject.widths)]
        texts = [jnp.mean(c.reshape(c.shape[0], -1, c.shape[-1]), axis=1) for c in own]
        seen = [coarse(x).reshape(x.shape[0], -1), *texts]
        return jnp.concatenate([part.astype(x.dtype) for part in seen], axis=-1)

    blank = jax.eval_shape(coarse, jax.ShapeDtypeStruct((1, *subject.shape), jnp.float32))
    size, horizon = blank.size + sum(subject.widths), float(subject.process.horizon)
    sizes = {"width": options.width, "depth": options.depth, "horizon": horizon}
    network = as_model(lambda rngs: ValueMLP((size,), **sizes, rngs=rngs))

    def apply(params, t, observation, *conditions):
        return unit.mean + unit.std * network.apply(params, t, observation)

    return Model(network.init, apply, observe)


def coarse(x: Array) -> Array:
    """Return means over squares of pixels, so that no side is longer than twice `FINEST`."""
    side = max(1, max(x.shape[1:3]) // FINEST)
    if side == 1:
        return x
    window = (1, side, side, 1)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID") / side**2
