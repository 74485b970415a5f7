"""Training from data: scores, consistency functions, rewards."""
