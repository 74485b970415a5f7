"""The batch of configs that call it `optimization.batch`, as a plan reads and changes it."""

import dataclasses
from typing import Any


def batch_of(config: Any) -> int:
    """Return the batch of an update."""
    return config.optimization.batch


def with_batch(config: Any, batch: int) -> Any:
    """Return the options with another batch."""
    changed = dataclasses.replace(config.optimization, batch=batch)
    return dataclasses.replace(config, optimization=changed)
