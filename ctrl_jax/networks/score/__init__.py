"""Networks that predict noise, data, a score or a velocity."""
