"""The stages of `experiments.consistency`."""
