"""The stages of `experiments.mallows_bandit`."""
