"""The methods: losses, and where their dispersion comes from; and the training of one policy."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._checks import check_choice, check_count, check_distinct, check_fields, check_positive
from ctrl_jax._typing import Params
from ctrl_jax.algorithms import make_lm_preference, named_loss
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.data import PreferenceRows, pack_pairs
from ctrl_jax.losses import preference
from ctrl_jax.networks import LanguageModel
from ctrl_jax.runtime import RunError
from experiments.mallows_lm.world import Opinions, Questions, compare


@dataclasses.dataclass(frozen=True)
class Training:
    """The training of every policy.

    Args:
        methods: mallows-theta and Mallows-phi, of the true dispersion or the estimated one, and
            DPO; beside the default, theta_ranked and phi_ranked: the dispersions of the world in
            the order that the base model's entropy gives them.
        betas: inverse temperatures of the losses.
        seeds: policies per method and beta: other comparisons, in another order; one base model.
        updates: updates of a policy; --steps sets them too.
        batch: pairs of an update.
        learning_rate: of Adam, at its highest: it rises over a tenth of the updates and falls
            linearly.
    """

    methods: tuple[str, ...] = ("dpo", "theta_true", "theta_estimated", "phi_true", "phi_estimated")
    betas: tuple[float, ...] = (0.03, 0.1, 0.3)
    seeds: int = 6
    updates: int = 128
    batch: int = 8
    learning_rate: float = 3e-4

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_fields(self, check_choice, "methods", group="training", choices=tuple(METHODS))
        check_distinct("training.methods", self.methods)
        check_distinct("training.betas", self.betas)
        check_fields(self, check_positive, "betas", "learning_rate", group="training")
        check_fields(self, check_count, "seeds", "updates", "batch", group="training")


class Method(NamedTuple):
    """A loss and its dispersion.

    Fields:
        label: as plots and tables call it.
        loss: its name in `preference.NAMED`.
        source: "true", "estimated" or "ranked" dispersion; "" for none.
    """

    label: str
    loss: str
    source: str


METHODS: Mapping[str, Method] = {
    "dpo": Method("DPO", "dpo", ""),
    "theta_true": Method("Mallows-θ with the true φ", "mallows_theta", "true"),
    "theta_estimated": Method("Mallows-θ with an estimated φ", "mallows_theta", "estimated"),
    "phi_true": Method("Mallows-φ with the true φ", "mallows_phi", "true"),
    "phi_estimated": Method("Mallows-φ with an estimated φ", "mallows_phi", "estimated"),
    "theta_ranked": Method("Mallows-θ with a ranked φ", "mallows_theta", "ranked"),
    "phi_ranked": Method("Mallows-φ with a ranked φ", "mallows_phi", "ranked"),
}


def estimate_dispersion(questions: Questions) -> np.ndarray:
    """Return phi of every pair from the base model's entropy, the mean of c over the data one."""
    index = jnp.asarray(questions.index.reshape(-1), jnp.float32)
    scale = preference.dispersion_scale(index)
    return np.asarray(preference.dispersion_from_index(index, scale)).reshape(questions.index.shape)


def rank_dispersion(questions: Questions, opinions: Opinions) -> np.ndarray:
    """Return the true phi of all the pairs, in the order of their index: what is lost is who."""
    index = questions.index
    phi = np.sort(np.repeat(opinions.dispersion, index.shape[1]))
    return phi[np.argsort(np.argsort(index, axis=None, kind="stable"))].reshape(index.shape)


def draw_rows(
    questions: Questions, opinions: Opinions, training: Training, seed: int
) -> dict[str, PreferenceRows]:
    """Return what one seed trains on, (updates, batch, ...), by the source of the dispersion.

    No pair is compared twice before all have been.
    """
    generator = np.random.default_rng(seed)
    question, pair = questions.every_pair()
    number = training.updates * training.batch
    rounds = -(-number // len(pair))
    order = np.concatenate([generator.permutation(len(pair)) for _ in range(rounds)])[:number]
    question, pair = question[order], pair[order]
    won = compare(questions, opinions, question, pair, generator)
    reference = questions.log_probs[question, pair]
    reference = np.where(won[:, None], reference, reference[:, ::-1])
    rows = pack_pairs(questions.pairs(question, pair, won), pairs_per_row=1)
    rows = rows._replace(reference=reference[:, None].astype(np.float32))
    sources = {
        "": np.ones(number),
        "true": opinions.dispersion[question],
        "estimated": estimate_dispersion(questions)[question, pair],
        "ranked": rank_dispersion(questions, opinions)[question, pair],
    }
    return {
        name: jax.tree.map(
            lambda leaf: leaf.reshape(training.updates, training.batch, *leaf.shape[1:]),
            rows._replace(dispersion=phi[:, None].astype(np.float32)),
        )
        for name, phi in sources.items()
    }


def make_trainers(model: LanguageModel, base: Params, training: Training) -> dict[str, Callable]:
    """Return ``train(rows, beta) -> params`` of every method; a loss is compiled once."""
    found = {}
    for name in training.methods:
        loss = METHODS[name].loss
        same = [other for other in found if METHODS[other].loss == loss]
        found[name] = found[same[0]] if same else _make_trainer(model, base, training, loss)
    return found


def _make_trainer(model: LanguageModel, base: Params, training: Training, loss: str):
    rise = max(1, training.updates // 10)
    optimizer = adam(make_schedule(training.learning_rate, training.updates, "linear", warmup=rise))

    @jax.jit
    def descend(params, rows, beta):
        policy = model._replace(init=lambda key: params)
        algorithm = make_lm_preference(policy, optimizer, named_loss(loss, beta=beta))
        state, metrics = jax.lax.scan(algorithm.step, algorithm.init(jax.random.key(0)), rows)
        return state.params, metrics["update/finite"]

    def train(rows: PreferenceRows, beta: float) -> Params:
        params, finite = descend(base, rows, np.float32(beta))
        if not np.all(finite):
            raise RunError(
                f"a gradient was not finite at beta {beta:g}; lower --training.learning-rate"
            )
        return params

    return train
