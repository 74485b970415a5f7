"""What is said of memory before a run: the compiler's account, and the pieces that fit."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from ctrl_jax.algorithms import Batch, DiffusionControl, PolicyUpdate, make_grpo
from ctrl_jax.networks import MLP, as_model
from ctrl_jax.processes import VP, grids
from ctrl_jax.runtime.devices.memory import (
    MemoryPlan,
    device_memory,
    fitting_chunks,
    memory_plan,
    needed_of,
)


def test_a_plan_counts_what_stands_and_what_is_donated():
    array = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    size = 4 * 256**2

    def function(a, b):
        return a + b @ b @ b

    kept, given = (memory_plan(function, array, array, **o) for o in ({}, {"donate_argnums": 0}))
    assert (kept.arguments, kept.results, kept.donated) == (2 * size, size, 0)
    assert given.donated == size and given.standing == 2 * size
    assert given.total == 2 * size + given.temporaries
    assert memory_plan(jax.jit(function), array, array) == kept


@pytest.mark.slow
def test_more_chunks_of_a_step_need_less():
    model = as_model(lambda rngs: MLP((64,), width=256, depth=1, rngs=rngs))
    problem = DiffusionControl(
        VP(),
        model,
        lambda x: x.sum(axis=1),
        (64,),
        grids.log_snr(VP(), 4, end=1e-2),
        0.1,
        together=512,
    )
    batch = Batch(jnp.ones(512), prompts=jnp.arange(512) // 8)

    @functools.cache
    def plan_of(chunks):
        update = PolicyUpdate(minibatches=1, chunks=chunks)
        made = make_grpo(problem, model, optax.adam(1e-3), update=update)
        state = jax.eval_shape(made.init, jax.random.key(0))
        return memory_plan(made.step, state, batch, donate_argnums=0)

    one, four = plan_of(1), plan_of(4)
    assert four.standing == one.standing and four.temporaries < 0.8 * one.temporaries
    limit = (one.total + four.total) // 2
    assert fitting_chunks(plan_of, (4, 1), limit) == (4, four)


def fake(temporaries):
    """Plans of a step that needs so much in between per chunk, and the numbers that were asked."""
    asked = []

    def plan_of(chunks):
        asked.append(chunks)
        return MemoryPlan(100, 50, 50, temporaries // chunks + 10)

    return plan_of, asked


def test_the_fewest_chunks_that_fit_without_compiling_what_cannot():
    plan_of, asked = fake(1000)
    chunks, plan = fitting_chunks(plan_of, (10, 1, 2, 5), 300)
    assert chunks == 10 and plan.total == 210 and asked == [1, 10]
    plan_of, asked = fake(1000)
    assert fitting_chunks(plan_of, (1, 2, 5, 10), 320)[0] == 5 and asked == [1, 5]
    plan_of, asked = fake(1000)
    assert fitting_chunks(plan_of, (1, 2, 5, 10), 2000)[0] == 1 and asked == [1]


def test_what_never_fits_is_refused_with_the_numbers():
    plan_of, asked = fake(10**10)
    with pytest.raises(ValueError, match=r"memory: received .1.0 GB in 10 chunks.*0.5 GB"):
        fitting_chunks(plan_of, (1, 10), 5 * 10**8)
    assert asked == [1, 10]


def test_the_compilers_own_refusal_is_read():
    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 23.50G of 15.75G hbm."
    assert needed_of(RuntimeError(text)) == int(23.5 * 2**30)
    assert needed_of(RuntimeError("INTERNAL: Used 23.50G of 15.75G hbm")) is None

    class Refusing:
        def __call__(self):
            pass

        def lower(self, *arguments):
            raise jax.errors.JaxRuntimeError(text)

    with pytest.raises(ValueError, match=r"memory: received .25.2 GB"):
        memory_plan(Refusing())


def test_this_machine_has_memory():
    assert device_memory() > 2**26
