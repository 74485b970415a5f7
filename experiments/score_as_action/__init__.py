"""Fine-tuning of a diffusion model, its score being the action."""
