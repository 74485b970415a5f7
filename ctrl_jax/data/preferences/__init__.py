"""Preference pairs: files of them, their texts, their tokens, the rows that a step reads."""
