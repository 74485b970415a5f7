"""A reward of pictures that has parameters."""

import dataclasses
from collections.abc import Callable, Sequence

from jaxtyping import Array, Float

from ctrl_jax._typing import Params


@dataclasses.dataclass(frozen=True, eq=False)
class PictureReward:
    """A reward of pictures, with its parameters.

    As a function, ``reward(pictures, *conditions)``, it holds them fixed. With `apply` a compiled
    program takes them as an argument, placed on a mesh like any others.

    Args:
        params: of the tower of pictures and of what follows it.
        apply: ``apply(params, pictures, encoded)`` returns one value per example, differentiable
            in the pictures, which are (batch, h, w, 3) in [0, 1]; pure. Without `encode` there is
            no third argument.
        encode: ``encode(texts)`` returns what is read of prompts, a row for each: embeddings of
            length one, (texts, width), or for ImageReward tokens. It is made once and given as
            condition. None where the prompt plays no part.
    """

    params: Params
    apply: Callable[..., Array]
    encode: Callable[[Sequence[str]], Array] | None = None

    def __call__(
        self, pictures: Float[Array, "batch h w 3"], *conditions: Array
    ) -> Float[Array, " batch"]:
        """Return one value per example.

        Args:
            pictures: in [0, 1].
            *conditions: what `encode` returned of their prompts, a row for each; nothing that is
                given is looked at where the prompt plays no part.
        """
        conditions = conditions if self.encode is not None else ()
        return self.apply(self.params, pictures, *conditions)
