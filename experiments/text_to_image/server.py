"""The detector behind an address, as a reward of `ctrl-jax fine-tune --reward http://...`.

    python -m experiments.text_to_image.server DETECTOR_FOLDER 8000

The protocol is that of docs/reward_server.md.
"""

import base64
import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from experiments.text_to_image.detector import judge
from experiments.text_to_image.scenes import request_of

MOST_BYTES = 2**26


def make_server(folder: str, port: int) -> ThreadingHTTPServer:
    """Return a server of one picture's worth: 1 where it shows what was asked for, else 0.

    Args:
        folder: of the detector.
        port: on this machine alone; 0 for any that is free.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = 60

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            if not 0 < size <= MOST_BYTES:
                return self.answer(413, {"error": f"send from 1 to {MOST_BYTES} bytes"})
            try:
                asked = json.loads(self.rfile.read(size))
                images = np.stack([_read(image) for image in asked["images"]])
                given = zip(asked["prompts"], asked["records"], strict=True)
                wanted = [request_of(prompt, record) for prompt, record in given]
                with lock:
                    right = judge(folder, images, wanted)
            except (ValueError, KeyError, TypeError, OSError) as error:
                return self.answer(400, {"error": f"{type(error).__name__}: {error}"})
            self.answer(200, {"rewards": right.astype(float).tolist()})

        def answer(self, status: int, record: dict[str, Any]) -> None:
            body = json.dumps(record).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _read(image: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB"))


if __name__ == "__main__":
    make_server(sys.argv[1], int(sys.argv[2])).serve_forever()
