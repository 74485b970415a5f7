"""How parameters are divided over a mesh, and that results do not depend on it."""

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from ctrl_jax._errors import RunWarning
from ctrl_jax.networks import (
    MLP,
    DecoderConfig,
    DiT,
    Learned,
    LoRA,
    NCSNpp,
    NCSNppConfig,
    UNet,
    as_model,
    count_parameters,
    language_model,
)
from ctrl_jax.networks.sharding import AUTOENCODER, MMDIT, SCORE, partition_specs
from ctrl_jax.networks.text_to_image.autoencoder import AutoencoderConfig, autoencoder
from ctrl_jax.networks.text_to_image.mmdit import mmdit
from ctrl_jax.networks.text_to_image.mmdit_config import MMDiTConfig
from tests.runtime.processes import run_python


def abstract(data, model, names=("data", "model")):
    return AbstractMesh((data, model), names, axis_types=(AxisType.Auto,) * 2)


@pytest.fixture(scope="module")
def shapes():
    """A GPT-2 with an odd vocabulary."""
    config = DecoderConfig(
        37, 12, 1, 3, 3, 4, 48, Learned(16), norm="layer", gated=False, query_bias=True, tied=True
    )
    return language_model(config).shapes


def test_first_layers_by_outputs_and_second_ones_by_inputs(shapes):
    specs = partition_specs(shapes, abstract(2, 3), fully=True)
    block = specs["blocks"][0]
    assert block["attention"]["query"]["kernel"] == PartitionSpec("data", "model")
    assert block["attention"]["query"]["bias"] == PartitionSpec("model")
    assert block["attention"]["out"]["kernel"] == PartitionSpec("model", "data")
    assert block["feed_forward"]["up"]["kernel"] == PartitionSpec("data", "model")
    assert block["feed_forward"]["down"]["kernel"] == PartitionSpec("model", "data")
    assert block["attention_norm"]["scale"] == specs["norm"]["scale"] == PartitionSpec()
    assert specs["positions"] == PartitionSpec(None, "data")


def test_data_takes_another_axis_that_it_divides_and_model_its_own_or_none(shapes):
    """37 tokens are divided by nothing, 12 entries by 2, 3 and 4, 16 positions by 2 and 4."""
    assert partition_specs(shapes, abstract(1, 3))["tokens"] == PartitionSpec(None, None)
    both = partition_specs(shapes, abstract(2, 3), fully=True)["tokens"]
    assert both == PartitionSpec(None, "data")
    other = partition_specs(shapes, abstract(8, 1), fully=True)
    assert other["positions"] == PartitionSpec("data", None)
    assert partition_specs(shapes, abstract(1, 5))["tokens"] == PartitionSpec(None, None)
    query = partition_specs(shapes, abstract(5, 5), fully=True)["blocks"][0]["attention"]["query"]
    assert query["kernel"] == PartitionSpec(None, None)


def test_without_fully_nothing_is_divided_over_data(shapes):
    specs = jax.tree.leaves(partition_specs(shapes, abstract(2, 2)))
    assert not any("data" in spec for spec in specs) and any("model" in spec for spec in specs)


def test_what_has_no_name_is_replicated():
    assert partition_specs(jax.ShapeDtypeStruct((4, 4), float), abstract(2, 2)) == PartitionSpec()


SCORE_NETWORKS = {
    "MLP": lambda rngs: MLP((3,), width=16, classes=2, rngs=rngs),
    "DiT": lambda rngs: DiT((4, 4, 3), patch=2, width=16, heads=2, rngs=rngs),
    "UNet": lambda rngs: UNet((4, 4, 3), width=8, rngs=rngs),
    "NCSNpp": lambda rngs: NCSNpp(
        (8, 8, 3), NCSNppConfig(width=8, multipliers=(1,), blocks=1, attention=(8,)), rngs=rngs
    ),
}


PAIRS = {
    "MLP": ("blocks.0.hidden", "blocks.0.out"),
    "DiT": ("blocks.0.hidden", "blocks.0.out"),
    "NCSNpp": ("down.0.blocks.0.first", "down.0.blocks.0.second"),
}


@pytest.mark.parametrize("name", SCORE_NETWORKS)
def test_a_score_network_is_divided_in_pairs_and_on_the_largest_axis_that_divides(name):
    """By hand from the shapes: pairs inside, all else over data on its largest axis."""
    params = jax.eval_shape(as_model(SCORE_NETWORKS[name]).init, jax.random.key(0))
    mesh = abstract(4, 2)
    specs = partition_specs(params, mesh, fully=True, rules=SCORE)
    over = {"data": 0, "model": 0}
    for leaf, spec in zip(jax.tree.leaves(params), jax.tree.leaves(specs), strict=True):
        placed = dict(zip(spec, leaf.shape, strict=False))
        if leaf.ndim > 1 and "model" not in placed:
            fitting = [size for size in leaf.shape if size % 4 == 0]
            assert placed.get("data") == max(fitting, default=None), (leaf, spec)
        for axis in over:
            over[axis] += leaf.size if axis in placed else 0
    assert over["data"] > 0.8 * count_parameters(params)
    if name in PAIRS:
        assert over["model"] > 0.05 * over["data"]
        first, second = (_at(specs, layer) for layer in PAIRS[name])
        assert tuple(first["kernel"])[-2:] == ("data", "model")
        assert tuple(second["kernel"])[-2:] == ("model", "data")
        assert first["bias"] == PartitionSpec("model") and not any(second["bias"])
    whole = jax.tree.leaves(partition_specs(params, mesh, rules=SCORE))
    assert not any("data" in spec for spec in whole)


def _at(tree, path):
    for name in path.split("."):
        tree = tree[int(name) if name.isdecimal() else name]
    return tree


def test_what_no_axis_divides_is_said_once_whatever_the_tree(shapes):
    """The weights alone, and with the optimizer's numbers of them: one line by Python's filter."""
    state = {"params": shapes, "optimizer": {"mu": shapes, "nu": shapes}}
    said = set()
    for tree in (shapes, state):
        with pytest.warns(RunWarning) as found:
            partition_specs(tree, abstract(1, 5))
        said |= {str(warning.message) for warning in found}
    (line,) = said
    assert line.startswith("mesh.model = 5 finds no axis to divide in down.kernel (48, 12) and 9")


def test_a_table_of_ones_own_says_which_line_counts():
    tree = {"a": {"kernel": jax.ShapeDtypeStruct((4, 8), float)}, "kernel": None}
    mesh = abstract(2, 2)
    rules = {r"a\.kernel": ("model", None), "kernel": ("data", None)}
    assert partition_specs(tree, mesh, rules=rules)["a"]["kernel"] == PartitionSpec("model", None)
    other = {"ba": tree["a"]}
    assert partition_specs(other, mesh, fully=True, rules=rules)["ba"]["kernel"] == PartitionSpec(
        "data", None
    )


def test_other_meshes_are_refused(shapes):
    with pytest.raises(
        ValueError, match=r"mesh: received \('rows', 'model'\); it must have 'data'"
    ):
        partition_specs(shapes, abstract(2, 2, ("rows", "model")))


def test_a_stack_of_blocks_is_divided_as_each_of_them_is():
    """By hand: a block's axes as its line says, and the stack's own, which 2 divides, whole."""
    config = MMDiTConfig(4, 4, 2, 3, 4, 4, 12, 8, 4, 2)
    mesh = abstract(2, 2)
    for stacked, name, before in ((True, "0-1", (None,)), (False, "0", ())):
        shapes = mmdit(config, stacked=stacked, lora=LoRA(2, targets=("to_q",))).shapes
        specs = partition_specs(shapes, mesh, fully=True, rules=MMDIT)["transformer_blocks"]
        block = specs[name]
        for layer, rule in (
            (block["attn"]["to_q"]["kernel"], ("data", "model")),
            (block["attn"]["to_q"]["lora_a"], ("data", None)),
            (block["attn"]["to_q"]["lora_b"], (None, "model")),
            (block["attn"]["to_q"]["bias"], ("model",)),
            (block["attn"]["to_out"][0]["kernel"], ("model", "data")),
            (block["ff_context"]["net"][0]["proj"]["kernel"], ("data", "model")),
            (block["ff"]["net"][2]["kernel"], ("model", "data")),
            (block["norm1"]["linear"]["kernel"], (None, "data")),
        ):
            assert layer == PartitionSpec(*before, *rule)
        assert block["attn"]["to_out"][0]["bias"] == PartitionSpec()


def test_a_residual_block_is_divided_inside():
    """By hand: the first convolution by outputs, the second by inputs, what is between alike."""
    config = AutoencoderConfig(3, 3, 4, (8, 8), 1, groups=4)
    specs = partition_specs(
        autoencoder(config).shapes, abstract(2, 2), fully=True, rules=AUTOENCODER
    )
    block = specs["encoder"]["mid_block"]["resnets"][0]
    assert block["conv1"]["kernel"] == PartitionSpec(None, None, "data", "model")
    assert block["conv1"]["bias"] == block["norm2"]["scale"] == PartitionSpec("model")
    assert block["conv2"]["kernel"] == PartitionSpec(None, None, "model", "data")
    assert block["conv2"]["bias"] == block["norm1"]["scale"] == PartitionSpec()
    attention = specs["encoder"]["mid_block"]["attentions"][0]
    assert attention["to_q"]["kernel"] == PartitionSpec("data", None)


@pytest.mark.slow  # whole pipelines, divided, agree in pretrained/diffusers/test_pipeline.py
def test_four_devices_agree_with_one_about_networks_of_pictures():
    status, out, err = run_python(
        "-m", "tests.networks.sharded_text_to_image", JAX_NUM_CPU_DEVICES="4"
    )
    assert status == 0, err[-4000:]
    assert out.strip().endswith("agreed")


def test_eight_devices_agree_with_one():
    status, out, err = run_python(
        "-m",
        "tests.networks.sharded_networks",
        JAX_NUM_CPU_DEVICES="8",
        JAX_ENABLE_X64="1",  # to twelve digits, however it is compiled
    )
    assert status == 0, err[-4000:]
    assert out.strip().endswith("agreed")
