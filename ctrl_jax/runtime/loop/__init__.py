"""The training loop: compiled steps, metrics, progress, signals, flags."""
