"""The common options in a study's config, where their flags have no prefix, and a check."""

from typing import Annotated

import tyro

from ctrl_jax.runtime import RunOptions, refuse

Common = Annotated[RunOptions, tyro.conf.arg(name="")]
COMMON = RunOptions()


def check_replicated(options: RunOptions) -> None:
    """Raise ValueError where the options would divide networks, which the studies replicate."""
    if options.mesh.model != 1:
        rule = "the networks of a study are replicated, never divided"
        raise refuse("mesh.model", options.mesh.model, rule, "leave it at 1")
