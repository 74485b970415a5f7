"""The five-armed bandit of Mallows-DPO."""
