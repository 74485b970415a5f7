"""A peer that needs an interpreter of its own: a process that answers line by line in JSON."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any


def start(
    python: str, module: str, specification: dict[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], None]]:
    """Start ``python -m module`` and hand it the specification.

    Args:
        python: interpreter.
        module: reads one line of JSON, then requests, and answers each with one line of JSON.
        specification: the first line.

    Returns:
        What asks for something and returns the answer, and what ends the process.

    Raises:
        RuntimeError: the process has ended.
    """
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [python, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"},
    )

    def ask(line: str) -> Any:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{module} ended with status {process.wait()}")
        return json.loads(answer)

    ask(json.dumps(specification))
    return ask, process.terminate
