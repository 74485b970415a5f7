"""The training loop for rewards that are asked for on the host.

An update is two programs, each compiled once, with the outside between them:

    rollout, shown = collect(state, batch)             on the devices
    answer = ask(k, shown)                             on the host, in a thread
    state, metrics = learn(state, rollout, answer)     on the devices, the state donated

With `overlap` rollout k + 1 is made while the answer to rollout k is awaited, by the parameters
that there are before update k. Its noise is what it would be without (`algorithms.ahead`), its
parameters are one update old: `learn` should compare with what the rollout predicted itself,
``PolicyUpdate(old="rollout")``, as then the importance ratio knows of that update.

No rollout is in a checkpoint. One that is in flight when a run ends is made again, bit for bit, of
the same key, batch and parameters; with `overlap` a checkpoint therefore holds, beside the state,
the parameters of the policy that acted, one update old, and in the first update those of the start.
"""

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._errors import RewardError, RewardUnavailable, RunWarning
from ctrl_jax._typing import Params
from ctrl_jax.algorithms.base import RunState, ahead, skip
from ctrl_jax.rewards.outside.threads import in_background
from ctrl_jax.runtime.checkpoints.checkpoints import Checkpoints
from ctrl_jax.runtime.devices.distributed import worst
from ctrl_jax.runtime.devices.mesh import agreed_rows, own_rows, shard_batch
from ctrl_jax.runtime.loop.compilation import jit_collect, jit_step
from ctrl_jax.runtime.loop.logs import MetricsLog
from ctrl_jax.runtime.loop.signals import wait_for
from ctrl_jax.runtime.loop.speed import Speed
from ctrl_jax.runtime.loop.training import (
    Batches,
    LoopOptions,
    batch_source,
    check_loop,
    conduct,
    given_state,
    own_copy,
    speed_of,
    state_shardings,
)


@dataclasses.dataclass(frozen=True)
class OutsideStep:
    """A step of which the rewards are asked for on the host.

    Args:
        collect: a pure ``rollout, shown = collect(state, batch)``; shown is a tree of arrays
            (batch, ...), such as pictures in bytes.
        ask: ``answer = ask(k, shown)`` with k completed updates and shown in NumPy; a tree of
            arrays (batch, ...). It is called in a thread, one batch at a time, and raises
            `RewardError` where there is no answer, after which the update is skipped and counted,
            and `RewardUnavailable` where there will be none. With several processes each asks of
            its own rows.
        learn: a pure ``state, metrics = learn(state, rollout, answer)``.
    """

    collect: Callable[..., tuple[Any, Any]]
    ask: Callable[[int, Any], Any]
    learn: Callable[..., tuple[RunState, Mapping[str, Any]]]


class InFlight(NamedTuple):
    """What a run with `overlap` goes on from.

    Fields:
        state: after all updates so far.
        acting: the policy's parameters that make the rollout of the next update.
    """

    state: RunState
    acting: Params


def train_outside(
    step: OutsideStep,
    state: Any,
    batches: Batches,
    *,
    steps: int,
    start: int = 0,
    log: MetricsLog | None = None,
    checkpoints: Checkpoints | None = None,
    options: LoopOptions | None = None,
    overlap: bool = False,
) -> Any:
    """Run updates `start + 1` to `steps` with rewards that are asked for on the host.

    The log's second file says besides how many seconds rollout, rewards and update took, as
    ``seconds/rollout``, ``seconds/reward`` and ``seconds/update``. A signal that comes while a
    rollout or its rewards are awaited ends the run at once.

    Args:
        step: its parts; `collect` and `learn` may be `CountTraces`, and with `options.fixed` have
            one more argument.
        state: the `RunState` after `start` updates, or with `overlap` `InFlight`, as `in_flight`
            begins it and checkpoints hold it; or a function that returns it, as of `train`.
        batches: as of `train`.
        steps: completed updates at the end.
        start: completed updates of `state`.
        log: where each update's metrics are written.
        checkpoints: where the state is saved.
        options: as of `train`; `evaluate` is given the `RunState`, shardings are those of it.
        overlap: whether the next rollout is made while rewards are awaited.

    Returns:
        The state after `steps` updates, of the kind that was given.

    Raises:
        ValueError: an option out of range, or a batch the mesh does not divide.
        RewardUnavailable: there are no rewards any more; the state was saved.
        RunError: states or a reward were not finite, or too many updates in a row were skipped.
        RunInterrupted: a signal asked to stop; the state was saved.
    """
    options = options or LoopOptions()
    check_loop(options, checkpoints, steps, start)
    if start >= steps:
        return given_state(state)
    shardings = state_shardings(options)
    if overlap:
        options = _of_state(options)
    whole = in_flight(shardings) if overlap and isinstance(shardings, RunState) else shardings
    state = own_copy(state, whole)
    source = batch_source(batches, steps, options.mesh)
    speed = speed_of(options)
    work = _Work(step, source, steps, options, shardings, speed)
    watched = {"log": log, "checkpoints": checkpoints, "options": options, "speed": speed}
    update = work.overlapped if overlap else work.update
    try:
        return conduct(update, state, steps=steps, start=start, **watched)
    finally:
        work.ended = True


def in_flight(state: RunState) -> InFlight:
    """Return what a run with `overlap` begins with: the policy of the start acts.

    Args:
        state: a state, or a tree of shapes or shardings like one.
    """
    return InFlight(state, state.policy.params)


class _Answered(NamedTuple):
    """What came back of one rollout, and when: all on the host."""

    values: Any
    rollout: float
    reward: float


class _Pending(NamedTuple):
    """A rollout whose rewards are awaited."""

    rollout: Any
    answered: Future[_Answered]


class _Work:
    """The two programs, and what is under way between them."""

    def __init__(
        self,
        step: OutsideStep,
        source,
        steps: int,
        options: LoopOptions,
        shardings: Any,
        speed: Speed,
    ):
        mesh, self._speed = options.mesh, speed
        self._ask, self._source, self._steps, self._options = step.ask, source, steps, options
        self._collect = jit_collect(step.collect, mesh)
        self._learn = jit_step(step.learn, mesh, shardings)
        self._skip = jit_step(skip, mesh, shardings)
        self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
        self._ahead = jax.jit(_counters_ahead, out_shardings=_everywhere(mesh))
        self._next: _Pending | None = None
        self._last: Future[_Answered] | None = None
        self.ended = False

    def update(self, k: int, state: RunState) -> tuple[RunState, Mapping[str, Any]]:
        return self._finish(k, state, self._begin(k, state))

    def overlapped(self, k: int, state: InFlight) -> tuple[InFlight, Mapping[str, Any]]:
        now, acting = state
        pending = self._next or self._begin(k, _acted_by(now, acting))
        self._next = self._begin(k + 1, self._seen_ahead(now)) if k + 1 < self._steps else None
        acting = self._copy(now.policy.params)  # those of the state are given away
        moved, metrics = self._finish(k, now, pending)
        return InFlight(moved, acting), metrics

    def _seen_ahead(self, state: RunState) -> RunState:
        """`ahead`, of which the counters alone are computed, and placed as a state's are."""
        key, update = self._ahead(state._replace(learners={}, average=None, reference=None))
        return state._replace(key=key, update=update)

    def _begin(self, k: int, state: RunState) -> _Pending:
        began = time.monotonic()
        with self._speed.spent("input"):
            arguments = (state, self._source(k), *self._options.last_arguments)
        self._speed.begin(self._collect, *arguments)
        rollout, shown = self._collect(*arguments)
        self._last = in_background(self._answer, k, shown, began, self._last)
        return _Pending(rollout, self._last)

    def _answer(self, k: int, shown: Any, began: float, last: Future | None) -> _Answered:
        """Ask, in a thread, once the rollout is there and those before were answered."""
        seen = own_rows(shown)
        there = time.monotonic()
        if last is not None and isinstance(error := last.exception(), RewardUnavailable):
            raise error
        if self.ended:
            raise RewardUnavailable("the run has ended")
        asked = time.monotonic()
        values = self._ask(k, seen)
        return _Answered(values, there - began, time.monotonic() - asked)

    def _finish(
        self, k: int, state: RunState, pending: _Pending
    ) -> tuple[RunState, Mapping[str, Any]]:
        try:
            answered = _agreed(pending.answered)
        except RewardError as error:
            text = f"update {k + 1} is skipped: {error}"
            warnings.warn(text, RunWarning, stacklevel=2)
            state, metrics = self._skip(state)
            return state, {**metrics, "reward/fault": error.kind}
        values, mesh = answered.values, self._options.mesh
        if mesh is not None:
            values = shard_batch(mesh, agreed_rows(mesh, values))
        began = time.monotonic()
        arguments = (state, pending.rollout, values, *self._options.last_arguments)
        self._speed.begin(self._learn, *arguments)
        state, metrics = self._learn(*arguments)
        jax.block_until_ready(metrics)
        times = {"rollout": answered.rollout, "reward": answered.reward}
        times["update"] = time.monotonic() - began
        return state, {**metrics, **{f"seconds/{name}": s for name, s in times.items()}}


def _counters_ahead(state: RunState) -> tuple[jax.Array, jax.Array]:
    moved = ahead(state)
    return moved.key, moved.update


def _everywhere(mesh: Mesh | None) -> NamedSharding | None:
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def _of_state(options: LoopOptions) -> LoopOptions:
    """Options whose evaluation is given what is in flight, and sees the state alone."""
    evaluate = options.evaluate
    if evaluate is None:
        return options
    return dataclasses.replace(options, evaluate=lambda k, held: evaluate(k, held.state))


def _acted_by(state: RunState, acting: Params) -> RunState:
    policy = state.policy._replace(params=acting)
    return state._replace(learners={**state.learners, "policy": policy})


def _agreed(future: Future[_Answered]) -> _Answered:
    """Wait for an answer; without one on any process there is none on all."""
    try:
        found, mine = wait_for(future), None
    except (RewardError, RewardUnavailable) as error:
        found, mine = None, error
    if jax.process_count() > 1:
        mine = _worst(mine)
    if mine is not None:
        raise mine
    assert found is not None
    return found


def _worst(mine: RewardError | RewardUnavailable | None) -> RewardError | RewardUnavailable | None:
    rank = 0 if mine is None else 1 if isinstance(mine, RewardError) else 2
    if (of_all := worst(rank)) == rank:
        return mine
    said = "another process got no rewards"
    return RewardError(said) if of_all == 1 else RewardUnavailable(said)
