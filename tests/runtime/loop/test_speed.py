"""Operations counted in a trace against closed forms; what a loop says of its own time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.runtime import LoopOptions, MetricsLog, read_metrics, train
from ctrl_jax.runtime.devices import chips
from ctrl_jax.runtime.devices.operations import operations_of

ROWS, WIDTH = 32, 64
PRODUCT = 2 * ROWS * WIDTH * WIDTH


def operations(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return operations_of(jax.make_jaxpr(function)(*arguments))


def scanned(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=5)[0]


def remembered(x, w):
    return jax.lax.scan(jax.checkpoint(lambda x, _: (jnp.tanh(x @ w), None)), x, length=5)[0]


def branched(x, w):
    return jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)


def total(function):
    return jax.grad(lambda x, w: function(x, w).sum(), argnums=(0, 1))


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (lambda x, w: jnp.einsum("ij,kj->ik", x, w), 1),
        (scanned, 5),
        (jax.jit(scanned), 5),
        (lambda x, w: jax.lax.map(lambda row: row @ w, x), 1),
        (lambda x, w: jax.lax.fori_loop(0, 4, lambda _, x: x @ w, x), 4),
        (branched, 2),
        (total(scanned), 15),  # forward, and two products for each behind
        (total(remembered), 20),  # and forward again
    ],
)
def test_products_are_counted_as_often_as_they_are_made(function, products):
    assert operations(function, (ROWS, WIDTH), (WIDTH, WIDTH)) == products * PRODUCT


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 1), (1, 2)])
def test_convolutions_by_hand(groups, stride):
    def conv(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        strides = (stride, stride)
        return jax.lax.conv_general_dilated(
            x, kernel, strides, "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    x, kernel = (2, 8, 8, 4), (3, 3, 4 // groups, 6)
    forward = 2 * (2 * 8 * 8 // stride**2 * 6) * 3 * 3 * (4 // groups)
    assert operations(conv, x, kernel) == forward
    # Either gradient multiplies as often, up to the padding.
    both = operations(total(conv), x, kernel)
    assert both == pytest.approx(3 * forward, rel=0.5) and both >= 2.5 * forward


def step(state, batch):
    return state @ batch, {"loss": jnp.mean(state)}


def test_lines_of_speed(tmp_path, monkeypatch):
    kind = jax.devices()[0].device_kind
    peak = chips.Chip("toy", 1, 1e9, 1.0, 1.0, "none")
    monkeypatch.setitem(chips.CHIPS, kind, peak)
    options = LoopOptions(
        fetch_every=2,
        progress=False,
        amounts={"tokens": 128},
        evaluate_every=4,
        evaluate=lambda k, state: {"gold": 1.0},
    )

    def run(start, steps):
        with MetricsLog(tmp_path / "metrics.jsonl", start=start) as log:
            batch = np.eye(WIDTH, dtype=np.float32)
            x = jnp.ones((ROWS, WIDTH))
            train(step, x, lambda k: batch, steps=steps, start=start, log=log, options=options)
        return read_metrics(log.path), read_metrics(log.speed_path)

    rows, (first, *lines) = run(0, 8)
    assert [set(row) for row in rows[:2]] == [{"step", "loss"}] * 2
    assert first["seconds/first"] > 0 and "tokens_per_second" not in first
    assert [(line["step"], line["updates"]) for line in lines] == [(4, 2), (6, 2), (8, 2)]
    assert ["seconds/evaluation" in line for line in lines] == [False, True, False]
    for line in lines:
        assert 0 < line["seconds/input"] < line["seconds/step"]
        assert line["tokens_per_second"] == 128 / line["seconds/step"]
        expected = PRODUCT / line["seconds/step"] / peak.flops
        assert line["flops_utilization"] == pytest.approx(expected)
    # Begun again from update 4: every line is there once.
    rows, lines = run(4, 8)
    assert [row["step"] for row in rows] == [*range(1, 9)]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
