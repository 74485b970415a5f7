"""Run by a test on four simulated devices: a pipeline read into shards, against one device.

python -m tests.pretrained.diffusers.sharded_pipeline KIND
"""

import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ctrl_jax.pretrained import load_pipeline, make_drawing, write_small_pipeline
from tests.pretrained.diffusers.pipelines import FEWEST

assert jax.device_count() == 4
mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
rows = NamedSharding(mesh, PartitionSpec("data"))
keys = jax.vmap(jax.random.key)(jnp.arange(4))
prompts, size = ["a cat", "a dog", "red cat", "red dog"], {"height": 16, "width": 16}


def encoded(pipeline):
    # One batch, so that the encoders are compiled once.
    found = [np.asarray(x) for x in pipeline.encode([*prompts, None], **size)]
    return [x[:4] for x in found], [np.repeat(x[4:], 4, axis=0) for x in found]


def drawn(pipeline, texts, place):
    conditions, null, placed = (jax.tree.map(place, tree) for tree in (*texts, keys))
    draw = make_drawing(pipeline, scale=3.0, steps=3, height=16, width=16)
    return draw(pipeline.params[pipeline.kind.denoiser], placed, conditions, null)


(kind,) = sys.argv[1:]
with tempfile.TemporaryDirectory() as root:
    records = FEWEST if kind == "sd3" else {}
    folder = write_small_pipeline(Path(root) / "small", kind, records=records)
    alone = load_pipeline(folder, solver="euler_ancestral")
    divided = load_pipeline(folder, solver="euler_ancestral", mesh=mesh, fully=True)

name = alone.kind.denoiser
leaves = jax.tree.leaves(divided.params[name])
here = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
assert here < 0.45 * sum(leaf.nbytes for leaf in leaves), kind
pairs = zip(jax.tree.leaves(alone.params), jax.tree.leaves(divided.params), strict=True)
for one, other in pairs:
    np.testing.assert_array_equal(one, other)

# Of Stable Diffusion 1 the UNet: its encoder and its autoencoder are among those of 3.
texts = encoded(alone)
own = texts if kind == "sd1" else encoded(divided)
one = drawn(alone, texts, lambda x: x)
other = drawn(divided, own, lambda x: jax.device_put(x, rows))
scale = float(jnp.abs(one).max())
np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * scale)
if kind == "sd3":
    np.testing.assert_allclose(divided.decode(other), alone.decode(one), rtol=0, atol=1e-4)
normal = jax.jit(jax.vmap(lambda key: jax.random.normal(key, (4, 4))))
np.testing.assert_array_equal(normal(keys), normal(jax.device_put(keys, rows)))
print("agreed")
