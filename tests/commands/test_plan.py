"""`ctrl-jax plan`: updates on shapes, what is said of them, and the largest batch."""

import json
import math
import types
from typing import Any

import jax
import pytest

from ctrl_jax.commands import plan
from ctrl_jax.commands.__main__ import main
from ctrl_jax.commands.fine_tuning.method import Method
from ctrl_jax.commands.fine_tuning.sampler import Sampler
from ctrl_jax.commands.planning import fine_tune, prefer, report
from ctrl_jax.commands.planning import largest as batches
from ctrl_jax.commands.planning.program import Compiled, Memory, TooLarge
from ctrl_jax.commands.preference.config import Optimization, Texts
from ctrl_jax.pretrained.diffusers.small_records import write_records
from ctrl_jax.runtime.devices.chips import CHIPS
from ctrl_jax.runtime.devices.costs import Costs
from ctrl_jax.runtime.devices.mesh import MeshOptions, make_mesh
from ctrl_jax.runtime.devices.topology import described_devices
from tests.commands.byte_model import Bytes, write_model
from tests.pretrained.diffusers.pipelines import FEWEST
from tests.runtime.processes import run_python

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def planned(folder, *typed):
    """What a process of its own writes and prints, which JAX has not started in."""
    file = folder / "plan.json"
    status, out, err = run_python(
        *("-m", "ctrl_jax.commands", "plan", *typed, "--json", str(file)),
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
    )
    assert status == 0, err
    return json.loads(file.read_text()), out


def test_a_preference_step_of_a_config_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    given = ["--model", str(tmp_path), "--data", "-", "--texts.max-length", "32"]
    given += ["--mesh.model", "2", "--optimization.fully-sharded", "--optimization.chunk", "64"]
    told, printed = planned(tmp_path, "prefer", "--topology", "cpu:8", *given)
    assert (told["mesh"], told["examples"], told["unit"]) == ({"data": 4, "model": 2}, 8, "pairs")
    memory = told["memory"]
    # Two tables of 64 x 32, queries and outputs of 32, keys and values of 16, three products of a
    # gated layer, all divided over eight devices; three scales of 32 on each.
    divided = 2 * 64 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert memory["parameters"] == 4 * (divided // 8 + 3 * 32)
    assert memory["optimizer"] == 2 * memory["parameters"] + 2 * 4
    assert memory["beside"] == memory["parameters"], "the reference model is there to the end"
    # Of a pair the one block sees 48 tokens, and answers at 32 of them: keys and values, the other
    # products with the head, and attention's two; forward and twice backward, on half a device. In
    # chunks the head's product is made again, of every chunk by each device its part alone.
    head = 32 * 64 * 32
    products = 48 * 2 * 32 * 16 + 32 * (2 * 32 * 32 + 3 * 32 * 64) + 2 * 32 * 48 * 32 + head
    pairs = 8 // 4
    assert told["flops"] == pytest.approx(2 * pairs * (3 * products + head) / 2, rel=0.02)
    assert told["flops_share"] == pytest.approx(told["flops"], rel=0.02)
    assert told["floors"] is None and told["loops_without_trips"] == 0
    # Half of 32 is the prompt, and either answer may take the other half.
    assert told["tokens"] == 8 * 48 and told["tokens_per_second"] is None
    assert "all-reduce" in told["collectives"] and "8 pairs with 384 tokens an update" in printed


def test_tokens_of_a_batch_are_those_of_the_data_without_padding(tmp_path, monkeypatch):
    """All pairs alike: a beginning, 4 of the prompt, 3 and 2 of the answers, and their two ends."""
    write_model(tmp_path / "model")
    lines = [{"prompt": f"px{n:02}", "chosen": "ayz", "rejected": "bx"} for n in range(20)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(prefer, "load_tokenizer", lambda folder: Bytes())
    config = prefer.Config(
        model=str(tmp_path / "model"),
        data=str(file),
        texts=Texts(max_length=32, packing=False),
        optimization=Optimization(batch=4),
    )
    made = prefer.program(config, make_mesh(MeshOptions(1, 1), jax.devices()))
    assert (made.examples, made.tokens) == (4, 4 * (1 + 4 + 3 + 2 + 2))
    assert made.batch.tokens.size >= made.tokens


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("sd3", {}),
        ("sd3", {"full": True, "batch": 2}),
        pytest.param("sd1", {}, marks=pytest.mark.slow),
    ],
)
def test_the_step_of_fine_tuning_is_made_of_shapes_alone(tmp_path, kind, more):
    folder = write_records(tmp_path / "model", kind, FEWEST if kind == "sd3" else {})
    sampler, method = Sampler(solver_steps=2), Method("ddpo", minibatches=1)
    given = {"sampler": sampler, "method": method, "batch": 4, **more}
    config = fine_tune.Config(model=str(folder), reward=("jpeg_size:-1",), **given)
    made = fine_tune.program(config, make_mesh(MeshOptions(1, 1), jax.devices()))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(made.arguments))
    state, metrics = jax.eval_shape(made.step, *made.arguments)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, made.state)
    assert all(jax.tree.leaves(same)) and metrics["reward/mean"].shape == ()
    assert (made.examples, made.unit) == (config.batch, "images")


@pytest.mark.parametrize("name", ["experiments.cifar10", "experiments.score_as_action"])
def test_a_study_is_planned_by_the_name_of_its_module(name):
    module = plan.module_of(name)
    own = getattr(module, "default_of", lambda args: module.Config())(["--tiny"])
    config = module.with_batch(own, 6)
    made = module.program(config, make_mesh(MeshOptions(1, 1), jax.devices()))
    assert (
        made.examples == module.batch_of(config) == 6
        and module.unit_of(config, types.SimpleNamespace(shape={"data": 3})) == 3
    )
    assert {leaf.shape[0] for leaf in jax.tree.leaves(made.batch)} == {6}
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(made.arguments))


@pytest.mark.slow
def test_a_fine_tuning_of_records_without_weights(tmp_path):
    folder = write_records(tmp_path / "model", "sd3")
    given = ["--model", str(folder), "--reward", "jpeg_size:-1", "--solver-steps", "2"]
    told, _ = planned(tmp_path, "fine-tune", "--topology", "cpu:4", "--batch", "8", *given)
    assert (told["mesh"], told["unit"]) == ({"data": 4, "model": 1}, "images")
    assert told["flops"] > 0 and told["memory"]["parameters"] > 0


@pytest.mark.slow
def test_the_largest_batch_of_a_real_update(tmp_path):
    """It fits, and the next one, compiled too, does not; adapters leave nothing beside them."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    given = ["--model", str(tmp_path), "--data", "-", "--texts.max-length", "32"]
    given += ["--adapters.rank", "2", "--topology", "cpu:2"]
    small, _ = planned(tmp_path, "prefer", *given)
    assert small["memory"]["beside"] == 0
    limit = 2.5 * small["memory"]["total"]
    told, printed = planned(
        tmp_path, "prefer", *given, "--largest-batch", "--memory", str(limit / 1e9)
    )
    best, totals = told["largest_batch"]["batch"], told["totals"]
    assert told["largest_batch"]["next_fits_not"] and best > small["examples"]
    assert totals[str(best)] <= limit < totals[str(best + 2)]
    assert 0 < told["memory"]["activations"] <= told["memory"]["temporaries"]
    assert f"largest batch that fits: {best}" in printed


@pytest.mark.parametrize("first", [4, 64])
def test_the_largest_batch_is_found_whatever_is_tried_first(first):
    tried = []

    def total(batch):
        tried.append(batch)
        needed = 1000 + 7 * batch + (batch > 30) * 50
        return None if needed > 2000 else needed

    assert batches.largest(total, first=first, unit=4, limit=1400) == (48, True)
    assert len(tried) <= 8 and all(batch % 4 == 0 for batch in tried)


BENT = {
    "a jump below the largest": lambda b: 500 * b + (b > 26_000) * 700_000,
    "ever steeper": lambda b: b * b // 60,
    "ever flatter": lambda b: int(1e5 * b**0.5),
    "steps": lambda b: 500_000 * (1 + b // 1_000),
    "a jump to what is refused": lambda b: 100 * b if b <= 31_234 else None,
}


@pytest.mark.parametrize("bent", BENT)
@pytest.mark.parametrize("first", [512, 12_288, 60_000])
def test_few_programs_are_needed_where_memory_is_no_line(bent, first):
    """Against a search through all. From 512, bounds take 6 doublings and halving them 16; lines
    that are wrong may take two more, and none leads far beyond what fits."""
    total, limit, tried = BENT[bent], 17_000_000, []

    def needed(batch):
        tried.append(batch)
        return total(batch)

    found = batches.largest(needed, first=first, unit=1, limit=limit, most=40)
    best = max(b for b in range(1, 70_000) if (total(b) or math.inf) <= limit)
    assert found == (best, True)
    assert len(tried) == len(set(tried)) and len(tried) <= 24
    assert max(tried) <= max(first, batches.FARTHEST * best)


def test_where_nothing_fits_it_is_said():
    with pytest.raises(ValueError, match="largest_batch: received 4; what it needs is above"):
        batches.largest(lambda batch: None, first=8, unit=4, limit=1400)


def faked(program, mesh):
    """What compiling a batch of this size finds: 1000 bytes, and 7 for each example."""
    if program > 60:
        raise TooLarge("memory: received more than there is", 0)
    return Compiled(Memory(600, 300, 90, 10, 7 * program), Costs(0.0, 0.0, (), 0), 0.0, 0.0, 0.0)


def test_of_several_batches_the_activations_are_known(monkeypatch):
    module = types.SimpleNamespace(
        program=lambda batch, mesh: batch,
        batch_of=lambda batch: batch,
        with_batch=lambda old, batch: batch,
        unit_of=lambda batch, mesh: 4,
    )
    monkeypatch.setattr(plan, "compiled", faked)
    found = plan.plan(module, 8, None, 1400, search=True)
    assert found.largest == (56, True) and found.totals[56] == 1392
    assert found.found.memory.activations == 7 * 8 == found.found.memory.temporaries
    # The batch that was asked for is refused: that of the plan is the largest one.
    found = plan.plan(module, 64, None, 1400, search=True)
    assert (found.batch, found.program, found.largest) == (56, 56, (56, True))
    assert found.totals[64] is None
    with pytest.raises(TooLarge, match="memory: received"):
        plan.plan(module, 64, None, 1400, search=False)
    assert plan.plan(module, 8, None, 1400).found.memory.activations is None
    assert plan.plan(module, 8, None, 1400, halve=True).found.memory.activations == 7 * 8
    # Of the least batch the double is compiled, and nothing is known where that is refused.
    found = plan.plan(module, 4, None, 1400, halve=True)
    assert found.found.memory.activations == 7 * 4 and [*found.totals] == [4, 8]
    module.unit_of = lambda batch, mesh: 40
    assert plan.plan(module, 40, None, 1400, halve=True).found.memory.activations is None
    with pytest.raises(TooLarge, match="memory: received"):
        plan.plan(module, 80, None, 1400, halve=True)


def told(chip, **more):
    """What is recorded of an update of eight examples."""
    costs = Costs(4e12, 1e9, (), 0)
    found = Compiled(Memory(600, 300, 90, 10, 700, activations=400), costs, 4e12, 0.0, 0.0)
    program: Any = types.SimpleNamespace(examples=8, **{"unit": "images", "tokens": None, **more})
    given = plan.Planned(8, program, found, None, {8: 1700})
    return report.record(
        given, chip, 2000, command="c", topology="t", device="d", mesh={"data": 1, "model": 1}
    )


def test_examples_and_tokens_per_second_are_those_of_the_floor(capsys):
    chip = CHIPS["TPU v5 lite"]
    images = told(chip)
    floor = 4e12 / chip.flops
    assert images["floor"] == pytest.approx(floor) and images["tokens_per_second"] is None
    assert f"at most {8 / floor:.4g} images per second" in report.lines(images)[0]
    pairs = told(chip, unit="pairs", tokens=384)
    said = f"at most {8 / floor:.4g} pairs or {384 / floor:.4g} tokens per second"
    assert report.lines(pairs)[0].startswith("8 pairs with 384 tokens an update: ")
    assert report.lines(pairs)[0].endswith(said)
    report.show(pairs)
    printed = capsys.readouterr().out.splitlines()
    at = next(n for n, line in enumerate(printed) if "temporaries" in line)
    assert "activations: what grows" in printed[at + 1]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["prefr"], "COMMAND: received 'prefr'; it must be fine-tune or prefer, or the module"),
        (["experiments"], "COMMAND: received 'experiments'; it must be "),
        (
            ["prefer", "--topology", "v5e", "--model", "m", "--data", "-"],
            "topology: received 'v5e'",
        ),
        (["prefer", "--topology", "cpu:0", "--model", "m", "--data", "-"], "topology: received"),
        (["prefer", "--topology", "cpu:9999999", "--model", "m", "--data", "-"], "from 1 to 4096"),
        (
            ["prefer", "--topology", "cpu:1" + "0" * 23, "--model", "m", "--data", "-"],
            "it must name a TPU slice or a number of CPU devices",
        ),
        (
            ["experiments.score_as_action", "--topology", "cpu:1", "--json", "no/such/x.json"],
            "json: received 'no/such/x.json'; it must be a file in a folder that is there; make",
        ),
        (["prefer", "--model", "m", "--data", "-"], "Missing from ctrl-jax plan"),
    ],
)
def test_a_mistake_is_one_line(typed, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", *typed])
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and said in printed and printed.count("\n") == 1


def test_help_has_the_options_of_both(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", "prefer", "--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    assert (
        "--topology" in printed and "--optimization.batch" in printed and "--mesh.model" in printed
    )


def test_a_slice_is_described_where_libtpu_is_installed():
    pytest.importorskip("libtpu")
    devices = described_devices("v5e:4x4")
    assert len(devices) == 16 and devices[0].device_kind == "TPU v5 lite"
    # Whose axes are no products of the slice's.
    mesh = make_mesh(MeshOptions(data=64, model=4), described_devices("v6e:16x16"))
    assert len({device.id for device in mesh.devices.flat}) == 256
    with pytest.raises(ValueError, match="topology: received 'v5e:3x5'; libtpu knows no such"):
        described_devices("v5e:3x5")


def test_without_libtpu_it_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="topology: received 'v5e:4x4'; libtpu is not installed"):
        described_devices("v5e:4x4")
    assert plan.limit_of(plan.Config("cpu:8", memory=2.0), None, 8) == 2 * 10**9
    assert jax.devices()[0].platform == "cpu"
