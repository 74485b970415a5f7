"""Low-rank adapters (2106.09685): fine-tuning with few trained numbers.

An adapted linear layer with kernel W (inputs, outputs) computes

    y = x W + (alpha / r) (x A) B,   A (inputs, r) random,  B (r, outputs) zero at first,    (1)

so that the output is unchanged at first. Training moves A and B alone; afterwards
W + (alpha / r) A B is an ordinary kernel. Adapters lie in the tree of parameters beside their
kernel, as ``lora_a`` and ``lora_b``; `split` takes them out and `combine` puts them back. With
`base` the parameters of the network without adapters, which is the reference::

    adapters = jax.jit(lambda key: split(adapted.init(key))[0])(key)  # draws nothing else
    gradient = jax.grad(lambda adapters: loss(combine(adapters, base)))(adapters)
"""

import dataclasses
from typing import Any

from flax import nnx
from jaxtyping import Array

from ctrl_jax._checks import check_count, check_positive, refuse
from ctrl_jax._typing import Params
from ctrl_jax.networks.layers.linear import ZERO, Linear, at_least_single

LINEARS = ("query", "key", "value", "out", "gate", "up", "down")
A, B = "lora_a", "lora_b"


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which linear layers are adapted, and how much.

    Args:
        rank: r, inner size of an adapter.
        alpha: the adapters' output is multiplied by alpha / rank.
        targets: names of linear layers, the same in every block.

    Raises:
        ValueError: a rank below one, alpha not positive, an unknown layer.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("query", "value")

    def __post_init__(self):
        unknown = sorted({*self.targets} - {*LINEARS})
        check_count("LoRA.rank", self.rank)
        check_positive("LoRA.alpha", self.alpha)
        if unknown or not self.targets:
            rule, repair = "they must be names of linear layers", "give some of "
            raise refuse("LoRA.targets", self.targets, rule, repair + ", ".join(LINEARS))

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


class AdaptedLinear(Linear):
    """A linear layer with an adapter (1).

    Args:
        inputs: size of the input.
        outputs: size of the output.
        lora: rank and scale.
        rngs: random streams; the adapter's is ``lora``.
        **options: of `Linear`.
    """

    def __init__(self, inputs: int, outputs: int, *, lora: LoRA, rngs: nnx.Rngs, **options: Any):
        super().__init__(inputs, outputs, rngs=rngs, **options)
        self.scale = lora.scale
        draw = nnx.initializers.normal(inputs**-0.5)
        self.lora_a = nnx.Param(draw(rngs.lora(), (inputs, lora.rank), self.param_dtype))
        self.lora_b = nnx.Param(ZERO(rngs.lora(), (lora.rank, outputs), self.param_dtype))

    def __call__(self, inputs: Array) -> Array:
        """Apply the layer to the last axis."""
        plain = super().__call__(inputs)
        flat = inputs.reshape(-1, inputs.shape[-1]).astype(plain.dtype)
        a, b = (factor[...].astype(plain.dtype) for factor in (self.lora_a, self.lora_b))
        return plain + (self.scale * (flat @ a @ b)).reshape(plain.shape)


def split(params: Params) -> tuple[Params, Params]:
    """Return the adapters alone, and the parameters without them, as nested dictionaries.

    Args:
        params: parameters of a network with adapters, nested dictionaries.
    """
    adapters, base = {}, {}
    for name, value in params.items():
        if isinstance(value, dict):
            inner, rest = split(value)
            if inner:
                adapters[name] = inner
            base[name] = rest
        else:
            (adapters if name in (A, B) else base)[name] = value
    return adapters, base


def combine(adapters: Params, base: Params) -> Params:
    """Return the parameters that `split` took apart.

    Args:
        adapters: nested dictionaries that hold `lora_a` and `lora_b` only.
        base: the parameters without adapters.

    Raises:
        ValueError: an adapter has no layer in `base`.
    """
    whole = dict(base)
    for name, value in adapters.items():
        if not isinstance(value, dict):
            whole[name] = value
        elif isinstance(base.get(name), dict):
            whole[name] = combine(value, base[name])
        else:
            repair = "give those that they were split from"
            raise refuse("adapters", name, "the parameters have no such layer", repair)
    return whole


def merge(params: Params, lora: LoRA) -> Params:
    """Return ordinary parameters with every adapter added to its kernel.

    Args:
        params: parameters of a model with adapters.
        lora: the description they were made with.

    Returns:
        Parameters of the model without adapters, the kernels in their own dtype.

    Raises:
        ValueError: the adapters have another rank.
    """
    if A in params:
        kernel, a, b = (params[name] for name in ("kernel", A, B))
        if a.shape[1] != lora.rank:
            rule = f"the adapters have rank {a.shape[1]}"
            raise refuse("lora.rank", lora.rank, rule, "give the LoRA they were made with")
        exact = at_least_single(kernel.dtype)
        merged = kernel.astype(exact) + lora.scale * (a.astype(exact) @ b.astype(exact))
        plain = {name: value for name, value in params.items() if name not in (A, B)}
        return plain | {"kernel": merged.astype(kernel.dtype)}
    return {
        name: merge(value, lora) if isinstance(value, dict) else value
        for name, value in params.items()
    }
