"""Rewards by a server: the one of the docs, and one that does everything wrong."""

import base64
import contextlib
import io
import json
import re
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ctrl_jax import rewards
from ctrl_jax.rewards import RewardError, RewardUnavailable, ServerOptions, server_reward
from ctrl_jax.runtime import RunWarning

PAGE = Path(__file__).parents[3] / "docs" / "reward_server.md"
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
TEXTS = [f"picture {k}" for k in range(5)]
TOKEN = "a-very-secret-token"


def quick(**options: Any) -> ServerOptions:
    return ServerOptions(pause=0.0, timeout=30.0, **options)


@pytest.fixture(scope="module")
def page() -> types.SimpleNamespace:
    """What the server of the docs defines."""
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[-1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 60
    names: dict = {"__name__": "redness"}
    exec(compile(code, "redness.py", "exec"), names)
    return types.SimpleNamespace(**names)


@contextlib.contextmanager
def running(server):
    """The address of a server, which is dead afterwards."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/score?model=a"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class WrongServer(ThreadingHTTPServer):
    """What is wrong with it next, and what it was asked."""

    def __init__(self, faults):
        super().__init__(("127.0.0.1", 0), Wrong)
        self.faults, self.asked = list(faults), []
        self.lock, self.release = threading.Lock(), threading.Event()


class Wrong(BaseHTTPRequestHandler):
    """Answers each request by what is next in the server's list, or rightly where that is empty."""

    server: WrongServer

    def do_POST(self):
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.asked.append((json.loads(asked), dict(self.headers), self.path))
            fault = self.server.faults.pop(0) if self.server.faults else None
        with contextlib.suppress(OSError):  # of who did not wait
            self.reply(fault, len(json.loads(asked)["images"]))

    def reply(self, fault, number):
        status, headers, body = 200, {}, json.dumps({"rewards": [1.0] * number, "more": 1}).encode()
        if fault == "hang":
            self.server.release.wait(60)
        elif fault == "trickle":
            self.send_response(200)
            self.end_headers()
            while not self.server.release.wait(0.02):
                self.wfile.write(b" ")
        elif fault == "break":
            return
        elif isinstance(fault, int):
            status, body = fault, f"no:\n {self.headers.get('Authorization')}".encode()
            headers = {"Location": "http://elsewhere.invalid/"} if 300 <= fault < 400 else {}
        elif fault is not None:
            body = fault
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def wrong(*faults):
    """A server with these faults, and its address."""
    server = WrongServer(faults)
    with running(server) as url:
        try:
            yield server, url
        finally:
            server.release.set()


def redness(images):
    red, green, blue = np.moveaxis(images.mean(axis=(1, 2), dtype=np.float64), -1, 0)
    return (red - (green + blue) / 2) / 255


def test_the_server_of_the_docs_dies_and_comes_back(page, monkeypatch):
    monkeypatch.setenv("REWARD_TOKEN", TOKEN)
    server = page.make_server(0)
    port = server.server_address[1]
    options = quick(batch=2, token_variable="REWARD_TOKEN", retries=1)
    with running(server) as url:
        reward = server_reward(url, options)
        np.testing.assert_allclose(reward(IMAGES, TEXTS), redness(IMAGES), rtol=1e-5)
        assert reward(IMAGES[:0], []).shape == (0,)
        with pytest.raises(RewardUnavailable, match="status 401") as refused:
            server_reward(url, quick())(IMAGES, TEXTS)
        assert "--resume latest" in str(refused.value)
        with pytest.raises(RewardError, match="status 413"):
            monkeypatch.setitem(page.Handler.do_POST.__globals__, "MOST_BYTES", 10)
            reward(IMAGES, TEXTS)
        monkeypatch.setitem(page.Handler.do_POST.__globals__, "MOST_BYTES", 2**28)
    with pytest.raises(RewardUnavailable, match=r"no connection to .*, asked 2 times"):
        reward(IMAGES, TEXTS)
    with running(page.make_server(port)):
        np.testing.assert_allclose(reward(IMAGES, TEXTS), redness(IMAGES), rtol=1e-5)


def test_what_is_sent(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    records = [{"tag": k} for k in range(5)]
    with wrong() as (server, url):
        options = quick(batch=2, token_variable="MY_TOKEN")
        reward = server_reward(url, options)
        assert reward(IMAGES, TEXTS, records).tolist() == [1.0] * 5
        assert TOKEN not in repr(reward) + repr(options) + repr(vars(reward))
    sent = sorted((asked for asked, _, _ in server.asked), key=lambda asked: asked["prompts"])
    assert [len(asked["images"]) for asked in sent] == [2, 2, 1]
    assert [text for asked in sent for text in asked["prompts"]] == TEXTS
    assert [record for asked in sent for record in asked["records"]] == records
    files = [base64.b64decode(image) for asked in sent for image in asked["images"]]
    found = [np.asarray(Image.open(io.BytesIO(file))) for file in files]
    np.testing.assert_array_equal(found, IMAGES)
    for _, headers, path in server.asked:
        assert path == "/score?model=a" and headers["Content-Type"] == "application/json"
        assert headers["Authorization"] == f"Bearer {TOKEN}"


FAULTS = [
    (500, "failed", "status 500"),
    (429, "failed", "status 429"),
    ("break", "failed", "the connection broke"),
    (b"<html>", "failed", "its answer is no JSON"),
    (b"[" * 100_000, "failed", "its answer is no JSON"),
    (b"[1, 1, 1, 1, 1]", "failed", 'no object with the field "rewards"'),
    (b'{"rewards": null}', "failed", "it returned None in place of a list"),
    (b'{"rewards": [1, 1, 1, 1, "1"]}', "failed", "value 4 is '1', not a number"),
    (b'{"rewards": [1, 1]}', "wrong_number", "it returned 2 values for 5 pictures"),
    (b'{"rewards": [1, 1, NaN, 1, 1]}', "not_finite", "value 2 of 5 is nan"),
    (b'{"rewards": [1, 1, 1, 1, 1e999]}', "not_finite", "value 4 of 5 is inf"),
    (b" " * (2**20 + 1), "failed", "its answer is longer than 1048576 bytes"),
]


def test_every_fault_is_told_and_then_forgiven(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    options = quick(retries=1, token_variable="MY_TOKEN")
    with wrong() as (server, url):
        reward = server_reward(url, options)
        for fault, kind, message in FAULTS:
            server.faults[:] = [fault]
            assert reward(IMAGES, TEXTS).tolist() == [1.0] * 5, "once is forgiven"
            server.faults[:] = [fault, fault]
            with pytest.raises(RewardError) as raised:
                reward(IMAGES, TEXTS)
            said = str(raised.value)
            assert raised.value.kind == kind and message in said and "asked 2 times" in said
            assert "\n" not in said and TOKEN not in said and len(said) < 500
        assert len(server.asked) == 4 * len(FAULTS)


@pytest.mark.parametrize("fault", ["hang", "trickle"])
def test_one_that_is_late(fault):
    begin = time.monotonic()
    with wrong(fault) as (server, url):
        patient = server_reward(url, ServerOptions(timeout=0.2, retries=9, pause=0.0))
        # The first request is late; on a machine that is busy the next may be, too.
        assert patient(IMAGES, TEXTS).tolist() == [1.0] * 5
        server.faults[:] = [fault]
        hasty = server_reward(url, ServerOptions(timeout=0.2, retries=0))
        with pytest.raises(RewardError, match=r"no (whole )?answer within 0\.2 s") as raised:
            hasty(IMAGES, TEXTS)
        assert raised.value.kind == "late"
    assert time.monotonic() - begin < 30


def test_what_will_never_do_is_asked_once(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    options = quick(token_variable="MY_TOKEN")
    for status, error in ((400, RewardError), (403, RewardUnavailable), (302, RewardUnavailable)):
        with wrong(status) as (server, url):
            with pytest.raises(error, match=f"status {status}") as raised:
                server_reward(url, options)(IMAGES, TEXTS)
            assert len(server.asked) == 1 and TOKEN not in str(raised.value)
            assert status != 302 or "elsewhere.invalid" in str(raised.value)


def test_several_batches_in_a_row_are_the_end():
    with wrong(*[500] * 3) as (_, url):
        reward = server_reward(url, quick(retries=0), max_failed=2)
        with pytest.raises(RewardError):
            reward(IMAGES, TEXTS)
        with pytest.raises(RewardUnavailable, match="2 batches in a row"):
            reward(IMAGES, TEXTS)


def test_one_part_that_fails_ends_the_others():
    """The second part would be asked 10 times, each after a pause; the first fault ends that."""
    begin = time.monotonic()
    with wrong(400, *[500] * 9) as (_, url):
        options = ServerOptions(batch=3, requests=2, retries=9, pause=30.0, timeout=30.0)
        with pytest.raises(RewardError):
            server_reward(url, options)(IMAGES, TEXTS)
    assert time.monotonic() - begin < 10


def test_json_has_no_place_for_everything():
    with pytest.raises(ValueError, match=r"records: .*they are sent as JSON"):
        server_reward("http://127.0.0.1:9/")(IMAGES, TEXTS, [{"x": object()}] * 5)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/", "of http or https"),
        ("127.0.0.1:8000", "of http or https"),
        ("http:///path", "of http or https"),
        ("http://host:99999/", "it must be an address .Port out of range"),
        ("http://host:0/", "of http or https"),
        ("http://host/#part", "of http or https"),
        ("http://ho st/", "without spaces"),
        ("http://host/\r\nX: y", "without spaces"),
        ("http://[::1/", "it must be an address"),
    ],
)
def test_no_address(url, message):
    with pytest.raises(ValueError, match=f"url: received .*{message}.*http://127.0.0.1:8000/"):
        server_reward(url)


def test_a_password_in_an_address_is_refused_unseen():
    with pytest.raises(ValueError, match="no password") as raised:
        server_reward(f"https://me:{TOKEN}@host/")
    assert TOKEN not in str(raised.value)


def test_tokens(monkeypatch):
    options = ServerOptions(token_variable="MY_TOKEN")
    for value in (None, "", f"{TOKEN}\n", f"{TOKEN}é"):
        monkeypatch.delenv("MY_TOKEN", raising=False)
        if value is not None:
            monkeypatch.setenv("MY_TOKEN", value)
        with pytest.raises(ValueError, match="token_variable: received 'MY_TOKEN'") as raised:
            server_reward("https://host/", options)
        assert TOKEN not in str(raised.value)
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    with pytest.warns(RunWarning, match="https hides it"):
        server_reward("http://host/", options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", 0), ("batch", 5000), ("requests", 0), ("timeout", 0.0), ("retries", -1)],
)
def test_options_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name}: received {value}"):
        ServerOptions(**{name: value})  # pyright: ignore[reportArgumentType]


def test_beside_a_reward_in_jax():
    with wrong() as (_, url):
        outside = {"server": server_reward(url, quick())}
        parts = {"light": jnp.mean(jnp.asarray(IMAGES, jnp.float32), axis=(1, 2, 3))}
        parts |= rewards.gathered(outside, IMAGES, TEXTS)
    found = rewards.combined(parts, {"light": 0.0, "server": 2.0}).rewards
    np.testing.assert_array_equal(found.values, [2.0] * 5)
    assert found.parts.keys() == {"light", "server"}
