"""Pipelines of pictures in the layout of diffusers: folders in, folders out."""
