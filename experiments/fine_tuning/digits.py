"""The task on images: a small diffusion model, a hidden annotator, a reward from its choices.

Every stage leaves its result in the run's folder, so that a resumed run finds it again:
``pretrained/`` (the base model) and ``reward/`` (the reward network).
"""

import dataclasses
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrl_jax._typing import Model, Params, RewardFn, expand
from ctrl_jax.algorithms import (
    DataBatch,
    Pairs,
    make_reward_learning,
    make_score_pretraining,
    uniform_times,
)
from ctrl_jax.metrics import distances
from ctrl_jax.networks import DiffusionSpec, ValueMLP, as_model
from ctrl_jax.processes import LinearProcess, grids
from ctrl_jax.rewards import learned, standardised
from ctrl_jax.runtime import (
    Checkpoints,
    LoopOptions,
    load_callable,
    load_digits,
    load_folder,
    refuse,
    state_digest,
    train,
    versions,
)
from ctrl_jax.runtime.data import Digits
from ctrl_jax.runtime.saved_models import load_model, save_model
from ctrl_jax.solvers import sample
from experiments.fine_tuning.annotator import Annotator
from experiments.fine_tuning.config import Config
from experiments.fine_tuning.task import Task

CACHE = Path("runs/pretrained")


def make_task(config: Config, folder: Path, mesh) -> Task:
    """Return the task of `config`, its stages kept in `folder`.

    Raises:
        ValueError: the data or the reward cannot be used; the message says why.
    """
    digits = _load(config)
    shape = digits.train_images.shape[1:]
    spec = config.model
    params = _pretrain(config, digits.train_images, folder, mesh)
    model = spec.model(shape, config.run.dtype)
    base = _base_sampler(config, spec, model, params, shape)
    annotator = _annotator(config, digits)
    if config.reward is None:
        assert annotator is not None
        reward_fn, facts = _learned_reward(config, annotator, base, folder, shape)
    else:
        reward_fn, facts = _user_reward(config.reward, base)
    if annotator is None:
        threshold = float(np.quantile(np.asarray(reward_fn(base(3, 8192))), 0.9))
        success_fn = _above(reward_fn, threshold)
        facts["success/threshold"] = threshold
        real = None
    else:
        success_fn = annotator.success
        real = digits.train_images[digits.train_labels == config.target_class]
        facts["annotator/accuracy"] = annotator.accuracy(digits.train_images, digits.train_labels)
    facts["diversity/real"] = None if real is None else diversity(real)
    fixed = Model(lambda key: params, model.apply)
    return Task(
        process=spec.process(),
        shape=shape,
        reference=fixed,
        policy=fixed,
        value=denoising_value(spec.process(), fixed, params, shape),
        reward_fn=reward_fn,
        success_fn=success_fn,
        diversity_fn=diversity,
        end=spec.end,
        facts=facts,
    )


def denoising_value(process: LinearProcess, base: Model, params: Params, shape) -> Model:
    """Return a value network that sees the state beside what the base model denoises it to.

    What a noisy state is worth depends on the image it will become, and the base model has already
    learned that; sequel of the paper: arXiv 2502.01819.
    """
    network = as_model(lambda rngs: ValueMLP((2, *shape), width=128, depth=2, rngs=rngs))

    def observe(t, x, *conditions):
        scale, std = process.marginal(t)
        score = base.apply(params, t, x, *conditions)
        denoised = (x + expand(std**2, x) * score) / expand(scale, x)
        return jnp.stack([x, jnp.clip(denoised, -1.5, 1.5)], axis=1)

    def apply(value_params, t, observation, *conditions):
        return network.apply(value_params, t, observation)

    return Model(network.init, apply, observe)


def diversity(images: np.ndarray) -> float:
    """Return the mean pairwise distance of at most 2000 images."""
    return float(distances.mean_pairwise(jnp.asarray(images[:2000])))


def _load(config: Config) -> Digits:
    if config.data is None:
        return load_digits()
    found = load_folder(config.data)
    labels = found.labels
    if labels is None and config.reward is None:
        raise refuse(
            "data",
            config.data,
            "without labels there is no annotator to learn a reward from",
            "add labels (class subfolders, or the key labels), or give --reward module:function",
        )
    order = np.random.default_rng(0).permutation(len(found.images))
    train_part, held_out = np.array_split(order, 2)
    empty = np.zeros(len(found.images), np.int32) if labels is None else labels
    images = found.images
    return Digits(images[train_part], empty[train_part], images[held_out], empty[held_out])


def _annotator(config: Config, digits: Digits) -> Annotator | None:
    if len(np.unique(digits.held_out_labels)) < 2 and config.reward is not None:
        return None
    return Annotator(
        digits.held_out_images,
        digits.held_out_labels,
        config.target_class,
        sharpness=config.preferences.sharpness,
    )


def _pretrain(config: Config, images: np.ndarray, folder: Path, mesh):
    """Train the base model, or take it from the run's folder or from an equal earlier run."""
    here = folder / "pretrained"
    cached = CACHE / _fingerprint(config, images)
    if not (here / "model.json").exists() and config.pretraining.reuse and cached.exists():
        shutil.copytree(cached, here, dirs_exist_ok=True)
    if (here / "model.json").exists():
        return load_model(here).params
    params = _train_score(config, images, folder, mesh)
    save_model(here, config.model, images.shape[1:], params)
    if config.pretraining.reuse and jax.process_index() == 0:
        _publish(here, cached)
    return params


def _train_score(config: Config, images: np.ndarray, folder: Path, mesh):
    options, process = config.pretraining, config.model.process()
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, min(100, options.steps // 2), options.steps
    )
    algorithm = make_score_pretraining(
        process,
        config.model.model(images.shape[1:], config.run.dtype),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)),
        sample_times=uniform_times(process, config.model.end),
        weighting=lambda t: 1 / process.marginal(t).scale ** 2,
        average_decay=options.average_decay,
    )

    def batch(k):
        rows = np.random.default_rng([config.run.seed, k]).integers(len(images), size=options.batch)
        return DataBatch(jnp.asarray(images[rows]))

    with Checkpoints(folder / "pretraining", keep=1) as checkpoints:
        state = algorithm.init(jax.random.key(config.run.seed))
        start = 0
        if checkpoints.steps():
            start, state, _ = checkpoints.restore(state)
        state = train(
            algorithm.step,
            state,
            batch,
            steps=options.steps,
            start=start,
            checkpoints=checkpoints,
            options=LoopOptions(
                fetch_every=100,
                checkpoint_every=1000,
                progress=config.run.progress,
                description="pre-training",
                mesh=mesh,
            ),
        )
    return jax.device_get(state.average)


def _fingerprint(config: Config, images: np.ndarray) -> str:
    """What the base model depends on, in one name."""
    parts = [
        dataclasses.asdict(config.model),
        dataclasses.asdict(config.pretraining),
        config.run.seed,
        config.run.precision,
        state_digest({"images": images}),
        versions(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _publish(folder: Path, cached: Path) -> None:
    """Copy a model into the cache in one atomic step; an equal one that is there already stays."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=cached.parent))
    shutil.copytree(folder, temporary, dirs_exist_ok=True)
    try:
        temporary.rename(cached)
    except OSError:
        shutil.rmtree(temporary)


def _base_sampler(config: Config, spec: DiffusionSpec, model: Model, params, shape):
    """Return ``base(salt, number)``, samples of the pretrained model on the training grid."""
    process = spec.process()
    grid = grids.quadratic(process, config.grid_steps(), end=spec.end)

    @jax.jit
    def draw(key, params):
        def score_fn(t, x):
            return model.apply(params, t, x)

        return sample(key, process, score_fn, (1024, *shape), grid=grid)

    def base(salt: int, number: int):
        root = jax.random.fold_in(jax.random.key(config.run.seed + 1), salt)
        keys = jax.random.split(root, -(-number // 1024))
        return np.concatenate([np.asarray(draw(key, params)) for key in keys])[:number]

    return base


def _learned_reward(config: Config, annotator: Annotator, base, folder: Path, shape):
    """Learn the reward from the annotator's choices between base samples, standardised on them."""
    options = config.preferences
    model = as_model(lambda rngs: ValueMLP(shape, width=128, depth=2, rngs=rngs))
    images = base(1, 2 * options.pairs)
    first, second = images[: options.pairs], images[options.pairs :]
    generator = np.random.default_rng(config.run.seed)
    choice = annotator.prefers_first(first, second, generator)
    choice = choice.reshape(-1, *([1] * len(shape)))
    pairs = Pairs(np.where(choice, first, second), np.where(choice, second, first))
    held_out = options.pairs // 5
    with Checkpoints(folder / "reward", keep=1) as checkpoints:
        params = _train_reward(config, model, pairs, held_out, checkpoints)

    reward_fn = learned(model, params)
    score = jax.jit(reward_fn)
    right = score(pairs.chosen[:held_out]) > score(pairs.rejected[:held_out])
    facts = {"proxy/accuracy": float(jnp.mean(right)), "preference_pairs": options.pairs}
    return standardised(reward_fn, np.asarray(score(images))), facts


def _train_reward(config: Config, model: Model, pairs: Pairs, held_out: int, checkpoints):
    options = config.preferences
    schedule = optax.cosine_decay_schedule(options.learning_rate, options.steps)
    algorithm = make_reward_learning(
        model, optax.adamw(schedule, weight_decay=options.weight_decay)
    )

    def batch(k):
        generator = np.random.default_rng([config.run.seed, k])
        rows = generator.integers(held_out, options.pairs, size=256)
        return Pairs(pairs.chosen[rows], pairs.rejected[rows])

    state = algorithm.init(jax.random.key(config.run.seed))
    if checkpoints.steps():
        start, state, _ = checkpoints.restore(state)
    else:
        start = 0
    state = train(
        algorithm.step,
        state,
        batch,
        steps=options.steps,
        start=start,
        checkpoints=checkpoints,
        options=LoopOptions(
            fetch_every=50, progress=config.run.progress, description="reward from preferences"
        ),
    )
    return jax.device_get(state.learner.params)


def _user_reward(spec: str, base) -> tuple[RewardFn, dict]:
    """Load a user's reward, try it on base samples, and standardise it on them."""
    function = load_callable(spec)
    images = jnp.asarray(base(1, 4096))
    try:
        scores = jax.jit(function)(images)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        rule = "it must be written in jax.numpy, so that it compiles into the update"
        raise refuse("reward", spec, rule, "replace numpy by jax.numpy in it") from error
    expected = (len(images),)
    if getattr(scores, "shape", None) != expected:
        rule = (
            f"it returned shape {jnp.shape(scores)} for {expected[0]} images; {expected} is needed"
        )
        raise refuse("reward", spec, rule, "sum or average over the other axes")
    try:
        return standardised(lambda x, *conditions: function(x), np.asarray(scores)), {}
    except ValueError as error:
        raise ValueError(f"reward: received {spec!r}; {error}") from error


def _above(reward_fn: RewardFn, threshold: float):
    compiled = jax.jit(reward_fn)
    return lambda images: np.asarray(compiled(images) > threshold, np.float64)
