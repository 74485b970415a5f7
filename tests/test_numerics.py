"""Where there is no noise a process is differentiable in its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._numerics import square_root
from ctrl_jax.metrics.discrepancy import energy_distance, mean_pairwise
from ctrl_jax.processes import VP, ContractiveOU, ContractiveSubVP, ContractiveVP, grids
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, simulate
from ctrl_jax.solvers.consistency_sampling import renoise
from tests.processes.one_of_each import PROCESSES


def test_it_is_the_square_root():
    x = jnp.asarray([0.0, 1e-30, 4.0])
    np.testing.assert_allclose(square_root(x), np.sqrt(np.asarray(x)))
    np.testing.assert_allclose(jax.vmap(jax.grad(square_root))(x), [0.0, 0.5e15, 0.25], rtol=1e-6)
    assert np.isnan(square_root(jnp.asarray(-1.0))) and np.isnan(square_root(jnp.asarray(jnp.nan)))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=list(PROCESSES))
def test_parameters_have_finite_gradients_without_noise(process, unchecked):
    def total(process):
        t = jnp.asarray([0.0, 0.4])
        return sum(jnp.sum(part) for part in (*process.marginal(t), process.diffusion(t)))

    traced = jax.tree.map(jnp.asarray, process)
    for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(traced)):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
    "solver", [EulerMaruyama(), ExponentialEuler()], ids=["euler", "ancestral"]
)
def test_a_sampler_down_to_no_noise_is_differentiable_in_the_process(solver, unchecked):
    """Data N(0, 1) keep their law under VP, and their score -x does not depend on the rates."""

    @jax.jit
    def end(beta_max, grid):
        sde = VP(0.1, beta_max).reverse(lambda t, x: -x)
        states = simulate(jax.random.key(0), sde, jnp.ones((3, 2)), grid, solver=solver).states
        return jnp.sum(states**2)

    grid = grids.uniform(VP(), 8, end=0.0)
    slope = jax.grad(end)(5.0, grid)
    numeric = (end(5.01, grid) - end(4.99, grid)) / 0.02
    np.testing.assert_allclose(slope, numeric, rtol=2e-2)


def test_a_step_that_takes_no_noise_out_is_differentiable_in_the_process(unchecked):
    """As where the ratio of a contractive process has flattened, in float32."""

    def std(beta_max):
        r = jnp.asarray(0.1)
        return ExponentialEuler().kernel(ContractiveVP(0.01, beta_max), r, r).std

    assert float(std(8.0)) == 0 and bool(jnp.isfinite(jax.grad(std)(8.0)))


def test_noise_again_to_the_same_time_is_differentiable_in_the_process(unchecked):
    def total(beta_max):
        x = jnp.ones((2, 1))
        return jnp.sum(renoise(VP(0.1, beta_max), x, x, end=0.1, t=jnp.asarray(0.1)))

    assert bool(jnp.isfinite(jax.grad(total)(8.0)))


@pytest.mark.parametrize("distance", [energy_distance, lambda x, y: mean_pairwise(x)])
def test_points_that_coincide_have_a_gradient(distance):
    x = jnp.asarray([[0.0, 1.0], [0.0, 1.0], [2.0, 0.0]])
    slope = np.asarray(jax.jit(jax.grad(distance))(x, x[:2] + 0.5))
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: ContractiveOU(horizon=45.0),
        lambda: ContractiveVP(1.0, 200.0),
        lambda: ContractiveSubVP(1.0, 100.0),
        lambda: ContractiveSubVP(44.0, 44.0),  # by the rate before e^{2B}
        lambda: ContractiveOU(1.0, 10.0, horizon=43.0),
        lambda: ContractiveVP.cosine(beta_max=1e30),
        lambda: ContractiveSubVP.cosine(beta_max=1e20),
    ],
)
def test_growth_that_overflows_is_refused(make):
    with pytest.raises(ValueError, match="shorten the horizon, lower the rate"):
        make()
