"""What a language model says of the answers of preference pairs: log-probabilities and log-ratios.

log pi(y|x) is the sum over the tokens of y, its end token included. Batches are `PreferenceRows`:
the prompt of a pair is computed once, and logits only where they predict a token of an answer. What
the reference model says never changes: it is computed once and travels with the rows.

At the reference model a log-ratio is exactly zero, not merely small: log g of Mallows-phi jumps
there, and the sign of rounding would choose its side. The reference pass is the training step's own
function of the same rows; what is left below the resolution of a log-probability counts as zero, in
the value and not in the gradient. In half precision two programs round further apart than that.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import refuse
from ctrl_jax._numerics import soft_cap
from ctrl_jax._typing import Params
from ctrl_jax.data.preferences.rows import CHOSEN, REJECTED, PreferenceRows
from ctrl_jax.losses.preference.dispersion import mean_index, relative_entropies
from ctrl_jax.losses.token_log_prob import token_log_probs
from ctrl_jax.networks.language.decoder import LanguageModel
from ctrl_jax.networks.language.mask import positions_of, text_mask

ROUNDING = 8
"""Log-ratios below this many units in the last place of the log-probability are zero."""


Both = tuple[Float[Array, " all_pairs"], Float[Array, " all_pairs"]]
"""A value of the chosen and one of the rejected answer of every pair."""


class AnswerScores(NamedTuple):
    """What a loss may look at: one value per pair, padding included.

    Fields:
        log_probs: log pi(y|x) of both answers, summed over their tokens.
        tokens: how many these are, at least 1.
        ratios: log pi(y|x) - log pi_ref(y|x) of both answers; None where the rows have no
            reference.
        phi: dispersions in (0, 1]; None where the rows do not have them.
        weights: of the pairs, 0 for padding, for losses that look at the whole batch; all alike
            where None.
    """

    log_probs: Both
    tokens: Both
    ratios: Both | None
    phi: Float[Array, " pairs"] | None
    weights: Float[Array, " pairs"] | None = None

    @property
    def log_ratios(self) -> Both:
        """The field `ratios`.

        Raises:
            ValueError: the rows have no reference.
        """
        if self.ratios is None:
            repair = "run the pass of `make_reference_pass` over them first"
            raise refuse("rows.reference", None, "this loss needs it", repair)
        return self.ratios

    @property
    def dispersion(self) -> Float[Array, " pairs"]:
        """The field `phi`.

        Raises:
            ValueError: the rows have no dispersion.
        """
        if self.phi is None:
            repair = (
                "give the pairs one, or make it with `dispersion_from_index` from the index of "
                "`make_reference_pass`"
            )
            raise refuse("rows.dispersion", None, "this loss needs it", repair)
        return self.phi

    @property
    def margins(self) -> Both:
        """How much more probable the chosen answer is, in the model and in the reference."""
        ours, ratios = self.log_probs, self.log_ratios
        margin = ours[CHOSEN] - ours[REJECTED]
        return margin, margin - (ratios[CHOSEN] - ratios[REJECTED])

    @property
    def mean_log_ratios(self) -> Both:
        """Log-ratios per token."""
        return self._per_token(self.log_ratios)

    @property
    def mean_log_probs(self) -> Both:
        """Log-probabilities per token."""
        return self._per_token(self.log_probs)

    def _per_token(self, values: Both) -> Both:
        return values[CHOSEN] / self.tokens[CHOSEN], values[REJECTED] / self.tokens[REJECTED]


class Reference(NamedTuple):
    """What the reference model says of rows.

    Fields:
        log_probs: of both answers of each pair, (rows, pairs, 2).
        index: the dispersion index of each pair, (rows, pairs); 1 for padding.
    """

    log_probs: Float[Array, "rows pairs two"]
    index: Float[Array, "rows pairs"]


def make_reference_pass(
    model: LanguageModel, *, chunk: int | None = None, entropy_chunk: int = 64
) -> Callable[[Params, PreferenceRows], Reference]:
    """Return ``reference(params, rows)``, a pure function.

    Args:
        model: the model that is trained, with its options: log-ratios begin at exactly zero.
        chunk: tokens of answers whose logits are held together; None for all.
        entropy_chunk: slots of a row whose logits are held together for the entropy.
    """

    def reference(params: Params, rows: PreferenceRows) -> Reference:
        rows = jax.tree.map(jnp.asarray, rows)
        states = _slot_states(model, params, rows)
        head = model.head(params)
        log_probs = _sum_answers(rows, _slot_log_probs(model, states, head, rows, chunk))
        relative = relative_entropies(states, _to_logits(model, head), chunk=entropy_chunk)
        total, number = (
            jnp.sum(_sum_answers(rows, values), axis=2)
            for values in (relative, jnp.ones_like(relative))
        )
        return Reference(log_probs, mean_index(total, number))

    return reference


def score_answers(
    model: LanguageModel, params: Params, rows: PreferenceRows, *, chunk: int | None = None
) -> AnswerScores:
    """Return what the model says of every pair, rows flattened: (rows * pairs,) each.

    Args:
        model: the policy.
        params: its parameters.
        rows: the pairs, with or without reference.
        chunk: tokens of answers whose logits are held together; None for all.
    """
    rows = jax.tree.map(jnp.asarray, rows)
    states = _slot_states(model, params, rows)
    slots = _slot_log_probs(model, states, model.head(params), rows, chunk)
    log_probs = _sum_answers(rows, slots)
    tokens = jnp.maximum(_sum_answers(rows, jnp.ones_like(slots)), 1.0)
    ratios = None if rows.reference is None else _log_ratio(log_probs, rows.reference)
    return AnswerScores(
        log_probs=_halves(log_probs),
        tokens=_halves(tokens),
        ratios=None if ratios is None else _halves(ratios),
        phi=None if rows.dispersion is None else rows.dispersion.reshape(-1),
        weights=rows.weights.reshape(-1),
    )


def _halves(values: Float[Array, "rows pairs two"]) -> Both:
    """The values of the chosen and of the rejected answers, (rows * pairs,) each."""
    flat = values.reshape(-1, 2)
    return flat[:, CHOSEN], flat[:, REJECTED]


def _slot_states(model: LanguageModel, params: Params, rows: PreferenceRows) -> Array:
    """The hidden states that predict the tokens of the answers, (rows, slots, width)."""
    mask = text_mask(rows.texts, rows.branches)
    # A row may have more padding than the model has positions.
    positions = jnp.where(rows.texts < 0, 0, positions_of(mask))
    return model.apply(params, rows.tokens, positions, mask, rows.sources)


def _slot_log_probs(
    model: LanguageModel, states: Array, head: Array, rows: PreferenceRows, chunk: int | None
) -> Array:
    flat, targets = states.reshape(-1, states.shape[2]), rows.targets.reshape(-1)
    devices = jax.sharding.get_abstract_mesh().shape.get("data", 1)
    parts = devices if len(rows.targets) % devices == 0 else 1
    log_probs = token_log_probs(flat, head, targets, chunk=chunk, parts=parts, cap=model.cap)
    return log_probs.reshape(rows.targets.shape)


def _to_logits(model: LanguageModel, head: Array) -> Array | Callable[[Array], Array]:
    """What makes logits of states: the head, or a function where they are bounded."""
    if model.cap is None:
        return head
    exact = jnp.promote_types(head.dtype, jnp.float32)
    return lambda h: soft_cap(jnp.matmul(h, head, preferred_element_type=exact), model.cap)


def _sum_answers(rows: PreferenceRows, values: Float[Array, "rows slots"]) -> Array:
    """Sum the values of the slots over each answer, (rows, pairs, 2)."""
    number, pairs = rows.weights.shape
    belongs = rows.answers[:, :, None] == jnp.arange(2 * pairs)[None, None]
    sums = jnp.sum(jnp.where(belongs, values[:, :, None], 0.0), axis=1)
    return sums.reshape(number, pairs, 2)


def _log_ratio(log_prob: Array, reference: Array) -> Array:
    """Their difference, 0 where only rounding tells them apart."""
    ratio = log_prob - reference
    resolution = ROUNDING * jnp.finfo(ratio.dtype).eps * jnp.abs(reference)
    rounding = jnp.where(jnp.abs(ratio) <= resolution, ratio, 0.0)
    return ratio - jax.lax.stop_gradient(rounding)
