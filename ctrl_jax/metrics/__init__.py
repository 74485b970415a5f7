"""Distances between samples, and the ideal frontier of reward against divergence."""

from ctrl_jax.metrics import distances, frontier

__all__ = ["distances", "frontier"]
