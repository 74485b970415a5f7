"""The door of the preference losses: what they take, in which type they compute, what they return.

Values of less than float32 are widened before anything is computed and the loss is rounded once,
at the end, to the type it was asked in. Weights act before that rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ctrl_jax._checks import MOST, as_float, check_fraction, check_positive, refuse
from ctrl_jax.losses.weighting import weighted

Number = Float[Array, ""] | float | int
"""A scalar hyperparameter, concrete or traced."""


class Pair(NamedTuple):
    """One value for each answer, in the type of the computation; the type to return."""

    chosen: Array
    rejected: Array
    dtype: jnp.dtype

    @property
    def margin(self) -> Array:
        """The chosen answer's value less the rejected one's."""
        return self.chosen - self.rejected

    def finish(self, loss: Array, weights: Array | None) -> Array:
        """Return the loss, weighted where asked, in the type of the arguments."""
        return finish(loss, weights, self.dtype)


def read_pair(kind: str, chosen: Array, rejected: Array, **positive: Number) -> Pair:
    """Check the leading arguments of a loss, and that its `positive` scalars are.

    Args:
        kind: what the arguments are called before ``_chosen`` and ``_rejected``.
        chosen: of the chosen answers.
        rejected: of the rejected ones.
        **positive: hyperparameters.

    Raises:
        ValueError: shapes or dtypes differ or are not floating, or a scalar is not positive.
    """
    require_same(**{f"{kind}_chosen": chosen, f"{kind}_rejected": rejected})
    check_scalars(check_positive, **positive)
    return Pair(widened(chosen), widened(rejected), jnp.asarray(chosen).dtype)


def finish(loss: Array, weights: Array | None, dtype: jnp.dtype) -> Array:
    """Return the loss times its weights in `dtype`.

    Raises:
        ValueError: the weights are not one finite floating number per example.
    """
    if weights is not None:
        require_floating(weights=weights)
        if weights.shape != loss.shape:
            rule = f"they must be one per example, shape {list(loss.shape)}"
            raise refuse("weights", weights, rule, "broadcast them, or leave them out")
        require_finite("weights", weights)
        weights = jnp.asarray(weights).astype(loss.dtype)
    return weighted(loss, weights).astype(dtype)


def working_dtype(value: Array) -> jnp.dtype:
    """Return the type to compute in: the value's own where JAX has it, and at least float32."""
    dtype = jax.dtypes.canonicalize_dtype(value.dtype)
    return jnp.dtype(dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)


def widened(value: Array) -> Array:
    """Return the value as an array of the type to compute in."""
    return jnp.asarray(value).astype(working_dtype(value))


def require_floating(**arrays: Array) -> None:
    """Raise ValueError unless every argument is an array of floating type."""
    for name, value in arrays.items():
        dtype = getattr(value, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            rule = "it must be an array of floating type"
            raise refuse(name, value, rule, "convert it, for instance by jnp.asarray(value, float)")


def require_same(**arrays: Array) -> None:
    """Raise ValueError unless all are floating arrays of one shape and one dtype."""
    require_floating(**arrays)
    (first, like), *others = arrays.items()
    for name, value in others:
        if (value.shape, value.dtype) != (like.shape, like.dtype):
            rule = f"it must have the shape and dtype of {first}, {like.dtype}{list(like.shape)}"
            raise refuse(name, value, rule, "give one value for each example, in one type")


def check_scalars(check: Callable[[str, object], object], **values: Number) -> None:
    """Raise ValueError unless every value is one number that, where known, passes the check."""
    for name, value in values.items():
        if getattr(value, "ndim", 0) or isinstance(value, list | tuple):
            raise refuse(name, value, "it must be one number", "give one, or use vmap")
        check(name, value)
        if isinstance(value, int) and abs(value) > MOST:  # JAX counts in 32 bits
            rule = "it must be a floating number where it is so large"
            raise refuse(name, value, rule, f"give {float(value):g}")


def check_label_smoothing(name: str, value: object) -> None:
    """Raise ValueError unless a known value lies in [0, 0.5)."""
    check_fraction(name, value)
    if not isinstance(value, Tracer) and float(value) >= 0.5:  # pyright: ignore[reportArgumentType]
        rule = "it must lie in [0, 0.5): else half of the labels or more would be wrong"
        raise refuse(name, value, rule, "give less than 0.5")


def require_dispersion(dispersion: Array | float, like: Array) -> Array:
    """Return phi in the type of the computation.

    Raises:
        ValueError: it is neither a scalar nor of the shape of `like`, or a concrete one leaves
            (0, 1].
    """
    phi = require_beside("dispersion", dispersion, like)
    # What is below the least normal number is zero to the compiler.
    least = float(jnp.finfo(phi.dtype).tiny)
    rule = f"it must lie in (0, 1], from {least:.2g} on in {phi.dtype}"
    repair = "`dispersion_from_index` gives such values"
    require_known("dispersion", dispersion, lambda v: (v >= least) & (v <= 1), rule, repair)
    return phi


def require_beside(name: str, value: Array | Number, like: Array) -> Array:
    """Return one value or one per example in the type of the computation.

    Raises:
        ValueError: it is neither a scalar nor of the shape of `like`.
    """
    dtype = working_dtype(like)
    if isinstance(value, float | int):
        return jnp.asarray(as_float(value), dtype)
    require_floating(**{name: value})
    if value.shape not in ((), like.shape):
        rule = f"it must be one number or have shape {list(like.shape)}"
        raise refuse(name, value, rule, "give one for all or one for each example")
    return jnp.asarray(value).astype(dtype)


def require_finite(name: str, value: Array | Number) -> None:
    """Raise ValueError where a known value is NaN or infinite."""
    rule = "it must be finite"
    require_known(name, value, np.isfinite, rule, "leave out what has no number")


def require_mass(mass: Array | None, like: Array) -> Array | None:
    """Return the mass of each example in the type of the computation.

    Raises:
        ValueError: it has not the shape of `like`, or a known value is negative or not finite.
    """
    if mass is None:
        return None
    require_floating(mass=mass)
    if mass.shape != like.shape:
        rule = f"it must be one per example, shape {list(like.shape)}"
        raise refuse("mass", mass, rule, "broadcast it, or leave it out")
    rule, repair = "it must be finite, zero or above", "give 0 where an example does not count"
    require_known("mass", mass, lambda v: (v >= 0) & np.isfinite(v), rule, repair)
    return jnp.asarray(mass).astype(like.dtype)


def require_known(
    name: str, value: Array | Number, holds: Callable[[np.ndarray], np.ndarray], rule, repair
) -> None:
    """Raise ValueError, with a value that breaks the rule, unless it holds of all known ones."""
    known = known_values(value)
    if known is not None and not np.all(right := holds(known)):
        raise refuse(name, known[~right].flat[0], rule, repair)


def known_values(value: Array | Number) -> np.ndarray | None:
    """Return the values on the host, where there are any and this process holds them."""
    if isinstance(value, Tracer) or not getattr(value, "is_fully_addressable", True):
        return None
    return np.asarray(as_float(value)) if np.size(value) else None
