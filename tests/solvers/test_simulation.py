"""`simulate`: laws over every solver and parameterization, and the promises of its page."""

from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ctrl_jax.processes import parameterization as parameterization
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, Path, sample, simulate
from tests.solvers.gaussian import (
    DETERMINISTIC,
    PROCESS,
    SOLVERS,
    exact_score,
    oracle_chain,
    predictions,
    uniform_grid,
)

# SEA, SRA1 and Heun are stepped as ShARK is; their orders and laws are tested elsewhere.
SOLVERS = {name: s for name, s in SOLVERS.items() if name not in ("SEA", "SRA1", "Heun")}
LIKE_ANOTHER = ("ExponentialEuler(1)", "ExponentialEuler(0)")  # as with eta between them
EVERY = [
    pytest.param(name, marks=pytest.mark.slow if name in LIKE_ANOTHER else ()) for name in SOLVERS
]


# Every row is one score: add a parameterization or a solver to its table and all laws apply.
SCORES = {"score": exact_score} | {
    name: getattr(parameterization, f"from_{name}")(PROCESS, network)
    for name, network in predictions(PROCESS).items()
}
GRID = uniform_grid(6)
KEY = jax.random.key(5)


def start(batch, key=0):
    return jax.random.normal(jax.random.key(key), (8, 3))[:batch]


def run(solver, x_0, score_fn=exact_score, key=KEY, **options):
    return simulate(key, PROCESS.reverse(score_fn), x_0, GRID, solver=solver, **options)


class Solved(NamedTuple):
    """A solver, its paths of four and of eight, its ends by parameterization and by key."""

    solver: Any
    four: Path
    path: Path
    ends: dict
    by_key: jax.Array


@pytest.fixture(scope="module", params=EVERY)
def solved(request):
    solver = SOLVERS[request.param]

    @jax.jit
    def all_at_once(x_0, keys):
        def end(which):
            """All scores in one simulation, of which one is heard."""
            return run(
                solver, x_0, lambda t, x: jnp.stack([fn(t, x) for fn in SCORES.values()])[which]
            ).states

        paths = [run(solver, x_0[:n], save="path") for n in (4, 8)]
        by_key = jax.vmap(lambda key: run(solver, x_0[:2], key=key).states)(keys)
        return *paths, jax.vmap(end)(jnp.arange(len(SCORES))), by_key

    four, path, ends, by_key = all_at_once(start(8), jnp.stack([jax.random.key(7), KEY]))
    return Solved(solver, four, path, dict(zip(SCORES, ends, strict=True)), by_key)


def test_parameterizations_agree(solved):
    for name, end in solved.ends.items():
        np.testing.assert_allclose(end, solved.ends["score"], rtol=1e-4, atol=1e-5, err_msg=name)


def test_noise_does_not_depend_on_the_batch_size(solved):
    np.testing.assert_array_equal(solved.four.noise, solved.path.noise[:, :4])


def test_no_sample_depends_on_its_batch_mates(solved):
    found, expected = solved.four.states, solved.path.states
    np.testing.assert_allclose(found, expected[:, :4], rtol=1e-5, atol=1e-6)


def test_vmap_over_keys_is_a_loop_over_keys(solved):
    other, same = np.asarray(solved.by_key)
    np.testing.assert_allclose(same, solved.path.states[-1, :2], rtol=1e-5, atol=1e-6)
    deterministic = solved.solver in [SOLVERS[name] for name in DETERMINISTIC]
    assert np.allclose(same, other) == deterministic


def test_shapes_and_the_last_state(solved):
    solver, path = solved.solver, solved.path
    assert path.states.shape == (7, 8, 3)
    assert path.noise.shape == (6, 8, 3)
    np.testing.assert_array_equal(path.times, GRID)
    np.testing.assert_array_equal(path.states[0], start(8))
    np.testing.assert_allclose(path.states[-1], solved.ends["score"], rtol=1e-5, atol=1e-6)
    assert path.ok.all()
    gaussian = isinstance(solver, EulerMaruyama) or getattr(solver, "eta", 0) > 0
    assert (path.log_probs is not None) == gaussian


def test_log_probs_are_the_normal_densities_of_the_steps(solved):
    solver, path = solved.solver, solved.path
    if path.log_probs is None:
        pytest.skip("the steps have no Gaussian law")
    chain = oracle_chain(solver, GRID)
    states = np.asarray(path.states, float)
    for i in range(6):
        score = chain.score_slope[i] * states[i] + chain.score_intercept[i]
        mean = chain.state_gain[i] * states[i] + chain.action_gain[i] * score
        expected = scipy.stats.norm.logpdf(states[i + 1], mean, chain.std[i]).sum(axis=-1)
        np.testing.assert_allclose(path.log_probs[i], expected, rtol=1e-4, atol=1e-4)


# Solvers of one step, of a memory, and of several evaluations.
OF_EACH_KIND = ("EulerMaruyama", "DPMSolverPP2M", "PredictorCorrector")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in OF_EACH_KIND else pytest.mark.slow) for n in SOLVERS],
)
def test_reverse_gradients_do_not_depend_on_remat(name):
    solver = SOLVERS[name]

    def loss(weight, x_0, remat):
        def score_fn(t, x):
            return weight * exact_score(t, x)

        sde = PROCESS.reverse(score_fn)
        return jnp.sum(simulate(KEY, sde, x_0, GRID[:3], solver=solver, remat=remat).states ** 2)

    with jax.disable_jit():  # compiling takes longer than the arithmetic
        (stored, kept) = (
            jax.grad(loss, (0, 1))(jnp.asarray(1.1), start(4), remat) for remat in (True, False)
        )
    np.testing.assert_allclose(stored[0], kept[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stored[1], kept[1], rtol=1e-4, atol=1e-5)
    assert jnp.isfinite(stored[1]).all()


def test_reverse_gradients_are_those_of_the_chain():
    """d x_n / d x_0 of an affine chain is the product of its gains, the same for every example."""
    slope = jax.grad(lambda x: run(EulerMaruyama(), x).states.sum())(start(4))
    chain = oracle_chain(EulerMaruyama(), GRID)
    gains = chain.state_gain + chain.action_gain * chain.score_slope
    np.testing.assert_allclose(slope, np.prod(gains), rtol=1e-4)


def test_noise_is_keyed_by_step():
    """normal(fold_in(key, step), shape), as documented, and so whatever the grid."""
    path = run(EulerMaruyama(), start(4), save="path")
    assert path.noise is not None
    expected = jax.random.normal(jax.random.fold_in(KEY, 3), (4, 3))
    np.testing.assert_array_equal(path.noise[3], expected)


def test_an_ode_takes_no_noise():
    sde = PROCESS.reverse(exact_score).probability_flow()
    path = simulate(KEY, sde, start(4), GRID, solver=diffrax.Heun(), save="path")
    other = simulate(jax.random.key(9), sde, start(4), GRID, solver=diffrax.Heun())
    np.testing.assert_array_equal(path.states[-1], other.states)
    assert path.log_probs is None


def test_a_step_that_fails_is_flagged():
    """An implicit solver whose iteration may not converge says so, and nothing throws."""
    sde = PROCESS.reverse(exact_score).probability_flow()
    never = diffrax.VeryChord(rtol=0.0, atol=0.0, norm=lambda x: jnp.inf + 0 * jnp.max(x))
    path = simulate(KEY, sde, start(2), GRID, solver=diffrax.ImplicitEuler(root_finder=never))
    assert not path.ok.any()


def test_a_state_that_is_not_finite_is_flagged_for_its_example_only():
    x_0 = start(4).at[2, 1].set(jnp.nan)
    path = run(EulerMaruyama(), x_0)
    np.testing.assert_array_equal(path.ok, [True, True, False, True])
    assert jnp.isfinite(path.states[jnp.asarray([0, 1, 3])]).all()


def test_float64_follows_the_start():
    with jax.enable_x64(True):
        x_0 = jnp.ones((2, 3))
        path = simulate(
            KEY,
            PROCESS.reverse(exact_score),
            x_0,
            jnp.asarray(GRID, float),
            solver=ExponentialEuler(),
        )
    assert path.states.dtype == np.float64


def test_sample_passes_conditions_on():
    label = jnp.asarray([0.0, 1.0])

    def score_fn(t, x, label):
        return exact_score(t, x - label[:, None])

    x = sample(KEY, PROCESS, score_fn, (2, 3), steps=4, conditions=(label,))
    shifted = sample(KEY, PROCESS, score_fn, (2, 3), steps=4, conditions=(label + 1,))
    assert x.shape == (2, 3)
    assert x.dtype == jnp.float32
    assert (shifted > x).all()


def test_sample_solves_the_probability_flow_with_an_ode_solver():
    flow = sample(KEY, PROCESS, exact_score, (3, 2), grid=GRID, solver=diffrax.Tsit5())
    start_key, _ = jax.random.split(KEY)
    x_0 = jax.random.normal(start_key, (3, 2))
    sde = PROCESS.reverse(exact_score).probability_flow()
    expected = simulate(KEY, sde, x_0, GRID, solver=diffrax.Tsit5()).states
    np.testing.assert_allclose(flow, expected, rtol=1e-5)


def test_sample_makes_its_own_grid_under_jit():
    def draw(key):
        return sample(key, PROCESS, exact_score, (3, 2), steps=4)

    np.testing.assert_allclose(jax.jit(draw)(KEY), draw(KEY), rtol=1e-4, atol=1e-5)


def test_errors_at_the_door(unchecked):
    sde = PROCESS.reverse(exact_score)
    with pytest.raises(ValueError, match=r"save: received 'all'; .*; give last\|path"):
        run(EulerMaruyama(), start(2), save="all")
    with pytest.raises(ValueError, match=r"grid.shape: received \(1,\); .* at least two"):
        simulate(KEY, sde, start(2), GRID[:1], solver=EulerMaruyama())
    with pytest.raises(ValueError, match=r"grid: received float32\[1, 7\]; its shape must be"):
        simulate(KEY, sde, start(2), GRID[None], solver=EulerMaruyama())
    with pytest.raises(ValueError, match=r"solver: received 'Tsit5'; it is for ODEs; take"):
        run(diffrax.Tsit5(), start(2))
    with pytest.raises(ValueError, match=r"solver: received 'ShARK'; it is for SDEs only"):
        simulate(KEY, sde.probability_flow(), start(2), GRID, solver=diffrax.ShARK())
    with pytest.raises(ValueError, match=r"x_0: received 1.0; its shape must be"):
        simulate(KEY, sde, jnp.asarray(1.0), GRID, solver=EulerMaruyama())
