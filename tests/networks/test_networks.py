"""Laws of every network, and what each promises by itself."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ctrl_jax._typing import Model
from ctrl_jax.networks import MLP, DiT, ValueMLP, as_model, count_parameters

IMAGE, FLAT = (4, 6, 2), (3,)
BATCH = 5
dit = partial(DiT, IMAGE, patch=2, width=8, depth=1, heads=2)
mlp = partial(MLP, FLAT, width=16, depth=1, embedding=8)
value = partial(ValueMLP, FLAT, width=16, depth=1, embedding=8)
NETWORKS = {"DiT": (dit, IMAGE), "MLP": (mlp, FLAT)}


def agree(a, b):
    """Equal up to rounding, 1e-4 of the largest entry: the fastest time feature is sin(1000 t), and
    float32 knows an angle of 1000 to 6e-5 (in float64 the two sides are equal bit for bit)."""
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


def perturbed(params):
    """Parameters away from the zero start: every leaf moved by noise of NumPy, which compiles
    nothing. Of arrays or of their shapes, which are moved from zero."""
    generator = np.random.default_rng(0)

    def moved(p):
        noise = 0.3 * generator.standard_normal(p.shape).astype(p.dtype)
        return noise if isinstance(p, jax.ShapeDtypeStruct) else p + noise

    return jax.tree.map(moved, params)


def start(model):
    """Parameters as they start, and perturbed ones."""
    initial = jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(0)))
    return initial, perturbed(initial)


def parameters(model):
    """Parameters that are noise alone: nothing is compiled to draw them."""
    return perturbed(jax.eval_shape(model.init, jax.random.key(0)))


class Made(NamedTuple):
    model: Model
    initial: Any
    params: Any
    x: np.ndarray
    apply: Callable


@pytest.fixture(scope="module", params=NETWORKS.items(), ids=list(NETWORKS))
def made(request):
    """A plain and a labeled network; each is started and compiled once."""
    make, shape = request.param[1]
    plain = as_model(lambda rngs: make(rngs=rngs))
    labeled = as_model(lambda rngs: make(classes=3, rngs=rngs))
    x = np.random.default_rng(1).normal(size=(BATCH, *shape)).astype(np.float32)
    return [
        Made(plain, *start(plain), x, jax.jit(plain.apply)),
        Made(labeled, None, parameters(labeled), x, jax.jit(labeled.apply)),
    ]


@pytest.fixture
def plain(made):
    return made[0]


@pytest.fixture
def labeled(made):
    return made[1]


T = np.linspace(0.1, 0.9, BATCH, dtype=np.float32)


def test_the_output_starts_at_zero_with_the_shape_of_x(plain):
    out = plain.apply(plain.initial, T, plain.x)
    assert out.shape == plain.x.shape
    np.testing.assert_array_equal(out, 0.0)


def test_a_scalar_time_is_a_vector_of_equal_times(plain):
    scalar = plain.apply(plain.params, np.float32(0.3), plain.x)
    vector = plain.apply(plain.params, np.full(BATCH, 0.3, np.float32), plain.x)
    assert np.abs(scalar).max() > 0.01
    agree(scalar, vector)


def test_every_example_has_its_own_time_and_no_batch_mates(plain):
    params, x, apply = plain.params, plain.x, plain.apply
    together = np.asarray(apply(params, T, x))
    alone = apply(params, T[2:3], x[2:3])
    agree(together[2:3], alone)
    agree(apply(params, T[::-1], x[::-1])[::-1], together)
    assert not np.allclose(together, apply(params, T[::-1], x), atol=1e-3)


def test_labels_condition_the_output(labeled):
    def out(*labels):
        return np.asarray(labeled.apply(labeled.params, T, labeled.x, np.asarray(labels, np.int32)))

    zero, one, mixed = out(0, 0, 0, 0, 0), out(1, 1, 1, 1, 1), out(0, 1, 0, 1, 0)
    assert not np.allclose(zero, one, atol=1e-3)
    agree(mixed[1::2], one[1::2])
    agree(mixed[::2], zero[::2])


def test_parameters_are_a_vmappable_pytree_of_the_key(plain):
    model, x = plain.model, plain.x

    keys = jnp.stack([jax.random.key(k) for k in (3, 0)])
    batch = jax.tree.map(np.asarray, jax.jit(jax.vmap(model.init))(keys))
    moved = perturbed(batch)
    out = jax.jit(jax.vmap(model.apply, in_axes=(0, None, None)))(moved, T, x)
    one = plain.initial  # of the second key
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-6, atol=1e-7), batch, one)
    assert any((a[0] != a[1]).any() for a in jax.tree.leaves(batch))
    assert count_parameters(one) == sum(leaf.size for leaf in jax.tree.leaves(one)) > 100
    agree(np.asarray(out)[1], plain.apply(jax.tree.map(lambda a: a[1], moved), T, x))


def test_gradients_reach_every_parameter(labeled):
    label = np.asarray([0, 1, 2, 0, 1], np.int32)

    def total(params, *inputs):
        return jnp.sum(labeled.model.apply(params, *inputs) ** 2)

    gradient = jax.jit(jax.grad(total))(labeled.params, T, labeled.x, label)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_an_mlp_takes_images():
    model = as_model(lambda rngs: MLP(IMAGE, width=8, depth=1, embedding=8, rngs=rngs))
    x = np.ones((BATCH, *IMAGE), np.float32)
    assert jax.jit(model.apply)(parameters(model), np.float32(0.3), x).shape == x.shape


def test_patches_round_trip():
    x = np.arange(2 * 4 * 6 * 2, dtype=np.float32).reshape(2, 4, 6, 2)

    @jax.jit
    def there_and_back(x):
        network = dit(rngs=nnx.Rngs(0))
        patches = network._to_patches(x)
        return patches, network._to_image(patches, x.shape)

    patches, back = there_and_back(x)
    assert patches.shape == (2, 6, 8)
    # The first token is the upper left 2 x 2 corner, the second its right neighbor.
    patches = np.asarray(patches)
    np.testing.assert_array_equal(patches[0, 0], x[0, :2, :2].reshape(-1))
    np.testing.assert_array_equal(patches[0, 1], x[0, :2, 2:4].reshape(-1))
    np.testing.assert_array_equal(back, x)


def test_the_value_network_returns_one_number_per_example():
    model = as_model(lambda rngs: value(classes=3, rngs=rngs))
    x, label = np.random.default_rng(1).normal(size=(BATCH, 3)), np.zeros(BATCH, np.int32)
    initial, moved = start(model)

    @jax.jit
    def values(x, label):
        scalar, vector = jnp.asarray(0.3), jnp.full(BATCH, 0.3)
        cases = ((initial, scalar), (moved, scalar), (moved, vector))
        return [model.apply(params, t, x, label) for params, t in cases]

    out, scalar, vector = values(x.astype(np.float32), label)
    assert out.shape == (BATCH,)
    np.testing.assert_array_equal(out, 0.0)
    agree(scalar, vector)


def test_times_are_seen_relative_to_the_horizon():
    short = as_model(lambda rngs: mlp(rngs=rngs))
    long = as_model(lambda rngs: mlp(horizon=3.0, rngs=rngs))
    x = np.random.default_rng(1).normal(size=(BATCH, 3)).astype(np.float32)

    @jax.jit
    def both(params, x):
        return [m.apply(params, jnp.asarray(t), x) for m, t in ((short, 0.25), (long, 0.75))]

    np.testing.assert_allclose(*both(parameters(short), x), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 4}, r"DiT.patch: received 4; it must divide the image \(4, 6\)"),
        ({"heads": 3}, "DiT.heads: received 3; they must divide the width 16"),
    ],
)
def test_bad_sizes_are_named(options, message):
    sizes = {"patch": 2, "width": 16, "heads": 2, **options}
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda: DiT(IMAGE, rngs=nnx.Rngs(0), **sizes))
