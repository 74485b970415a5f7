"""`ctrl-jax fine-tune` with a reward server that dies and comes back."""

import json
import re
import types

import jax
import pytest
from PIL import ImageStat

from ctrl_jax.commands.__main__ import main
from ctrl_jax.models import DiffusionSpec
from ctrl_jax.runtime import read_metrics, save_model
from tests.rewards.outside.test_server import PAGE, running

SHAPE = (8, 8, 1)
SMALL = "--solver-steps 4 --steps 3 --batch 8 --evaluation.number 8 --evaluation.every 1"
SMALL += " --evaluation.checkpoint-every 0 --no-progress --no-compilation-cache --algorithm ddpo"
SMALL += " --outside.retries 1 --outside.pause 0 --reward jpeg_size:-1"


@pytest.fixture
def model(tmp_path):
    spec = DiffusionSpec(width=16, depth=1)
    params = spec.make_network(SHAPE).init(jax.random.key(0))
    save_model(tmp_path / "digits" / "model", spec, SHAPE, params)
    return tmp_path / "digits"


@pytest.fixture
def page() -> types.SimpleNamespace:
    """What the server of the docs defines, with a score of its own."""
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[-1]
    names: dict = {"__name__": "redness"}
    exec(compile(code, "redness.py", "exec"), names)
    names["score"] = lambda image, prompt, record: ImageStat.Stat(image).mean[0] / 255
    return types.SimpleNamespace(**names)


@pytest.mark.parametrize("overlap", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_ends_with_status_75_and_goes_on_bitwise(model, page, tmp_path, capsys, overlap):
    def fine_tune(port, out, *more):
        address = ("--reward", f"light=http://127.0.0.1:{port}/#0.1", "--out", str(tmp_path / out))
        given = ("--model", str(model), *address, *SMALL.split(), *more)
        return main(["fine-tune", *given, *(["--overlap"] if overlap else [])])

    server = page.make_server(0)
    port, asked = server.server_port, []

    class Dying(page.Handler):
        def do_POST(self):
            asked.append(1)
            if len(asked) >= 6:  # a first evaluation, two updates with one each, and the last
                server.shutdown()
                server.server_close()
                return
            super().do_POST()

    server.RequestHandlerClass = Dying
    with running(server), pytest.raises(SystemExit) as stop:
        fine_tune(port, "mine")

    assert stop.value.code == 75
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: light: ") and "update 2 of 3 is saved: --out" in said
    with running(page.make_server(port)):
        assert fine_tune(port, "mine", "--resume", "latest") == 0
        assert fine_tune(port, "whole") == 0
    mine, whole = (
        json.loads((tmp_path / o / "results.json").read_text()) for o in ("mine", "whole")
    )
    assert mine["digest"] == whole["digest"] and mine["metrics"] == whole["metrics"]
    rows = read_metrics(tmp_path / "mine" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    rows = read_metrics(tmp_path / "mine" / "metrics.speed.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["seconds/reward"] > 0 for row in rows)
