"""No pass that nobody asked for: how many rows each network is evaluated for in one step.

Policy and reference are marked by an elementary function of their own, whose evaluations are
counted in the traced program, loops by their length.
"""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    DiffusionControl,
    PolicyUpdate,
    PreferenceUpdate,
    make_ddpo,
    make_dpok,
    make_online_preference,
)
from ctrl_jax.losses import preference
from ctrl_jax.processes import VP, grids

STEPS, SIZE = 6, 4
WHOLE = STEPS * SIZE


def marked(function):
    return Model(
        lambda key: {"slope": jnp.ones(())},
        lambda params, t, x: 1e-3 * function(params["slope"] * x) - x,
    )


POLICY, REFERENCE = marked(jnp.cbrt), marked(jax.lax.erf)


def problem(penalty=0.0, **options):
    grid = grids.log_snr(VP(), STEPS)
    reward = lambda x: x[:, 0]  # noqa: E731
    return DiffusionControl(VP(), REFERENCE, reward, (1,), grid, penalty, **options)


def rows_of(jaxpr, mark):
    """Rows for which a function is evaluated; of a conditional's branches the costliest."""
    found = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == mark:
            found += equation.outvars[0].aval.size
        inner = [rows_of(each, mark) for each in jaxprs_in_params(equation.params)]
        if inner:
            chosen = max(inner) if equation.primitive.name == "cond" else sum(inner)
            found += equation.params.get("length", 1) * chosen
    return found


def passes(algorithm):
    """Forward evaluations of policy and reference in one step, of all steps of all rows."""
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    jaxpr = jax.make_jaxpr(algorithm.step)(state, Batch(jnp.ones(SIZE))).jaxpr
    return tuple(rows_of(jaxpr, mark) / WHOLE for mark in ("cbrt", "erf"))


@pytest.mark.parametrize(
    ("make", "options", "epochs", "old", "expected"),
    [
        (make_ddpo, {}, 1, "rollout", (2, 0)),
        (make_ddpo, {}, 1, "scored", (3, 0)),
        (make_ddpo, {}, 2, "rollout", (3, 0)),
        (make_ddpo, {"path_kl": True}, 1, "scored", (3, 1)),
        (make_dpok, {"penalty": 0.1}, 1, "rollout", (2, 1)),
        (make_dpok, {"penalty": jnp.asarray(0.1)}, 1, "scored", (3, 1)),
        (make_dpok, {"penalty": jnp.asarray(0.0)}, 1, "scored", (3, 0)),
    ],
)
def test_passes_of_a_step(make, options, epochs, old, expected):
    """One forward per step of the rollout, one with its backward per step trained on."""
    update = PolicyUpdate(epochs, minibatches=2, old=old)
    algorithm = make(problem(**options), POLICY, optax.sgd(1e-3), update=update)
    assert passes(algorithm) == expected
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    assert (state.reference is None) == (expected[1] == 0)


def test_a_penalty_that_is_traced_is_one():
    def compares(penalty):
        assert problem(penalty).compares
        return penalty

    jax.eval_shape(compares, 0.0)
    assert not problem().compares


@pytest.mark.parametrize("epochs", [1, 2])
def test_pairs_ask_the_reference_once(epochs):
    """Of both paths: rollout, and per epoch the loss and its gradient, which computes it anew."""
    made = make_online_preference(
        problem(),
        POLICY,
        optax.sgd(1e-3),
        lambda chosen, rejected, batch: preference.dpo(chosen, rejected, beta=0.1),
        config=PreferenceUpdate(epochs),
    )
    policy, reference = passes(made)
    assert reference == 2
    assert policy == 2 * (1 + 2 * epochs)


def test_what_needs_the_reference_says_so():
    algorithm = make_ddpo(problem(), POLICY, optax.sgd(1e-3), update=PolicyUpdate(1, 1))
    state = algorithm.init(jax.random.key(0))
    rollout = jax.eval_shape(algorithm.collect, state, Batch(jnp.ones(SIZE)))
    with pytest.raises(ValueError, match=r"not evaluated.*path_kl=True"):
        _ = rollout.path_kl


def test_a_base_that_policy_and_reference_share_is_held_once():
    """Adapters over it are trained, and it is an argument of the step: in no state, and what the
    compiled program takes beside it is a small part of it."""
    width = 512
    shapes = {"a": (width, 1), "b": (1, width)}
    base = {name: jax.ShapeDtypeStruct((width, width), jnp.float32) for name in ("in", "out")}
    size = 2 * 4 * width**2

    def control(base):
        def predict(params, t, x):
            return jnp.tanh(x @ base["in"]) @ base["out"] + (x @ params["a"]) @ params["b"]

        blank = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        reference = Model(lambda key: (), lambda params, t, x: predict(blank, t, x))
        grid, reward = grids.log_snr(VP(), STEPS), lambda x: x[:, 0]
        steered = DiffusionControl(VP(), reference, reward, (width,), grid, 0.1)
        policy, update = Model(lambda key: blank, predict), PolicyUpdate(1, 2, average_decay=0.9)
        return make_dpok(steered, policy, optax.adam(1e-3), update=update)

    state = jax.eval_shape(lambda key, base: control(base).init(key), jax.random.key(0), base)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < width**2 / 10
    step = jax.jit(lambda state, batch, base: control(base).step(state, batch), donate_argnums=0)
    memory = step.lower(state, Batch(jnp.ones(SIZE)), base).compile().memory_analysis()
    assert memory is not None
    assert size <= memory.argument_size_in_bytes < 1.1 * size
    assert memory.output_size_in_bytes + memory.temp_size_in_bytes < size / 2
