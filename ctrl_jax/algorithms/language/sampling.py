"""Answers of a language model, and how far its answers are from another model's."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ctrl_jax._checks import check_count, check_positive, check_whole
from ctrl_jax._numerics import soft_cap
from ctrl_jax._typing import Params
from ctrl_jax.networks.language.decoder import LanguageModel
from ctrl_jax.networks.language.decoding import Decoding


def sample_answers(
    key: Array,
    decoding: Decoding,
    params: Params,
    prompts: Int[Array, "batch prompt"],
    length: int,
    *,
    temperature: Float[Array, ""] | float = 1.0,
) -> Int[Array, "batch length"]:
    """Draw an answer to every prompt, token by token; an answer does not depend on its batch-mates.

    Args:
        key: randomness.
        decoding: of the model, by `make_decoding`.
        params: its parameters.
        prompts: token ids; all of one length, without padding.
        length: tokens of an answer. An end token does not end it: cut there what has one.
        temperature: divides the logits.

    Raises:
        ValueError: `length` is below 1, `temperature` not positive, or the text too long for the
            model.
    """
    check_count("length", length)
    check_whole("prompts", prompts)
    check_positive("temperature", temperature)
    batch, first = prompts.shape
    head = decoding.head(params)
    hidden, memory = decoding.read(params, decoding.start(batch, first + length), prompts, 0)

    def step(carry, number):
        hidden, memory = carry
        logits = soft_cap(hidden @ head, decoding.cap)
        logits = logits.astype(jnp.promote_types(hidden.dtype, jnp.float32))
        drawn = jax.random.categorical(jax.random.fold_in(key, number), logits / temperature)
        token = drawn.astype(prompts.dtype)
        hidden, memory = decoding.read(params, memory, token[:, None], first + number)
        return (hidden[:, 0], memory), token

    _, tokens = jax.lax.scan(step, (hidden[:, -1], memory), jnp.arange(length))
    return tokens.T


def divergence_along(
    model: LanguageModel,
    params: Params,
    reference_params: Params,
    prompts: Int[Array, "batch prompt"],
    answers: Int[Array, "batch length"],
) -> Float[Array, " batch"]:
    r"""Return the divergence of two models along answers, in nats.

    Of an answer y to a prompt x it is

        \sum_t KL(pi(.|x, y_{<t}) || pi_ref(.|x, y_{<t})).

    By the chain rule its mean over answers of a fixed number of tokens, drawn from pi at
    temperature 1, is KL(pi(.|x) || pi_ref(.|x)). Every term is summed over the whole vocabulary, so
    it is never negative and varies less than the log-ratio of the drawn tokens.

    Args:
        model: of both policies.
        params: of the policy pi.
        reference_params: of the reference pi_ref.
        prompts: token ids (batch, prompt).
        answers: token ids (batch, length) drawn from the policy.
    """
    check_whole("prompts", prompts)
    check_whole("answers", answers)
    tokens = jnp.concatenate([prompts, answers], axis=1)[:, :-1]
    places = jnp.broadcast_to(
        jnp.arange(prompts.shape[1] - 1, tokens.shape[1])[None], answers.shape
    )
    return jnp.sum(divergence_at(model, params, reference_params, tokens, places), axis=1)


def divergence_at(
    model: LanguageModel,
    params: Params,
    reference_params: Params,
    tokens: Int[Array, "batch tokens"],
    places: Int[Array, "batch places"],
) -> Float[Array, "batch places"]:
    """Return KL(pi || pi_ref) of the token that follows each of these places, in nats.

    Args:
        model: of both policies.
        params: of the policy pi.
        reference_params: of the reference pi_ref.
        tokens: token ids (batch, tokens).
        places: indices of tokens (batch, places).
    """

    def log_probs(own: Params) -> Array:
        logits = model.logits(own, model.apply(own, tokens, at=places))
        return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))

    policy, reference = log_probs(params), log_probs(reference_params)
    return jnp.sum(jnp.exp(policy) * (policy - reference), axis=2)
