"""Names of a UNet's layers in the code it was published with, as in files of XL's adapters."""

import numpy as np

from ctrl_jax.pretrained.diffusers.lora_file import _layers_of
from ctrl_jax.pretrained.diffusers.original_names import original_names
from ctrl_jax.pretrained.key_table import Source

ATTENTION = "transformer_blocks.0.attn1.to_q"
XL = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.resnets.1.time_emb_proj": "input_blocks.2.0.emb_layers.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
    f"down_blocks.1.attentions.0.{ATTENTION}": f"input_blocks.4.1.{ATTENTION}",
    "down_blocks.1.attentions.1.proj_in": "input_blocks.5.1.proj_in",
    f"down_blocks.2.attentions.1.{ATTENTION}": f"input_blocks.8.1.{ATTENTION}",
    "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
    f"mid_block.attentions.0.{ATTENTION}": f"middle_block.1.{ATTENTION}",
    f"up_blocks.0.attentions.2.{ATTENTION}": f"output_blocks.2.1.{ATTENTION}",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
    "up_blocks.1.attentions.0.proj_out": "output_blocks.3.1.proj_out",
    "up_blocks.2.resnets.2.conv1": "output_blocks.8.0.in_layers.2",
}
"""As the published checkpoint has them."""


def test_layers_of_xl_have_their_original_names():
    assert original_names(XL) == XL
    of_one = {"up_blocks.0.upsamplers.0.conv": "output_blocks.2.1.conv"}  # without attention
    rest = {layer: name for layer, name in XL.items() if not layer.startswith("up_blocks.0")}
    assert original_names(rest | of_one) == rest | of_one
    assert original_names(["transformer_blocks.0.attn.to_q", "proj_out"]) == {}


def test_adapters_are_found_by_either_name():
    shapes = {str(i): {"kernel": np.empty((2, 2))} for i in range(len(XL))}
    table = {f"{i}.kernel": Source(f"{layer}.weight") for i, layer in enumerate(XL)}
    places = _layers_of(shapes, table)
    for i, (layer, name) in enumerate(XL.items()):
        for known in (layer, f"kohya:{layer.replace('.', '_')}", f"kohya:{name.replace('.', '_')}"):
            assert places[known] == (str(i), None)
