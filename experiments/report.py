"""Pages of the studies, written from their kept results.

    python -m experiments.report               write experiments/NAME/README.md of every study
    python -m experiments.report --readme      and the studies and their minutes in README.md
    python -m experiments.report --keep RUN    first keep results.json and the pictures of a run
        --name NAME                            as NAME.json and NAME.png, beside its main run

The prose of a page stands in experiments/NAME/story.md, where {METRIC|FORMAT} is a number of
results.json, or of another JSON file beside it: no number is written by hand.
"""

import argparse
import collections
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ctrl_jax._checks import refuse
from ctrl_jax._sums import check_sums
from experiments.papers import PAPERS, Paper
from experiments.study import Study, studies
from experiments.verdicts import judge

ROOT = Path(__file__).resolve().parent
README = ROOT.parent / "README.md"
RESULTS = "results"
MOST_BYTES = 150_000
HOLDS = {True: "yes", False: "**no**"}
_BLOCK = re.compile(r"(<!-- studies -->\n).*?(<!-- /studies -->)", re.DOTALL)
_FIELD = re.compile(r"\{([^{}|]+)(?:\|([^{}]+))?\}")
_DEMO = re.compile(r"(\n```\n) +before +after .*?(\n```\n)", re.DOTALL)
DEMO = """\
                      before   after   reference
gold success           {gold_success/before|.3f}   {gold_success/after|.3f}   >= 0.90 expected
proxy reward           {proxy_reward/before|.3f}   {proxy_reward/after|.3f}
diversity in class     {diversity/before|.3f}   {diversity/after|.3f}   \
{diversity/real|.3f} real digits
path KL (nats)             0   {kl/path|.3f}   {kl/ideal|.3f} ideal ({kl/ratio|.2f} x)"""
_PLAIN = re.compile(r"[^/]* [-\d.]+")
_COMMAND = re.compile(r"^(python -m experiments\.(\w+) +)\d+(?= )", re.MULTILINE)


def main() -> None:
    """Write the pages that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--keep", type=Path, action="append", default=[], metavar="RUN")
    parser.add_argument("--name", default=RESULTS, metavar="NAME")
    parser.add_argument("--readme", action="store_true")
    options = parser.parse_args()
    for run in options.keep:
        keep(run, options.name)
    for study in studies().values():
        if (ROOT / study.name / "results.json").exists():
            (ROOT / study.name / "README.md").write_text(page(study), encoding="utf-8")
    if options.readme:
        README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")


def keep(run: Path, name: str = RESULTS) -> None:
    """Copy the results of a run and its pictures beside the study's code.

    Args:
        run: its folder. Where it lay is left out: a machine's paths say nothing to others.
        name: of the file; of another than the study's main run there is one picture, of that name.
    """
    check_sums(run, "keep")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    study = studies()[results["experiment"]]
    config = results["config"]
    config["run"] |= {"out": None, "resume": "never", "progress": True}
    paths = {k: v for k, v in config.items() if isinstance(v, str) and Path(v).is_absolute()}
    config |= {name: Path(path).name for name, path in paths.items()}
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    (ROOT / study.name / f"{name}.json").write_text(text, encoding="utf-8")
    for picture in study.pictures if name == RESULTS else (f"{name}.png",):
        keep_picture(run / picture, ROOT / study.name / picture)


def keep_picture(source: Path, target: Path) -> None:
    """Copy a picture, one that is too large for the repository in the 128 colors it needs most."""
    if source.stat().st_size <= MOST_BYTES:
        shutil.copyfile(source, target)
    else:
        Image.open(source).convert("RGB").quantize(128).save(target, optimize=True)


def page(study: Study) -> str:
    """Return the page of a study: claim, source, command, pictures, story and verdicts."""
    folder = ROOT / study.name
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    metrics, versions = results["metrics"], results["versions"]
    command = f"python -m experiments.{study.name} {study.options}".strip()
    minutes = "a minute" if study.minutes == 1 else f"{study.minutes} minutes"
    story = folder / "story.md"
    others = [json.loads(f.read_text("utf-8")) for f in folder.glob("*.json")]
    measured = dict(collections.ChainMap(metrics, *(other["metrics"] for other in others)))
    parts = [
        f"# {study.name}",
        study.claim,
        f"Source: {study.source}.",
        f"`{command}`, {minutes} on two CPU cores.",
        *(f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in study.pictures),
        expectations(study, metrics),
        fill(story.read_text(encoding="utf-8").strip(), measured) if story.exists() else "",
        claims(metrics),
        f"All numbers: [results.json](results.json), of jax {versions['jax']} on "
        f"{versions['device']}, seed {results['config']['run']['seed']}. This page is written by "
        "`python -m experiments.report`.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def expectations(study: Study, metrics: Mapping[str, Any]) -> str:
    """Return the table of what was expected and what was found, empty where nothing was."""
    rows = [
        (
            row.name,
            "-" if row.value is None else f"{row.value:.4g}",
            row.expected if _PLAIN.fullmatch(row.expected) else f"{row.expected} = {row.bound:.3g}",
            HOLDS[row.holds],
        )
        for row in judge(study.expected, metrics)
    ]
    return _table(("metric", "measured", "expected", "holds"), rows) if rows else ""


def claims(metrics: Mapping[str, Any]) -> str:
    """Return the list of the claims with their verdicts, empty where there are none."""
    found = metrics.get("claims", ())
    lines = [
        f"- **{c['holds']}**, `{c['name']}`: {c['statement']} ({c['evidence']})" for c in found
    ]
    return "\n".join(["## Claims, and whether they hold here", "", *lines]) if lines else ""


def fill(text: str, metrics: Mapping[str, Any]) -> str:
    """Return a text with {METRIC} and {METRIC|FORMAT} replaced by what was measured.

    Args:
        text: the format is Python's, ".3g" by default for what is not whole.
        metrics: names to values; "claim/NAME" is the verdict on a claim, "evidence/NAME" what it
            rests on.

    Raises:
        ValueError: a metric that there is not.
    """
    told = metrics.get("claims", ())
    verdicts = {f"claim/{c['name']}": c["holds"] for c in told}
    known = {**metrics, **verdicts, **{f"evidence/{c['name']}": c["evidence"] for c in told}}

    def value(match: re.Match) -> str:
        name, form = match.groups()
        if name not in known:
            rule = "results.json holds no such metric"
            raise refuse("story", name, rule, "name one that it holds, or run the study again")
        found = known[name]
        plain = form is None and isinstance(found, str | int)
        text = str(found) if plain else format(found, form or ".3g")
        return text.replace("%", " %")

    return _FIELD.sub(value, text)


def readme(text: str) -> str:
    """Return the project's README with what the demo reached, papers and minutes written anew."""
    table = _table(("paper", "module", "study", "verdict"), [_row(paper) for paper in PAPERS])
    found = studies()
    text = _BLOCK.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)
    results = json.loads((ROOT / "score_as_action" / "results.json").read_text(encoding="utf-8"))
    demo = fill(DEMO, results["metrics"])
    text = _DEMO.sub(lambda match: f"{match[1]}{demo}{match[2]}", text)
    return _COMMAND.sub(lambda m: f"{m[1]}{found[m[2]].minutes}" if m[2] in found else m[0], text)


def _row(paper: Paper) -> tuple[str, ...]:
    pages = [ROOT / name / "README.md" for name in paper.studies]
    first = pages[0].with_name("results.json")
    metrics = json.loads(first.read_text(encoding="utf-8"))["metrics"] if first.exists() else {}
    names = [
        f"[`{page.parent.name}`]({page.relative_to(ROOT.parent).as_posix()})"
        if page.exists()
        else f"`{page.parent.name}` (no result kept)"
        for page in pages
    ]
    return (
        f"[{paper.title}](https://arxiv.org/abs/{paper.number}), {paper.authors}",
        ", ".join(f"`{module}`" for module in paper.modules),
        ", ".join(names),
        fill(paper.verdict, metrics),
    )


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


if __name__ == "__main__":
    main()
