r"""The autoencoder between scenes and the latents of the generator.

With m(x) and v(x) mean and variance of the latents of a picture x and D the decoder, it minimizes

    E |D(m + \sqrt v noise) - x|^2 + w KL(N(m, v) || N(0, 1)),                            (1)

both as means over pixels and latents, so that a small w keeps latents near unit size and no more.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._checks import check_count, check_non_negative
from ctrl_jax.pretrained.diffusers.parts import read_part
from ctrl_jax.pretrained.diffusers.pipeline_index import KINDS
from ctrl_jax.pretrained.key_table import unfill
from ctrl_jax.pretrained.safetensors_file import write_safetensors
from experiments.study import Conduct
from experiments.text_to_image.detector import accuracy, load
from experiments.text_to_image.scenes import PLACES, SIDE, draw, draw_requests, rendered, requests
from experiments.text_to_image.things import Things
from experiments.text_to_image.training import Training, fit

NAME = "AutoencoderKL"


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Size and training of the autoencoder.

    Args:
        widths: channels inside, from the finest resolution on: one more than halvings of the size.
        channels: of a latent.
        divergence: w of the loss (1).
        training: of both halves.
    """

    widths: tuple[int, ...] = (8, 16, 32)
    channels: int = 8
    divergence: float = 1e-4
    training: Training = dataclasses.field(
        default_factory=lambda: Training(steps=700, batch=16, learning_rate=3e-3)
    )

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        for width in self.widths:
            check_count("autoencoder.widths", width)
        check_count("autoencoder.channels", self.channels)
        check_non_negative("autoencoder.divergence", self.divergence)
        self.training.check("autoencoder.training")


def record(options: Autoencoder, scale: float = 1.0, shift: float = 0.0) -> dict[str, Any]:
    """Return the config.json of the autoencoder."""
    levels = len(options.widths)
    return {
        "_class_name": NAME,
        "act_fn": "silu",
        "block_out_channels": list(options.widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": 3,
        "latent_channels": options.channels,
        "layers_per_block": 1,
        "mid_block_add_attention": False,
        "norm_num_groups": 4,
        "out_channels": 3,
        "sample_size": SIDE,
        "scaling_factor": scale,
        "shift_factor": shift,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_post_quant_conv": False,
        "use_quant_conv": False,
    }


def train(
    study: Conduct, folder: Path, stage: str, options: Autoencoder, known: Things, gold: Path
) -> dict[str, Any]:
    """Fit the autoencoder, write it to a folder, and return how well pictures pass through it.

    Args:
        study: the run.
        folder: written to.
        stage: of the checkpoints.
        options: of size and training.
        known: what there is to draw.
        gold: folder of the detector, which looks at what came through.
    """
    (folder / "config.json").write_text(json.dumps(record(options)), encoding="utf-8")
    part, seed = read_part(folder, KINDS[NAME]), study.config.run.seed
    found = requests(known, seed)

    def pictures(stream: int, k: int, number: int) -> np.ndarray:
        """Scenes, and as many pictures full of things, from which more is learned."""
        generator = np.random.default_rng([seed, stream, k])
        asked = [found[i] for i in draw_requests(generator, found, number - number // 2)]
        full = generator.integers(len(known.names) + 1, size=(number // 2, PLACES))
        return np.concatenate([draw(generator, asked, known)[0], rendered(generator, full, known)])

    def loss_fn(params, key, batch):
        x = 2 * batch.astype(jnp.float32) / 255 - 1
        mean, log_variance = part.plain.apply(params, x, method="encode")
        latents = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
        error = jnp.mean(jnp.square(part.plain.apply(params, latents, method="decode") - x))
        kl = (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance) / 2
        return error + options.divergence * jnp.mean(kl)

    training = options.training
    params = fit(
        study, stage, training, part.plain.init, loss_fn, lambda k: pictures(6, k, training.batch)
    )
    arrays = unfill(params, part.table)
    write_safetensors(folder / f"{part.kind.stem}.safetensors", arrays)

    @jax.jit
    def both(params, x):
        mean, _ = part.plain.apply(params, x, method="encode")
        return mean, part.plain.apply(params, mean, method="decode")

    generator = np.random.default_rng([seed, 7])
    asked = [found[i] for i in draw_requests(generator, found, 512)]
    real = draw(generator, asked, known)[0]
    x = 2 * jnp.asarray(real, jnp.float32) / 255 - 1
    latents, found_again = (np.asarray(part) for part in both(params, x))
    scale, shift = 1 / float(latents.std()), float(latents.mean())
    text = json.dumps(record(options, scale, shift), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")

    def passed(pictures):
        decoded = np.asarray(both(params, 2 * jnp.asarray(pictures, jnp.float32) / 255 - 1)[1])
        return np.round(255 * np.clip(decoded / 2 + 0.5, 0, 1)).astype(np.uint8)

    shares = accuracy(load(str(gold)), known, seed, through=passed)
    facts = {f"reconstructed/{key.split('/')[1]}": share for key, share in shares.items()}
    return facts | {"autoencoder/error": float(np.sqrt(np.mean(np.square(found_again - x))))}
