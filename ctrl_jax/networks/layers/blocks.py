"""A row of blocks, those alike in a row stacked and scanned, so that one is compiled for all.

Blocks 0 to 12 lie under the name ``0-12``, every parameter with a leading axis of 13; a block that
is like none of its neighbours lies under its number.
"""

from collections.abc import Callable, Hashable, Sequence
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ctrl_jax.networks.sharding import gathered


def recompute(block: Any, *arguments: Any) -> Any:
    """Return ``block(*arguments)``; what it computes is computed again in the backward pass.

    Args:
        block: a module.
        *arguments: what it is applied to, arrays or None.
    """
    graph, state = nnx.split(block)
    call = jax.checkpoint(lambda state, *arguments: nnx.merge(graph, state)(*arguments))
    return call(state, *arguments)


class Blocks(nnx.Module):
    """Blocks that are applied one after the other.

    Args:
        make: ``make(number)`` returns a block.
        kinds: what says how each block is built; blocks of equal kinds are alike.
        stacked: whether blocks alike in a row are scanned; unrolled otherwise.
        remat: whether blocks are computed again in the backward pass.
    """

    def __init__(
        self,
        make: Callable[[int], nnx.Module],
        kinds: Sequence[Hashable],
        *,
        stacked: bool = True,
        remat: bool = False,
    ):
        self.remat, names = remat, []
        alike = groupby(range(len(kinds)), kinds.__getitem__ if stacked else lambda number: number)
        for _, numbers in alike:
            first, *others = numbers
            name = f"{first}-{others[-1]}" if others else f"{first}"
            block = make(first)
            if others:
                graph, state = nnx.split(block)
                states = [state, *(nnx.split(make(number))[1] for number in others)]
                block = nnx.merge(graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
            names.append(name)
            setattr(self, name, block)
        self.names = tuple(names)

    def apply(
        self, call: Callable[[Any, Any], Any], carry: Any, *, names: Sequence[str] | None = None
    ) -> Any:
        """Return what the blocks make of `carry`, one after the other.

        Args:
            call: ``call(block, carry)`` returns the next carry, of the same shapes within a stack.
            carry: arrays; what is the same for all blocks may be closed over.
            names: some of `names`, all by default.
        """
        for name in self.names if names is None else names:
            graph, state = nnx.split(getattr(self, name))

            def step(carry, state, graph=graph):
                return call(nnx.merge(graph, gathered(state)), carry)

            step = jax.checkpoint(step) if self.remat else step
            if "-" in name:
                carry, _ = jax.lax.scan(lambda c, s, step=step: (step(c, s), None), carry, state)
            else:
                carry = step(carry, state)
        return carry
