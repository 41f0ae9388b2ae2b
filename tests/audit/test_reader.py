"""Reading of audit streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from keyleash.audit.entries import AuditEvent, split_netstrings
from keyleash.audit.read import read_denials, read_events
from keyleash.store import streams as paging
from keyleash.store.keyspace import Keyspace
from keyleash.store.store import Store
from support.servers import RealServer

KEYS = Keyspace()


@pytest.fixture
def client(server: RealServer) -> Any:
    return server.client()


def add(client: Any, identity: str, entry_id: str, **fields: str | bytes) -> None:
    head: dict[Any, Any] = {"token": "t", "policy": "p", "correlation": "c"}
    client.xadd(KEYS.audit(identity), {**head, **(fields or {"SET": "k"})}, id=entry_id)


def follow_up(client: Any, identity: str, entry_id: str, of: str) -> None:
    client.xadd(KEYS.audit(identity), {"of": of, "error": "ERR no"}, id=entry_id)


def ids(events: Iterable[AuditEvent]) -> list[str]:
    return [event.id for event in events]


def test_streams_are_merged_by_time_oldest_first(client: Any) -> None:
    """Ids of one millisecond are compared as numbers, not as text."""
    add(client, "a", "9-0")
    add(client, "b", "10-2")
    add(client, "a", "10-10")

    assert ids(read_events(Store(client, KEYS), ["a", "b", "none"])) == ["9-0", "10-2", "10-10"]
    backwards = read_events(Store(client, KEYS), ["a", "b"], newest_first=True)
    assert ids(backwards) == ["10-10", "10-2", "9-0"]


def test_entries_of_two_streams_with_the_same_id_are_reversed_backwards(client: Any) -> None:
    """Shards of a cluster, and identities, have ids of their own."""
    for owner in ("a", "b", "a"):
        add(client, owner, f"1-{client.xlen(KEYS.audit(owner))}")

    def owners(*, newest_first: bool) -> list[str]:
        read = read_events(Store(client, KEYS), ["a", "b"], newest_first=newest_first)
        return [event.identity for event in read]

    assert owners(newest_first=False) == ["a", "b", "a"]
    assert owners(newest_first=True) == ["a", "b", "a"]


@pytest.mark.parametrize("page", [1, 2, 3, 500])
def test_follow_up_on_the_next_page_is_merged(
    client: Any, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """A follow-up may be on the page after its event, and is not an event itself."""
    monkeypatch.setattr(paging, "FIRST_PAGE", page)
    monkeypatch.setattr(paging, "MAX_PAGE", page)
    add(client, "a", "1-0")
    follow_up(client, "a", "1-1", of="1-0")
    add(client, "a", "2-0")
    add(client, "a", "3-0")
    follow_up(client, "a", "3-1", of="3-0")
    expected = [("1-0", "ERR no"), ("2-0", None), ("3-0", "ERR no")]

    forwards = list(read_events(Store(client, KEYS), ["a"]))
    backwards = list(read_events(Store(client, KEYS), ["a"], newest_first=True))

    assert [(event.id, event.error) for event in forwards] == expected
    assert backwards == forwards[::-1]


@pytest.mark.parametrize("page", [1, 2, 3])
def test_pages_of_follow_ups_of_a_batch_are_merged(
    client: Any, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Each command of a batch may fail, so whole pages may be follow-ups."""
    monkeypatch.setattr(paging, "FIRST_PAGE", page)
    monkeypatch.setattr(paging, "MAX_PAGE", page)
    words = [word for number in range(9) for word in ("SET", f"k{number}")]
    client.execute_command("XADD", KEYS.audit("a"), "1-0", "token", "t", *words)
    for item in range(1, 10):
        client.xadd(KEYS.audit("a"), {"of": "1-0", "item": item, "error": "ERR"}, id=f"1-{item}")
    add(client, "a", "2-0")

    forwards = list(read_events(Store(client, KEYS), ["a"]))

    assert [event.error for event in forwards] == ["ERR"] * 9 + [None]
    assert list(read_events(Store(client, KEYS), ["a"], newest_first=True)) == forwards[::-1]


@pytest.mark.parametrize("page", [1, 2, 3])
def test_follow_ups_after_all_events_of_a_script_are_merged(
    client: Any, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """An undo appends its events first, then their follow-ups."""
    monkeypatch.setattr(paging, "FIRST_PAGE", page)
    monkeypatch.setattr(paging, "MAX_PAGE", page)
    for number in range(4):
        add(client, "a", f"7-{number}")
    for number in range(4):
        follow_up(client, "a", f"7-{number + 4}", of=f"7-{number}")
    add(client, "a", "8-0")

    forwards = list(read_events(Store(client, KEYS), ["a"]))

    assert [event.error for event in forwards] == ["ERR no"] * 4 + [None]
    assert list(read_events(Store(client, KEYS), ["a"], newest_first=True)) == forwards[::-1]


def test_follow_up_of_a_trimmed_event_is_not_returned(client: Any) -> None:
    """Without its event, a follow-up has no meaning."""
    follow_up(client, "a", "4-0", of="1-0")

    assert list(read_events(Store(client, KEYS), ["a"])) == []


def test_event_is_read_with_all_its_fields(client: Any) -> None:
    """Several keys are netstrings, so that no byte of a key can end it."""
    client.xadd(
        KEYS.audit("a"),
        {
            "token": "tok",
            "policy": "abc",
            "correlation": b"c\xff",
            "MSET:3": b"3:a:1,4:\xff,2:,0:,",
        },
        id="1700000000123-4",
    )

    assert list(read_events(Store(client, KEYS), ["a"])) == [
        AuditEvent(
            id="1700000000123-4",
            time_ms=1_700_000_000_123,
            identity="a",
            token="tok",
            op="MSET",
            keys=(b"a:1", b"\xff,2:", b""),
            correlation=r"c\xff",
            policy="abc",
        )
    ]


def test_denials_are_in_a_separate_stream(client: Any) -> None:
    """A denial without a key has no keys, not an empty key."""
    fields = {"token": "-", "code": "SUSPENDED", "op": "GET", "key": "", "correlation": "c"}
    client.xadd(KEYS.denied("a"), fields)

    (denial,) = read_denials(Store(client, KEYS), ["a"])

    assert (denial.code, denial.token, denial.keys) == ("SUSPENDED", "-", ())
    assert list(read_events(Store(client, KEYS), ["a"])) == []


@pytest.mark.parametrize("data", [b"3:ab,", b"2:abc", b"x:ab,", b"2", b":a,"])
def test_malformed_netstrings_are_an_error(data: bytes) -> None:
    """A list of keys that is read in part would hide a key."""
    with pytest.raises(ValueError, match="netstring"):
        split_netstrings(data)


def test_malformed_keys_are_shown_unparsed(client: Any) -> None:
    """An entry that no guard wrote must not hide the rest of the stream."""
    add(client, "a", "1-0", **{"MSET:2": b"nonsense"})

    assert next(read_events(Store(client, KEYS), ["a"])).keys == (b"nonsense",)
