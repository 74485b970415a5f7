"""Run by a test on eight simulated devices: networks divided over meshes, against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ctrl_jax.networks import MLP, DecoderConfig, LoRA, Rotary, as_model, language_model
from ctrl_jax.networks.sharding import SCORE, partition_specs
from tests.networks.language.decoders import moved

assert jax.device_count() == 8
config = DecoderConfig(34, 32, 1, 8, 2, 4, 48, Rotary(), query_bias=True)
lora = LoRA(2, targets=("query", "out", "down"))
# In float64 the sums over devices agree to twelve digits, whatever their order.
model = language_model(config, dtype=float, param_dtype=float, lora=lora)


params = moved(model)  # adapters away from zero, logits of size one
tokens = jnp.asarray(np.random.default_rng(1).integers(0, config.vocabulary, (8, 6)))


def loss(params, tokens):
    logits = model.apply(params, tokens) @ model.head(params)
    return jnp.mean(jnp.square(logits)), logits


gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params, tokens)
assert float(jnp.abs(logits).max()) > 0.5
state = jax.eval_shape(optax.adam(1e-3).init, params)

for shape, fully in (((2, 4), True), ((2, 4), False), ((8, 1), True), ((1, 8), False)):
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs = partition_specs(params, mesh, fully=fully)
    places = jax.tree.map(lambda spec, mesh=mesh: NamedSharding(mesh, spec), specs)
    placed = jax.device_put(params, places)
    rows = jax.device_put(tokens, NamedSharding(mesh, PartitionSpec("data")))
    held = placed["blocks"][0]["feed_forward"]["down"]["kernel"].addressable_shards[0].data
    assert held.size * (8 if fully else shape[1]) == 48 * 32, (shape, held.shape)

    both = jax.jit(jax.grad(loss, has_aux=True), out_shardings=(places, None))
    both = both.lower(placed, rows).compile()
    text = both.as_text() or ""
    assert "all-reduce" in text and ("all-gather" in text or not fully), (shape, fully)
    found_gradient, found = both(placed, rows)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-12)
    leaves = zip(jax.tree.leaves(found_gradient), jax.tree.leaves(gradient), strict=True)
    for found_leaf, leaf in leaves:
        np.testing.assert_allclose(found_leaf, leaf, rtol=0, atol=1e-12)
    assert partition_specs(state, mesh, fully=fully)[0].nu == specs  # the optimizer's, by name

score = as_model(lambda rngs: MLP((5,), width=32, rngs=rngs))
params = jax.jit(score.init)(jax.random.key(0))
params = jax.tree.map(lambda leaf: np.asarray(leaf, float) + 0.1, params)
x, t = np.random.default_rng(2).standard_normal((16, 5)), np.linspace(0.1, 0.9, 16)
expected = jax.jit(score.apply)(params, t, x)
mesh = jax.make_mesh((8, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
specs = partition_specs(params, mesh, fully=True, rules=SCORE)
placed = jax.device_put(params, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))
rows = [jax.device_put(array, NamedSharding(mesh, PartitionSpec("data"))) for array in (t, x)]
kernel = placed["blocks"][0]["hidden"]["kernel"]
assert kernel.addressable_shards[0].data.size == 32 * 32 // 8
np.testing.assert_allclose(jax.jit(score.apply)(placed, *rows), expected, rtol=0, atol=1e-12)
print("agreed")
