"""A run on a user's model and data, from the files to the results."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from ctrl_jax._typing import Params
from ctrl_jax.algorithms import (
    Algorithm,
    LMPreference,
    RunState,
    make_lm_preference,
    whole_params,
)
from ctrl_jax.algorithms.language.preference import ScoreLoss
from ctrl_jax.algorithms.training.optimizer import make_schedule
from ctrl_jax.commands.preference.config import Config, Optimization
from ctrl_jax.commands.preference.data import Data, load_data
from ctrl_jax.commands.preference.evaluation import (
    Answering,
    Evaluate,
    make_answering,
    make_evaluation,
)
from ctrl_jax.commands.preference.model import (
    Trained,
    is_of_model,
    is_of_tokenizer,
    load_model,
    state_shardings,
)
from ctrl_jax.commands.preference.packing import batch_of
from ctrl_jax.commands.preference.reference import (
    Referred,
    estimate_dispersion,
    refer,
)
from ctrl_jax.data import PreferenceRows
from ctrl_jax.networks import LanguageModel, lora
from ctrl_jax.runtime import (
    Checkpoints,
    CountTraces,
    LoopOptions,
    MetricsLog,
    Run,
    RunWarning,
    check_batch,
    content_digest,
    digests_of,
    make_adapters,
    own_part,
    refuse,
    train,
)


class Outcome(NamedTuple):
    """What a run ends with.

    Fields:
        params: the trained parameters, averaged where asked for.
        before: held-out metrics of the pretrained model.
        after: those of the trained one.
        index: dispersion index of every training pair.
        facts: what is known besides.
        samples: held-out prompts with the answers of both models, as text.
    """

    params: Params
    before: dict[str, float]
    after: dict[str, float]
    index: np.ndarray
    facts: dict[str, Any]
    samples: list[dict[str, str]]


class Inputs(NamedTuple):
    """What a run reads before it writes anything."""

    trained: Trained
    data: Data
    mesh: Mesh


def load_inputs(settings: Config, mesh: Mesh) -> Inputs:
    """Read model and data.

    Raises:
        ValueError: a file or an option that does not fit the others.
    """
    options, run = settings.optimization, settings.run
    part = options.batch // options.accumulate
    check_batch(mesh, part, "optimization.batch / optimization.accumulate")
    trained = load_model(
        settings.model,
        mesh,
        dtype=run.dtype,
        adapters=settings.adapters.lora,
        remat=options.remat,
        fully=options.fully_sharded,
    )
    data = load_data(
        settings.data,
        trained.tokenizer,
        trained.pretrained.config,
        settings.texts,
        settings.evaluation,
        batch=options.batch,
        parts=options.accumulate,
        devices=mesh.shape["data"],
        seed=run.seed,
        show=run.progress,
    )
    if jax.process_index() == 0:
        print(*data.summary, sep="\n", flush=True)
    if "mallows_phi" in settings.objective.losses and run.arithmetic == "bfloat16":
        text = (
            "loss mallows_phi: its link jumps where training starts, and the rounding of bfloat16 "
            "chooses the side; mallows_phi_sigmoid and mallows_phi_cubic are smooth"
        )
        warnings.warn(text, RunWarning, stacklevel=2)
    if settings.objective.dispersion == "data" and data.train.dispersion is None:
        rule = "the data has no key `dispersion`"
        raise refuse("dispersion", "data", rule, "add it, or leave it out to estimate it")
    if settings.objective.dispersion == "data" and data.held_out.dispersion is None:
        raise refuse("dispersion", "data", "the evaluation data has none", "add it")
    if settings.objective.estimates_dispersion and data.train.dispersion is not None:
        text = "data: its key `dispersion` is not used but estimated; --dispersion data uses it"
        warnings.warn(text, RunWarning, stacklevel=2)
    return Inputs(trained, data, mesh)


def digests(settings: Config, inputs: Inputs) -> dict[str, str]:
    """Return the digests of what a run is given: model, tokenizer, data, and the tokens of them.

    The tokens are what is trained on: a chat template that renders otherwise shows in them.
    """
    names = ("evaluation_data", "chat_template")
    given = {"data": settings.data} | {f"texts.{n}": getattr(settings.texts, n) for n in names}
    return {
        "model": content_digest(settings.model, is_of_model),
        "tokenizer": content_digest(settings.model, is_of_tokenizer),
        **digests_of(given),
        "the texts as tokens": inputs.data.digest,
    }


def tune(settings: Config, inputs: Inputs, run: Run) -> Outcome:
    """Train, evaluate and save checkpoints in the run's folder."""
    options, (trained, data, mesh) = settings.optimization, inputs
    batch, seed = data.packing.batch, settings.run.seed
    steps = settings.run.steps or max(1, round(options.epochs * len(data.train.tokens) / batch))
    loss_fn = settings.objective.loss_fn
    algorithm = make_algorithm(settings, trained.model, steps)
    key = jax.random.key(seed)
    base = trained.model.init(key)
    frozen = frozen_of(settings, base)
    abstract = jax.eval_shape(algorithm.init, key)
    shardings = state_shardings(abstract, mesh, fully=options.fully_sharded)
    parts, facts = _refer(settings, inputs, run, base)
    answering = _answering(settings, inputs, base)
    measure = _measure(settings, inputs, loss_fn, parts["held_out"].rows)
    evaluate: Evaluate = lambda params: measure(params) | answering.kl(params)  # noqa: E731
    before = evaluate(base)
    step = CountTraces(algorithm.step)

    def begin(checkpoints: Checkpoints) -> tuple[int, str | None, RunState]:
        if run.resumed:
            start, state, record = checkpoints.restore(abstract, shardings=shardings)
            run.check_restored(record)
            return start, record.get("lines"), state
        return 0, None, algorithm.init(key)

    keep, every = settings.run.keep, settings.run.keep_every
    with Checkpoints(run.checkpoints, keep, keep_every=every) as checkpoints:
        start, lines, *states = begin(checkpoints)
        adapters = make_adapters(settings.run.log, run.folder, settings)
        known = {"start": start, "digest": lines}
        with MetricsLog(run.metrics, adapters=adapters, **known) as log:
            if start == 0:
                log.write(0, before)
            state = train(
                step,
                states.pop,  # the loop's own copy is the only one
                lambda k: own_part(
                    mesh, batch_of(parts["train"].rows, k, batch, seed, group=data.packing.group)
                ),
                steps=steps,
                start=start,
                log=log,
                checkpoints=checkpoints,
                options=LoopOptions(
                    checkpoint_every=settings.evaluation.checkpoint_every,
                    evaluate_every=settings.evaluation.every,
                    evaluate=lambda k, s: evaluate(whole_params(s, frozen)),
                    progress=settings.run.progress,
                    amounts=amounts_of(parts["train"].rows, batch),
                    description=settings.objective.title,
                    mesh=mesh,
                    shardings=shardings,
                    fixed=frozen,
                    record=run.record,
                    profile=run.folder / "profile" if settings.run.profile else None,
                ),
            )
    facts |= {**data.counts, "updates": steps, "traces": step.traces}
    index = parts["train"].index[data.train.numbers >= 0]
    tuned = whole_params(state, frozen)
    samples = _samples(inputs, *map(answering.answers, (base, tuned)))
    return Outcome(tuned, before, evaluate(tuned), index, facts, samples)


def make_algorithm(settings: Config, model: LanguageModel, steps: int) -> Algorithm:
    """Return the algorithm that the options name, for so many updates."""
    options, objective = settings.optimization, settings.objective
    return make_lm_preference(
        model,
        make_optimizer(options, steps),
        objective.loss_fn,
        LMPreference(
            objective.beta,
            options.accumulate,
            options.chunk,
            adapters_only=settings.adapters.lora is not None,
            frozen_apart=True,
            average_decay=options.average_decay,
            rewards=objective.rewards,
        ),
    )


def frozen_of(settings: Config, params: Params) -> Params:
    """Return the weights that a run does not train, of all of a model's or of their shapes."""
    return {} if settings.adapters.lora is None else lora.split(params)[1]


def amounts_of(rows: PreferenceRows, batch: int) -> dict[str, float]:
    """Return the pairs and the tokens of a batch of rows, on average, without padding."""
    share = batch / len(rows.tokens)
    pairs, tokens = np.count_nonzero(rows.numbers >= 0), np.count_nonzero(rows.texts >= 0)
    return {"pairs": share * pairs, "tokens": share * tokens}


def make_optimizer(options: Optimization, steps: int) -> optax.GradientTransformation:
    """Return the optimizer with its clipping and its course of step sizes."""
    warm = min(round(options.warmup * steps), steps - 1)
    schedule = make_schedule(
        options.learning_rate, steps, options.schedule, warmup=warm, start=1 / (warm + 1)
    )
    if options.optimizer == "adamw":
        inner = optax.adamw(schedule, weight_decay=options.weight_decay)
    else:
        inner = optax.rmsprop(schedule)
    return optax.chain(optax.clip_by_global_norm(options.gradient_clip), inner)


def _refer(
    settings: Config, inputs: Inputs, run: Run, params: Params
) -> tuple[dict[str, Referred], dict[str, Any]]:
    options, data = settings.optimization, inputs.data
    parts = refer(
        Path(run.folder) / "reference.npz",
        inputs.trained.model,
        params,
        {"train": data.train, "held_out": data.held_out},
        inputs.mesh,
        at_a_time=data.packing.part,
        chunk=options.chunk,
        show=settings.run.progress,
    )
    if not settings.objective.estimates_dispersion:
        return parts, {}
    parts, scale = estimate_dispersion(parts)
    return parts, {"dispersion/scale": scale}


def _measure(
    settings: Config, inputs: Inputs, loss_fn: ScoreLoss, rows: PreferenceRows
) -> Evaluate:
    """Return what measures held-out pairs."""
    return make_evaluation(
        inputs.trained.model,
        loss_fn,
        rows,
        inputs.mesh,
        beta=settings.objective.beta,
        rewards=settings.objective.rewards,
        at_a_time=inputs.data.packing.part,
        chunk=settings.optimization.chunk,
    )


def _answering(settings: Config, inputs: Inputs, base: Params) -> Answering:
    """Return what is known by answers to held-out prompts."""
    trained = inputs.trained
    return make_answering(
        trained.model,
        base,
        inputs.data.prompts,
        inputs.mesh,
        length=settings.evaluation.answer_length,
        end=inputs.data.end,
        key=jax.random.key(settings.run.seed + 1),
    )


def _samples(
    inputs: Inputs, before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]
) -> list[dict[str, str]]:
    """Return prompts and answers as text, by the tokenizer, where it can do that."""
    decode = getattr(inputs.trained.tokenizer, "decode", None)
    if decode is None:
        return []
    return [
        {"prompt": decode([*prompt]), "before": decode([*old]), "after": decode([*new])}
        for prompt, old, new in zip(inputs.data.prompts, before, after, strict=True)
    ]


def metrics_of(outcome: Outcome) -> Mapping[str, Any]:
    """Return the metrics of results.json."""
    named = {
        f"{name.removeprefix('evaluation/')}/{when}": value
        for when, values in (("before", outcome.before), ("after", outcome.after))
        for name, value in values.items()
    }
    index = outcome.index
    return named | {"dispersion/index": float(index.mean()), **outcome.facts}
