"""What `experiments.score_matching` measures."""
