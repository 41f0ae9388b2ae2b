"""Golden files: compared by default, written when UPDATE_GOLDEN is set (`make golden`)."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from enum import Enum
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).resolve().parents[1] / "pins" / "golden"


def assert_golden(path: Path, text: str) -> None:
    """Compare *text* with the file at *path*, or write it there."""
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path} is missing; `make golden` writes it"
    golden = path.read_text(encoding="utf-8")
    if text != golden:
        lines = golden.splitlines(), text.splitlines()
        changes = difflib.unified_diff(*lines, f"golden/{path.name}", "now", lineterm="", n=2)
        raise AssertionError("\n".join([f"{path} differs; `make golden` rewrites it", *changes]))


def plain(value: Any) -> Any:
    """Dataclasses, enums and bytes as what JSON can show; fields at their default left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.compare and getattr(value, field.name) != field.default
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def as_json(value: Any) -> str:
    """*value* as stable, readable JSON."""
    return json.dumps(plain(value), indent=1, ensure_ascii=True) + "\n"
