"""Drawing samples: from a run of this library, and from a pipeline of diffusers."""
