"""Drawing samples: the reversal of a process simulated from its prior."""

import diffrax
import jax
from jaxtyping import Array, Float

from ctrl_jax._checks import check_all_positive, check_shape
from ctrl_jax._door import at_the_door
from ctrl_jax._typing import ScoreFn
from ctrl_jax.processes import LinearProcess, Prediction, grids
from ctrl_jax.solvers.exponential_euler import ExponentialEuler
from ctrl_jax.solvers.reverse_solver import SDE_SOLVERS
from ctrl_jax.solvers.simulation import simulate


@at_the_door
def sample(
    key: Array,
    process: LinearProcess,
    score_fn: ScoreFn,
    shape: tuple[int, ...],
    *,
    steps: int = 50,
    grid: Float[Array, " points"] | None = None,
    solver: diffrax.AbstractSolver | None = None,
    noise_level: float | None = None,
    start_std: Float[Array, ""] | float | None = None,
    prediction: Prediction = "score",
    conditions: tuple[Array, ...] = (),
) -> Float[Array, "batch ..."]:
    """Draw samples by simulating the reversal of `process` from its prior.

    Args:
        key: PRNG key.
        process: the forward process.
        score_fn: ``score_fn(t, x, *conditions)``, t the forward time.
        shape: shape of the result, the batch first.
        steps: number of steps of the default grid, `grids.log_snr`.
        grid: reverse times (`processes.grids`), in place of `steps`.
        solver: a solver of this library or of diffrax; the ancestral `ExponentialEuler` by
            default.
        noise_level: of the `ReverseSDE`: 0 for the probability flow, 1 for the reversal of the
            process; by default 0 with solvers that are for ODEs only, else 1. `diffrax.Euler` and
            `diffrax.Heun` serve both.
        start_std: standard deviation of the start, `process.prior_std()` by default.
        prediction: what `score_fn` returns, "score", "noise", "data", "v" or "flow".
        conditions: arrays with leading axis batch, handed to `score_fn`.

    Returns:
        Samples of the given shape, float32, in units of the data; `simulate` tells whether they are
        finite.

    Raises:
        ValueError: `start_std` is not positive, or a shape is no shape; `simulate` and the grid
            refuse the rest.
    """
    check_shape(shape)
    grid = grids.log_snr(process, steps) if grid is None else grid
    start_key, path_key = jax.random.split(key)
    solver = solver or ExponentialEuler()
    if noise_level is None:
        noise_level = 1.0 if isinstance(solver, SDE_SOLVERS) else 0.0
    sde = process.reverse(
        lambda t, x: score_fn(t, x, *conditions), noise_level=noise_level, prediction=prediction
    )
    start_std = process.prior_std() if start_std is None else start_std
    check_all_positive("sample", start_std=start_std)
    x_0 = start_std * jax.random.normal(start_key, shape)
    return process.unscale(simulate(path_key, sde, x_0, grid, solver=solver).states)
