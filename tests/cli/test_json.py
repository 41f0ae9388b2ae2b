"""The encoder behind `--json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from keyleash.text import json_object, to_json


class Kind(StrEnum):
    RATE = "rate"


@dataclass(frozen=True)
class Item:
    name: bytes
    is_active: bool
    issued_ms: int
    until_ms: int | None
    bound_us: int
    except_: tuple[str, ...] = ()
    kind: Kind = Kind.RATE
    counts: Mapping[Kind, int] = field(default_factory=dict)
    secret: str = field(default="secret", repr=False)


@dataclass(frozen=True)
class Total:
    values: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"total": sum(self.values)}


ITEM = Item(b"a", True, 1_000, None, 2_000_999, ("GET",), counts={Kind.RATE: 1})


def test_dataclass_becomes_an_object_with_names_and_times_for_json() -> None:
    """Names lose `is_` and `_ms`, times are ISO 8601, and fields without repr are left out."""
    assert to_json(ITEM) == {
        "name": "a",
        "active": True,
        "issued_at": "1970-01-01T00:00:01.000Z",
        "until": None,
        "bound_at": "1970-01-01T00:00:02.000Z",
        "except": ["GET"],
        "kind": "rate",
        "counts": {"rate": 1},
    }


def test_selected_attributes_keep_their_order_and_may_be_renamed() -> None:
    """`name=attribute` gives an attribute another name."""
    assert list(json_object(ITEM, "kind", "by=name", "at=issued_ms").items()) == [
        ("kind", "rate"),
        ("by", "a"),
        ("at", "1970-01-01T00:00:01.000Z"),
    ]


def test_values_become_what_json_can_hold() -> None:
    """Each type has one form, and `json.dumps` accepts the result."""
    values = {
        "binary": b"\xff",
        "escaped": "\udcff",
        "set": {"b", "a"},
        "path": Path("a/b"),
        "time": datetime(2026, 1, 2, tzinfo=UTC),
        "duration": timedelta(minutes=1.5),
        "nested": [(Total((1, 2)),)],
        b"key\xff": None,
    }
    encoded = to_json(values)
    assert json.loads(json.dumps(encoded)) == encoded
    assert encoded == {
        "binary": {"base64": "/w=="},
        "escaped": {"base64": "/w=="},
        "set": ["a", "b"],
        "path": "a/b",
        "time": "2026-01-02T00:00:00.000Z",
        "duration": 90.0,
        "nested": [[{"total": 3}]],
        "key\\xff": None,
    }
