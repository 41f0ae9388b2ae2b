"""Steps of a program: each is a feature, and prints a line of JSON with what went wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

URL = os.environ["REDIS_URL"]


def key(name: str) -> str:
    """Return a key that the policy grants."""
    return f"agents:jobs:1:{name}"


def step(feature: str, run: Callable[[], Any], expected: Any) -> None:
    """A feature with a value, or with the list of the values of several calls."""
    try:
        value = run()
        error = "" if value == expected else f"{value!r} in place of {expected!r}"
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    print(json.dumps({"feature": feature, "error": error}), flush=True)


def denied(feature: str, calls: dict[str, Callable[[], Any]]) -> None:
    """Calls that the guard denies, by their codes."""

    def code_of(call: Callable[[], Any]) -> str:
        try:
            return f"no denial, but {call()!r}"
        except Exception as raised:
            return str(raised)

    texts = {code: code_of(call) for code, call in calls.items()}
    wrong = [text for code, text in texts.items() if not text.startswith(f"LEASH {code} ")]
    step(feature, lambda: wrong, [])
