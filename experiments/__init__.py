"""Experiments: one module per claim, ``python -m experiments.NAME --help``."""
