"""The digits given their label: a small diffusion model, and a gold reward within each class."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model, RewardFn
from ctrl_jax.algorithms import Batch, DiffusionControl, roll_out
from ctrl_jax.metrics import frontier
from ctrl_jax.processes import grids
from experiments import directed_tasks
from experiments.base_models import pretrain, score_model
from experiments.diffusion_preference.steering import steered
from experiments.directed_tasks import END, forward_process
from experiments.study import Conduct

CLASSES = 10
TEMPERATURES = np.geomspace(0.15, 20.0, 80)
PER_CALL = 2000  # base samples drawn together


class World(NamedTuple):
    """What is fine-tuned, and towards what.

    Fields:
        model: the pretrained score given a label; its ``init`` returns its parameters.
        policy: what is trained, at first the pretrained score.
        reward_fn: ink, in standard deviations of the model's own samples of the label.
        images: real images, (n, 8, 8, 1).
        labels: of each image.
        steps: of the sampler.
        base: rewards of samples of the pretrained model, (classes, number).
        judge: ``judge(samples, labels)`` returns the share that a classifier gives its label.
    """

    model: Model
    policy: Model
    reward_fn: RewardFn
    images: np.ndarray
    labels: np.ndarray
    steps: int
    base: np.ndarray
    judge: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.images.shape[1:]

    def problem(self, penalty: Any = 0.0, reward_fn: RewardFn | None = None) -> DiffusionControl:
        """Return the control problem, with another reward where one is given."""
        grid = grids.quadratic(forward_process(), self.steps, end=END)
        reward_fn = self.reward_fn if reward_fn is None else reward_fn
        return DiffusionControl(
            forward_process(), self.model, reward_fn, self.shape, grid, penalty, path_kl=True
        )

    def frontier(self, c: int) -> frontier.Frontier:
        """Return the ideal trade-off within a class."""
        return frontier.ideal(self.base[c], TEMPERATURES)


Trained = Literal["steering", "network"]


def make_world(
    trained: Trained,
    *,
    pretraining: int,
    width: int,
    steps: int,
    number: int,
    seed: int,
    study: Conduct,
) -> World:
    """Pre-train the model on the digits, and measure ink on its own samples.

    Args:
        trained: what fine-tuning trains, an image for each class and time or all weights.
        pretraining: updates of the base model.
        width: half the width of the network.
        steps: of the sampler.
        number: samples of each class behind the scale of the reward and the ideal frontier.
        seed: of pre-training and samples.
        study: the run, which keeps the base model.
    """
    task = directed_tasks.digits()._replace(width=width)
    assert task.labels is not None
    params = pretrain(task, pretraining, batch=128, seed=seed, study=study)
    model = Model(lambda key: params, score_model(task).apply)
    shape = task.shape
    world = World(
        model,
        model
        if trained == "network"
        else steered(forward_process(), model, params, shape, CLASSES),
        lambda x, label: jnp.mean(x, axis=(1, 2, 3)),
        task.points,
        task.labels,
        steps,
        np.zeros((CLASSES, 0)),
        lambda samples, labels: task.measure(samples, labels)["label accuracy"],
    )
    ink = draw_base(world, jax.random.key(seed + 1), number)[1]
    center, spread = ink.mean(axis=1), ink.std(axis=1)

    def reward_fn(x, label):
        ink = jnp.mean(x, axis=(1, 2, 3))
        return (ink - jnp.asarray(center)[label]) / jnp.asarray(spread)[label]

    base = (ink - center[:, None]) / spread[:, None]
    return world._replace(reward_fn=reward_fn, base=base)


def draw_base(world: World, key: jax.Array, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return samples of the pretrained model and their rewards, (classes, number, ...)."""
    params = world.model.init(key)
    problem = world.problem()

    @jax.jit
    def draw(key):
        batch = label_batch(PER_CALL)
        found = roll_out(key, problem, world.model, params, params, batch)
        return found.states[-1], problem.rewards(found)

    keys = jax.random.split(key, -(-number * CLASSES // PER_CALL))
    samples, rewards = zip(*(jax.device_get(draw(k)) for k in keys), strict=True)
    images, values = (by_class(np.concatenate(part))[:, :number] for part in (samples, rewards))
    return images, values


def label_batch(size: int, weights: jax.Array | None = None) -> Batch:
    """Return a batch that asks for the classes in turn."""
    labels = jnp.arange(size) % CLASSES
    return Batch(jnp.ones(size) if weights is None else weights, (labels,), labels)


def by_class(values: np.ndarray) -> np.ndarray:
    """Return rows of classes in turn as (classes, number, ...)."""
    return values.reshape(-1, CLASSES, *values.shape[1:]).swapaxes(0, 1)
