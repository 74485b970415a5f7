"""The common options in a study's config, where their flags have no prefix."""

from typing import Annotated

import tyro

from ctrl_jax.runtime import RunOptions

Common = Annotated[RunOptions, tyro.conf.arg(name="")]
COMMON = RunOptions()
