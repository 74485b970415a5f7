r"""Pictures of a model, judged by the detector, and the best that any model could do.

With p_c the base model's law of pictures of the caption c and R the reward, the law that is best at
a temperature \lambda is q_c = p_c e^{R / \lambda} / Z_c for every caption, so the ideal frontier is
that of `metrics.frontier` for each of them, averaged at equal temperatures.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from ctrl_jax._typing import Params
from ctrl_jax.metrics import frontier
from ctrl_jax.pretrained import load_pipeline
from ctrl_jax.pretrained.diffusers.drawing import make_drawing
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline
from ctrl_jax.rewards import PictureReward
from experiments.text_to_image.detector import judge
from experiments.text_to_image.scenes import Request

TEMPERATURES = np.geomspace(0.02, 50.0, 121)
"""In units of the spread of the reward per nat."""


class Drawn(NamedTuple):
    """Pictures of requests, as many of each.

    Fields:
        pictures: in bytes.
        right: whether the detector finds what was asked for.
        proxy: CLIP score.
    """

    pictures: UInt8[np.ndarray, "requests number h w 3"]
    right: Bool[np.ndarray, "requests number"]
    proxy: Float[np.ndarray, "requests number"]


class Sampler:
    """Draws pictures of a folder's model, with adapters or without.

    Args:
        folder: of the pipeline.
        gold: folder of the detector.
        proxy: the CLIP score.
        guidance: its scale.
        steps: of the sampler.
        stochastic: whether by the reversal of the process, as in fine-tuning, or its flow.
        together: pictures drawn at once.
    """

    def __init__(
        self,
        folder: Path,
        gold: Path,
        proxy: PictureReward,
        *,
        guidance: float,
        steps: int,
        stochastic: bool,
        together: int = 64,
    ):
        solver = "euler_ancestral" if stochastic else "euler"
        pipeline = load_pipeline(folder, solver=solver)
        scheduler = pipeline.scheduler.without_least() if stochastic else pipeline.scheduler
        self.pipeline: Pipeline = dataclasses.replace(pipeline, scheduler=scheduler)
        self.gold, self.proxy, self.together = gold, proxy, together
        self._draw = make_drawing(self.pipeline, scale=guidance, steps=steps)
        self._score = jax.jit(proxy.apply)

    def params(self, lora: Path | None = None) -> Params:
        """Return the weights of the denoiser, adapters added."""
        pipeline = self.pipeline if lora is None else self.pipeline.with_lora(lora)
        return pipeline.params[pipeline.kind.denoiser]

    def __call__(
        self, params: Params, asked: Sequence[Request], number: int, *, seed: int
    ) -> Drawn:
        """Return so many pictures of each request, the same noise for the same seed."""
        captions = [request.caption for request in asked]
        conditions = self.pipeline.encode(captions)
        assert self.proxy.encode is not None
        texts = self.proxy.encode(captions)
        null = self.pipeline.encode([None])
        rows = np.repeat(np.arange(len(asked)), number)
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(
            jnp.arange(len(rows))
        )
        pictures, scores = [], []
        for start in range(0, len(rows), self.together):
            # The last batch is filled up, so that all are one program.
            own = np.minimum(np.arange(start, start + self.together), len(rows) - 1)
            absent = [jnp.broadcast_to(a, (len(own), *a.shape[1:])) for a in null]
            given = tuple(array[rows[own]] for array in conditions)
            latents = self._draw(params, keys[own], given, tuple(absent))
            shown = self.pipeline.decode(latents)
            scores.append(np.asarray(self._score(self.proxy.params, shown, texts[rows[own]])))
            pictures.append(np.round(255 * np.asarray(shown)).astype(np.uint8))
        shape = (len(asked), number)
        found = np.concatenate(pictures)[: len(rows)]
        right = judge(str(self.gold), found, [asked[int(i)] for i in rows])
        proxy = np.concatenate(scores)[: len(rows)]
        return Drawn(found.reshape(*shape, *found.shape[1:]), right.reshape(shape),
                     proxy.reshape(shape))  # fmt: skip


def conditional_frontier(
    rewards: Float[np.ndarray, "requests number"], successes: Bool[np.ndarray, "requests number"]
) -> frontier.Frontier:
    """Return the ideal trade-off, the mean over requests.

    Args:
        rewards: of pictures of the base model.
        successes: whether each is right.
    """
    temperatures = TEMPERATURES * max(float(rewards.std()), 1e-6)
    parts = [
        frontier.ideal(some.astype(np.float64), temperatures, right.astype(np.float64))
        for some, right in zip(rewards, successes, strict=True)
    ]
    kl, reward, success = (
        np.mean([getattr(part, name) for part in parts], axis=0)
        for name in ("kl", "reward", "success")
    )
    effective = np.sum([part.effective_samples for part in parts], axis=0)
    return frontier.Frontier(kl, reward, success, effective)
