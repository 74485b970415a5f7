"""Training of the score network, and its state after any number of updates."""

from collections.abc import Callable

import jax
import numpy as np
import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Algorithm, RunState, make_score_pretraining, uniform_times
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.runtime import CountTraces, own_part
from experiments.cifar10.config import Config, Optimization
from experiments.cifar10.data import make_batches
from experiments.study import Conduct


def make_optimizer(options: Optimization) -> optax.GradientTransformation:
    """Return Adam behind a clip of the gradient's norm, with a linear warm-up."""
    rate = make_schedule(options.learning_rate, 0, "constant", warmup=options.warmup)
    return adam(rate, clip=options.gradient_clip)


def make_algorithm(config: Config, model: Model) -> Algorithm:
    """Return the training of a score network that the options name."""
    options, process = config.optimization, config.spec().process()
    return make_score_pretraining(
        process,
        model,
        make_optimizer(options),
        sample_times=uniform_times(process, options.start),
        average_decay=options.average_decay,
    )


def train_score(
    config: Config,
    model: Model,
    images: np.ndarray,
    study: Conduct,
    snapshot: Callable[[int, RunState], dict],
) -> tuple[RunState, int]:
    """Run the main loop; return its last state and how often the update was traced."""
    options, algorithm = config.optimization, make_algorithm(config, model)
    step = CountTraces(algorithm.step)
    batches = make_batches(images, options.batch, config.run.seed, flips=options.flips)
    state = study.train(
        step,
        jax.jit(algorithm.init)(jax.random.key(config.run.seed)),
        lambda k: own_part(study.mesh, batches(k)),
        config.updates(),
        fetch_every=config.fetch_every,
        checkpoint_every=config.checkpoint_every,
        evaluate_every=config.snapshot_every,
        evaluate=snapshot if config.snapshot_every else None,
        description=f"NCSN++, {config.process}",
    )
    return state, step.traces
