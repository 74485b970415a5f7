"""Checkpoints: atomic, with a digest per leaf that is checked on restore."""
