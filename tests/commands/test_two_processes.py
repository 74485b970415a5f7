"""`fine-tune` and `prefer` in two processes of two devices end as on one device.

The noise of a picture and the order of pairs are the same; sums over examples, and over weights
that are divided, are taken in another order, and end some roundings of float32 apart. Measured,
the metrics differ by up to 6e-7 of themselves and nearly all weights by 1e-7. But Adam moves a
weight by about the learning rate however small its gradient, and where that is hardly more than a
rounding error, the move differs too: of two thousand weights one by 8e-6, where three updates move
by 3e-3.
"""

import numpy as np
import pytest

from ctrl_jax.pretrained import write_small_pipeline
from ctrl_jax.pretrained.safetensors_file import read_safetensors
from tests.commands.byte_model import write_data, write_model
from tests.experiments.on_meshes import check_equal, numbers
from tests.pretrained.diffusers.pipelines import FEWEST
from tests.runtime.processes import run_in_two, run_python

FINE_TUNE = """
ctrl_jax.commands fine-tune --model {inputs}/pipeline --prompts {inputs}/prompts.txt
--reward soft_jpeg_size:-1 --algorithm ddpo --solver-steps 2 --steps 3 --batch 4 --group 2
--guidance 1 --optimization.learning-rate 1e-3 --evaluation.prompts 2 --evaluation.number 2
--evaluation.every 3
""".split()  # noqa: SIM905
PREFER = """
tests.commands.byte_model --model {inputs}/decoder --data {inputs}/pairs.jsonl --steps 3
--optimization.batch 4 --optimization.learning-rate 0.02 --optimization.warmup 0
--texts.max-length 32 --texts.row-length 32 --texts.held-out 0.2
--evaluation.prompts 3 --evaluation.answer-length 4
""".split()  # noqa: SIM905
ADAPTERS = ["--adapters.rank", "2"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A pipeline, a decoder whose heads four devices divide, and what they learn from."""
    folder = tmp_path_factory.mktemp("inputs")
    write_small_pipeline(folder / "pipeline", "sd3", records=FEWEST)
    (folder / "prompts.txt").write_text("a cat\nred dog\nblue car\n")
    write_model(folder / "decoder", num_attention_heads=4, num_key_value_heads=4)
    write_data(folder / "pairs.jsonl")
    return folder


@pytest.fixture(scope="module")
def on_one(inputs):
    """What a command leaves on one device, computed once."""
    found = {}

    def run(line):
        key = tuple(line)
        if key not in found:
            found[key] = inputs / f"one-{len(found)}"
            given = [option.format(inputs=inputs) for option in line]
            status, _, err = run_python("-m", *given, "--no-progress", "--out", str(found[key]))
            assert status == 0, err[-4000:]
        return found[key]

    return run


def check_alike(one, two, moves):
    """Assert that what two runs left is the same, up to the order of sums.

    Args:
        one: the folder of a run.
        two: that of the other.
        moves: how far its updates may move a weight.
    """
    metrics = [numbers(folder) for folder in (one, two)]
    check_equal(*metrics)
    assert max(metrics[0].get(name, 0.0) for name in ("kl/path/after", "kl/after")) > 1e-5
    names = [path.relative_to(one) for path in one.rglob("*.safetensors")]
    apart = []
    for name in names:
        wanted, found = (read_safetensors(folder / name) for folder in (one, two))
        assert found.keys() == wanted.keys()
        apart += [np.ravel(np.abs(found[key] - weights)) for key, weights in wanted.items()]
    differences = np.concatenate(apart)
    assert np.mean(differences > 1e-6) < 1e-3 and np.max(differences) < 0.01 * moves


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "divided", "rate"),
    [
        pytest.param([*FINE_TUNE, *ADAPTERS], [], 1e-3, id="fine-tune"),
        pytest.param([*FINE_TUNE, "--full"], ["--fully-sharded"], 1e-3, id="fine-tune fully"),
        pytest.param([*FINE_TUNE, "--full"], ["--mesh.model", "4"], 1e-3, id="fine-tune model"),
        pytest.param(PREFER, ["--optimization.fully-sharded"], 0.02, id="prefer fully"),
        pytest.param(PREFER, ["--mesh.model", "4"], 0.02, id="prefer model"),
    ],
)
def test_two_processes_end_as_one_device(line, divided, rate, inputs, on_one, tmp_path):
    two = tmp_path / "two"
    given = [option.format(inputs=inputs) for option in line]
    run_in_two("-m", *given, *divided, "--no-progress", "--out", str(two))
    check_alike(on_one(line), two, moves=3 * rate)
