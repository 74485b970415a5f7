"""Consistency models in one and several steps."""
