"""What the page on rewards says of --overlap is what was measured, and the script still runs."""

import json

import numpy as np
import pytest

from experiments.score_as_action.overlap import FILE, gaps_of
from tests.test_floors import ROOT

NAMES = {"ratios to the rollout's predictions": "rollout", "to a scoring pass": "scored"}


def test_the_page_quotes_the_file():
    page = (ROOT / "docs" / "rewards.md").read_text()
    found = json.loads(FILE.read_text())["metrics"]
    for title, name in NAMES.items():
        rows = [found[f"gap/{rate}/overlap, {name} less without"] for rate in ("0.001", "0.004")]
        cells = [
            f"{m:.4f} ± {e:.4f}"
            for row in rows
            for m, e in zip(row["mean"], row["error"], strict=True)
        ]
        assert f"| {title} | {' | '.join(cells)} |" in page
    words = " ".join(page.split())
    took = {
        f"{share}/{how}": found[f"seconds/reward of {share}/{how}"]
        for share in ("1", "2")
        for how in ("without", "overlap")
    }
    assert f"with {found['seconds/rollout and update']:.2f} s for rollout and update" in words
    assert f"{took['1/without']:.2f} s without and {took['1/overlap']:.2f} s with it" in words
    assert f"{took['2/without']:.2f} and {took['2/overlap']:.2f} s" in words
    assert f"lacks {found['gap/0.001/without']['mean'][0]:.3f} of" in words


@pytest.mark.slow
def test_the_script_sees_how_old_a_rollout_is():
    """Two updates in, a rollout of the first policy and its ratio make a difference."""
    given = {"updates": 6, "seeds": 2}
    off = gaps_of(4e-3, "scored", **given, overlap=False)
    knows = gaps_of(4e-3, "rollout", **given, overlap=True)
    blind = gaps_of(4e-3, "scored", **given, overlap=True)
    assert np.isfinite([off, knows, blind]).all()
    assert np.abs(knows - off).max() > 1e-5 and np.abs(knows - blind).max() > 1e-5
