"""The task on images: a small diffusion model, a hidden annotator, a reward from its choices.

Every stage leaves its result in the run's folder, so that a resumed run finds it again, under a
name made of all that it depends on, so that a changed option never meets an old result.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model, Params, RewardFn
from ctrl_jax.algorithms import Pairs, make_reward_learning
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.data import class_names, load_digits, load_folder
from ctrl_jax.data.images import Digits
from ctrl_jax.metrics import distances
from ctrl_jax.models import DiffusionSpec
from ctrl_jax.networks import ValueMLP, anchored_value, as_model
from ctrl_jax.processes import LinearProcess, grids, parameterization
from ctrl_jax.rewards import learned, standardized
from ctrl_jax.runtime import load_callable, own_part, refuse
from ctrl_jax.solvers import sample
from experiments.fine_tuning import Task, success_threshold
from experiments.score_as_action.annotator import Annotator
from experiments.score_as_action.config import Config, ValueNetwork
from experiments.score_as_action.pretraining import fingerprint, pretrain
from experiments.study import Conduct


class Inputs(NamedTuple):
    """What the user brings, checked before anything is trained.

    Fields:
        digits: images and labels.
        annotator: stands for a person; None with a reward of the user's own.
        reward: the user's reward; None where it is learned.
    """

    digits: Digits
    annotator: Annotator | None
    reward: Callable | None


def load_inputs(config: Config) -> Inputs:
    """Return data, annotator and reward.

    Raises:
        ValueError: one of them cannot be used; the message says why.
    """
    digits = _load(config)
    if config.reward is not None:
        return Inputs(digits, None, load_callable(config.reward))
    annotator = Annotator(
        digits.held_out_images,
        digits.held_out_labels,
        config.target_class,
        sharpness=config.preferences.sharpness,
    )
    if np.sum(digits.train_labels == config.target_class) < 2:
        rule = "at least two images of it are needed in each half of the data"
        raise refuse("target_class", config.target_class, rule, "choose a larger class")
    return Inputs(digits, annotator, None)


def make_task(config: Config, study: Conduct) -> Task:
    """Return the task of `config`, its stages kept in the folder of the study.

    Raises:
        ValueError: the reward cannot be used; the message says why.
    """
    inputs: Inputs = study.loaded
    digits, annotator, _ = inputs
    shape = digits.train_images.shape[1:]
    spec = config.model
    params = pretrain(config, digits.train_images, study)
    model = spec.model(shape, config.run.dtype)
    base = _base_sampler(config, spec, model, params, shape)
    if annotator is None:
        assert config.reward is not None and inputs.reward is not None
        reward_fn, facts = _user_reward(config.reward, inputs.reward, base)
        copy = as_model(lambda rngs: ValueMLP(shape, width=128, depth=2, rngs=rngs))
        threshold = success_threshold(np.asarray(reward_fn(base(3, 8192))), share=0.1)
        success_fn = _above(reward_fn, threshold)
        facts["success/threshold"] = threshold
        real = None
    else:
        on = [fingerprint(config, digits.train_images, study), config.target_class]
        stage = f"reward-{study.fingerprint(*on, config.grid_steps(), config.preferences)}"
        reward_fn, facts, copy = _learned_reward(config, annotator, base, stage, study)
        success_fn = annotator.success
        real = digits.train_images[digits.train_labels == config.target_class]
        name = class_names(config.data).get(config.target_class) if config.data else None
        facts |= {} if name is None else {"target_class/folder": name}
        facts["annotator/accuracy"] = annotator.accuracy(digits.train_images, digits.train_labels)
    facts["diversity/real"] = None if real is None else diversity(real)
    fixed = Model(lambda key: params, model.apply)
    return Task(
        process=spec.process(),
        shape=shape,
        reference=fixed,
        policy=fixed,
        value=make_value(
            config.value_network, spec.process(), fixed, params, reward_fn, copy, shape
        ),
        reward_fn=reward_fn,
        success_fn=success_fn,
        diversity_fn=diversity,
        end=spec.end,
        facts=facts,
    )


def make_value(
    name: ValueNetwork,
    process: LinearProcess,
    base: Model,
    params: Params,
    reward_fn: RewardFn,
    copy: Model,
    shape: tuple[int, ...],
) -> Model:
    """Return the value network of a name; `copy` starts as the reward where that is a network."""
    denoising = denoising_value(process, base, params, shape)
    if name == "denoising":
        return denoising
    rest = copy if name == "anchored" else denoising
    return anchored_value(process, partial(base.apply, params), reward_fn, rest)


def denoising_value(process: LinearProcess, base: Model, params: Params, shape) -> Model:
    """Return a value network that sees the state beside what the base model denoises it to.

    What a noisy state is worth depends on the image it will become, and the base model has already
    learned that; sequel of the paper: arXiv 2502.01819.
    """
    network = as_model(lambda rngs: ValueMLP((2, *shape), width=128, depth=2, rngs=rngs))
    denoise = parameterization.to_data(process, partial(base.apply, params))

    def observe(t, x, *conditions):
        denoised = denoise(t, x, *conditions)
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
    found = load_folder(config.data, name="data")
    names = class_names(config.data)
    if any(name != str(label) for label, name in names.items()) and jax.process_index() == 0:
        print("classes:", ", ".join(f"{label} is {name}" for label, name in names.items()))
    labels = found.labels
    if labels is None and config.reward is None:
        raise refuse(
            "data",
            config.data,
            "without labels there is no annotator to learn a reward from",
            "add labels (class subfolders, or the key labels), or give --reward module:function",
        )
    if labels is None:
        labels = np.zeros(len(found.images), np.int32)
    ours, held_out = _split(labels)
    images = found.images
    return Digits(images[ours], labels[ours], images[held_out], labels[held_out])


def _split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return fixed random halves of every class."""
    generator = np.random.default_rng(0)
    halves = [[], []]
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        for half, part in zip(halves, np.array_split(rows, 2), strict=True):
            half.append(part)
    return np.concatenate(halves[0]), np.concatenate(halves[1])


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


def _learned_reward(config: Config, annotator: Annotator, base, stage: str, study: Conduct):
    """Learn the reward from the annotator's choices between base samples, standardized on them.

    Beside it stand facts, and the same network as a model that starts as the reward.
    """
    options = config.preferences
    images = base(1, 2 * options.pairs)
    shape = images.shape[1:]
    model = as_model(lambda rngs: ValueMLP(shape, width=128, depth=2, rngs=rngs))
    first, second = images[: options.pairs], images[options.pairs :]
    generator = np.random.default_rng(config.run.seed)
    choice = annotator.prefers_first(first, second, generator)
    choice = choice.reshape(-1, *([1] * len(shape)))
    pairs = Pairs(np.where(choice, first, second), np.where(choice, second, first))
    held_out = options.pairs // 5
    params = _train_reward(config, model, pairs, held_out, stage, study)
    reward_fn = learned(model, params)
    score = jax.jit(reward_fn)
    right = score(pairs.chosen[:held_out]) > score(pairs.rejected[:held_out])
    facts = {"proxy/accuracy": float(jnp.mean(right)), "preference_pairs": options.pairs}
    scores = np.asarray(score(images))
    rescale = standardized(lambda scores: scores, scores)
    copy = Model(lambda key: params, lambda p, t, x, *conditions: rescale(model.apply(p, t, x)))
    return standardized(reward_fn, scores), facts, copy


def _train_reward(config: Config, model: Model, pairs: Pairs, held_out: int, stage: str, study):
    options = config.preferences
    rate = make_schedule(options.learning_rate, options.steps, options.schedule)
    optimizer = adam(rate, clip=options.gradient_clip, weight_decay=options.weight_decay)
    algorithm = make_reward_learning(model, optimizer)
    data = study.mesh.shape["data"]
    size = -(-256 // data) * data

    def batch(k):
        generator = np.random.default_rng([config.run.seed, k])
        rows = generator.integers(held_out, options.pairs, size=size)
        return own_part(study.mesh, Pairs(pairs.chosen[rows], pairs.rejected[rows]))

    state = algorithm.init(jax.random.key(config.run.seed))
    watched = {"fetch_every": 50, "description": "reward from preferences"}
    state = study.train(
        algorithm.step, state, batch, options.steps, stage=stage, log=None, **watched
    )
    return jax.device_get(state.params)


def _user_reward(spec: str, function: Callable, base) -> tuple[RewardFn, dict]:
    """Try a user's reward on base samples, and standardize it on them."""
    images = jnp.asarray(base(1, 4096))
    try:
        scores = jax.jit(function)(images)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        rule = "it must be written in jax.numpy, so that it compiles into the update"
        raise refuse("reward", spec, rule, "replace numpy by jax.numpy in it") from error
    except Exception as error:
        rule = f"calling it on images fails ({type(error).__name__}: {error})"
        raise refuse("reward", spec, rule, "repair the function") from error
    expected = (len(images),)
    if getattr(scores, "shape", None) != expected:
        rule = (
            f"it returned shape {jnp.shape(scores)} for {expected[0]} images; {expected} is needed"
        )
        raise refuse("reward", spec, rule, "sum or average over the other axes")
    try:
        return standardized(lambda x, *conditions: function(x), np.asarray(scores)), {}
    except ValueError as error:
        raise ValueError(f"reward: received {spec!r}; {error}") from error


def _above(reward_fn: RewardFn, threshold: float):
    compiled = jax.jit(reward_fn)
    return lambda images: np.asarray(compiled(images) > threshold, np.float64)
