"""Training and evaluation of contractive diffusion models on images."""
