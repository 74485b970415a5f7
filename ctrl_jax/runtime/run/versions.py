"""The versions a number depends on.

Bitwise equality is promised for the same mesh and the same versions only, so every run,
checkpoint and result says with what it was made.
"""

import importlib.metadata
import platform

import jax

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "diffrax", "orbax-checkpoint", "numpy"),
    *("transformers", "tokenizers", "safetensors"),  # which turn texts into tokens
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages, and the kind of device.

    Returns:
        Names to versions; a package that is not installed is "absent". Starts JAX's backend, so
        call `distributed.start` first.
    """
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package.removesuffix("-checkpoint")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package.removesuffix("-checkpoint")] = "absent"
    found["device"] = jax.devices()[0].device_kind
    return found


def differences(old: dict, new: dict, prefix: str = "") -> dict[str, tuple]:
    """List where two nested dicts differ.

    Args:
        old: the first nest.
        new: the second nest.
        prefix: put before every name.

    Returns:
        Dotted names to (old, new); a name that is missing on one side has "absent" there.
    """
    changes = {}
    for key in sorted({*old, *new}):
        before, after = old.get(key, "absent"), new.get(key, "absent")
        if isinstance(before, dict) and isinstance(after, dict):
            changes |= differences(before, after, f"{prefix}{key}.")
        elif before != after:
            changes[f"{prefix}{key}"] = (before, after)
    return changes
