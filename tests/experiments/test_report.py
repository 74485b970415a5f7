"""Pages of the studies are what their kept results say, and expectations are judged as written."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from experiments.papers import PAPERS
from experiments.report import DEMO, MOST_BYTES, README, ROOT, fill, keep_picture, page, readme
from experiments.study import studies
from experiments.verdicts import judge
from tests.runtime.processes import run_python

KEPT = [study for study in studies().values() if (ROOT / study.name / "results.json").exists()]


def results(name: str) -> dict:
    return json.loads((ROOT / name / "results.json").read_text())


@pytest.mark.parametrize("study", KEPT, ids=lambda study: study.name)
def test_a_page_is_what_its_results_say(study):
    assert (ROOT / study.name / "README.md").read_text() == page(study)


@pytest.mark.parametrize("study", KEPT, ids=lambda study: study.name)
def test_results_are_of_this_study_and_name_no_place(study):
    assert results(study.name)["experiment"] == study.name
    for kept in (ROOT / study.name).glob("*.json"):
        assert not re.search(r'"(/|~|[A-Z]:\\)', kept.read_text())


@pytest.mark.parametrize("study", KEPT, ids=lambda study: study.name)
def test_every_claim_has_a_name_of_its_own(study):
    names = [claim["name"] for claim in results(study.name)["metrics"].get("claims", ())]
    assert len({*names}) == len(names)


@pytest.mark.parametrize("study", KEPT, ids=lambda study: study.name)
def test_every_expectation_and_picture_is_there(study):
    metrics = results(study.name)["metrics"]
    for pattern, rule in study.expected.items():
        assert judge({pattern: rule}, metrics), pattern
    for name in study.pictures:
        assert 0 < (ROOT / study.name / name).stat().st_size <= MOST_BYTES


def test_the_readme_is_what_the_results_say():
    text = README.read_text()
    assert readme(text) == text
    assert fill(DEMO, results("score_as_action")["metrics"]) in text
    assert readme(text.replace("gold success  ", "gold success 9")) == text


def test_the_readme_is_short():
    block = README.read_text().split("<!-- studies -->")[1].split("<!-- /studies -->")[0]
    cells = [cell for line in block.splitlines() for cell in line.strip("|").split(" | ")]
    assert cells and all(len(cell.split()) <= 25 for cell in cells)
    verdicts = [line.strip("|").split(" | ")[-1] for line in block.splitlines() if "arxiv" in line]
    assert len(verdicts) == len(PAPERS) and all(len(v.split()) <= 15 for v in verdicts)


def test_every_study_belongs_to_a_paper():
    assert {name for paper in PAPERS for name in paper.studies} == set(studies())


def test_the_studies_are_listed_without_jax():
    code = "import sys; from experiments.__main__ import main; main(); print('jax' in sys.modules)"
    status, out, err = run_python("-c", code)
    assert status == 0, err
    assert out.endswith("False\n")
    for study in studies().values():
        assert re.search(rf"^{study.name} +{study.minutes} min  \S", out, re.MULTILINE)


METRICS = {"a": 2.0, "b/x/c": 3.0, "b/y/c": 5.0, "d/x": 2.5, "d/y": 2.0, "lost": None}


@pytest.mark.parametrize(
    ("name", "rule", "holds"),
    [
        ("a", "<= 2", [True]),
        ("a", "< 2", [False]),
        ("a", ">= 0.5 x b/x/c", [True]),
        ("a", "> b/x/c", [False]),
        ("a", "-1 ± 3", [True]),
        ("a", "1.5 ± 0.4", [False]),
        ("b/*/c", "< 2 x d/*", [True, False]),
        ("b/*/c", "<= lost", []),
        ("b/*/c", "<= elsewhere", []),
        ("lost", "<= 9", [False]),
        ("*", "<= 2", [True, False]),
    ],
)
def test_expectations_are_judged(name, rule, holds):
    assert [row.holds for row in judge({name: rule}, METRICS)] == holds


def test_an_expectation_of_another_form_is_refused():
    with pytest.raises(ValueError, match=r"expected: received .about 2.*write it as"):
        judge({"a": "about 2"}, METRICS)


def test_a_large_picture_is_kept_in_fewer_colors(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    smooth = np.broadcast_to(np.arange(300, dtype=np.uint8)[:, None, None], (300, 300, 3))
    for name, image, same in (("noise", pixels, False), ("smooth", smooth, True)):
        source, kept = tmp_path / f"{name}.png", tmp_path / f"{name}-kept.png"
        Image.fromarray(np.ascontiguousarray(image)).save(source)
        keep_picture(source, kept)
        assert kept.stat().st_size <= MOST_BYTES
        assert (kept.read_bytes() == source.read_bytes()) == same
        assert Image.open(kept).size == (300, 300)


def test_a_story_quotes_what_was_measured_only():
    claims = [{"name": "n", "holds": "yes", "evidence": "2 of 2"}]
    metrics = {"share": 0.9275, "pairs": 4096, "claims": claims}
    text = "{share} {share|.0%} {pairs} {claim/n}, {evidence/n}"
    assert fill(text, metrics) == "0.927 93 % 4096 yes, 2 of 2"
    with pytest.raises(ValueError, match="story: received 'other'"):
        fill("{other}", metrics)
