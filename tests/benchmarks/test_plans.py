"""The tables of docs/plan.md and docs/memory.md are what was compiled."""

import pytest

from benchmarks import plans


def row(name, topology, batch, chips, floor, **memory):
    """What is kept of a plan of this floor, set by arithmetic."""
    floors = {"arithmetic": floor, "memory": floor / 2, "interconnect": floor / 4}
    found = {"name": name, "topology": topology, "batch": batch, "unit": "images"}
    found |= {"mesh": {"data": chips, "model": 1}, "floors": floors, "floor": floor}
    found |= {"flops": 2e12, "sent": 3e6, "per_second": batch / floor}
    parts = dict.fromkeys(("parameters", "optimizer", "temporaries", "total"), 10**9)
    return {**found, "memory": parts | memory, "seconds": {"lower": 2.2, "compile": 99.6}}


def test_what_fits_by_hand():
    kinds = [("LoRA", 10), ("full", 30)]
    rows = [
        row(f"SD 1.5, {name}, ddpo", plans.SINGLE, 2, 1, 1.0, total=total * 10**9, temporaries=4e9)
        for name, total in kinds
    ]
    table = plans.of_one_device(rows).splitlines()
    # Two a picture: 6 stand with adapters, and of 16 GB 15.2 are used.
    assert table[2] == "| SD 1.5 | LoRA | 6.0 | 2.00 | 4 | 8 | 35 | 63 |"
    assert table[3] == "| SD 1.5 | full | 26.0 | 2.00 | – | – | 25 | 53 |"
    assert len(table) == 4


def test_scaling_by_hand():
    rows = [row("digits", "v5e:2x2", 192, 4, 0.2), row("digits", "v5e:1x1", 48, 1, 0.1)]
    table = plans.of_scaling(rows).splitlines()
    said = "| digits | weak, v5e | 4 | 192 | 200 | arithmetic | 3 | 960 | 50% |"
    assert table[3] == said and table[2].endswith("| 480 | 100% |")
    assert "| digits | v5e:2x2, data 4 x model 1 | 192 | 1, 1, 1, 1 | 2 | 200, 100, 50 |" in (
        plans.of_jobs(rows)
    )


def test_largest_batches_by_hand():
    best = {"largest_batch": {"batch": 48, "next_fits_not": True}}
    best |= {"totals": {"48": 15 * 10**9, "49": None}}
    found = row("digits, largest batch", "v5e:1x1", 48, 1, 0.1) | best
    said = "| digits | v5e:1x1 | 48 | does not fit | 48: 15, 49: refused |"
    assert plans.of_largest([found]).splitlines()[2:] == [said]
    assert "v5e:1x1" not in plans.of_jobs([found]).split("Not compiled")[0]


def test_a_row_without_floors_is_named_as_missing():
    """As those are that were compiled before floors were counted."""
    job = next(plans.jobs())
    whole = row(job.name, job.topology, job.batch, 1, 0.1)
    part = {name: whole[name] for name in ("name", "topology", "batch", "memory")}
    assert f"- {job.title}" in plans.of_jobs([part])
    assert f"- {job.title}" not in plans.of_jobs([whole])
    assert plans.compiled([part]) == set() and plans.compiled([whole]) == {job.title}


def test_a_job_that_is_refused_is_named_with_what_it_needs():
    job = next(plans.jobs())
    refused = {"name": job.name, "topology": job.topology, "batch": job.batch, "refused": "21.6 GB"}
    rows = [refused, row(job.name, "v5e:2x2", 192, 4, 0.1)]
    assert f"of a chip:\n\n- {job.title}: 21.6 GB\n" in plans.of_jobs(rows)
    assert plans.of_jobs(rows).count(job.title) == 1, "it is not missing"
    assert plans.of_scaling(rows) == "Not compiled yet.\n", "one row is no curve"


def test_each_job_is_there_once_and_has_a_slice():
    titles = [job.title for job in plans.jobs()]
    assert len(titles) == len({*titles}) and all(":" in title for title in titles)


@pytest.mark.parametrize("name", plans.PAGES)
def test_the_pages_are_what_was_compiled(name):
    text = (plans.DOCS / name).read_text(encoding="utf-8")
    assert plans.page(text, plans.kept()) == text
