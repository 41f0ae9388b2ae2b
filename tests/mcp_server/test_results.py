"""Replies as results: bounded as JSON, and with something of each item."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import validate

from keyleash.addons.mcp.forms import FORMS
from keyleash.addons.mcp.holder import Holder
from keyleash.addons.mcp.results import MAX_REPLY, denied, result, text_of
from keyleash.errors import KeyNotGrantedError
from support.leash import Leash, grant
from support.mcp_clients import run

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
    denial = denied(KeyNotGrantedError({"key": "k"}), None, ())
    assert (denial.meta or {})["keyleash/untrusted"] is True


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("set", {"key": "k:s", "value": "v", "nx": True}),
    ("set", {"key": "k:s", "value": "v", "nx": True}),
    ("set", {"key": "k:b", "value": {"base64": "//4="}}),
    *(("get", {"key": key}) for key in ("k:s", "k:b", "k:none")),
    *(("getrange", {"key": key, "start": 0, "end": 1}) for key in ("k:s", "k:b", "k:none")),
    ("incrby", {"key": "k:n", "by": 1.0}),
    ("type", {"key": "k:s"}),
    ("ttl", {"key": "k:none"}),
    *(("expire", {"key": key, "seconds": 60}) for key in ("k:s", "k:none")),
    ("scan", {"cursor": "0", "pattern": "k:*"}),
    ("hset", {"key": "k:h", "fields": {"a": "1"}}),
    *(("hget", {"key": "k:h", "field": field}) for field in "ab"),
    *(("hgetall", {"key": key}) for key in ("k:h", "k:none")),
    ("hdel", {"key": "k:h", "fields": ["a"]}),
    ("rpush", {"key": "k:l", "values": ["a"]}),
    ("lrange", {"key": "k:l", "start": 0, "stop": -1}),
    *[("lpop", {"key": "k:l"})] * 2,
    ("sadd", {"key": "k:m", "members": ["a"]}),
    ("smembers", {"key": "k:m"}),
    ("srem", {"key": "k:m", "members": ["a"]}),
    ("zadd", {"key": "k:z", "score": 1.5, "member": "a"}),
    ("zrange", {"key": "k:z", "start": 0, "stop": -1}),
    ("zrem", {"key": "k:z", "members": ["a"]}),
    ("xadd", {"key": "k:x", "fields": {"a": "1"}}),
    ("xrange", {"key": "k:x", "from_id": "-", "to_id": "+"}),
    ("xdel", {"key": "k:x", "ids": ["1-1"]}),
    ("del", {"keys": ["k:s"]}),
    ("publish", {"channel": "c", "message": "m"}),
    ("batch", {"commands": [["GET", "k:s"]]}),
    ("whoami", {}),
]


def test_results_have_the_types_of_their_schemas(leash: Leash) -> None:
    """Where the form of a command knows them; a missing value is null."""
    keys = grant("read", "write", "delete", "scan", keys="k:*")
    leash.load(one={"grants": [keys, {"allow": ["publish"], "channels": ["c"]}]})

    async def body() -> None:
        token = leash.issue("one").token
        holder = Holder(leash.server.url, token, by_class=False, delegate=True, timeout_s=5)
        tools = {tool.name: tool for tool in await holder.tools()}
        typed = {name.lower() for name, form in FORMS.items() if form.results}
        assert {name for name, _ in CALLS} >= typed
        for name, given in CALLS:
            found = await holder.call(name, given, {}, None)
            assert not found.is_error, (name, found.structured_content)
            schema = tools[name].output_schema or {}
            assert ("properties" in schema) is (name in typed)
            validate(found.structured_content, schema)
        await holder.close()

    run(body)
