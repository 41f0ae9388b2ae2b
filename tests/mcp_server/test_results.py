"""Replies as results: bounded as JSON, and with something of each item."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.errors import KeyNotGrantedError
from keyleash.mcp.results import MAX_REPLY, denied, result, text_of

LONG = b"x" * 70_000
PAIRS = {b"a": b"1", b"long": LONG, b"z": b"2"}


@pytest.mark.parametrize(
    "reply",
    [b"\0" * 70_000, b"\xff" * 70_000, [LONG, b"b"], PAIRS, [["1-0", PAIRS]], {LONG}, [1] * 50_000],
    ids=["nul", "bytes", "list", "hash", "stream", "set", "integers"],
)
def test_long_replies_fill_what_json_they_may_have(reply: Any) -> None:
    """Neither escapes nor base64 make a result longer, and one long item does not empty it."""
    size = len(text_of(result(reply).structured_content["result"]).encode())
    assert MAX_REPLY * 0.9 < size <= MAX_REPLY


def test_lengths_are_those_of_the_values() -> None:
    """A text says its bytes, for GETRANGE; a list its items, and each item that is cut its own."""
    assert result(b"\0" * 70_000).structured_content["bytes"] == 70_000
    found = result([b"OK", LONG, [LONG] * 70, b"last"]).structured_content
    assert (found["items"], found["result"][0], found["result"][3]) == (4, "OK", "last")
    assert found["cut_items"]["1"] == found["cut_items"]["2.0"] == 70_000
    assert found["cut_items"]["2"] == 70
    assert len(found["result"][2]) < 70


def test_names_that_are_bytes_are_not_those_that_look_like_it() -> None:
    """Two fields of a hash are two members."""
    found = result({b"\xff": b"1", b'{"base64":"/w=="}': b"2"}).structured_content["result"]
    assert [*found.values()] == ["1", "2"]


def test_denials_are_marked_as_data_too() -> None:
    """Their keys are what anybody may have written."""
    assert (denied(KeyNotGrantedError({"key": "k"}), ()).meta or {})["keyleash/untrusted"] is True
