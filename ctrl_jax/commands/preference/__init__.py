"""Preference optimization of a user's language model on a user's data."""
