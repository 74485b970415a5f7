"""What a `UNet2DCondition` is built from."""

import dataclasses

from ctrl_jax._checks import check_annotated, check_choice, refuse
from ctrl_jax.networks.layers.activations import ACTIVATIONS


@dataclasses.dataclass(frozen=True)
class AddedConditions:
    """What is embedded beside the time: a vector of the text, and numbers about the picture.

    Args:
        width: of the text's vector and the features of all numbers together.
        number_width: features of each number.
    """

    width: int
    number_width: int

    def __post_init__(self):
        check_annotated(self, "AddedConditions")


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The description of a `UNet2DCondition`; by default that of Stable Diffusion 1.

    A tuple has an entry for each resolution, from the finest on, but `up_attention`, which begins
    with the coarsest.

    Args:
        in_channels: of the latents.
        out_channels: of the prediction.
        widths: channels inside.
        blocks: residual blocks on the way down; on the way up there is one more.
        down_attention: whether a transformer follows each residual block on the way down.
        up_attention: the same on the way up.
        middle: whether there are blocks between both ways.
        heads: of attention, their number.
        context: width of the text's tokens.
        depth: transformer blocks in each transformer.
        only_cross_attention: whether pixels read the text alone there.
        linear_projection: whether transformers project pixels by linear layers, or by convolutions
            of 1 x 1.
        groups: of channels that are normalized together.
        epsilon: added to the variance in residual blocks.
        activation: silu, swish, mish, gelu or relu.
        middle_scale: divides the sums of the residual blocks between both ways.
        in_size: side of the first convolution's window, odd.
        out_size: side of the last one's.
        time_width: of the time's embedding; None for four times the first width.
        cosines_first: whether the cosines of the time come before its sines.
        frequency_shift: s, where sines and cosines of u 10000^{-k / (n - s)}, k < n, embed a number
            u, the time for instance, in 2 n features.
        added: what is embedded beside the time; None for nothing.
        centered: whether the latents x are read as 2 x - 1.
        sample_size: height and width of the latents that it was made for.

    Raises:
        ValueError: sizes that do not fit each other.
    """

    in_channels: int = 4
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    down_attention: tuple[bool, ...] = (True, True, True, False)
    up_attention: tuple[bool, ...] = (False, True, True, True)
    middle: bool = True
    heads: tuple[int, ...] = (8, 8, 8, 8)
    context: int = 768
    depth: tuple[int, ...] = (1, 1, 1, 1)
    only_cross_attention: tuple[bool, ...] = (False, False, False, False)
    linear_projection: bool = False
    groups: int = 32
    epsilon: float = 1e-5
    activation: str = "silu"
    middle_scale: float = 1.0
    in_size: int = 3
    out_size: int = 3
    time_width: int | None = None
    cosines_first: bool = True
    frequency_shift: float = 0.0
    added: AddedConditions | None = None
    centered: bool = False
    sample_size: int = 64

    def __post_init__(self):
        check_annotated(self, "UNetConfig", signed=("frequency_shift",))
        check_choice("UNetConfig.activation", self.activation, tuple(ACTIVATIONS))
        self._check_levels()
        for name in ("in_size", "out_size"):
            if getattr(self, name) % 2 == 0:
                rule = "it must be odd, so that the picture keeps its size"
                raise refuse(f"UNetConfig.{name}", getattr(self, name), rule, "give 3")
        if self.widths[0] % 2 or not 0 <= self.frequency_shift < self.widths[0] // 2:
            rule = f"the widths begin with {self.widths[0]}: an even number above twice the shift"
            raise refuse("UNetConfig.frequency_shift", self.frequency_shift, rule, "give 0")

    def _check_levels(self) -> None:
        levels = len(self.widths)
        per_level = ("blocks", "down_attention", "up_attention", "heads", "depth")
        for name in (*per_level, "only_cross_attention"):
            if len(getattr(self, name)) != levels or not levels:
                rule = f"there must be one for each of {levels} resolutions, and at least one"
                raise refuse(f"UNetConfig.{name}", getattr(self, name), rule, "give as many")
        for number, heads in zip(self.widths, self.heads, strict=True):
            for name, part in (("groups", self.groups), ("heads", heads)):
                if number % part:
                    rule = f"they must divide the widths, here {number}"
                    raise refuse(f"UNetConfig.{name}", part, rule, "give a divisor")

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.in_channels

    @property
    def multiple(self) -> int:
        """What height and width of the latents must be multiples of: they may be any."""
        return 1

    @property
    def embedding(self) -> int:
        """Width of the time's embedding."""
        return self.time_width or 4 * self.widths[0]
