"""Preference optimization of language models on packed rows, and their answers."""
