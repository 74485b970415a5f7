"""Reward-directed diffusion by little q-learning, with no pretrained score."""
