"""A run with rewards of real servers: what fails is asked again, skipped, or stops it resumably."""

import contextlib
import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.commands.fine_tuning.evaluation import Found
from ctrl_jax.commands.fine_tuning.reward_exchange import as_shown, make_ask, measured
from ctrl_jax.data import Prompt
from ctrl_jax.rewards import RewardUnavailable, ServerOptions, python_reward, server_reward
from ctrl_jax.runtime import (
    Checkpoints,
    LoopOptions,
    OutsideStep,
    RunError,
    RunWarning,
    in_flight,
    state_digest,
    train_outside,
)
from tests.rewards.outside.test_server import PAGE, running, wrong
from tests.runtime import outside_toy as toy

QUIET = LoopOptions(progress=False, fetch_every=3)
PROMPTS = [Prompt(f"picture {k}", fields={"tag": k}) for k in range(8)]
OVERLAP = pytest.mark.parametrize("overlap", [False, True])


def quick(**options: Any) -> ServerOptions:
    return ServerOptions(pause=0.0, timeout=30.0, **options)


def collect(state, batch):
    noise, shown = toy.collect(state, batch)
    pictures = shown[:, :16, :3].reshape(8, 1, 4, 4, 3) / 255.0
    return noise, as_shown(pictures.astype(jnp.float32))


def learn(state, noise, answer):
    return toy.learn(state, noise, answer["seen"][:, 0])


def step(reward) -> OutsideStep:
    return OutsideStep(collect, make_ask({"seen": reward}, lambda k: PROMPTS), learn)


def train(reward, *, steps=6, overlap=False, state=None, **more):
    if state is None:
        state = toy.init(jax.random.key(0))
        state = in_flight(state) if overlap else state
    options = {"options": QUIET, "overlap": overlap, **more}
    final = train_outside(step(reward), state, toy.batches, steps=steps, **options)
    return final.state if overlap else final


@pytest.fixture(scope="module")
def page() -> types.SimpleNamespace:
    """What the server of the docs defines."""
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[-1]
    names: dict = {"__name__": "redness"}
    exec(compile(code, "redness.py", "exec"), names)
    return types.SimpleNamespace(**names)


@OVERLAP
def test_what_fails_once_is_asked_again_and_twice_is_skipped(overlap):
    nan, short = b'{"rewards": [1, 1, NaN, 1, 1, 1, 1, 1]}', b'{"rewards": [1]}'
    faults = [500, None, nan, None, short, short, "break", "break"]
    with wrong(*faults) as (server, url):
        reward = server_reward(url, quick(retries=1), name="ocr")
        with pytest.warns(RunWarning, match="is skipped: ocr: ") as said:
            final = train(reward, overlap=overlap)
        assert not server.faults and len(server.asked) == 8 + 2
    texts = [str(each.message) for each in said]
    assert len(texts) == 2
    assert texts[0].startswith("update 3 is skipped: ocr: it returned 1 values for 8 pictures")
    assert texts[1].startswith("update 4 is skipped: ocr: the connection broke")
    assert int(final.skips.total) == 2 and int(final.policy.optimizer) == 4
    assert [asked["prompts"] for asked, _, _ in server.asked] == [[p.text for p in PROMPTS]] * 10
    assert server.asked[0][0]["records"][3] == {"tag": 3}


@OVERLAP
def test_a_server_that_dies_stops_the_run_and_one_that_is_back_continues_it(
    overlap, page, tmp_path
):
    with running(page.make_server(0)) as url:
        whole = train(server_reward(url, quick()), overlap=overlap)
    server = page.make_server(0)
    address, port, asked = f"http://127.0.0.1:{server.server_address[1]}/", server.server_port, []
    alive = contextlib.ExitStack()
    alive.enter_context(running(server))
    alive_reward = server_reward(address, quick(retries=1))

    def dies(images, prompts, records):
        asked.append(len(prompts))
        if len(asked) == 4:
            alive.close()
        return alive_reward(images, prompts, records)

    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(RewardUnavailable, match=r"no connection .*update 3 of 6 is saved"):
            train(python_reward(dies), overlap=overlap, checkpoints=checkpoints)
        blank = toy.init(jax.random.key(1))
        blank = in_flight(blank) if overlap else blank
        start, state, _ = checkpoints.restore(blank)
    with running(page.make_server(port)):
        final = train(alive_reward, overlap=overlap, state=state, start=start)
    assert start == 3 and state_digest(final) == state_digest(whole)


def test_pictures_that_are_none_are_not_sent():
    pictures = jnp.full((2, 1, 4, 4, 3), 0.5).at[1, 0, 2].set(jnp.nan)
    shown = jax.tree.map(np.asarray, jax.jit(as_shown)(pictures))
    assert shown[0][0, 0, 0, 0, 0] == 128 and shown[1].tolist() == [[True], [False]]
    ask = make_ask({}, lambda k: PROMPTS[:2])
    with pytest.raises(RunError, match="picture 1 holds NaN"):
        ask(0, shown)


def test_two_rollouts_of_a_prompt_are_asked_together():
    def position(images, prompts, records):
        assert prompts == ["picture 0", "picture 0", "picture 1", "picture 1"]
        return images[:, 0, 0, 0]

    pictures = np.arange(4, dtype=np.uint8).reshape(2, 2, 1, 1, 1).repeat(3, axis=-1)
    ask = make_ask({"a": python_reward(position)}, lambda k: PROMPTS[:2])
    np.testing.assert_array_equal(ask(0, (pictures, np.ones((2, 2), bool)))["a"], [[0, 1], [2, 3]])


def test_an_evaluation_goes_without_a_reward_but_not_without_a_server():
    def fails(images, prompts, records):
        raise ValueError("no font")

    pictures = np.zeros((3, 4, 4, 3), np.uint8)
    both = {
        "a": python_reward(lambda images, *_: [1.0] * len(images)),
        "b": python_reward(fails, name="b", retries=0, max_failed=2),
    }
    with pytest.warns(RunWarning, match="an evaluation is without b: b: ValueError: no font"):
        found = measured(both, pictures, PROMPTS[:3])
    np.testing.assert_array_equal(found["a"], 1.0)
    assert found["b"].shape == (3,) and np.isnan(found["b"]).all()
    with pytest.raises(RewardUnavailable):
        measured(both, pictures, PROMPTS[:3])
    assert measured({}, pictures, PROMPTS[:3]) == {}


def test_a_run_does_not_begin_without_rewards_of_the_pretrained_model():
    nothing = np.zeros(2)
    found = Found(nothing, {"a": np.asarray([1.0, np.nan])}, {}, nothing, nothing)
    with pytest.raises(RunError, match=r"got no rewards.*--resume latest"):
        found.check()
