"""Entries of a diffusers config.json that say nothing of the network.

A file lists the arguments of its class. Beside them stand notes that begin with an underscore, the
settings of a moving average of the weights, and dropout, which is left out here.
"""

AVERAGE = {
    *("decay", "min_decay", "inv_gamma", "power", "use_ema_warmup", "optimization_step"),
    "update_after_step",
}
USUAL = {"dropout", *AVERAGE}


def is_note(key: str, value: object) -> bool:
    """Return whether an entry is a note of a library.

    Args:
        key: its name.
        value: what stands there.
    """
    del value
    return key.startswith("_")
