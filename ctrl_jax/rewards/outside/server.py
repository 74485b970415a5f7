"""A reward that a server computes: a POST of pictures, prompts and records, as JSON.

    {"images": ["<base64 of a PNG>", …], "prompts": ["two cats", …], "records": [{"tag": …}, …]}

is answered, with status 200, by one finite number for each picture,

    {"rewards": [0.7, …]}

Other fields of an answer are not read. `docs/reward_server.md` has a server of 60 lines.
"""

import base64
import dataclasses
import io
import json
import os
import re
import threading
import warnings
from concurrent.futures import FIRST_EXCEPTION, wait
from urllib.parse import SplitResult

import numpy as np

from ctrl_jax._checks import check_count, check_non_negative, check_positive, refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax.rewards.outside.exchange import post, read_url
from ctrl_jax.rewards.outside.faults import Fault, retried
from ctrl_jax.rewards.outside.reward import OutsideReward, Question
from ctrl_jax.rewards.outside.threads import each_in_background
from ctrl_jax.rewards.outside.values import read_values

LOCAL = {"localhost", "127.0.0.1", "::1"}


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """How a reward server is asked.

    Args:
        batch: pictures of a request, at most 4096.
        requests: how many requests are under way at once.
        timeout: seconds that each may take.
        retries: how often a request is sent again when it failed, was late, or was answered by
            another number of values or by NaN.
        pause: seconds before the first of these, twice as many before each next one, 30 at most.
        token_variable: the environment variable that holds a token, sent as ``Authorization:
            Bearer``; only the variable's name is kept.
    """

    batch: int = 16
    requests: int = 4
    timeout: float = 60.0
    retries: int = 4
    pause: float = 1.0
    token_variable: str | None = None

    def __post_init__(self):
        check_count("batch", self.batch, most=4096)
        check_count("requests", self.requests, most=256)
        check_positive("timeout", self.timeout)
        check_count("retries", self.retries, least=0)
        check_non_negative("pause", self.pause)


def server_reward(
    url: str,
    options: ServerOptions | None = None,
    *,
    name: str | None = None,
    max_failed: int = 3,
) -> OutsideReward:
    """Return the reward that a server computes of pictures, prompts and records.

    Nothing is sent before the reward is called. Redirects are not followed, proxies are not read
    from the environment, and an answer of more than a megabyte is not read.

    Args:
        url: ``http://host:port/path`` or ``https://…``; it should hold no secret.
        options: how it is asked; `ServerOptions()` by default.
        name: what errors call it; the address by default.
        max_failed: batches in a row without rewards after which it counts as unavailable; at once
            where nobody answers, or the token is refused.

    Raises:
        ValueError: the address is of another form, or the token's variable holds none.
    """
    options = ServerOptions() if options is None else options
    parts = read_url("url", url)
    if _token(options) is not None and parts.scheme == "http" and parts.hostname not in LOCAL:
        said = f"the token is sent to {parts.netloc} as everybody can read it; https hides it"
        warnings.warn(said, RunWarning, stacklevel=2)

    def ask(question: Question) -> np.ndarray:
        return _ask(parts, options, question)

    address = f"{parts.scheme}://{parts.netloc}{parts.path}"  # a query may hold what is secret
    return OutsideReward(ask, name=name or address, max_failed=max_failed)


def _ask(url: SplitResult, options: ServerOptions, question: Question) -> np.ndarray:
    number, stop = len(question.images), threading.Event()

    def ask_from(begin: int) -> np.ndarray:
        return _ask_part(url, options, question.part(begin, begin + options.batch), stop)

    sent = each_in_background(ask_from, range(0, number, options.batch), options.requests)
    try:
        done, _ = wait(sent, return_when=FIRST_EXCEPTION)
        for each in done:
            each.result()
    finally:
        # One part without rewards is enough: the others need not be asked for again.
        stop.set()
        for each in sent:
            each.cancel()
    return np.concatenate([read_values([], 0), *(each.result() for each in sent)])


def _ask_part(
    url: SplitResult, options: ServerOptions, part: Question, stop: threading.Event
) -> np.ndarray:
    body, token = _body(part), _token(options)

    def once() -> np.ndarray:
        return _read(post(url, body, token=token, timeout=options.timeout), len(part.images))

    return retried(once, options.retries, options.pause, stop)


def _body(part: Question) -> bytes:
    images = [base64.b64encode(_png(image)).decode() for image in part.images]
    sent = {"images": images, "prompts": part.prompts, "records": part.records}
    try:
        return json.dumps(sent, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        rule = f"they are sent as JSON, which has no place for this ({error})"
        raise refuse("records", part.records, rule, "leave it out, or write it as text") from error


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _read(text: bytes, number: int) -> np.ndarray:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Fault("its answer is no JSON") from error
    if not isinstance(answer, dict) or "rewards" not in answer:
        raise Fault('its answer is no object with the field "rewards"')
    return read_values(answer["rewards"], number)


def _token(options: ServerOptions) -> str | None:
    variable = options.token_variable
    if variable is None:
        return None
    token = os.environ.get(variable, "")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        rule = "the environment variable of this name must hold a token, in ASCII, without spaces"
        raise refuse("token_variable", variable, rule, f"export {variable}=…, or name no variable")
    return token
