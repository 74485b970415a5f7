"""The door of the preference losses: what they take, in which type they compute, what they return.

Values of less than float32 are widened before anything is computed and the loss is rounded once,
at the end, to the type it was asked in. Weights act before that rounding.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ctrl_jax.losses.weighting import weighted

Number = Float[Array, ""] | float | int
"""A scalar hyperparameter, concrete or traced."""


class Pair(NamedTuple):
    """One value for each answer, in the type of the computation; the type to return."""

    owner: str
    chosen: Array
    rejected: Array
    dtype: jnp.dtype

    @property
    def margin(self) -> Array:
        """The chosen answer's value less the rejected one's."""
        return self.chosen - self.rejected

    def finish(self, loss: Array, weights: Array | None) -> Array:
        """Return the loss, weighted where asked, in the type of the arguments."""
        return finish(self.owner, loss, weights, self.dtype)


def read_pair(owner: str, chosen: Array, rejected: Array, **positive: Number) -> Pair:
    """Check the leading arguments of a loss, and that its `positive` scalars are.

    Raises:
        ValueError: shapes or dtypes differ or are not floating, or a scalar is not positive.
    """
    require_same(owner, chosen=chosen, rejected=rejected)
    require_positive_scalars(owner, **positive)
    return Pair(owner, widened(chosen), widened(rejected), jnp.asarray(chosen).dtype)


def finish(owner: str, loss: Array, weights: Array | None, dtype: jnp.dtype) -> Array:
    """Return the loss times its weights in `dtype`.

    Raises:
        ValueError: the weights are not one floating number per example.
    """
    if weights is not None:
        require_floating(owner, weights=weights)
        if weights.shape != loss.shape:
            raise ValueError(
                f"{owner}: weights must be one per example, shape {list(loss.shape)}, "
                f"got {list(weights.shape)}."
            )
        weights = jnp.asarray(weights).astype(loss.dtype)
    return weighted(loss, weights).astype(dtype)


def working_dtype(value: Array) -> jnp.dtype:
    """Return the type to compute in: the value's own where JAX has it, and at least float32."""
    dtype = jax.dtypes.canonicalize_dtype(value.dtype)
    return jnp.dtype(dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)


def widened(value: Array) -> Array:
    """Return the value as an array of the type to compute in."""
    return jnp.asarray(value).astype(working_dtype(value))


def require_floating(owner: str, **arrays: Array) -> None:
    """Raise ValueError unless every argument is an array of floating type."""
    for name, value in arrays.items():
        dtype = getattr(value, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            received = type(value).__name__ if dtype is None else f"dtype {dtype}"
            raise ValueError(
                f"{owner}: {name} must be an array of floating type, got {received}; "
                "convert it with astype."
            )


def require_same(owner: str, **arrays: Array) -> None:
    """Raise ValueError unless all are floating arrays of one shape and one dtype."""
    require_floating(owner, **arrays)
    if len({(value.shape, value.dtype) for value in arrays.values()}) > 1:
        received = [f"{value.dtype}{list(value.shape)}" for value in arrays.values()]
        raise ValueError(
            f"{owner}: {' and '.join(arrays)} must have one shape and one dtype, got "
            f"{' and '.join(received)}."
        )


def require_positive_scalars(owner: str, **values: Number) -> None:
    """Raise ValueError unless every value is a scalar that, where concrete, is positive."""
    for name, value in values.items():
        require_scalar(owner, name, value)
        number = concrete(value)
        if number is not None and not (math.isfinite(number) and number > 0):
            raise ValueError(f"{owner}: {name} must be a positive finite number, got {value!r}.")


def require_nonnegative(owner: str, **values: Number) -> None:
    """Raise ValueError unless every value is a scalar that, where concrete, is at least 0."""
    for name, value in values.items():
        require_scalar(owner, name, value)
        number = concrete(value)
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{owner}: {name} must be a finite number >= 0, got {value!r}.")


def require_label_smoothing(owner: str, value: Number) -> None:
    """Raise ValueError unless a concrete value lies in [0, 0.5)."""
    require_scalar(owner, "label_smoothing", value)
    number = concrete(value)
    if number is not None and not 0 <= number < 0.5:
        raise ValueError(f"{owner}: label_smoothing must lie in [0, 0.5), got {value!r}.")


def require_scalar(owner: str, name: str, value: Number) -> None:
    """Raise ValueError unless the value is a number, with no axes."""
    if not (isinstance(value, float | int) or hasattr(value, "dtype")):
        raise ValueError(f"{owner}: {name} must be a number, got {value!r}.")
    if jnp.ndim(value) != 0:
        raise ValueError(f"{owner}: {name} must be one number, got shape {list(jnp.shape(value))}.")


def concrete(value: Number) -> float | None:
    """Return the number, or None while it is traced."""
    return None if isinstance(value, Tracer) else float(value)


def require_dispersion(owner: str, dispersion: Array | float, like: Array) -> Array:
    """Return phi in the type of the computation.

    Raises:
        ValueError: it is neither a scalar nor of the shape of `like`, or a concrete one leaves
            (0, 1].
    """
    phi = require_beside(owner, "dispersion", dispersion, like)
    known = known_values(dispersion)
    # What is below the least normal number is zero to the compiler.
    least = float(jnp.finfo(phi.dtype).tiny)
    if known is not None and not np.all((known >= least) & (known <= 1)):
        raise ValueError(
            f"{owner}: dispersion must lie in (0, 1], from {least:.2g} on in {phi.dtype}, got "
            f"values from {float(known.min()):g} to {float(known.max()):g}; "
            "`dispersion_from_index` gives such values."
        )
    return phi


def require_beside(owner: str, name: str, value: Array | Number, like: Array) -> Array:
    """Return one value or one per example in the type of the computation.

    Raises:
        ValueError: it is neither a scalar nor of the shape of `like`.
    """
    dtype = working_dtype(like)
    if isinstance(value, float | int):
        return jnp.asarray(value, dtype)
    require_floating(owner, **{name: value})
    if value.shape not in ((), like.shape):
        raise ValueError(
            f"{owner}: {name} must be one number or have shape {list(like.shape)}, "
            f"got {list(value.shape)}."
        )
    return jnp.asarray(value).astype(dtype)


def known_values(value: Array | Number) -> np.ndarray | None:
    """Return the values on the host, where there are any and this process holds them."""
    if isinstance(value, Tracer) or not getattr(value, "is_fully_addressable", True):
        return None
    return np.asarray(value) if np.size(value) else None
