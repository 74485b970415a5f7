"""Commands that users run on their own models: `ctrl-jax --help` lists them."""
