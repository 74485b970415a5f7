"""Run by a test on four simulated devices: networks of pictures over meshes, against one device."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ctrl_jax.networks.lora import LoRA
from ctrl_jax.networks.sharding import AUTOENCODER, CLIP, MMDIT, T5, UNET, partition_specs
from ctrl_jax.networks.text_to_image.autoencoder import AutoencoderConfig, autoencoder
from ctrl_jax.networks.text_to_image.clip import clip_text
from ctrl_jax.networks.text_to_image.clip_config import CLIPTextConfig
from ctrl_jax.networks.text_to_image.mmdit import mmdit
from ctrl_jax.networks.text_to_image.mmdit_config import MMDiTConfig
from ctrl_jax.networks.text_to_image.t5 import T5Config, t5
from ctrl_jax.networks.text_to_image.unet import unet
from ctrl_jax.networks.text_to_image.unet_config import UNetConfig
from tests.oracles.named_weights import named_weight

assert jax.device_count() == 4
texts = CLIPTextConfig(24, 16, depth=3, heads=2, hidden=32, positions=6)
rng = np.random.default_rng(0)
tokens = rng.integers(0, 24, (4, 6))
latents, text, pooled = (
    rng.standard_normal(shape, np.float32) for shape in ((4, 4, 4, 4), (4, 5, 12), (4, 8))
)
lora = LoRA(2, targets=("to_q", "to_out.0", "net.2"))
one_level = {"widths": (8,), "blocks": (1,), "down_attention": (True,), "up_attention": (False,)}
one_level |= {"heads": (2,), "depth": (2,), "only_cross_attention": (False,), "context": 12}
picture = AutoencoderConfig(3, 3, 4, (8, 8), 1, groups=4)
CASES = (
    (
        mmdit(MMDiTConfig(4, 4, 2, 3, 4, 4, 12, 8, 4, 2, (), "rms"), lora=lora),
        MMDIT,
        (latents, np.linspace(10, 900, 4, dtype=np.float32), text, pooled),
        ("transformer_blocks", "0-1", "ff", "net", 2, "kernel"),
    ),
    (
        unet(UNetConfig(**one_level, groups=4)),
        UNET,
        (latents, jnp.linspace(10.0, 90.0, 4), text),
        ("mid_block", "attentions", 0, "transformer_blocks", "0-1", "attn1", "to_q", "kernel"),
    ),
    (
        autoencoder(picture),
        AUTOENCODER,
        (latents,),
        ("decoder", "mid_block", "resnets", 0, "conv2", "kernel"),
    ),
    (
        clip_text(texts),
        CLIP,
        (tokens,),
        ("text_model", "encoder", "layers", "0-1", "mlp", "fc2", "kernel"),
    ),
    (
        t5(T5Config(24, 16, 2, 2, 4, 32)),
        T5,
        (tokens,),
        ("encoder", "block", "0-1", "layer", 1, "DenseReluDense", "wo", "kernel"),
    ),
)
for network, rules, inputs, path in CASES:

    def loss(params, *inputs, network=network, rules=rules):
        method = "decode" if rules is AUTOENCODER else "__call__"
        out = jax.tree.leaves(network.apply(params, *inputs, method=method))[0]
        return jnp.mean(jnp.square(out)), out

    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(named_weight(jax.tree_util.keystr(path), leaf.shape)),
        network.shapes,
    )
    # The others differ in what one pass shows.
    differentiated = rules in (MMDIT, UNET)
    of = jax.grad(loss, has_aux=True) if differentiated else loss
    gradient, expected = jax.jit(of)(params, *inputs)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs = partition_specs(params, mesh, fully=True, rules=rules)
    places = jax.tree.map(lambda spec, mesh=mesh: NamedSharding(mesh, spec), specs)
    placed = jax.device_put(params, places)
    rows = jax.device_put(inputs, NamedSharding(mesh, PartitionSpec("data")))
    leaf = placed
    for name in path:
        leaf = leaf[name]
    held = leaf.addressable_shards[0].data
    # The two blocks of a stack, or the rows of a window, stay together.
    assert held.shape[0] == leaf.shape[0] and held.size == leaf.size // 4, (path, held.shape)

    both = jax.jit(of, out_shardings=(places if differentiated else None, None))
    both = both.lower(placed, *rows).compile()
    assert "all-reduce" in (both.as_text() or "")
    found_gradient, found = both(placed, *rows)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    leaves = zip(jax.tree.leaves(found_gradient), jax.tree.leaves(gradient), strict=True)
    for found_leaf, leaf in leaves:
        size = float(jnp.abs(leaf).max())
        np.testing.assert_allclose(found_leaf, leaf, rtol=0, atol=1e-4 * size)
    assert float(jnp.abs(expected).max()) > 0.1
print("agreed")
