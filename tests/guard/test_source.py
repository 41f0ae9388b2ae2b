"""`audit: {source: true}`: events and denials have the source of their call."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

import keyleash
from keyleash.audit.read import read_denials, read_events
from keyleash.client.caller import Caller
from keyleash.commands import load_table
from keyleash.store.wire import BatchMode, runs_call, with_source
from support.leash import NAMES, Leash, grant
from support.scripted import COUNT, SORTED, ScriptLeash
from support.servers import RealServer

SOURCE = "10.0.0.7:51234 CN=runner,O=\u00e9"
RULES: dict[str, Any] = {
    "grants": [grant("read", "write", "delete", keys="doc:*")],
    "audit": {"source": True},
    "token": {"ttl": "1h", "max_ttl": "2h", "bound": True, "renew": True},
    "delegate": {"depth": 1},
    "idempotency": {"keep": "1h"},
}


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> str:
    """The source of the calls of all clients, as a gateway sets it for each connection."""
    monkeypatch.setattr(Caller, "origin", SOURCE)
    return SOURCE


def call(leash: Leash, token: str, argument: Any, key: str = "doc:{d}") -> Any:
    """Make a raw call with any correlation argument."""
    return leash.raw("one", [key], token, argument, "SET", key, "x")


def sources(leash: Leash) -> set[str]:
    """Return the sources of all events and denials."""
    entries = [*read_events(leash.store, ["one"]), *read_denials(leash.store, ["one"])]
    return {entry.source for entry in entries}


def test_event_and_denial_have_the_source_behind_the_correlation_id(leash: Leash) -> None:
    """Fields, parsed entries and their JSON; a source is no part of the id."""
    leash.load(one=RULES)
    token = leash.issue("one").token

    assert call(leash, token, with_source("req-42", SOURCE)) == b"OK"
    assert call(leash, token, with_source("req-43", SOURCE), "other").startswith("LEASH KEY_NOT")

    (event,), (denial,) = leash.events("one"), leash.denials("one")
    assert [*event] == ["seq", "token", "policy", "correlation", "source", "SET"]
    assert (event["correlation"], event["source"]) == ("req-42", SOURCE)
    assert (denial["correlation"], denial["source"]) == ("req-43", SOURCE)
    entries = [*read_events(leash.store, ["one"]), *read_denials(leash.store, ["one"])]
    assert [(entry.correlation, entry.source) for entry in entries] == [
        ("req-42", SOURCE),
        ("req-43", SOURCE),
    ]
    assert {entry.to_dict()["source"] for entry in entries} == {SOURCE}


@pytest.mark.parametrize(
    ("argument", "source", "correlation"),
    [
        ("req", "", "req"),
        ("", "", ""),
        ("\nreq", "", "req"),
        ("unix\n", "unix", ""),
        ("unix\nreq\n10.0.0.8:1", "unix", "req\n10.0.0.8:1"),
        ("s" * 300 + "\n" + "c" * 300, "s" * 256, "c" * 256),
        ("s" * 1_000_000 + "\nreq", "s" * 256, "req"),
        ("c" * 300, "", "c" * 256),
        (b"\xff\0\r%s'\"]]\nreq", "\\xff\0\r%s'\"]]", "req"),
    ],
)
def test_source_ends_at_the_first_line_break(
    leash: Leash, argument: Any, source: str, correlation: str
) -> None:
    """Neither odd bytes nor a line break in the id reach the other field; both are bounded."""
    leash.load(one=RULES)

    assert call(leash, leash.issue("one").token, argument) == b"OK"
    (event,) = read_events(leash.store, ["one"])
    assert (event.source, event.correlation, event.op) == (source, correlation, "SET")


def test_identity_without_source_takes_none(leash: Leash, origin: str) -> None:
    """Its guard records the whole argument as the id, and its client sends no source."""
    leash.load(one={**RULES, "audit": {}})
    token = leash.issue("one").token
    assert call(leash, token, "a\nb") == b"OK"
    with keyleash.correlation("req-1"):
        leash.client(token).set("doc:{d}", "x")

    first, second = leash.events("one")
    assert [*first] == [*second] == ["seq", "token", "policy", "correlation", "SET"]
    assert (first["correlation"], second["correlation"]) == ("a\nb", "req-1")
    assert b"takes_source" not in leash.admin.hgetall(NAMES.guard("one"))
    assert sources(leash) == {""}


def test_all_calls_of_a_client_have_its_source(leash: Leash, origin: str) -> None:
    """Single calls, pipelines, transactions, blocking calls, children, renewals and denials."""
    leash.load(one=RULES)
    agent = leash.agent("one")
    agent.set("doc:{d}", "x")
    for is_transaction in (False, True):
        with agent.pipeline(transaction=is_transaction) as pipe:
            pipe.set("doc:{d}", "y")
            pipe.rpush("doc:{d}list", "a", "b")
            pipe.execute()
    agent.blpop(["doc:{d}list"], 1)
    with agent.pipeline() as pipe:
        pipe.watch("doc:{d}")
        pipe.multi()
        pipe.set("doc:{d}", "z")
        pipe.execute()
    agent.whoami()
    agent.renew("2h")
    leash.client(agent.delegate().token).set("doc:{d}", "child")
    for denied in (lambda: agent.set("other", "x"), lambda: agent.renew("1h")):
        with suppress(keyleash.LeashError):
            denied()
    for _ in range(2):
        agent.execute_command("SET", "doc:{d}", "w", once="one")

    found = [event.op for event in read_events(leash.store, ["one"])]
    assert {"SET", "RPUSH", "BLPOP", "RENEW", "DELEGATE"} == {*found}
    assert found.count("SET") == 6
    assert [*read_denials(leash.store, ["one"])]
    assert sources(leash) == {SOURCE}


def test_batch_is_one_event_with_one_source(leash: Leash) -> None:
    """With fields of all its commands after it, also of a run."""
    leash.load(one=RULES)
    token, record = leash.issue("one").token, leash.record("one")
    commands = [("SET", "doc:{d}1", "x"), ("SET", "doc:{d}2", "x"), ("RPUSH", "doc:{d}3", "x")]
    header = record.batch_digest, token, with_source("req", SOURCE)
    words, _ = runs_call(load_table(), *header, BatchMode.ALL, commands)
    leash.server.call_guard("one", words)

    (event,) = leash.events("one")
    assert [*event][3:] == ["correlation", "source", "SET*2", "RPUSH"]
    events = [*read_events(leash.store, ["one"])]
    assert [(event.op, event.keys, event.source) for event in events] == [
        ("SET", (b"doc:{d}1",), SOURCE),
        ("SET", (b"doc:{d}2",), SOURCE),
        ("RPUSH", (b"doc:{d}3",), SOURCE),
    ]


def test_event_with_a_before_image_has_the_source(leash: Leash, origin: str) -> None:
    """Of one key and of several."""
    images = {"source": True, "before_images": {"max_bytes": "1kb"}, "values": "full"}
    leash.load(one={**RULES, "audit": images})
    agent = leash.agent("one")
    for _ in range(2):
        agent.set("doc:{d}1", "x")
        agent.mset({"doc:{d}1": "y", "doc:{d}2": "z"})

    events = [*read_events(leash.store, ["one"])]
    assert [len(event.changes) for event in events] == [1, 2, 1, 2]
    assert sources(leash) == {SOURCE}


def test_event_and_inner_denial_of_a_script_have_the_source(
    server: RealServer, origin: str
) -> None:
    """The event begins before the first change of the script."""
    leash = ScriptLeash(server)
    leash.approve(audit={"source": True})
    client = leash.redis()
    client.eval(COUNT, 1, "app:{d}n")
    client.eval(SORTED, 1, "app:{d}x", "other:{d}x")

    assert [event.op for event in read_events(leash.store, ["one"])] == ["INCR"]
    assert [denial.code for denial in read_denials(leash.store, ["one"])] == ["KEY_NOT_GRANTED"]
    assert sources(leash) == {SOURCE}


def test_change_of_the_policy_takes_effect_with_the_next_call(leash: Leash, origin: str) -> None:
    """A call that the old guard's client repeats has the argument that the new guard takes."""
    agent = None
    for is_on in (False, True, False):
        leash.load(one={**RULES, "audit": {"source": is_on}})
        agent = agent or leash.agent("one")
        with keyleash.correlation("req"):
            agent.set("doc:{d}", "x")

    events = [*read_events(leash.store, ["one"])]
    assert [(event.correlation, event.source) for event in events] == [
        ("req", ""),
        ("req", SOURCE),
        ("req", ""),
    ]


def test_repeated_call_with_an_id_may_come_from_elsewhere(leash: Leash) -> None:
    """The remembered words have no source: another gateway may repeat them."""
    leash.load(one=RULES)
    token = leash.issue("one").token
    for source in ("unix", "10.0.0.7:1"):
        words = (token, with_source("req", source), "once", "id", "RPUSH", "doc:{d}", "x")
        assert leash.raw("one", ["doc:{d}"], *words) == 1

    assert sources(leash) == {"unix"}


def test_similar_denials_from_several_sources_share_the_entry_of_the_first(leash: Leash) -> None:
    """A source creates no kind of denial, so callers cannot flood the stream by it."""
    leash.load(one=RULES)
    token = leash.issue("one").token
    for number in range(9):
        call(leash, token, with_source("req", f"10.0.0.7:{number}"), "other")

    assert leash.refusals("one") == 9
    # The end of a minute may have come in between.
    assert len([*read_denials(leash.store, ["one"])]) <= 2
    assert "10.0.0.7:0" in sources(leash)


def test_suspension_by_the_breaker_has_the_source_of_its_call(leash: Leash, origin: str) -> None:
    """It is an entry of the stream of denials."""
    leash.load(one={**RULES, "on_denials": {"threshold": "2/minute", "suspend": "10m"}})
    agent = leash.agent("one")
    for _ in range(2):
        with pytest.raises(keyleash.KeyNotGrantedError):
            agent.set("other:{d}", "x")

    codes = [denial.code for denial in read_denials(leash.store, ["one"])]
    assert codes == ["KEY_NOT_GRANTED", "SUSPENDED"]
    assert sources(leash) == {SOURCE}
