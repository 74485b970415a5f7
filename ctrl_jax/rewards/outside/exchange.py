"""One POST over HTTP, within a time, with an answer of bounded size, and without redirects."""

import contextlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from ctrl_jax._checks import refuse
from ctrl_jax.rewards.outside.faults import Fault, shown

MOST_BYTES = 2**20
"""Of an answer: 4096 numbers of 20 digits take a tenth of it."""

NEVER = {401: "not let in", 403: "not let in", 404: "no such address", 405: "it takes no POST"}
TRANSIENT = {408, 425, 429}


def read_url(name: str, url: object) -> SplitResult:
    """Return an address in its parts.

    Args:
        name: what errors call it.
        url: ``http://host:port/path`` or ``https://…``.

    Raises:
        ValueError: it is of another form, or holds a password, which would be written to disk.
    """
    rule, repair = "it must be an address", "give one such as http://127.0.0.1:8000/"
    if not isinstance(url, str) or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise refuse(name, url, f"{rule} in ASCII, without spaces", repair)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise refuse(name, url, f"{rule} ({error})", repair) from error
    if "@" in parts.netloc:
        rule = "it must hold no user and no password, which would be written to disk"
        raise refuse(name, f"{parts.scheme}://…@…", rule, "give a token by an environment variable")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.fragment:
        raise refuse(name, url, f"{rule} of http or https", repair)
    return parts


def post(url: SplitResult, body: bytes, *, token: str | None, timeout: float) -> bytes:
    """Return the answer to a POST of JSON.

    Args:
        url: where to, from `read_url`.
        body: what is sent.
        token: sent as ``Authorization: Bearer``; it appears in no message.
        timeout: seconds from the connection to the last byte of the answer.

    Raises:
        Fault: nobody answers there, or not in time, or with a status other than 200, or with more
            than `MOST_BYTES`.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    with _connection(url, timeout) as (connection, late):
        try:
            # A server that refuses may answer before all was sent.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request("POST", target, body, headers)
            response = connection.getresponse()
            text = response.read(MOST_BYTES + 1)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise Fault(f"no answer within {timeout:g} s", "late") from error
            said = f"{type(error).__name__}: {error}"
            raise Fault(f"the connection broke ({shown(_without(said, token))})") from error
    if late.is_set():
        raise Fault(f"no whole answer within {timeout:g} s", "late")
    _check_status(response, text, token)
    if len(text) > MOST_BYTES:
        raise Fault(f"its answer is longer than {MOST_BYTES} bytes")
    return text


@contextlib.contextmanager
def _connection(
    url: SplitResult, timeout: float
) -> Iterator[tuple[http.client.HTTPConnection, threading.Event]]:
    """A connection that is cut when the time is over, however slowly bytes come."""
    secure = url.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    assert url.hostname is not None
    connection, begin = kind(url.hostname, url.port, timeout=timeout), time.monotonic()
    try:
        connection.connect()
    except (OSError, UnicodeError) as error:
        connection.close()
        said = f"no connection to {url.scheme}://{url.netloc} ({shown(error)})"
        raise Fault(said, gone=True) from error
    late, plain = threading.Event(), connection.sock

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            # Of the socket below TLS: that above would wait for the other side.
            socket.socket.shutdown(plain, socket.SHUT_RDWR)

    timer = threading.Timer(max(timeout - (time.monotonic() - begin), 0.0), cut)
    timer.daemon = True
    timer.start()
    try:
        yield connection, late
    finally:
        timer.cancel()
        connection.close()


def _check_status(response: http.client.HTTPResponse, text: bytes, token: str | None) -> None:
    status = response.status
    if status == 200:
        return
    if 300 <= status < 400:
        place = shown(_without(response.getheader("Location", "nowhere"), token))
        said = f"status {status} sends on to {place}, which is not followed: give that address"
        raise Fault(said, again=False, gone=True)
    words = shown(_without(text[:2000].decode("utf-8", "replace"), token))
    said = f"status {status} ({NEVER.get(status) or words or response.reason})"
    again = status in TRANSIENT or not 400 <= status < 500
    raise Fault(said, again=again, gone=status in NEVER)


def _without(text: str, token: str | None) -> str:
    """Somebody else's text, in which a token that it repeats is not shown."""
    return text.replace(token, "…") if token else text
