"""What the Inception network is made of, against PyTorch's functions of the published code."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks import inception
from tests.oracles import inception as oracle

torch = pytest.importorskip("torch")

X = np.random.default_rng(0).normal(size=(2, 9, 11, 4)).astype(np.float32)


def to_torch(x):
    return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())


def from_torch(x):
    return np.moveaxis(x.numpy(), 1, -1)


def test_pooling():
    f = torch.nn.functional
    average = f.avg_pool2d(to_torch(X), 3, stride=1, padding=1, count_include_pad=False)
    expected: dict[inception.Pool, Any] = {
        "average": average,
        "maximum": f.max_pool2d(to_torch(X), 3, stride=1, padding=1),
        "maximum of stride 2": f.max_pool2d(to_torch(X), 3, stride=2),
    }
    for kind, value in expected.items():
        found = inception.pool(jnp.asarray(X), kind)
        np.testing.assert_allclose(found, from_torch(value), rtol=1e-6, atol=1e-6, err_msg=kind)


@pytest.mark.parametrize("size", [8, 32, 500])
def test_resizing(size):
    x = np.random.default_rng(1).uniform(-1, 1, (1, size, size, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        to_torch(x), size=(299, 299), mode="bilinear", align_corners=False
    )
    found = jax.image.resize(x, (1, 299, 299, 3), "bilinear", antialias=False)
    np.testing.assert_allclose(found, from_torch(expected), rtol=0, atol=3e-5)


def test_the_oracle_convolves_and_normalizes_as_torch_does():
    generator = np.random.default_rng(2)
    weight = generator.normal(size=(5, 4, 1, 7))
    parts = {"weight": 1.5, "bias": -0.2, "running_mean": 0.3, "running_var": 0.7}
    weights = {f"a.bn.{name}": value + 0.1 * np.arange(5) for name, value in parts.items()}
    x = to_torch(X).double()
    y = torch.nn.functional.conv2d(x, torch.from_numpy(weight), padding=(0, 3), stride=2)
    moments = [torch.from_numpy(weights[f"a.bn.{n}"]) for n in ("running_mean", "running_var")]
    affine = [torch.from_numpy(weights[f"a.bn.{n}"]) for n in ("weight", "bias")]
    y = torch.relu(torch.nn.functional.batch_norm(y, *moments, *affine, eps=0.001))
    found = oracle.Inception(weights | {"a.conv.weight": weight}).layer(
        x.numpy(), "a", stride=2, padding=(0, 3)
    )
    np.testing.assert_allclose(found, y.numpy(), rtol=1e-10, atol=1e-12)
