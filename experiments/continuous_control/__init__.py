"""Continuous against discrete time: what linear_quadratic and pair_trading share."""
