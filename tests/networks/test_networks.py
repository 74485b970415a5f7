"""Laws of every network, and what each promises by itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(jnp.abs(b).max()))


def perturbed(params, key=0):
    """Parameters away from the zero start: every leaf moved by noise."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(key), len(leaves))
    return tree.unflatten(
        [
            p + 0.3 * jax.random.normal(k, p.shape, p.dtype)
            for p, k in zip(leaves, keys, strict=True)
        ]
    )


def start(model):
    """Perturbed parameters, made by one compiled function."""
    return jax.jit(lambda key: perturbed(model.init(key)))(jax.random.key(0))


@pytest.fixture(scope="module", params=NETWORKS.items(), ids=list(NETWORKS))
def model(request):
    make, shape = request.param[1]
    plain = as_model(lambda rngs: make(rngs=rngs))
    labeled = as_model(lambda rngs: make(classes=3, rngs=rngs))
    x = jax.random.normal(jax.random.key(1), (BATCH, *shape))
    return plain, labeled, x, jax.jit(plain.apply), jax.jit(labeled.apply)


def test_the_output_starts_at_zero_with_the_shape_of_x(model):
    plain, _, x, apply, _ = model
    params = jax.jit(plain.init)(jax.random.key(0))
    out = apply(params, jnp.asarray(0.3), x)
    assert out.shape == x.shape
    np.testing.assert_array_equal(out, 0.0)


def test_a_scalar_time_is_a_vector_of_equal_times(model):
    plain, _, x, apply, _ = model
    params = start(plain)
    scalar, vector = apply(params, jnp.asarray(0.3), x), apply(params, jnp.full(BATCH, 0.3), x)
    assert float(jnp.abs(scalar).max()) > 0.01
    agree(scalar, vector)


def test_every_example_has_its_own_time_and_no_batch_mates(model):
    plain, _, x, apply, _ = model
    params = start(plain)
    t = jnp.linspace(0.1, 0.9, BATCH)
    together = apply(params, t, x)
    alone = apply(params, t[2:3], x[2:3])
    agree(together[2:3], alone)
    agree(apply(params, t[::-1], x[::-1])[::-1], together)
    assert not np.allclose(together, apply(params, t[::-1], x), atol=1e-3)


def test_labels_condition_the_output(model):
    _, labeled, x, _, apply = model
    params = start(labeled)
    t = jnp.asarray(0.4)
    zero, one = (apply(params, t, x, jnp.full(BATCH, c)) for c in (0, 1))
    mixed = apply(params, t, x, jnp.asarray([0, 1, 0, 1, 0]))
    assert not np.allclose(zero, one, atol=1e-3)
    agree(mixed[1::2], one[1::2])
    agree(mixed[::2], zero[::2])


def test_parameters_are_a_vmappable_pytree_of_the_key(model):
    plain, _, x, apply, _ = model
    keys = jax.random.split(jax.random.key(0), 2)
    batch = jax.jit(jax.vmap(plain.init))(keys)
    one = jax.jit(plain.init)(keys[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-6, atol=1e-7), batch, one)
    assert any((a[0] != a[1]).any() for a in jax.tree.leaves(batch))
    assert count_parameters(one) == sum(leaf.size for leaf in jax.tree.leaves(one)) > 100
    moved = jax.jit(jax.vmap(perturbed))(batch)
    t = jnp.asarray(0.3)
    out = jax.jit(jax.vmap(plain.apply, in_axes=(0, None, None)))(moved, t, x)
    alone = apply(jax.tree.map(lambda a: a[1], moved), t, x)
    agree(out[1], alone)


def test_gradients_reach_every_parameter(model):
    _, labeled, x, _, _ = model
    params = start(labeled)
    label = jnp.asarray([0, 1, 2, 0, 1])
    gradient = jax.jit(
        jax.grad(lambda p: jnp.sum(labeled.apply(p, jnp.linspace(0.1, 0.9, BATCH), x, label) ** 2))
    )(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.isfinite(leaf).all()
        assert jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_an_mlp_takes_images():
    model = as_model(lambda rngs: MLP(IMAGE, width=8, depth=1, embedding=8, rngs=rngs))
    x = jnp.ones((BATCH, *IMAGE))
    assert jax.jit(model.apply)(start(model), jnp.asarray(0.3), x).shape == x.shape


def test_patches_round_trip():
    network = dit(rngs=nnx.Rngs(0))
    x = jnp.arange(2 * 4 * 6 * 2, dtype=jnp.float32).reshape(2, 4, 6, 2)
    patches = network._to_patches(x)
    assert patches.shape == (2, 6, 8)
    # The first token is the upper left 2 x 2 corner, the second its right neighbor.
    np.testing.assert_array_equal(patches[0, 0], x[0, :2, :2].reshape(-1))
    np.testing.assert_array_equal(patches[0, 1], x[0, :2, 2:4].reshape(-1))
    np.testing.assert_array_equal(network._to_image(patches, x.shape), x)


def test_the_value_network_returns_one_number_per_example():
    model = as_model(lambda rngs: value(classes=3, rngs=rngs))
    params = model.init(jax.random.key(0))
    x, label = jax.random.normal(jax.random.key(1), (BATCH, 3)), jnp.zeros(BATCH, int)
    out = model.apply(params, jnp.asarray(0.3), x, label)
    assert out.shape == (BATCH,)
    np.testing.assert_array_equal(out, 0.0)
    moved = perturbed(params)
    scalar = model.apply(moved, jnp.asarray(0.3), x, label)
    vector = model.apply(moved, jnp.full(BATCH, 0.3), x, label)
    agree(scalar, vector)


def test_times_are_seen_relative_to_the_horizon():
    short = as_model(lambda rngs: mlp(rngs=rngs))
    long = as_model(lambda rngs: mlp(horizon=3.0, rngs=rngs))
    params = start(short)
    x = jax.random.normal(jax.random.key(1), (BATCH, 3))
    np.testing.assert_allclose(
        short.apply(params, jnp.asarray(0.25), x),
        long.apply(params, jnp.asarray(0.75), x),
        rtol=1e-4,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 4}, r"DiT.patch: received 4; it must divide the image \(4, 6\)"),
        ({"heads": 3}, "DiT.heads: received 3; they must divide the width 16"),
    ],
)
def test_bad_sizes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DiT(IMAGE, rngs=nnx.Rngs(0), **{"patch": 2, "width": 16, "heads": 2, **options})
