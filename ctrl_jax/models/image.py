"""A diffusion model of images as plain data: its process, NCSN++ or DDPM++, and how they meet."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp

from ctrl_jax._checks import check_choice, check_finite, refuse
from ctrl_jax._typing import Model
from ctrl_jax.models.spec import image_shape, score_model
from ctrl_jax.networks.functional import as_model
from ctrl_jax.networks.score.ncsnpp import NCSNpp, NCSNppConfig
from ctrl_jax.processes import VE, VP, ContractiveSubVP, LinearProcess, SubVP, parameterization

Kind = Literal["ve", "vp", "sub_vp", "contractive_sub_vp"]


class Usual(NamedTuple):
    """A process as CIFAR-10 has it, of horizon 1.

    Fields:
        make: ``make(low, high)``, the process of its coefficients.
        coefficients: smallest and largest noise std (ve) or noise rate (others).
        end: forward time at which sampling stops.
    """

    make: Callable[[float, float], LinearProcess]
    coefficients: tuple[float, float]
    end: float


USUAL: dict[Kind, Usual] = {
    # (0.01, 50) of the literature is for images in [0, 1]; ours lie in [-1, 1], twice as far apart.
    # As published, the marginal is that of data already blurred by the smallest noise.
    "ve": Usual(partial(VE, zero_start=False), (0.02, 100.0), 1e-5),
    "vp": Usual(VP, (0.1, 20.0), 1e-3),
    "sub_vp": Usual(SubVP, (0.1, 20.0), 1e-3),
    "contractive_sub_vp": Usual(ContractiveSubVP, (1.0, 8.0), 1e-5),
}


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

    conditions = 0
    prediction = staticmethod(parameterization.from_noise)

    def __post_init__(self):
        check_choice("kind", self.kind, tuple(USUAL))
        pair = self.coefficients
        if pair is not None and (len(pair) != 2 or pair[0] > pair[1]):
            raise refuse("coefficients", pair, "smallest and largest, two numbers", "swap them")
        if not 0 < check_finite("end", self.end) < 1:
            raise refuse("sampling_end", self.end, "it must lie in (0, 1)", "give e.g. 0.001")
        self.process()

    @property
    def end(self) -> float:
        """Forward time at which sampling stops."""
        return USUAL[self.kind].end if self.sampling_end is None else self.sampling_end

    def process(self) -> LinearProcess:
        """Return the forward process."""
        usual = USUAL[self.kind]
        return usual.make(*(self.coefficients or usual.coefficients))

    def make_network(self, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> Model:
        """Return the network of the noise for images of `shape`, its arithmetic in `dtype`.

        Raises:
            ValueError: `shape` is not (height, width, channels), or the network does not fit it.
        """
        image, process = image_shape(shape), self.process()
        network = as_model(
            lambda rngs: NCSNpp(image, self.network, dtype=dtype, rngs=rngs), has_dropout=True
        )

        def apply(params, t, x):
            return network.apply(params, self._seen(process, t), x)

        dropping = network.train
        if dropping is None or self.network.dropout == 0:
            return Model(network.init, apply)

        def train(key, params, t, x):
            return dropping(key, params, self._seen(process, t), x)

        return Model(network.init, apply, train=train)

    def model(self, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> Model:
        """Return the score model for images of `shape`, its arithmetic in `dtype`."""
        return score_model(self, shape, dtype)

    def _seen(self, process: LinearProcess, t):
        if self.network.fourier_scale is None:
            return 999 * jnp.asarray(t) / process.horizon
        return jnp.log(process.marginal(t).std)
