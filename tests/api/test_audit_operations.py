"""Audit, undo, explanations and tokens of `keyleash.Operator`, compared with the command."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import keyleash
from keyleash.audit.entries import AuditEvent
from keyleash.audit.lookup import Gap, with_gaps
from keyleash.errors import UsageError
from support.command_line import Cli
from support.errors import raises_code
from support.leash import grant, policy
from support.servers import RealServer

RULES = {
    "grants": [grant("read", "write", keys="a:*")],
    "rate": {"writes": "10/minute"},
    "audit": {"before_images": {"max_bytes": "1kb"}},
}
BINARY = b"a:\xff\n"


@pytest.fixture
def token(op: keyleash.Operator, embedded: RealServer) -> str:
    """A token whose agent wrote two keys in one run, and was denied one call."""
    token = op.tokens.issue("one").token
    with keyleash.Redis.from_url(embedded.url, token=token) as agent, keyleash.correlation("run-1"):
        agent.set("a:1", "x")
        agent.set(BINARY, "y")
        with pytest.raises(keyleash.KeyNotGrantedError):
            agent.get("b:1")
    return token


@pytest.fixture
def op(embedded: RealServer) -> keyleash.Operator:
    operator = keyleash.Operator.from_url(embedded.url, actor="deploy@ci")
    operator.load(keyleash.Policy(policy(one=RULES)))
    return operator


@pytest.fixture
def cli(embedded: RealServer) -> Cli:
    return Cli(embedded.url)


@pytest.mark.usefixtures("token")
def test_entries_are_the_lines_that_the_commands_print(op: keyleash.Operator, cli: Cli) -> None:
    """`to_dict` and `--json` are one encoding, for entries of every kind."""
    audit = op.audit
    events = list(audit.events("one"))

    assert cli.lines("audit", "log") == [event.to_dict() for event in events]
    assert cli.lines("audit", "log", "--denied") == [item.to_dict() for item in audit.denials()]
    assert cli.lines("audit", "log", "--control") == [item.to_dict() for item in audit.control()]
    assert cli.lines("audit", "stats") == list(audit.stats().rows())
    first = f"audit:one/{events[0].id}"
    assert cli.lines("audit", "show", first) == list(audit.find(first).rows())
    assert cli.lines("audit", "timeline", "a:1") == list(audit.timeline("a:1").rows())
    assert events[0].time == datetime.fromtimestamp(events[0].time_ms / 1000, UTC)


@pytest.mark.usefixtures("token")
def test_key_may_be_given_as_it_is_shown(op: keyleash.Operator) -> None:
    """A key that is not UTF-8 can be copied from the output."""
    found = op.audit.timeline(r"a:\xff\n")

    assert found.key == BINARY
    assert [entry.keys for entry in found.entries] == [(BINARY,)]
    assert op.audit.value_at(BINARY, timedelta(0)).value.elements == (b"y",)
    assert op.undo.plan(correlation="run-1", skip=[r"a:\xff\n"]).changes[0].key == b"a:1"


@pytest.mark.usefixtures("token")
def test_timeline_with_a_limit_has_the_newest_entries(op: keyleash.Operator) -> None:
    """The caller learns that there are older ones."""
    op.undo.apply(op.undo.plan(correlation="run-1"))
    found = op.audit.timeline("a:1", limit=1)

    assert [entry.identity for entry in found.entries] == ["@operators"]
    assert found.is_more
    assert not op.audit.timeline("a:1", limit=2).is_more


@pytest.mark.usefixtures("token")
def test_undo_records_its_selection_and_rejects_unplanned_keys(op: keyleash.Operator) -> None:
    """The control stream says what was undone; a mistyped key is no silent no-op."""
    with pytest.raises(UsageError, match="`a:7` is not a key of this undo"):
        op.undo.plan(correlation="run-1", force=["a:7"])
    done = op.undo.apply(op.undo.plan(correlation="run-1"))

    assert done.to_dict()["removed"] == 2
    (action,) = [item for item in op.audit.control() if item.event == "undo"]
    assert action.details["selection"] == "--correlation run-1"


@pytest.mark.usefixtures("token")
def test_gaps_are_found_between_the_events_of_a_time_range(
    op: keyleash.Operator, embedded: RealServer
) -> None:
    """An event that was deleted from the stream leaves a gap in the numbers."""
    with keyleash.Redis.from_url(embedded.url, token=op.tokens.issue("one").token) as agent:
        agent.set("a:1", "z")
    second = list(op.audit.events())[1]
    embedded.client().xdel("keyleash:audit:one", second.id)

    assert [(gap.first, gap.last) for gap in op.audit.stats().gaps] == [(2, 2)]
    found = list(with_gaps(op.audit.events()))
    assert [type(item) for item in found] == [AuditEvent, Gap, AuditEvent]


@pytest.mark.usefixtures("token")
def test_export_reports_its_progress_and_what_it_wrote(
    op: keyleash.Operator, cli: Cli, tmp_path: Path
) -> None:
    """A later export adds nothing, and the archive is valid."""
    seen: list[int] = []
    written: list[Any] = []
    done = op.audit.export(
        tmp_path / "archive",
        progress=lambda count, _total: seen.append(count),
        on_export=written.append,
    )

    assert [item.stream for item in written] == [item.stream for item in done.exported]
    assert seen[-1] == sum(item.count for item in done.exported)
    assert done.to_dict()["archive"] == done.archive
    report = op.audit.verify(tmp_path / "archive")
    assert report.is_valid
    assert cli.json("audit", "verify", tmp_path / "archive") == report.to_dict()


@pytest.mark.usefixtures("token")
def test_following_export_ends_when_it_is_asked_to(op: keyleash.Operator, tmp_path: Path) -> None:
    """A service stops it between two files."""
    found: list[str] = []
    for item in op.audit.follow_export(tmp_path / "a", "one", is_stopping=lambda: bool(found)):
        found.append(item.stream)

    assert found[0] == "audit/one"
    with raises_code("unknown-identity"):
        op.audit.follow_export(tmp_path / "b", "two")
    assert not (tmp_path / "b").exists()


def test_unknown_identity_is_an_error_before_the_first_entry(op: keyleash.Operator) -> None:
    """The call fails, and not a later step of the iteration."""
    for call in (op.audit.events, op.audit.follow, op.audit.follow_control, op.audit.stats):
        with raises_code("unknown-identity"):
            call("two")


def test_abilities_and_explanations_are_what_the_commands_print(
    op: keyleash.Operator, cli: Cli
) -> None:
    """With the active policy, and with a document without a server."""
    document = keyleash.Policy(policy(one=RULES))
    found = op.abilities("one")

    assert found.to_dict() == cli.json("can-i", "--list", "one")
    assert {"GET", "SET"} <= {*document.abilities("one").commands.by_grant[0]}
    assert "denied    KEY_NOT_GRANTED" in str(op.explain("one", "GET", "b:1"))
    op.freeze("one", reason="incident 4107")
    stopped = op.abilities("one").stopped
    assert stopped is not None
    assert stopped.code == "SUSPENDED"


def test_asyncio_operator_follows_denials_and_actions(
    op: keyleash.Operator, token: str, embedded: RealServer
) -> None:
    """The same calls with `await`, beside an event loop."""

    async def work() -> None:
        async with keyleash.asyncio.Operator.from_url(embedded.url) as again:
            denial = await anext(again.audit.follow_denials(since="1h", code="KEY_NOT_GRANTED"))
            assert denial.op == "GET"
            action = await anext(again.audit.follow_control(since="1h"))
            assert action.event == "activate"
            assert (await again.audit.stats()).sum("events") == 2
            assert (await again.audit.timeline("a:1")).entries
            assert (await again.abilities("one")).commands == op.abilities("one").commands
            report = await again.audit.report(since="1h", server="staging")
            assert "staging" in report.html

    asyncio.run(work())


@pytest.mark.usefixtures("token")
def test_undo_on_a_full_server_names_the_remedy(
    op: keyleash.Operator, embedded: RealServer
) -> None:
    """No key that is left out would help."""
    plan = op.undo.plan(correlation="run-1")
    embedded.client().config_set("maxmemory", 1)

    with raises_code("undo-denied", match="maxmemory"):
        op.undo.apply(plan)

    embedded.client().config_set("maxmemory", 0)
    assert op.undo.apply(plan).removed


def test_directory_that_cannot_be_made_is_an_error_of_the_archive(
    op: keyleash.Operator, tmp_path: Path
) -> None:
    """The error names the path, and is one of keyleash."""
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(keyleash.ArchiveError, match=f"cannot use `{file}`"):
        op.audit.export(file / "archive")
