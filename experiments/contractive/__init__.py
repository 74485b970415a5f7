"""What `experiments.contraction` is made of: processes, score errors, measurements and pictures."""
