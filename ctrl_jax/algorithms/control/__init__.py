"""Policy optimization of controlled SDEs: CPG, CPPO, and discrete peers."""
