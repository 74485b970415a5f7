"""One table: every process, every sampler, every parameterization, and the laws they share."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import (
    EDM,
    OU,
    VE,
    VP,
    ContractiveOU,
    ContractiveSubVP,
    ContractiveVP,
    RectifiedFlow,
    SubVP,
    grids,
)
from ctrl_jax.processes import parameterization as parameterization
from ctrl_jax.solvers import (
    BrownianPath,
    ExponentialEuler,
    GaussianSolver,
    PredictorCorrector,
    simulate,
)
from tests.oracles import chains
from tests.solvers.gaussian import MEAN, SOLVERS, VARIANCE, predictions, score_of

PROCESSES = {
    "OU": OU(1.0, 1.0, horizon=3.0),
    "VE": VE(0.01, 10.0),
    "VP": VP(0.1, 10.0),
    "SubVP": SubVP(0.1, 10.0),
    "ContractiveOU": ContractiveOU(1.0, 1.0, horizon=3.0),
    "ContractiveVP": ContractiveVP(0.01, 8.0),
    "ContractiveSubVP": ContractiveSubVP(0.01, 8.0),
    "RectifiedFlow": RectifiedFlow(),
}
VARIANTS = {
    "VE, blurred": VE(0.1, 10.0, zero_start=False),
    "VP, cosine": VP.cosine(beta_max=50.0),
    "EDM": EDM(10.0),
    "EDM, contractive": EDM(10.0, 0.9),
}
ODE_SOLVERS = {"flow: Heun": diffrax.Heun(), "flow: Tsit5": diffrax.Tsit5()}
SAMPLERS = SOLVERS | ODE_SOLVERS
STEPS, BATCH, KEY = 16, 2000, jax.random.key(0)

# Samplers that see time rather than the noise-to-signal ratio want small steps in time, so more.
IN_TIME = {"EulerMaruyama", "SEA", "ShARK", "SRA1", "Heun", *ODE_SOLVERS}
FIRST = "ExponentialEuler(1)"
OURS = (FIRST, "StochasticHeun", "DPMSolverPP2M", "PredictorCorrector")
# Quick are the first sampler on every process, and ours on processes that keep their size, grow,
# and lose the data at the horizon.
KINDS = ("VP", "ContractiveSubVP", "RectifiedFlow")
QUICK = {(process, FIRST) for process in PROCESSES} | {(p, s) for p in KINDS for s in OURS}


def pairs(quick):
    """Every process with every sampler."""
    return pytest.mark.parametrize(
        ("process", "sampler"),
        [
            pytest.param(
                process, s, id=f"{p}-{s}", marks=() if (p, s) in quick else pytest.mark.slow
            )
            for p, process in (PROCESSES | VARIANTS).items()
            for s in SAMPLERS
        ],
    )


every_process = pytest.mark.parametrize(
    "process", [pytest.param(process, id=name) for name, process in (PROCESSES | VARIANTS).items()]
)

# Error of mean and standard deviation, over the latter, that discretization may leave where the law
# of the chain is not known exactly; what is above it by 4.5 standard errors fails (false alarm
# 1.4e-5 a row).
# The corrector goes by the noise that is left: what its ancestral predictor lost where that is
# little, a quarter of the spread on sixteen steps, it cannot give back.
ALLOWED = {"SEA": 0.1, "PredictorCorrector": 0.2}
SECOND_ORDER = 0.03


def set_up(process, name):
    sde, solver = process.reverse(score_of(process)), SAMPLERS[name]
    return (sde.probability_flow() if name in ODE_SOLVERS else sde), solver


def grid_of(process, steps):
    return grids.log_snr(process, steps, end=0.01 * process.horizon)


def law_at_the_end(process, solver, grid):
    """Mean and standard deviation of the chain where its steps are affine kernels, else of what it
    approximates; and the law at the start."""
    scale, std = (np.asarray(c, float) for c in process.marginal(process.forward_time(grid)))
    variance = scale**2 * VARIANCE + std**2
    start = scale[0] * MEAN, variance[0] ** 0.5
    if not isinstance(solver, GaussianSolver):
        return *start, scale[-1] * MEAN, variance[-1] ** 0.5
    kernel = solver.kernel(process, grid[:-1], grid[1:])
    score = -1 / variance[:-1], scale[:-1] * MEAN / variance[:-1]
    means, variances = chains.laws(chains.affine_chain(kernel, score), start[0], variance[0])
    return *start, means[-1], variances[-1] ** 0.5


@pairs(QUICK)
def test_from_the_exact_law_to_the_exact_law(process, sampler):
    """Started from the law at the horizon, every sampler ends at the law at `end`."""
    sde, solver = set_up(process, sampler)
    # The noise-to-signal ratio of a rectified flow falls from 4095: more steps for the same step.
    grid = grid_of(process, 2 * STEPS if isinstance(process, RectifiedFlow) else STEPS)
    if sampler in IN_TIME:
        grid = grids.quadratic(process, 8 * STEPS, end=0.01 * process.horizon)
    start_mean, start_std, mean, std = law_at_the_end(process, solver, grid)
    x_0 = start_mean + start_std * jax.random.normal(KEY, (BATCH // 10, 10))
    path = simulate(KEY, sde, x_0, grid, solver=solver)
    x = np.asarray(path.states, float)
    exact = isinstance(solver, GaussianSolver)
    allowed = 1e-4 if exact else ALLOWED.get(sampler, SECOND_ORDER)
    assert path.ok.all()
    assert abs(x.mean() - mean) < (allowed + 4.5 / np.sqrt(BATCH)) * std
    assert abs(x.std() - std) < (allowed + 4.5 / np.sqrt(2 * BATCH)) * std


# `test_simulation` has all samplers on VP, `processes/test_parameterization` all processes.
@pairs({(process, FIRST) for process in ("VE", "ContractiveSubVP", "RectifiedFlow")})
@pytest.mark.usefixtures("float64")  # the flow begins where a(t) is 2^-12, which magnifies rounding
def test_parameterizations_agree_and_batch_mates_do_not_matter(process, sampler):
    sde, solver = set_up(process, sampler)
    grid, x_0 = grid_of(process, 3), process.prior_std() * jax.random.normal(KEY, (4, 3))
    scores = [sde.score_fn]
    for name, network in predictions(process).items():
        scores.append(getattr(parameterization, f"from_{name}")(process, network))

    @jax.jit
    def ends(x_0):
        def end(which):
            """All of them in one simulation, of which one parameterization is heard."""
            heard = type(sde)(
                process, lambda t, x: jnp.stack([fn(t, x) for fn in scores])[which], sde.noise_level
            )
            return simulate(KEY, heard, x_0, grid, solver=solver).states

        fewer = simulate(KEY, sde, x_0[:2], grid, solver=solver).states
        return fewer, jax.vmap(end)(jnp.arange(len(scores)))

    fewer, (expected, *others) = ends(x_0)
    np.testing.assert_allclose(fewer, expected[:2], rtol=1e-9, atol=1e-9)
    for name, found in zip(predictions(process), others, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7, err_msg=name)


# Structure: contractive sub-VP is e^{B(t)} times sub-VP along the same Brownian motion, so their
# noise-to-signal ratios agree at every t, and a sampler that sees nothing else gives equal samples.
AS_ANOTHER = ("ExponentialEuler(0)", "ExponentialEuler(1)")  # one rule, with eta between them
EQUIVARIANT = {
    name: SOLVERS[name]
    for name in ("ExponentialEuler(.5)", *AS_ANOTHER, "StochasticHeun", "DPMSolverPP2M")
} | {"PredictorCorrector": PredictorCorrector(corrector_steps=2)}


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(solver, id=name, marks=pytest.mark.slow if name in AS_ANOTHER else ())
        for name, solver in EQUIVARIANT.items()
    ],
)
def test_contractive_sub_vp_from_matched_starts_draws_sub_vps_samples(solver):
    x, y, factor = matched(solver)
    np.testing.assert_allclose(x, factor * y, rtol=2e-4, atol=2e-4)


def test_euler_maruyama_tells_contractive_sub_vp_from_sub_vp():
    """What the test above would miss if it could not fail: Euler's step is not equivariant."""
    x, y, _ = matched(SOLVERS["EulerMaruyama"])
    assert np.abs(x - y).max() > 0.05


def matched(solver):
    """Ends of contractive sub-VP and of sub-VP from matched starts, and e^{B} at the end."""
    plain, contractive = SubVP(0.01, 8.0), ContractiveSubVP(0.01, 8.0)
    grid = grid_of(plain, 8)

    @jax.jit
    def ends(y_0):
        growth, factor = (
            contractive.marginal(t).scale / plain.marginal(t).scale
            for t in (jnp.asarray(1.0), jnp.asarray(0.01))
        )
        y = simulate(KEY, plain.reverse(score_of(plain)), y_0, grid, solver=solver)
        sde = contractive.reverse(score_of(contractive))
        x = simulate(KEY, sde, growth * y_0, grid, solver=solver)
        return x.states, y.states, factor

    return map(np.asarray, ends(jax.random.normal(KEY, (16, 3))))


@pytest.mark.slow
@every_process
def test_flow_and_sde_have_the_same_marginals(process):
    """Deterministic and ancestral samples from the same exact start, halfway down: mean and
    variance of 4000 each, at 4.5 standard errors plus 2 % of the spread for the step."""
    sde, grid = (
        process.reverse(score_of(process)),
        grids.quadratic(process, 128, end=0.01 * process.horizon)[:65],
    )
    scale, std = process.marginal(process.horizon - grid)
    spread = np.sqrt(scale**2 * VARIANCE + std**2)
    x_0 = scale[0] * MEAN + spread[0] * jax.random.normal(KEY, (4000, 1))
    flow = simulate(KEY, sde.probability_flow(), x_0, grid, solver=diffrax.Heun()).states
    chain = simulate(KEY, sde, x_0, grid, solver=diffrax.ShARK()).states
    error = 4.5 * np.sqrt(2 / 4000) + 0.02
    assert abs(float(flow.mean() - chain.mean())) < error * spread[-1]
    assert abs(float(flow.std() - chain.std())) < error * spread[-1]


@pytest.mark.slow
def test_the_same_key_is_the_same_path_for_every_solver_that_promises_it():
    """EulerMaruyama and ShARK approximate one strong solution: on the finest of the grids derived
    from one `BrownianPath` they are close, on the coarsest not."""
    process = PROCESSES["VP"]
    sde = process.reverse(score_of(process))
    start = jax.random.normal(KEY, (50, 1))
    path = BrownianPath.draw(KEY, grids.uniform(process, 128, end=0.05), start)
    gaps = []
    for factor in (16, 1):
        coarse = path.coarsen(factor)
        ends = [
            simulate(KEY, sde, start, coarse, solver=solver).states
            for solver in (SOLVERS["EulerMaruyama"], ExponentialEuler(), SOLVERS["ShARK"])
        ]
        gaps.append(max(float(np.abs(end - ends[-1]).mean()) for end in ends))
    assert gaps[1] < gaps[0] / 8, gaps
