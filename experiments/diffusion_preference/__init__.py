"""Annotators who agree on some classes and divide on others, and what learns from them."""
