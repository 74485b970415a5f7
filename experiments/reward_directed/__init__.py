"""Reward-directed diffusion: tasks, methods, measurements, claims and pictures."""
