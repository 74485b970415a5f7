"""Fine-tuning of a user's diffusion model on a user's rewards."""
