"""DDIM steps of a discrete process in float64 NumPy, as diffusers' `DDIMScheduler` takes them.

Leading time steps k_i = i (N // n) + offset, falling; noise prediction; below the first step the
signal is that of step 0 (`set_alpha_to_one=False`). Song, Meng and Ermon 2021, eq. 12 and 16.
"""

import numpy as np


def scaled_linear_signal(start=0.00085, end=0.012, steps=1000):
    """alpha-bar of every discrete step: the roots of the betas are evenly spaced."""
    return np.cumprod(1 - np.linspace(np.sqrt(start), np.sqrt(end), steps) ** 2)


def leading_steps(steps, number, offset=1):
    """The discrete steps that are visited, the last one first."""
    return (np.arange(number) * (steps // number))[::-1] + offset


def trajectory(signal, visited, noise_fn, x, eta, z):
    """States after each step; z holds the normals of every step."""
    stride, states = visited[0] - visited[1], []
    for k, normal in zip(visited, z, strict=True):
        now, before = signal[k], signal[k - stride] if k >= stride else signal[0]
        noise = noise_fn(k, x)
        data = (x - np.sqrt(1 - now) * noise) / np.sqrt(now)
        variance = (1 - before) / (1 - now) * (1 - now / before)
        direction = np.sqrt(1 - before - eta**2 * variance) * noise
        x = np.sqrt(before) * data + direction + eta * np.sqrt(variance) * normal
        states.append(x)
    return np.stack(states)
