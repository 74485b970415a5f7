"""Each lambda weighs the error of its prediction, for every process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._numerics import expand
from ctrl_jax.losses import score_matching, time_weighting
from ctrl_jax.processes import parameterization as parameterization
from tests.processes.one_of_each import PROCESSES, few_by_name


@few_by_name
@pytest.mark.parametrize("prediction", ["noise", "data", "v", "flow"])
def test_weights_of_predictions(name, prediction):
    """A prediction off by e has lambda |s - s'|^2 = |e|^2, whatever the time."""
    process = PROCESSES[name]
    t = jnp.asarray([0.1, 0.5, 0.9]) * process.horizon
    x, guess, error = jax.random.normal(jax.random.key(0), (3, 3, 4))
    wrap = getattr(parameterization, f"from_{prediction}")
    right, wrong = (wrap(process, lambda t, x, g=g: g)(t, x) for g in (guess, guess + error))
    loss = score_matching.explicit(
        wrong, right, weights=getattr(time_weighting, prediction)(process)(t)
    )
    np.testing.assert_allclose(loss, jnp.mean(error**2, axis=1), rtol=2e-3)


@few_by_name
def test_min_snr_between_noise_and_data(name):
    process = PROCESSES[name]
    t = jnp.linspace(0.02, 1.0, 30) * process.latest
    scale, std = process.marginal(t)
    found = time_weighting.min_snr(process, 2.0)(t)
    snr = (scale / std) ** 2
    expected = jnp.minimum(snr, 2.0) * time_weighting.data(process)(t)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(
        time_weighting.relative(process, time_weighting.likelihood(process))(t),
        (process.diffusion(t) / std) ** 2,
        rtol=1e-5,
    )
    always = time_weighting.min_snr(process, 1e9)(t)
    np.testing.assert_allclose(always, time_weighting.noise(process)(t), rtol=1e-6)


def test_a_bad_gamma_is_refused():
    process = next(iter(PROCESSES.values()))
    with pytest.raises(ValueError, match=r"gamma: received 0\.0; it must be above"):
        time_weighting.min_snr(process, 0.0)


def test_relative_weights_are_those_of_denoising():
    process = next(iter(PROCESSES.values()))
    t = jnp.asarray([0.2, 0.6])
    score, noise = jax.random.normal(jax.random.key(1), (2, 2, 3))
    std = process.marginal(t).std
    weighting = time_weighting.likelihood(process)
    found = score_matching.denoising(
        score, noise, std, weights=time_weighting.relative(process, weighting)(t)
    )
    expected = score_matching.explicit(score, -noise / expand(std, noise), weights=weighting(t))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
