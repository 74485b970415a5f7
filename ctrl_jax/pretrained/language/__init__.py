"""Language models from and to Hugging Face folders."""
