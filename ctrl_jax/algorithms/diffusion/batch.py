"""What one step of control is asked for: weights and conditions of its trajectories.

Conditions are large where they are texts (Stable Diffusion 3: 333 x 4096 numbers per prompt), and
a batch holds several trajectories of each prompt, of which every step of the sampler is a row
again. So they can be given once per distinct prompt, with the place of each trajectory's own:
every pass takes from there what it looks at, and nothing is repeated over steps.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import refuse


class Batch(NamedTuple):
    """One batch of prompts.

    Fields:
        weights: weight of each trajectory, shape (batch,); rows of weight zero are padding and
            start at the origin (which also ties the trajectories to the batch's sharding).
        conditions: arrays handed to the models and the reward, with leading axis batch; with
            `rows`, one row for each distinct prompt of the batch, in any number.
        prompts: integer id of each trajectory's prompt, shape (batch,), for algorithms that
            compare trajectories of one prompt; None where there is only one.
        rows: the row of the conditions that each trajectory has, integers (batch,); None where
            every trajectory has its own. On a mesh the conditions are then whole on every device.
    """

    weights: Float[Array, " batch"]
    conditions: tuple[Array, ...] = ()
    prompts: Int[Array, " batch"] | None = None
    rows: Int[Array, " batch"] | None = None

    @property
    def whole(self) -> tuple[str, ...]:
        """Fields that are not cut where a batch is divided over devices or processes."""
        return () if self.rows is None else ("conditions",)

    def gathered(self, times: int = 1) -> tuple[Array, ...]:
        """Return the conditions of every trajectory, each `times` times in a row.

        A row that is not there is NaN, which the step's flags report; of integers the smallest one.

        Args:
            times: rows of one trajectory, such as the time steps of it in a minibatch.

        Returns:
            Arrays of leading axis batch * times.

        Raises:
            ValueError: rows are not (batch,) integers, or without them the conditions have not one
                row per trajectory.
        """
        self._check()
        if self.rows is not None:
            rows = jnp.repeat(self.rows, times)
            return tuple(jnp.take(c, rows, axis=0, mode="fill") for c in self.conditions)
        if times == 1:
            return self.conditions
        return tuple(jnp.repeat(c, times, axis=0) for c in self.conditions)

    def _check(self) -> None:
        size = jnp.shape(self.weights)[0]
        if self.rows is not None:
            rows = jnp.asarray(self.rows)
            if rows.shape != (size,) or not jnp.issubdtype(rows.dtype, jnp.integer):
                rule = f"they must be integers ({size},), a row of the conditions per trajectory"
                raise refuse("Batch.rows", self.rows, rule, "give the place of each one's prompt")
            return
        for number, condition in enumerate(self.conditions):
            if jnp.ndim(condition) == 0 or condition.shape[0] != size:
                rule = f"there are {size} trajectories, and each must have a row"
                repair = "give one for each, or Batch.rows that say which is whose"
                name = f"Batch.conditions[{number}].shape"
                raise refuse(name, jnp.shape(condition), rule, repair)
