"""Networks of text-to-image models."""
