"""A diffusion model of images as plain data: its process, NCSN++ or DDPM++, and how they meet."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from ctrl_jax._typing import Model
from ctrl_jax.networks.functional import as_model
from ctrl_jax.networks.score.ncsnpp import NCSNpp, NCSNppConfig
from ctrl_jax.processes import VE, VP, ContractiveSubVP, LinearProcess, SubVP
from ctrl_jax.processes import parameterization as parameterization

Kind = Literal["ve", "vp", "sub_vp", "contractive_sub_vp"]

COEFFICIENTS: dict[Kind, tuple[float, float]] = {
    # (0.01, 50) of the literature is for images in [0, 1]; ours lie in [-1, 1], twice as far apart.
    "ve": (0.02, 100.0),
    "vp": (0.1, 20.0),
    "sub_vp": (0.1, 20.0),
    "contractive_sub_vp": (1.0, 8.0),
}
"""Smallest and largest noise std (ve) or noise rate (others) on CIFAR-10, horizon 1."""

ENDS: dict[Kind, float] = {"ve": 1e-5, "vp": 1e-3, "sub_vp": 1e-3, "contractive_sub_vp": 1e-5}
"""Forward time at which sampling stops, of a horizon of 1."""


@dataclasses.dataclass(frozen=True)
class ImageDiffusionSpec:
    """A process and a U-Net that predicts the noise, for images in [-1, 1].

    The network sees log std(t) where its embedding is Fourier and 999 t / T where it is positional;
    its output is the noise, so that the score is that divided by -std(t) (2011.13456, appendix H).

    Args:
        kind: the forward process.
        coefficients: smallest and largest noise std (ve) or noise rate (others); those of CIFAR-10
            by default.
        sampling_end: forward time at which sampling stops, of a horizon of 1; 1e-3 for vp and
            sub_vp and 1e-5 for the others by default.
        network: sizes of the U-Net.
    """

    kind: Kind = "ve"
    coefficients: tuple[float, float] | None = None
    sampling_end: float | None = None
    network: NCSNppConfig = dataclasses.field(default_factory=NCSNppConfig)

    def __post_init__(self):
        if self.kind not in COEFFICIENTS:
            raise ValueError(f"kind must be one of {', '.join(COEFFICIENTS)}, got {self.kind!r}.")
        if self.coefficients is not None and len(self.coefficients) != 2:
            raise ValueError(f"coefficients must be two numbers, got {self.coefficients}.")
        if not 0 < self.end < 1:
            raise ValueError(f"sampling_end must lie in (0, 1), got {self.end}.")
        self.process()
        if self.coefficients is not None and self.coefficients[0] > self.coefficients[1]:
            raise ValueError(
                f"coefficients: smallest and largest, got {self.coefficients}; swap them."
            )

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "ImageDiffusionSpec":
        """Return the spec of a record of plain values."""
        return cls(**{**record, "network": NCSNppConfig(**record["network"])})

    @property
    def end(self) -> float:
        """Forward time at which sampling stops."""
        return ENDS[self.kind] if self.sampling_end is None else self.sampling_end

    def process(self) -> LinearProcess:
        """Return the forward process."""
        low, high = self.coefficients or COEFFICIENTS[self.kind]
        if self.kind == "ve":
            # As published: the marginal is that of data already blurred by the smallest noise.
            return VE(low, high, zero_start=False)
        kinds = {"vp": VP, "sub_vp": SubVP, "contractive_sub_vp": ContractiveSubVP}
        return kinds[self.kind](low, high)

    def model(self, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> Model:
        """Return the score model for images of `shape`, its arithmetic in `dtype`.

        Raises:
            ValueError: `shape` is not (height, width, channels), or the network does not fit it.
        """
        if len(shape) != 3:
            raise ValueError(f"NCSNpp needs images (height, width, channels), got {shape}.")
        height, width, channels = shape
        process = self.process()
        network = as_model(
            lambda rngs: NCSNpp((height, width, channels), self.network, dtype=dtype, rngs=rngs),
            has_dropout=True,
        )

        def score(predict, t, x, *conditions):
            if conditions:
                raise ValueError("NCSNpp takes no conditions; leave them out.")

            def noise(t, x):
                return predict(self._seen(process, t), x).astype(x.dtype)

            return parameterization.from_noise(process, noise)(t, x)

        def apply(params, t, x, *conditions):
            return score(lambda u, x: network.apply(params, u, x), t, x, *conditions)

        dropping = network.train
        if dropping is None or self.network.dropout == 0:
            return Model(network.init, apply)

        def train(key, params, t, x, *conditions):
            return score(lambda u, x: dropping(key, params, u, x), t, x, *conditions)

        return Model(network.init, apply, train=train)

    def _seen(self, process: LinearProcess, t):
        if self.network.fourier_scale is None:
            return 999 * jnp.asarray(t) / process.horizon
        return jnp.log(process.marginal(t).std)
