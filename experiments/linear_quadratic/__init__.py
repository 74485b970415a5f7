"""Policy optimization in continuous time, against the step and against exact optima."""
