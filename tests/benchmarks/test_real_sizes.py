"""The tables of docs/memory.md are what was compiled, and the programs are those of the command."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks import real_sizes
from benchmarks.real_sizes import Compiled


def row(training, batch, gigabytes, **more):
    """What is kept of a step of this size; results take the place of arguments."""
    size, between = int(gigabytes * 1e9), 4 * 10**9
    parts = {"arguments": size - between, "results": 10**8, "donated": 10**8}
    parts |= {"temporaries": between, "device": "TPU v5"}
    case = Compiled("SD 1.5", training, "ddpo", batch)
    return {**vars(case), **parts, **more}


def test_what_fits_by_hand():
    rows = [row("LoRA", 2, 10.0), row("full", 2, 30.0)]
    table = real_sizes.of_one_device(rows).splitlines()
    # Two a picture: 6 stand with adapters, and of 16 GB 15.2 are used.
    assert table[2] == "| SD 1.5 | LoRA | 6.0 | 2.00 | 4 | 8 | 35 | 63 |"
    assert table[3] == "| SD 1.5 | full | 26.0 | 2.00 | – | – | 25 | 53 |"
    assert len(table) == 4


def test_what_is_said_of_a_slice_by_hand():
    spoken = dict.fromkeys(("all-gather", "all-reduce", "reduce-scatter", "all-to-all"), 1)
    found = {"seconds": {"lower": 2.2, "compile": 99.6}, "data": 4, "parts": 2}
    found["collectives"] = {**spoken, "collective-permute": 7}
    table = real_sizes.of_a_slice([row("LoRA", 32, 10.0, **found), row("LoRA", 2, 10.0)])
    said = "| SD 1.5, LoRA, ddpo, batch 32 | TPU v5, data 4 x model 2 | 10.0 | 2, 100 | 1, 2, 8 |"
    assert table.splitlines()[2:] == [said]


def test_devices_that_speak_are_counted():
    text = "%a = all-gather(%x)\n %b = all-gather-start(%x) %c = all-gather-done(%b) all-reduce("
    found = real_sizes.collectives(text)
    assert (found["all-gather"], found["all-reduce"], found["reduce-scatter"]) == (2, 1, 0)


def test_the_page_is_what_was_compiled():
    text = real_sizes.PAGE.read_text(encoding="utf-8")
    assert real_sizes.page(text) == text


@pytest.mark.parametrize("training", ["LoRA", "full"])
def test_the_step_of_the_command_is_made_of_shapes_alone(training):
    case = Compiled("SD 1.5", training, "ddpo", 4, divisor=0)
    mesh = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), ("data", "model"))
    step, arguments = real_sizes.program(case, real_sizes.config_of(case), mesh)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(arguments))
    state, metrics = jax.eval_shape(step, *arguments)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, arguments[0])
    assert all(jax.tree.leaves(same)) and metrics["reward/mean"].shape == ()
