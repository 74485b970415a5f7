"""Fine-tuning of diffusion models, the score being the action: by rewards and by comparisons."""
