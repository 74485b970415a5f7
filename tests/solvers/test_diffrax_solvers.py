"""Every solver of diffrax is taken with its defaults, or refused in one line."""

import inspect

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import grids
from ctrl_jax.solvers import sample, simulate
from tests.solvers.gaussian import MEAN, PROCESS, VARIANCE, exact_score

KEY = jax.random.key(0)
EVERY = {
    name: kind
    for name, kind in inspect.getmembers(diffrax, inspect.isclass)
    if issubclass(kind, diffrax.AbstractSolver) and not name.startswith("Abstract")
}
REFUSED = {  # on the reverse SDE and on its flow
    "ALIGN": (True, True),
    "QUICSORT": (True, True),
    "ShOULD": (True, True),
    "HalfSolver": (True, False),
    "EulerHeun": (False, True),
}


def made(name):
    return diffrax.HalfSolver(diffrax.Euler()) if name == "HalfSolver" else EVERY[name]()


def test_these_are_diffraxs_solvers():
    assert {"Kvaerno3", "ImplicitEuler", "ItoMilstein", "Tsit5", *REFUSED} <= set(EVERY)


@pytest.mark.parametrize("noise_level", [0.0, 1.0])
@pytest.mark.parametrize("name", EVERY)
def test_none_fails_from_within(name, noise_level):
    """Abstractly evaluated: what is refused is a ValueError of ours, the rest has the shape."""

    def run():
        return sample(KEY, PROCESS, exact_score, (4, 2), steps=3, solver=made(name), **level)

    level = {"noise_level": noise_level}
    try:
        assert jax.eval_shape(run).shape == (4, 2)
        refused = False
    except ValueError as error:
        assert str(error).startswith("solver: received ")
        refused = True
    if name in REFUSED:
        assert refused == REFUSED[name][0 if noise_level else 1]


@pytest.mark.parametrize(
    "name", ["ImplicitEuler", "Kvaerno3", pytest.param("Kvaerno5", marks=pytest.mark.slow)]
)
def test_implicit_solvers_solve_the_flow_with_their_defaults(name):
    """To the Gaussian's quantiles: within Euler's error, and to 1e-3 for the higher orders."""
    sde = PROCESS.reverse(exact_score).probability_flow()
    grid = grids.log_snr(PROCESS, 40, end=0.05)
    scale, std = (np.asarray(c, float) for c in PROCESS.marginal(jnp.asarray([1.0, 0.05])))
    spread, x_0 = np.sqrt(scale**2 * VARIANCE + std**2), np.linspace(-2.0, 2.0, 5)[:, None]
    path = simulate(KEY, sde, jnp.asarray(x_0, jnp.float32), grid, solver=EVERY[name]())
    expected = scale[1] * MEAN + (x_0 - scale[0] * MEAN) * spread[1] / spread[0]
    assert path.ok.all()
    tolerance = 0.1 if name == "ImplicitEuler" else 1e-3
    np.testing.assert_allclose(path.states, expected, atol=tolerance)


@pytest.mark.parametrize("name", ["ItoMilstein", "StratonovichMilstein"])
def test_milsteins_step_is_eulers_in_any_size(name):
    """The noise is additive; their own derivative of it would take two terabytes here."""
    sde, grid = PROCESS.reverse(exact_score), jnp.asarray([0.0, 0.2, 0.5])
    x_0 = jax.random.normal(KEY, (4000, 2))
    found, euler = (
        simulate(KEY, sde, x_0, grid, solver=solver).states
        for solver in (EVERY[name](), diffrax.Euler())
    )
    np.testing.assert_array_equal(found, euler)
