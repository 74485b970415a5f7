"""The shell of every study: its declaration, and the run that decides it.

Each folder `experiments/NAME` declares `STUDY` in its `__init__`; nothing here loads JAX before a
run begins, so that `python -m experiments` lists the studies at once.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import pkgutil
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctrl_jax._errors import RunWarning
from ctrl_jax._whole import copy_folder

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from ctrl_jax.runtime import Run
    from ctrl_jax.runtime.loop.adapters import Guarded
    from experiments.verdicts import Claim


@dataclasses.dataclass(frozen=True)
class Study:
    """One claim of a paper, where it stands, and what a run should find.

    Args:
        name: of the folder, `python -m experiments.NAME`.
        about: the claim in a few words, for lists.
        claim: what the study shows, in a sentence or two.
        source: the paper and the place in it.
        minutes: of the default run on two CPU cores.
        expected: names of metrics to what is expected of them, as `verdicts.judge` reads it.
        options: of the run whose results are kept, beside the defaults.
        pictures: files of the run that its page shows.
    """

    name: str
    about: str
    claim: str
    source: str
    minutes: int
    expected: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: str = ""
    pictures: tuple[str, ...] = ()

    def begin(
        self,
        config: Any,
        load: Callable[["Mesh"], Any] | None = None,
        inputs: Callable[[], Mapping[str, str]] = dict,
        *,
        side_by_side: int = 1,
    ) -> "Conduct":
        """Start the clock, prepare the devices, and create or find the folder of the run.

        Args:
            config: a dataclass with the field `run`, the common options.
            load: called with the mesh before there is a folder, to read the inputs and to refuse
                them.
            inputs: called after that; returns the digests of the content of what the run is given,
                by the names of the options (`runtime.digests_of`).
            side_by_side: runs that devices divide among them, if all that they divide is that; see
                `runtime.prepare`.

        Returns:
            The run under way.

        Raises:
            ValueError: the options do not fit the machine or the folder.
        """
        from ctrl_jax.runtime import open_run, prepare

        began, options = time.monotonic(), config.run
        mesh = prepare(options, side_by_side=side_by_side)
        loaded = None if load is None else load(mesh)
        where = {"out": options.out, "resume": options.resume, "seed": options.seed}
        run = open_run(self.name, dataclasses.asdict(config), **where, inputs=inputs())
        return Conduct(self, config, run, mesh, loaded, began)


@dataclasses.dataclass(frozen=True)
class Conduct:
    """A run of a study under way.

    Args:
        study: what is studied.
        config: the whole configuration, with the common options as its field `run`.
        run: its place on disk.
        mesh: its devices.
        loaded: what `load` returned.
        began: when it began, on the monotonic clock, in seconds.
    """

    study: Study
    config: Any
    run: "Run"
    mesh: "Mesh"
    loaded: Any
    began: float

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.run.folder

    @functools.cached_property
    def adapters(self) -> "Sequence[Guarded]":
        """Where `--log` sends the metrics of the main loop, and those of results.json."""
        from ctrl_jax.runtime import make_adapters

        return make_adapters(self.config.run.log, self.folder, self.config)

    @functools.cached_property
    def _pieces(self) -> set[Path]:
        return set()

    def say(self, text: str) -> None:
        """Print a line at once, on the first of several processes."""
        import jax

        if jax.process_index() == 0:
            print(text, flush=True)

    def fingerprint(self, *parts: Any, shared: bool = False) -> str:
        """Return one name for what a stage depends on: what is given, seed and type.

        Args:
            *parts: whatever JSON can hold, dataclasses too; of arrays their digests.
            shared: whether other runs use the stage, whose last digits depend on versions and mesh;
                a run of its own that goes on elsewhere keeps its stages.
        """
        from ctrl_jax._records import plain
        from ctrl_jax.runtime import versions

        options = self.config.run
        kept = [*parts, options.seed, options.arithmetic]
        if shared:
            kept += [versions(), dict(self.mesh.shape)]
        return hashlib.sha256(json.dumps(plain(kept), sort_keys=True).encode()).hexdigest()[:16]

    def alike(self) -> bool:
        """Return whether all stages so far were computed on such a mesh, with these versions.

        Only then may other runs have what they make. Call it whenever the run comes to a stage,
        which is noted. Of several processes the first one knows; the others are told no.
        """
        import jax

        from ctrl_jax.runtime.devices.distributed import on_the_first

        def noted() -> bool:
            path, here = self.folder / "stages.places", self.fingerprint(shared=True)
            with path.open("a") as file:
                file.write(f"{here}\n")
            return {*path.read_text().split()} == {here}

        return on_the_first(noted) and jax.process_index() == 0

    def share(self, stage: Path, cache: Path) -> None:
        """Copy what a stage made to where later runs find it; the run goes on where it cannot."""
        try:
            copy_folder(stage, cache)
        except OSError as error:
            text = (
                f"{cache}: not kept for later runs ({error}); give a folder that can be written to"
            )
            warnings.warn(text, RunWarning, stacklevel=2)

    def train(
        self,
        step: Callable,
        state: Any,
        batches: Callable[[int], Any],
        steps: int,
        *,
        stage: str | None = None,
        log: str | None = "metrics.jsonl",
        first: Mapping[str, Any] | None = None,
        **loop: Any,
    ) -> Any:
        """Run a training to its end, from its newest checkpoint on where it has one.

        Args:
            step: pure, or `CountTraces` of it.
            state: before the first update.
            batches: the batch of an update by the number of those before it.
            steps: updates in all.
            stage: the folder of its checkpoints, named by all that it depends on; of the main loop,
                which `--resume` is about, by default.
            log: the file of its metrics; None for none.
            first: what the log says of the state before the first update.
            **loop: fields of `LoopOptions`.

        Returns:
            The state after the last update, whole on every device.
        """

        from ctrl_jax._errors import MissingCheckpointError
        from ctrl_jax.runtime import Checkpoints, LoopOptions, MetricsLog, replicate, train
        from ctrl_jax.runtime.devices.distributed import on_the_first
        from ctrl_jax.runtime.loop.signals import stop_point
        from ctrl_jax.runtime.loop.training import state_shardings

        usual = {"progress": self.config.run.progress, "mesh": self.mesh}
        given: dict[str, Any] = {**usual, "record": self.run.record, **loop}
        if given["mesh"] is not None:
            given.setdefault("shardings", self.divided(state))
        evaluate = given.get("evaluate")
        if evaluate is not None and given.get("shardings") is not None:
            given["evaluate"] = lambda k, state: evaluate(k, replicate(self.mesh, state))
        if self.config.run.profile and stage is None:
            given["profile"] = self.folder / "profile"
        options = LoopOptions(**given)
        common = self.config.run
        folder, keep, every = self.run.checkpoints, common.keep, common.keep_every
        if stage is not None:
            folder, keep, every = self.folder / stage, 1, None
        start, record, lines = 0, {}, None
        stop_point()
        on_the_first(self.run.check_there)
        kept = Checkpoints(folder, keep, keep_every=every)
        with kept as checkpoints, contextlib.ExitStack() as stack:
            # A stage begins anew where nothing good is kept of it; a run that is to go on does not.
            lacking = () if stage is None else (MissingCheckpointError,)
            with contextlib.suppress(*lacking):
                if stage is not None or self.run.resumed:
                    shardings = state_shardings(options)
                    start, state, record = checkpoints.restore(state, shardings=shardings)
                    self.run.check_restored(record)
            if log is not None:
                adapters = self.adapters if stage is None else ()
                known: dict[str, Any] = {"start": start, "digest": record.get("lines")}
                lines = stack.enter_context(
                    MetricsLog(self.folder / log, adapters=adapters, **known)
                )
                if first is not None and start == 0:
                    lines.write(0, first)
            ended = train(
                step,
                state,
                batches,
                steps=steps,
                start=start,
                log=lines,
                checkpoints=checkpoints,
                options=options,
            )
        return ended if options.shardings is None else replicate(self.mesh, ended)

    def divided(self, state: Any) -> Any:
        """Return how a state is divided over ``model`` by its networks' rules; None for not."""
        if self.mesh.shape["model"] == 1:
            return None
        import jax
        from jax.sharding import NamedSharding

        from ctrl_jax.networks.sharding import SCORE, partition_specs

        specs = partition_specs(state, self.mesh, rules=SCORE)
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)

    def named(self, piece: str) -> str:
        """Return the name of a piece of work with a fingerprint of all that the run depends on."""
        options, given = dataclasses.asdict(self.config), self.run.inputs
        steps = options.pop("run")["steps"]
        options = {name: value for name, value in options.items() if name not in given}
        plain = "-".join(re.findall(r"[\w.=]+", piece))
        return f"{plain}-{self.fingerprint(options, steps, given)}"

    def once(self, piece: str, make: Callable[[], Any], like: Any = None) -> Any:
        """Return what a piece of work returns, on the host; what is kept of it is found again.

        It is found where the run's config.json is gone, too; that other versions or devices made it
        is a warning.

        Args:
            piece: what it is, for the name of a folder among the checkpoints; no two of a run are
                alike.
            make: returns a tree of arrays, whole on every process.
            like: a tree of the same shapes and types; by default `make` is traced for them.
        """
        import jax
        import numpy as np

        from ctrl_jax._errors import MissingCheckpointError
        from ctrl_jax.runtime import Checkpoints
        from ctrl_jax.runtime.checkpoints.step_folders import finished_steps
        from ctrl_jax.runtime.devices.distributed import on_the_first
        from ctrl_jax.runtime.loop.signals import stop_point

        stop_point()
        folder = self.run.checkpoints / self.named(piece)
        if folder in self._pieces:
            raise ValueError(f"two pieces of the run are called {folder.name}: name them apart")
        self._pieces.add(folder)
        there = on_the_first(lambda: finished_steps(folder) != [])
        with Checkpoints(folder, keep=1) as checkpoints:
            if there:
                shapes = jax.eval_shape(make) if like is None else like
                target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
                with contextlib.suppress(MissingCheckpointError):
                    found = checkpoints.restore(target)
                    self.run.check_restored(found.record)
                    return found.state
            # In the order in which they are read again: NumPy's sums depend on it.
            state = jax.tree.map(functools.partial(np.asarray, order="C"), jax.device_get(make()))
            checkpoints.save(1, state, self.run.record)
        return state

    def write(
        self,
        metrics: Mapping[str, Any],
        params: Any,
        claims: Sequence["Claim"] = (),
        expected: Mapping[str, Any] | None = None,
    ) -> None:
        """Write results.json.

        Args:
            metrics: names to numbers.
            params: the final parameters, of which the digest is kept; or that digest.
            claims: what was decided, kept as the metric "claims".
            expected: names to expectations; the study's of which there is a metric by default.
        """
        from ctrl_jax.runtime import state_digest, write_results
        from ctrl_jax.runtime.loop.signals import stop_point
        from experiments.verdicts import judge

        stop_point()
        told = {"claims": [dataclasses.asdict(claim) for claim in claims]} if claims else {}
        study = self.study
        if expected is None:
            expected = {row.name: row.expected for row in judge(study.expected, metrics)}
        write_results(
            self.run,
            experiment=study.name,
            claim=study.claim,
            source=study.source,
            metrics={**metrics, **told},
            expected=expected,
            config=dataclasses.asdict(self.config),
            digest=params if isinstance(params, str) else state_digest(params),
            seconds=time.monotonic() - self.began,
        )
        for adapter in self.adapters:
            adapter(adapter.last, {f"results/{name}": value for name, value in metrics.items()})
            adapter.flush()

    def close(self, claims: Sequence["Claim"] = ()) -> Path:
        """Seal the run, print the verdicts and the folder, and return the folder."""
        import jax

        from experiments.verdicts import print_claims

        self.run.seal()
        if jax.process_index() == 0:
            if claims:
                print_claims(claims)
            print(f"results: {self.folder}")
        return self.folder


def studies() -> dict[str, Study]:
    """Return the declaration of every study by name."""
    folder = str(Path(__file__).parent)
    packages = [found.name for found in pkgutil.iter_modules([folder]) if found.ispkg]
    modules = (importlib.import_module(f"experiments.{name}") for name in packages)
    return {m.STUDY.name: m.STUDY for m in modules if hasattr(m, "STUDY")}
