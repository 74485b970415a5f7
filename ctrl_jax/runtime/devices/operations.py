"""How many floating-point operations a traced function asks for, before any compiler sees it.

Counted are products and convolutions, a multiplication and an addition being two; a scan counts as
often as it runs, of the branches of a condition the dearest. What is computed twice because
`jax.checkpoint` forgot it counts twice. A loop whose end is known only when it runs counts once,
and what is not JAX's own (Pallas kernels) does not count.
"""

from collections.abc import Iterator
from math import prod
from typing import Any


def operations_of(jaxpr: Any) -> float:
    """Return the operations of all devices together.

    Args:
        jaxpr: such as ``jax.jit(function).trace(*arguments).jaxpr``.
    """
    return float(sum(map(_of_equation, getattr(jaxpr, "jaxpr", jaxpr).eqns)))


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left, result = equation.invars[0].aval, equation.outvars[0].aval
        return 2.0 * result.size * prod(left.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, result = equation.invars[1].aval, equation.outvars[0].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        # Between the entries of what is dilated are zeros, which nobody needs to multiply.
        return 2.0 * result.size * kernel.size / features / prod(params["lhs_dilation"])
    inner = [operations_of(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    # The shapes within a `shard_map` are those of one device.
    times = {"scan": "length", "shard_map": "mesh"}.get(name)
    many = 1 if times is None else getattr(params[times], "size", params[times])
    return float(many * sum(inner))


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for each in value if isinstance(value, list | tuple) else (value,):
            if hasattr(getattr(each, "jaxpr", each), "eqns"):
                yield each
