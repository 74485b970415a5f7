"""The noise of flows in the field's unit: published steps, and the laws that they reach.

The published steps (Flow-GRPO 2505.05470 and its code, Flow-CPS 2509.05952) are written here again
in NumPy, in their own unit: sigma falls from 1 to 0 and u = noise - data.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import RectifiedFlow, flow_noise_level
from ctrl_jax.solvers import CoefficientsPreserving, EulerMaruyama, ExponentialEuler, simulate

PROCESS, MEAN, VARIANCE = RectifiedFlow(), 1.5, 0.25
ETAS, SHIFTS = (0.3, 0.7, 1.0), (1.0, 3.0)


def shifted(steps: int, shift: float) -> np.ndarray:
    """The times of a flow model's scheduler, from 1 to 0."""
    sigma = np.linspace(1, 0, steps + 1)
    return shift * sigma / (1 + (shift - 1) * sigma)


def flow_sde(sigma, eta):
    """Gains of x and u, and std; the first step reads 1 - sigma at the second time."""
    now, dt = sigma[:-1], np.diff(sigma)
    left = 1 - np.where(now == 1, sigma[1], now)
    noise = eta * np.sqrt(now / left)
    gain = noise**2 / (2 * now)
    return 1 + gain * dt, (1 + gain * (1 - now)) * dt, noise * np.sqrt(-dt)


def renewed(sigma, std):
    """The step through x_0 = x - sigma u and the noise x + (1 - sigma) u."""
    now, then = sigma[:-1], sigma[1:]
    kept = np.sqrt(then**2 - std**2)
    return (1 - then) + kept, kept * (1 - now) - (1 - then) * now, std


def flow_cps(sigma, eta):
    return renewed(sigma, sigma[1:] * np.sin(eta * np.pi / 2))


def ddim(sigma, eta):
    """Posterior variance of x_{t'} given x_t and x_0, times eta^2."""
    now, then = sigma[:-1], sigma[1:]
    ratio = (1 - now) / (1 - then)
    return renewed(sigma, eta * then / now * np.sqrt(now**2 - ratio**2 * then**2))


def sde_solver(eta):
    return EulerMaruyama(clamped=True), flow_noise_level(eta)


CASES = {
    "flow-sde": (flow_sde, sde_solver),
    "flow-cps": (flow_cps, lambda eta: (CoefficientsPreserving(eta), 1.0)),
    "ddim": (ddim, lambda eta: (ExponentialEuler(eta), 1.0)),
}


def kernel_of(name, sigma, eta):
    solver, level = CASES[name][1](eta)
    grid = 1 - jnp.asarray(sigma)
    found = solver.kernel(PROCESS, grid[:-1], grid[1:], noise_level=level, prediction="flow")
    return tuple(found)


@pytest.fixture(scope="module")
def kernels():
    """Those of every case on grids of 8, 160 and 320 steps, in float64, by one program."""
    with jax.enable_x64(True):
        make = jax.jit(
            lambda grids: {
                (name, eta, place): kernel_of(name, grid, eta)
                for name in CASES
                for eta in ETAS
                for place, grid in grids.items()
            }
        )
        grids = {f"{n}, {s}": jnp.asarray(shifted(n, s)) for n in (8, 160, 320) for s in SHIFTS}
        return jax.tree.map(np.asarray, make(grids))


@pytest.mark.parametrize("name", CASES)
def test_kernels_are_the_published_steps(name, kernels):
    """The first step, from pure noise, among them."""
    for eta in ETAS:
        for shift in SHIFTS:
            found = kernels[name, eta, f"8, {shift}"]
            expected = CASES[name][0](shifted(8, shift), eta)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def deviation(kernel, sigma, variance):
    """W2 of the chain's last law to N(MEAN, variance) of the data, driven by their exact flow."""
    mean, var = 0.0, 1.0
    for t, state, action, std in zip(sigma[:-1], *kernel, strict=True):
        kept = (1 - t) * variance / ((1 - t) ** 2 * variance + t**2)
        slope, shift = (1 - kept) / t, -MEAN * (1 - kept * (1 - t)) / t
        gain = state + action * slope
        mean, var = gain * mean + action * shift, gain**2 * var + std**2
    return np.hypot(mean - MEAN, np.sqrt(var) - np.sqrt(variance))


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("eta", ETAS)
def test_which_laws_are_reached(eta, shift, kernels):
    """DDIM's family of every stochasticity reaches the data at order one and the flow SDE by 320
    steps; a constant share of new noise does not, however many steps there are."""
    error = {
        (name, n): deviation(kernels[name, eta, f"{n}, {shift}"], shifted(n, shift), VARIANCE)
        for name in CASES
        for n in (160, 320)
    }
    assert error["ddim", 320] < 0.012
    assert 0.49 < error["ddim", 320] / error["ddim", 160] < 0.56
    assert error["flow-sde", 320] < 0.004
    kept = {0.3: 0.015, 0.7: 0.07, 1.0: 0.14}[eta]
    assert error["flow-cps", 160] > error["flow-cps", 320] > kept


def test_a_point_is_kept_by_steps_that_keep_the_coefficients(kernels):
    """After the seventh of 8 steps the law is N((1 - t) m, t^2), which Euler's steps miss."""
    sigma = shifted(8, 3.0)
    for name in CASES:
        mean, var = 0.0, 1.0
        steps = zip(sigma[:-1], *kernels[name, 0.7, "8, 3.0"], strict=True)
        for t, state, action, std in list(steps)[:7]:
            gain = state + action / t
            mean, var = gain * mean - action * MEAN / t, gain**2 * var + std**2
        error = abs(mean / ((1 - sigma[7]) * MEAN) - 1), abs(np.sqrt(var) / sigma[7] - 1)
        assert max(error) < 1e-9 if name != "flow-sde" else max(error) > 0.05


def test_a_clamped_step_is_its_kernel_and_only_the_first_one_differs():
    grid, level = 1 - jnp.asarray(shifted(4, 3.0), jnp.float32), flow_noise_level(0.7)
    solver, x_0 = EulerMaruyama(clamped=True), jnp.asarray([[0.3, -2.0], [1.0, 0.1]])
    sde = PROCESS.reverse(lambda t, x: 0.5 * x - t, noise_level=level, prediction="flow")
    path = simulate(jax.random.key(0), sde, x_0, grid, solver=solver, save="path")
    kernel = solver.kernel(PROCESS, grid[:-1], grid[1:], noise_level=level, prediction="flow")
    assert path.noise is not None and bool(path.ok.all())
    for i in range(4):
        x, at = path.states[i], jax.tree.map(lambda c, i=i: c[i], kernel)
        expected = at.mean(x, 0.5 * x - (1 - grid[i])) + at.std * path.noise[i]
        np.testing.assert_allclose(path.states[i + 1], expected, rtol=1e-5, atol=1e-6)
    plain = EulerMaruyama().kernel(
        PROCESS, grid[1:-1], grid[2:], noise_level=level, prediction="flow"
    )
    for a, b in zip(plain, kernel, strict=True):
        np.testing.assert_array_equal(a, b[1:])
    with pytest.raises(ValueError, match=r"solver: .*EulerMaruyama\(clamped=True\)"):
        simulate(jax.random.key(0), sde, x_0, grid, solver=EulerMaruyama())


def test_the_level_is_refused_below_zero(unchecked):
    assert flow_noise_level(1) == pytest.approx(2**-0.5)
    with pytest.raises(ValueError, match=r"eta: received -0\.1"):
        flow_noise_level(-0.1)
