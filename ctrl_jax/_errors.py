"""What can go wrong with a run, told apart by who can repair it.

A `ValueError` means that an argument, a file or a flag is wrong. The classes here are for the
rest: a run that cannot go on, a run that was asked to stop, rewards that could not be had, a folder
without a checkpoint.
`ctrl_jax.runtime.run.command` turns all of them into one line on the console.
"""

import signal


class RunError(RuntimeError):
    """A run cannot go on; the message names the last good step and what to do."""


class RunInterrupted(RunError):
    """A run stopped because a signal asked it to.

    Args:
        message: what was saved and how to continue.
        signum: the signal's number; a command exits with status 128 + signum.
    """

    def __init__(self, message: str, signum: int = signal.SIGTERM):
        super().__init__(message)
        self.signum = signum


class RewardError(RunError):
    """A batch got no rewards from outside JAX; a loop may count that and skip the update.

    Args:
        message: which reward, and what was wrong with its last answer.
        kind: "failed" (an error, or an answer of another form), "late", "wrong_number" (of values)
            or "not_finite".
    """

    def __init__(self, message: str, kind: str = "failed"):
        super().__init__(message)
        self.kind = kind


class RewardUnavailable(RunError):
    """Rewards from outside JAX cannot be had any more; a run stops and can be resumed."""


class MissingCheckpointError(ValueError):
    """A folder holds no checkpoint that can be restored."""


class RunWarning(UserWarning):
    """Something about a run that its owner should know, and that does not stop it."""
