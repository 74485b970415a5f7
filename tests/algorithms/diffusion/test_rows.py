"""Conditions of distinct prompts, taken inside each pass: what a repeated batch gives.

And the program says that nothing is repeated over steps: no array of it has the width of a text
beside the rows of more than one piece.
"""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    Critic,
    DiffusionControl,
    PolicyUpdate,
    ValueUpdate,
    make_online_preference,
    make_ppo,
)
from ctrl_jax.losses import preference
from ctrl_jax.processes import VP, grids

PROMPTS, BATCH, STEPS, TOKENS, WIDTH = 3, 6, 8, 5, 7
ROWS = jnp.asarray([2, 0, 0, 1, 2, 2])
TEXTS = jax.random.normal(jax.random.key(3), (PROMPTS, TOKENS, WIDTH))
LABELS = jnp.asarray([4, 0, 9])
BY_ROW = Batch(jnp.ones(BATCH), (TEXTS, LABELS), ROWS, ROWS)
REPEATED = Batch(jnp.ones(BATCH), (TEXTS[ROWS], LABELS[ROWS]), ROWS)
OWN_ROWS = REPEATED._replace(rows=jnp.arange(BATCH))


def read(params, t, x, text, label):
    """Attention of two numbers to a text, beside an embedding of the label."""
    weights = jax.nn.softmax(jnp.einsum("bd,dw,btw->bt", x, params["ask"], text))
    found = jnp.einsum("bt,btw,wd->bd", weights, text, params["tell"])
    return found + params["table"][label] * jnp.reshape(t, (-1, 1))


def init(key):
    shapes = {"ask": (2, WIDTH), "tell": (WIDTH, 2), "table": (10, 2)}
    keys = jax.random.split(key, len(shapes))
    return {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}


POLICY = Model(init, lambda params, t, x, *c: read(params, t, x, *c) - x)
VALUE = Model(init, lambda params, t, x, *c: read(params, t, x, *c).sum(axis=1))


def reward(x, text, label):
    return x[:, 0] * text.sum(axis=(1, 2)) - label


def algorithm(kind):
    grid = grids.log_snr(VP(), STEPS)
    # One time of the whole batch together where nothing is trained.
    problem = DiffusionControl(VP(), POLICY, reward, (2,), grid, 0.1, together=BATCH)
    if kind == "ppo":
        critic = Critic(VALUE, optax.sgd(1e-3), ValueUpdate(1, 9))
        return make_ppo(problem, POLICY, optax.sgd(1e-2), critic, update=PolicyUpdate(2, 2, 2))

    def loss(chosen, rejected, batch):
        return preference.dpo(chosen, rejected, beta=0.1)

    return make_online_preference(problem, POLICY, optax.sgd(1e-2), loss)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        pytest.param("ppo", "repeated", marks=pytest.mark.slow),
        ("online", "rows of their own"),
        pytest.param("ppo", "rows of their own", marks=pytest.mark.slow),
        pytest.param("online", "repeated", marks=pytest.mark.slow),
    ],
)
def test_rows_are_the_repeated_conditions(kind, other):
    """From a table of one row each bit for bit; without a table the program is another one."""
    made = algorithm(kind)
    state = made.init(jax.random.key(0))
    lowered = jax.jit(made.step).lower(state, BY_ROW)
    by_row = bits(lowered.compile()(state, BY_ROW))
    if other == "repeated":
        found = bits(jax.jit(made.step)(state, REPEATED))
        chex.assert_trees_all_close(by_row, found, rtol=1e-5, atol=1e-5)
    else:
        chex.assert_trees_all_equal(by_row, bits(jax.jit(made.step)(state, OWN_ROWS)))
    assert bool(by_row[1]["update/finite"])
    rows = texts_in(lowered.as_text())
    # Of the table, of the batch, of a piece of the update: two steps of every trajectory.
    assert max(rows) <= 2 * BATCH, rows
    assert {PROMPTS, BATCH} <= rows


def bits(result):
    state, metrics = result
    return state._replace(key=jax.random.key_data(state.key)), metrics


def texts_in(text):
    """Rows of the arrays of a lowered program whose last axes are a text."""
    shapes = re.findall(r"tensor<([\dx]+)x\w+>", text)
    found = [tuple(map(int, shape.split("x"))) for shape in shapes]
    ends = (TOKENS, WIDTH)
    return {int(np.prod(shape[:-2])) for shape in found if shape[-2:] == ends and len(shape) > 2}


def test_a_row_that_is_not_there_is_flagged():
    made = algorithm("online")
    state = made.init(jax.random.key(0))
    _, metrics = jax.jit(made.step)(state, BY_ROW._replace(rows=ROWS.at[1].set(PROMPTS)))
    assert not bool(metrics["states/finite"]) and not bool(metrics["update/finite"])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (BY_ROW._replace(rows=ROWS[:2]), r"Batch.rows: received .*; they must be integers \(6,\)"),
        (BY_ROW._replace(rows=ROWS * 1.0), r"Batch.rows: received .*; they must be integers"),
        (BY_ROW._replace(rows=None), r"conditions\[0\].shape: received \(3, 5, 7\); there are 6"),
        (Batch(jnp.ones(2), (jnp.ones(()),)), r"conditions\[0\].shape: received \(\)"),
    ],
)
def test_rows_that_do_not_fit_are_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        batch.gathered()
