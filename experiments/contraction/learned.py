"""Trained scores: a network per process, sampled by every sampler, and one network for all.

Every network sees the same thing, whatever the process: with y = x / a, n = std / a, the data's std
d and c = sqrt(n^2 + d^2) it is given y / c and returns F of unit size, and

    s(t, x) = (d F / n - y / c) / (a c),                                                 (1)

the preconditioning of Karras et al. 2022 in the coordinates of a linear process; the denoising
loss is weighted by (c / d)^2, uniform in F. What differs between processes is then the noise seen
in training and the path of the sampler, not the network's units.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ctrl_jax._numerics import expand
from ctrl_jax._typing import Model, ScoreFn
from ctrl_jax.algorithms import DataBatch, make_score_pretraining, uniform_times
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.networks import MLP, DiT, as_model
from ctrl_jax.processes import VE, LinearProcess, grids
from ctrl_jax.processes.parameterization import from_process
from ctrl_jax.runtime import progress
from ctrl_jax.solvers import simulate
from experiments.base_models import train_on
from experiments.contraction.config import Config
from experiments.contraction.data import Task
from experiments.contraction.family import family
from experiments.contraction.measurement import (
    LEARNED_SAMPLERS,
    SAMPLERS,
    Measurement,
    over_seeds,
    reversal,
)
from experiments.study import Conduct

END = 1e-3
TRANSPORTED = ("sub-vp, slow", "contractive sub-vp")


class Learned(NamedTuple):
    """What a learned experiment found.

    Fields:
        measurements: distances to the data.
        score_errors: of each process, root mean square errors of its network against the exact
            score, where that is known: absolute, in units of the noise, relative.
        gap: largest difference between transported samples and the ones they come from, by sampler.
        pictures: samples of the first seed, by process.
        params: the networks.
    """

    measurements: list[Measurement]
    score_errors: dict[str, tuple[float, float, float]]
    gap: dict[str, float]
    pictures: dict[str, np.ndarray]
    params: dict[str, Any]


def score_model(config: Config, process: LinearProcess, task: Task) -> Model:
    """Return the model (1)."""
    options, shape = config.network, task.train.shape[1:]
    sizes = {"width": options.width, "depth": options.depth, "horizon": process.horizon}

    def make_network(rngs: nnx.Rngs) -> nnx.Module:
        if options.architecture == "dit":
            height, width, channels = shape
            return DiT((height, width, channels), patch=options.patch, **sizes, rngs=rngs)
        return MLP(shape, **sizes, rngs=rngs)

    network = as_model(make_network)

    def apply(params, t, x):
        scale, ratio = process.marginal(t).scale, process.noise_to_signal(t)
        size = jnp.sqrt(ratio**2 + task.std**2)
        seen = x / expand(scale * size, x)
        force = expand(task.std / ratio, x) * network.apply(params, t, seen)
        return (force - seen) / expand(scale * size, x)

    return Model(network.init, apply)


def measure(config: Config, task: Task, study: Conduct) -> Learned:
    """Train every process's networks and measure the distance of their samples to the data."""
    names = list(family())
    models = {name: score_model(config, family()[name], task) for name in names}
    found = Learned([], {}, {}, {}, {})
    with progress(len(names), f"{task.name}: training", enabled=config.run.progress) as show:
        for i, name in enumerate(names):
            train = _make_training(config, family()[name], models[name], task)
            found.params[name] = study.once(f"{task.name}-{name}-training", train)
            show(i + 1)
    with progress(len(names), f"{task.name}: sampling", enabled=config.run.progress) as show:
        for i, name in enumerate(names):
            scored = _scored(name, models, found.params)
            distances, found.pictures[name] = _sample(config, task, name, scored, study)
            found.measurements.extend(distances)
            if task.curve is not None:
                own = scored["own"]
                found.score_errors[name] = _score_errors(config, family()[name], task, *own)
            show(i + 1)
    _transport(config, task, models[TRANSPORTED[0]], found, study)
    return found


def _make_training(config: Config, process: LinearProcess, model: Model, task: Task):
    """Return what trains one network per seed in one program, and returns their averages."""
    options, steps = config.network, config.updates()
    schedule = make_schedule(options.learning_rate, steps, warmup=min(100, steps // 2))
    algorithm = make_score_pretraining(
        process,
        model,
        adam(schedule, clip=options.gradient_clip),
        sample_times=uniform_times(process, END * process.horizon),
        weighting=lambda t: 1 + (process.noise_to_signal(t) / task.std) ** 2,
        average_decay=options.average_decay,
    )

    def train(key):
        state = train_on(algorithm, DataBatch(task.train), key, steps=steps, batch=options.batch)
        return state.average

    # One after the other: products with a batch of weights are slow on CPU.
    return partial(jax.jit(lambda keys: jax.lax.map(train, keys)), _keys(config, 0))


def _keys(config: Config, salt: int) -> jax.Array:
    """One key per seed."""
    root = jax.random.fold_in(jax.random.key(config.run.seed), salt)
    return jax.random.split(root, config.learned_seeds)


def _scored(name: str, models: dict[str, Model], params: dict[str, Any]):
    """Return the scores a process is sampled with: its own, and VE's where its noise reaches."""
    process, ve = family()[name], family()["ve"]
    assert isinstance(ve, VE)
    scored = {"own": (models[name], params[name])}
    reached = process.noise_to_signal(jnp.asarray(process.horizon))
    if name != "ve" and reached <= ve.prior_std():
        ve_model = models["ve"]

        def apply(params, t, x):
            return from_process(process, ve, partial(ve_model.apply, params))(t, x)

        scored["shared"] = (Model(ve_model.init, apply), params["ve"])
    return scored


def _sample(
    config: Config, task: Task, name: str, scored, study: Conduct
) -> tuple[list[Measurement], np.ndarray]:
    """Return the distances of every score, sampler and number of steps, and samples to draw."""
    process, steps = family()[name], config.learned_solver_steps
    each = [("own", sampler, n) for sampler in LEARNED_SAMPLERS for n in steps]
    if "shared" in scored:
        each += [("shared", sampler, max(steps)) for sampler in ("euler", "ancestral")]

    def draw(label, sampler, number):
        model, params = scored[label]
        starts = process.prior_std() * _start_noise(config, task)
        drawn = _sampler(config, task, process, sampler, number, model.apply)
        return np.asarray(drawn(params, starts, _keys(config, 2)))

    def make():
        distances, shown = [], None
        for setting in each:
            samples = draw(*setting)
            distances.append([task.distance(seed) for seed in samples])
            if setting[:2] == ("own", "ancestral"):
                shown = samples[0]
        return np.asarray(distances), shown

    picture = np.empty((config.samples, *task.train.shape[1:]), np.float32)
    like = (np.empty((len(each), config.learned_seeds)), picture)
    distances, shown = study.once(f"{task.name}-{name}-samples", make, like)
    return [
        Measurement(task.name, name, sampler, number, label, "prior", *over_seeds(w))
        for (label, sampler, number), w in zip(each, distances, strict=True)
    ], shown


def _start_noise(config: Config, task: Task) -> jax.Array:
    shape = (config.learned_seeds, config.samples, *task.train.shape[1:])
    return jax.random.normal(jax.random.fold_in(jax.random.key(config.run.seed), 1), shape)


def _sampler(config: Config, task: Task, process, sampler: str, steps: int, apply: Callable):
    """Return ``draw(params, starts, keys)``, all with a leading axis of seeds."""
    grid = grids.uniform(process, steps, end=END * process.horizon)

    def draw(inputs):
        params, start, key = inputs
        sde, solver = reversal(process, partial(apply, params), sampler)
        return simulate(key, sde, start, grid, solver=solver, remat=False).states

    return jax.jit(lambda *inputs: jax.lax.map(draw, inputs))


def _score_errors(config: Config, process: LinearProcess, task: Task, model: Model, params):
    """Return root mean square errors of the first seed's network against the exact score."""
    assert task.curve is not None
    first = jax.tree.map(lambda leaf: leaf[0], params)
    times = uniform_times(process, END * process.horizon)(jax.random.key(3), 1024)
    x_t, _ = process.sample_marginal(jax.random.key(4), task.train[:1024], times)
    exact = exact_score(process, task.curve, task.blur)(times, x_t)
    squares, sizes = (
        jnp.sum(jnp.square(part), axis=1)
        for part in (model.apply(first, times, x_t) - exact, exact)
    )
    absolute = jnp.sqrt(jnp.mean(squares))
    noise = jnp.sqrt(jnp.mean(process.marginal(times).std ** 2 * squares))
    relative = jnp.sqrt(jnp.mean(squares) / jnp.mean(sizes))
    return float(absolute), float(noise), float(relative)


def exact_score(process: LinearProcess, curve: jax.Array, blur: float) -> ScoreFn:
    """Return the score of the noised data, points of `curve`, all as likely, with noise `blur`."""

    def score_fn(t, x):
        scale, std = process.marginal(t)

        def one(scale, variance, x):
            square = jnp.sum((x - scale * curve) ** 2, axis=1) / (2 * variance)
            return (scale * (jax.nn.softmax(-square) @ curve) - x) / variance

        return jax.vmap(one)(scale, (scale * blur) ** 2 + std**2, x)

    return score_fn


def _transport(config: Config, task: Task, model: Model, found: Learned, study: Conduct) -> None:
    """Sample sub-VP in the coordinates of contractive sub-VP: X = e^B Y, score e^{-B} s(e^{-B} X).

    Same network, start and noise: whatever differs is the sampler's.
    """
    plain, contractive = (family()[name] for name in TRANSPORTED)

    def growth(t):
        return contractive.marginal(t).scale / plain.marginal(t).scale

    def apply(params, t, x):
        factor = expand(growth(t), x)
        return model.apply(params, t, x / factor) / factor

    params, steps = found.params[TRANSPORTED[0]], config.learned_solver_steps[0]
    starts = plain.prior_std() * _start_noise(config, task)
    final = growth(jnp.asarray(END * plain.horizon))

    def gap_and_distances(sampler):
        ours = _sampler(config, task, plain, sampler, steps, model.apply)
        theirs = _sampler(config, task, contractive, sampler, steps, apply)
        y = ours(params, starts, _keys(config, 2))
        x = theirs(params, starts * growth(jnp.asarray(plain.horizon)), _keys(config, 2)) / final
        w = [task.distance(seed) for seed in np.asarray(x)]
        return [float(jnp.max(jnp.abs(x - y))), *w]

    def make():
        return np.asarray([gap_and_distances(sampler) for sampler in SAMPLERS])

    like = np.empty((len(SAMPLERS), 1 + config.learned_seeds))
    rows = study.once(f"{task.name}-transported", make, like)
    setting = (steps, "transported", "exact")
    for sampler, (gap, *w) in zip(SAMPLERS, rows.tolist(), strict=True):
        found.gap[sampler] = gap
        found.measurements.append(
            Measurement(task.name, TRANSPORTED[1], sampler, *setting, *over_seeds(w))
        )
