"""Score-matching objectives: what they estimate and what they cost."""
