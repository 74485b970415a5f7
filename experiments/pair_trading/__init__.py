"""Policy optimization in continuous time on a market whose optimum is known."""
