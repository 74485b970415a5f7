"""Inception-v3 against a NumPy version, and files that are not its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ctrl_jax.networks.inception import InceptionV3
from ctrl_jax.pretrained import fill, load_inception
from ctrl_jax.pretrained.inception import inception_table
from tests.oracles import inception as oracle
from tests.pretrained.inception_weights import random_weights, write_safetensors


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def network(weights):
    graph, state = nnx.split(nnx.eval_shape(lambda: InceptionV3(rngs=nnx.Rngs(0))))
    target = nnx.to_pure_dict(state)
    arrays = {k: v for k, v in weights.items() if not k.endswith("tracked")}
    return graph, target, fill(target, inception_table(target), arrays)


def test_features_and_logits_agree_with_numpy(network, weights):
    graph, _, params = network
    images = np.random.default_rng(1).uniform(-1, 1, (2, 75, 80, 3)).astype(np.float32)
    found = jax.jit(lambda p, x: nnx.merge(graph, p).forward(x))(params, images)
    features, logits = oracle.Inception(weights)(images)
    assert found.features.shape == (2, 2048) and found.logits.shape == (2, 1008)
    for ours, expected in ((found.features, features), (found.logits, logits)):
        # Float32 against float64 through 48 layers of sums over up to 4000 terms.
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * scale)
    assert features.std(axis=0).max() > 0.01  # the two images differ


def test_a_file_gives_the_same_parameters(network, weights, tmp_path):
    write_safetensors(tmp_path / "inception.safetensors", weights)
    params, apply = load_inception(tmp_path / "inception.safetensors")
    jax.tree.map(np.testing.assert_array_equal, params, network[2])
    shapes = jax.eval_shape(apply, params, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    assert shapes.features.shape == (2, 2048)


def broken(weights, **changes):
    changed = {**weights, **changes}
    return {name: array for name, array in changed.items() if array is not None}


CASES = {
    "missing": ({"fc.bias": None}, "fc.bias is missing"),
    "unused": ({"AuxLogits.fc.bias": np.zeros(3, np.float32)}, "AuxLogits.fc.bias is used by no"),
    "shape": (
        {"fc.weight": np.zeros((1000, 2048), np.float32)},
        r"fc.weight has shape \(1000, 2048\), \(1008, 2048\) is needed",
    ),
    "transposed": (
        {"Conv2d_1a_3x3.conv.weight": np.zeros((3, 3, 3, 32), np.float32)},
        r"shape \(3, 3, 3, 32\), \(32, 3, 3, 3\) is needed",
    ),
    "dtype": ({"fc.bias": np.zeros(1008, np.float64)}, "fc.bias is float64, float32 is needed"),
    "many": (
        {f"extra{i}": np.zeros(1, np.float32) for i in range(7)},
        "extra0 is used .* and 2 more; give those of this very network",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_other_networks_are_refused(case, network, weights):
    changes, message = CASES[case]
    target = network[1]
    arrays = {k: v for k, v in broken(weights, **changes).items() if not k.endswith("tracked")}
    with pytest.raises(ValueError, match=message) as raised:
        fill(target, inception_table(target), arrays)
    assert "\n" not in str(raised.value)


def test_a_table_that_misses_a_parameter_is_refused(network):
    target = network[1]
    table = inception_table(target)
    del table["classes.bias"]
    with pytest.raises(ValueError, match=r"table: .*differs from the network at .'classes.bias'"):
        fill(target, table, {})
