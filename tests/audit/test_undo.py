"""Undo on a server: keys get their earlier values back, or nothing is changed."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.audit.read import Query
from keyleash.audit.undo import key_plans
from keyleash.audit.undo import selection as undo_selection
from keyleash.audit.undo.apply import UndoResult, apply_undo
from keyleash.audit.undo.key_plans import ConflictKind, UndoPlan, plan_undo
from keyleash.errors import NothingToUndoError, UndoTooLargeError
from keyleash.policy.patterns import parse_pattern
from keyleash.store.store import Store
from support.errors import raises_code
from support.scribe import NAMES, Scribe
from support.servers import RealServer


@pytest.fixture
def client(server: RealServer) -> Any:
    return server.client()


@pytest.fixture
def scribe(client: Any) -> Scribe:
    return Scribe(client)


def plan(client: Any, correlation: str = "c", **options: Any) -> UndoPlan:
    return plan_undo(Store(client), Query(correlation=correlation), across_policies=True, **options)


def undo(client: Any, correlation: str = "c", **options: Any) -> UndoResult:
    return apply_undo(Store(client, actor="ops"), plan(client, correlation, **options))


def data(client: Any) -> dict[bytes, bytes]:
    keys = (key for key in client.scan_iter() if not key.startswith(b"keyleash:"))
    return {key: client.dump(key) for key in keys}


def test_overwritten_value_is_restored(client: Any, scribe: Scribe) -> None:
    """The oldest before-image of the selected events is restored."""
    client.set("k", "first")
    scribe.run("a", "SET", "k", "second")
    scribe.run("a", "SET", "k", "third")

    done = undo(client)

    assert client.get("k") == b"first"
    assert done.restored == (b"k",)


def test_created_key_is_removed_and_deleted_key_is_restored(client: Any, scribe: Scribe) -> None:
    """Absent is one of the states that an undo restores."""
    client.hset("gone", mapping={"f": "1", "g": "2"})
    scribe.run("a", "SET", "made", "x")
    scribe.run("a", "DEL", "gone")

    done = undo(client)

    assert (done.restored, done.removed) == ((b"gone",), (b"made",))
    assert not client.exists("made")
    assert client.hgetall("gone") == {b"f": b"1", b"g": b"2"}


def test_vector_set_is_undone_over_several_events(client: Any, scribe: Scribe) -> None:
    """A restored vector set has another DUMP payload, which is not a change by others."""
    try:
        client.execute_command("VCARD", "k")
    except redis.ResponseError:
        pytest.skip("the server has no vector sets")
    for number in range(20):
        words = ("VALUES", "2", number % 7, number * 3 % 11, f"e{number}")
        scribe.run("a", "VADD", "k", *words, correlation="b" if number < 10 else "c")

    done = undo(client)

    assert done.restored == (b"k",)
    assert client.execute_command("VCARD", "k") == 10


def test_conflict_on_one_key_prevents_the_whole_undo(client: Any, scribe: Scribe) -> None:
    """No key is changed, and the conflict names the event of the other identity."""
    client.mset({"k": "1", "other": "1"})
    scribe.run("a", "SET", "k", "2")
    scribe.run("a", "SET", "other", "2")
    event = scribe.run("b", "SET", "k", "3", correlation="d")
    before = data(client)

    made = plan(client)
    with raises_code("undo-denied", match="1 of 2 keys"):
        apply_undo(Store(client), made)

    assert data(client) == before
    ((blocked,), (conflict,)) = made.blocked, made.blocked[0].conflicts
    assert (blocked.key, conflict.kind) == (b"k", ConflictKind.CHANGED)
    assert [step.event for step in conflict.by] == [f"b/{event}"]
    assert client.xlen(NAMES.audit("@operators")) == 0


def test_change_outside_the_guards_is_a_conflict_without_events(
    client: Any, scribe: Scribe
) -> None:
    """The digest of the value differs, although no event records a change."""
    scribe.run("a", "SET", "k", "1")
    client.append("k", "!")

    (conflict,) = plan(client).blocked[0].conflicts

    assert (conflict.kind, conflict.by) == (ConflictKind.CHANGED, ())


def test_change_between_two_undone_events_is_a_conflict(client: Any, scribe: Scribe) -> None:
    """The undo would also discard the value that the other identity wrote."""
    scribe.run("a", "SET", "k", "1")
    scribe.run("b", "SET", "k", "2", correlation="d")
    scribe.run("a", "SET", "k", "3")

    (conflict,) = plan(client).blocked[0].conflicts

    assert [step.identity for step in conflict.by] == ["b"]
    assert conflict.until is not None


def test_change_of_the_expiry_alone_is_a_conflict(client: Any, scribe: Scribe) -> None:
    """The undo would discard the expiry."""
    scribe.run("a", "SET", "k", "1")
    scribe.run("b", "EXPIRE", "k", "1000", correlation="d")

    assert plan(client).blocked


def test_forced_key_alone_is_overridden(client: Any, scribe: Scribe) -> None:
    """Conflicts are overridden key by key."""
    client.mset({"k": "1", "l": "1"})
    for key in "kl":
        scribe.run("a", "SET", key, "2")
        scribe.run("b", "SET", key, "3", correlation="d")

    assert [item.key for item in plan(client, force=[b"k"]).blocked] == [b"l"]
    undo(client, force=[b"k"], skip=[b"l"])

    assert client.mget("k", "l") == [b"1", b"3"]


def test_event_that_changed_nothing_does_not_count(client: Any, scribe: Scribe) -> None:
    """Its key is not in the plan, and a later change of that is not a conflict."""
    client.set("k", "1")
    scribe.run("a", "SET", "k", "1")
    scribe.run("b", "SET", "k", "2", correlation="d")
    scribe.run("a", "SET", "other", "2")

    assert [key.key for key in plan(client).keys] == [b"other"]


def test_expiry_is_restored_as_a_point_in_time(client: Any, scribe: Scribe) -> None:
    """The key expires when it would have expired without the event."""
    client.set("k", "1", px=90_000)
    expires_ms = client.pexpiretime("k")
    scribe.run("a", "SET", "k", "2")

    undo(client)

    assert client.pexpiretime("k") == expires_ms


def test_value_that_has_expired_is_not_restored(client: Any, scribe: Scribe) -> None:
    """A value that would have expired by now is removed instead."""
    client.set("k", "1")
    scribe.run("a", "SET", "k", "2", expires_ms=1)

    made = plan(client)
    done = apply_undo(Store(client), made)

    assert made.keys[0].has_expired
    assert done.removed == (b"k",)
    assert not client.exists("k")


def test_expired_key_is_not_a_conflict(client: Any, scribe: Scribe) -> None:
    """Expiry is not a change by others."""
    client.set("k", "1")
    scribe.run("a", "SET", "k", "2", "PX", "20")
    time.sleep(0.03)

    undo(client)

    assert client.get("k") == b"1"


def test_key_expired_between_two_events_is_not_a_conflict(client: Any, scribe: Scribe) -> None:
    """Expiry between two selected events is not a change by others."""
    client.set("k", "1")
    scribe.run("a", "SET", "k", "2", "PX", "20")
    time.sleep(0.03)
    scribe.run("a", "SET", "k", "3")

    undo(client)

    assert client.get("k") == b"1"


def test_undo_is_undone_by_its_correlation_id(client: Any, scribe: Scribe) -> None:
    """An undo is recorded like other events, so it can be undone, and that too."""
    client.set("k", "1")
    scribe.run("a", "SET", "k", "2")
    scribe.run("a", "SET", "made", "2")
    after = data(client)

    first = undo(client)
    before = data(client)
    second = undo(client, first.correlation)

    assert data(client) == after
    undo(client)
    assert data(client) == before
    assert second.correlation != first.correlation


def test_key_with_its_old_value_is_unchanged_and_no_conflict(client: Any, scribe: Scribe) -> None:
    """Nothing is to be done, although another client changed the key."""
    client.set("k", "1")
    scribe.run("a", "SET", "k", "2")
    client.set("k", "1")

    made = plan(client)

    assert [(item.action, item.conflicts) for item in made.keys] == [("keep", ())]
    assert not made.blocked
    with raises_code("nothing-to-undo"):
        apply_undo(Store(client, actor="ops"), made)


def test_plan_is_printed_without_events_and_values(client: Any, scribe: Scribe) -> None:
    """Keys, actions and counts; the rest is in `to_dict`."""
    scribe.run("a", "SET", "k", "a long value")
    scribe.run("a", "SET", "l", "a long value")
    client.set("l", "other")

    assert str(plan(client)) == ("UndoPlan(2 keys, changes=2, blocked=1)")


def test_undone_events_are_already_undone(client: Any, scribe: Scribe) -> None:
    """A second undo changes nothing, and names the first."""
    scribe.run("a", "SET", "k", "2")
    done = undo(client)

    again = plan(client)

    assert not again.blocked
    (conflict,) = again.keys[0].conflicts

    (step,) = conflict.by
    assert (step.identity, step.ops, step.actor) == ("@operators", ("UNDO",), "ops")
    assert step.correlation == done.correlation


def test_undo_is_recorded(client: Any, scribe: Scribe) -> None:
    """The operators' stream has numbered events, and the control stream has an action."""
    for key in "kl":
        scribe.run("a", "SET", key, "2", correlation=key)
        apply_undo(Store(client, actor="ops"), plan(client, key))

    entries = client.xrange(NAMES.audit("@operators"))
    controls = [fields for _, fields in client.xrange(NAMES.control)]

    assert [fields[b"seq"] for _, fields in entries[::2]] == [b"1", b"2"]
    assert [b"of" in fields for _, fields in entries] == [False, True, False, True]
    assert [(control[b"event"], control[b"actor"], control[b"keys"]) for control in controls] == [
        (b"undo", b"ops", b"1")
    ] * 2
    assert controls[0][b"selection"] == b"--correlation k"


def test_change_after_the_plan_stops_the_undo(client: Any, scribe: Scribe) -> None:
    """The undo applies the plan that was reviewed, or nothing."""
    scribe.run("a", "MSET", "k", "2", "l", "2")
    made = plan(client)
    client.set("l", "3")
    before = data(client)

    with raises_code("changed-meanwhile", match="`l`"):
        apply_undo(Store(client), made)

    assert data(client) == before
    assert not client.keys("keyleash:undo:*")


def test_lost_reply_is_recovered_from_the_stream(
    client: Any, scribe: Scribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The undo was applied, and its id is needed to revert it."""
    scribe.run("a", "SET", "k", "2")
    made, run = plan(client), client.evalsha

    def lose(*words: Any) -> None:
        run(*words)
        raise RedisConnectionError("Connection closed by server")

    monkeypatch.setattr(client, "evalsha", lose)
    done = apply_undo(Store(client), made)
    monkeypatch.undo()

    assert not client.exists("k")
    assert undo(client, done.correlation).restored == (b"k",)


def test_undo_sent_twice_by_the_client_succeeds(
    client: Any, scribe: Scribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py repeats a call without a reply; then the undo itself changed the key."""
    scribe.run("a", "SET", "k", "2")
    made, run = plan(client), client.evalsha
    monkeypatch.setattr(client, "evalsha", lambda *words: (run(*words), run(*words))[1])

    done = apply_undo(Store(client), made)

    assert done.removed == (b"k",)
    assert len(done.events) == client.xlen(NAMES.control) == 1


def test_undo_without_reply_or_record_explains_how_to_check(
    client: Any, scribe: Scribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreachable server may have applied the undo."""
    scribe.run("a", "SET", "k", "2")
    made = plan(client)

    def lose(*words: Any) -> None:
        raise RedisTimeoutError("Timeout reading from socket")

    monkeypatch.setattr(client, "evalsha", lose)

    with raises_code("undo-unanswered") as raised:
        apply_undo(Store(client), made)

    assert "audit log --correlation undo-" in (raised.value.help or "")


def test_record_names_the_oldest_and_the_newest_event(client: Any, scribe: Scribe) -> None:
    """Ids of one millisecond are compared as numbers, not as text."""
    # The later entry of an event with images would have a time of now.
    for number, key in ((9, "k"), (10, "l")):
        scribe.add("a", "SET", key, "before", key, "expires", "absent", entry_id=f"5-{number}")
        client.hset(NAMES.layouts, "a", "{}")
        client.set(key, "x")
    made = plan_undo(Store(client), Query(since_ms=0), identity="a")

    assert [step.id for step in made.steps] == ["5-9", "5-10"]


def test_rejected_before_image_changes_nothing(client: Any, scribe: Scribe) -> None:
    """A script does not roll back, so it checks payloads before the first write."""
    client.rpush("k", "1")
    client.set("l", "1")
    scribe.run("a", "DEL", "k", "l")
    made = plan(client)
    (broken,) = [key for key in made.keys if key.key == b"k"]
    assert broken.image is not None
    object.__setattr__(broken.image, "content", ("image", b"nonsense"))
    before = data(client)

    with raises_code("undo-denied", match="payload"):
        apply_undo(Store(client), made)

    assert data(client) == before
    assert not client.keys("keyleash:undo:*")
    assert client.xlen(NAMES.audit("@operators")) == 0


def test_user_without_permission_to_write_changes_nothing(client: Any, scribe: Scribe) -> None:
    """An undo is never applied in part."""
    client.mset({"k": "1", "l": "1"})
    scribe.run("a", "MSET", "k", "2", "l", "2")
    client.execute_command(
        *("ACL", "SETUSER", "half", "on", ">x", "+@all", "~keyleash:*", "~k", "%R~l")
    )
    half = client.__class__.from_url(
        f"redis://half:x@127.0.0.1:{client.connection_pool.connection_kwargs['port']}"
    )
    before = data(client)

    with raises_code("undo-denied", match="NOPERM"):
        apply_undo(Store(half), plan(half))
    half.close()

    assert data(client) == before


@pytest.mark.parametrize("images", [False, True])
def test_key_without_before_image_cannot_be_forced(
    client: Any, scribe: Scribe, images: bool
) -> None:
    """There is nothing to restore, so the operator can only skip the key."""
    scribe.run("a", "SET", "k", "1", images=False)
    scribe.run("a", "SET", "other", "1")
    if images:
        scribe.run("a", "SET", "k", "2")

    (blocked,) = plan(client, force=[b"k"]).blocked

    assert [conflict.kind for conflict in blocked.conflicts if not conflict.is_forced] == [
        ConflictKind.NOT_RECORDED
    ]
    undo(client, skip=[b"k"])
    assert (client.exists("k"), client.exists("other")) == (1, 0)


def test_masked_key_cannot_be_undone(client: Any, scribe: Scribe) -> None:
    """Its name is not recorded."""
    mask = "s:#" + "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12"
    scribe.run("a", "SET", "s:1", "1", images=False, keys=[mask])

    (blocked,) = plan(client).blocked

    assert [conflict.kind for conflict in blocked.conflicts] == [ConflictKind.MASKED]


SECRET = "jobs:secret:#" + hashlib.sha1(b"jobs:secret:a", usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("pattern", ["jobs:secret:a", "jobs:*"])
def test_masked_key_that_matches_the_pattern_is_a_conflict(
    client: Any, scribe: Scribe, pattern: str
) -> None:
    """A full name is compared by its digest."""
    scribe.run("a", "SET", "jobs:secret:a", "1", images=False, keys=[SECRET])

    made = plan_undo(Store(client), Query(pattern=parse_pattern(pattern), since_ms=0))

    assert [item.conflicts[0].kind for item in made.blocked] == [ConflictKind.MASKED]
    with pytest.raises(NothingToUndoError, match="no recorded event"):
        plan_undo(Store(client), Query(pattern=parse_pattern("jobs:secret:b"), since_ms=0))


def test_masked_key_that_may_match_the_pattern_is_reported(client: Any, scribe: Scribe) -> None:
    """The error names the masked key instead of reporting that nothing changed."""
    scribe.run("a", "SET", "jobs:secret:a", "1", images=False, keys=[SECRET])

    with pytest.raises(NothingToUndoError, match="masked"):
        plan_undo(Store(client), Query(pattern=parse_pattern("jobs:{kind}:a"), since_ms=0))


def test_key_too_large_for_a_before_image_cannot_be_undone(client: Any, scribe: Scribe) -> None:
    """The conflict has the size of the value."""
    event = scribe.add(
        *("a", "token", "t", "policy", "p 1,1w", "correlation", "c", "SET", "k"),
        *("before", "k", "expires", "large", "value", "70000"),
    )
    scribe.add("a", "of", event, "after", "0" * 40 + ":-1")
    client.hset(NAMES.layouts, "a", "{}")

    conflicts = plan(client).blocked[0].conflicts

    assert (conflicts[0].kind, conflicts[0].size) == (ConflictKind.LARGE, 70000)


def test_key_too_large_to_compare_can_be_forced(client: Any, scribe: Scribe) -> None:
    """A later change by others is not visible, but the before-image is recorded."""
    client.set("k", "1")
    scribe.run("a", "SET", "k", "2", after="large")

    assert [conflict.kind for conflict in plan(client).blocked[0].conflicts] == [
        ConflictKind.UNVERIFIED
    ]
    undo(client, force=[b"k"])

    assert client.get("k") == b"1"


def test_control_key_is_never_written(client: Any, scribe: Scribe) -> None:
    """An event that names one must not make an operator overwrite states or tokens."""
    scribe.run("a", "SET", "keyleash:state:a", "x")

    (blocked,) = plan(client, force=[b"keyleash:state:a"]).blocked

    assert blocked.conflicts[-1].kind is ConflictKind.CONTROL


def test_failed_command_is_not_undone(client: Any, scribe: Scribe) -> None:
    """It changed nothing, with or without before-images."""
    event = scribe.add("a", "token", "t", "correlation", "c", "LPUSH", "k")
    scribe.add("a", "of", event, "error", "WRONGTYPE")
    client.hset(NAMES.layouts, "a", "{}")

    with pytest.raises(NothingToUndoError, match="changed nothing"):
        plan(client)


def test_batch_is_undone_as_a_whole(client: Any, scribe: Scribe) -> None:
    """A batch is one call with one set of before-images."""
    fields = ["token", "t", "policy", "p 2,2w", "correlation", "c"]
    fields += ["SET", "k", "APPEND", "k", "SET", "l", "before", "k", "before", "l"]
    event = scribe.add("a", *fields)
    client.hset(NAMES.layouts, "a", "{}")
    client.mset({"k": "12", "l": "1"})
    now = [step.digest for step in _values(client, "k", "l")]
    scribe.add("a", "of", event, *(word for digest in now for word in ("after", f"{digest}:-1")))

    made = plan_undo(Store(client), events=(event,), across_policies=True)
    apply_undo(Store(client), made)

    assert [key.steps[0].ops for key in made.keys if key.key == b"k"] == [("SET", "APPEND")]
    assert not client.exists("k", "l")


def _values(client: Any, *keys: str) -> list[Any]:
    from keyleash.audit.undo.key_values import read_keys

    return list(read_keys(Store(client, NAMES), [key.encode() for key in keys]).values())


def test_events_are_selected_by_identity_key_and_time(client: Any, scribe: Scribe) -> None:
    """Other keys of a selected event are listed, but not changed."""
    first = scribe.run("a", "MSET", "k:1", "1", "l:1", "1")
    scribe.run("b", "SET", "k:2", "1")
    since_ms = int(first.partition("-")[0])
    pattern = parse_pattern("k:*")

    by_identity = plan_undo(Store(client), Query(since_ms=since_ms), identity="a")
    by_key = plan_undo(Store(client), Query(pattern=pattern, since_ms=since_ms))

    assert {key.key for key in by_identity.keys} == {b"k:1", b"l:1"}
    assert {key.key for key in by_key.keys} == {b"k:1", b"k:2"}
    assert by_key.others == (b"l:1",)
    with pytest.raises(NothingToUndoError):
        plan_undo(Store(client), Query(since_ms=since_ms + 100_000), identity="a")


def test_ambiguous_event_id_needs_the_identity(client: Any, scribe: Scribe) -> None:
    """Two streams may have entries of the same id."""
    entry_id = "99999999999999-0"
    scribe.run("a", "SET", "k", "1", entry_id=entry_id)
    scribe.run("b", "SET", "l", "1", entry_id=entry_id)

    def chosen(given: str) -> list[bytes]:
        made = plan_undo(Store(client), events=(given,), across_policies=True)
        return [key.key for key in made.keys]

    assert chosen(f"a/{entry_id}") == [b"k"]
    with raises_code("ambiguous-event") as raised:
        chosen(entry_id)
    assert raised.value.help == f"name one of `a/{entry_id}`, `b/{entry_id}`"


@pytest.mark.parametrize("given", ["1-0", "a/1-0", "unknown/1-0", "yesterday", "1", "a/b/1-0", ""])
def test_wrong_event_id_is_an_error(client: Any, scribe: Scribe, given: str) -> None:
    """An id that is malformed or unknown selects nothing."""
    scribe.run("a", "SET", "k", "1")

    with raises_code("unknown-event"):
        plan_undo(Store(client), events=(given,))


def test_unknown_identity_and_empty_range_are_errors(client: Any, scribe: Scribe) -> None:
    """The two mistakes have different errors."""
    scribe.run("a", "SET", "k", "1")

    with raises_code("unknown-identity"):
        plan_undo(Store(client), Query(since_ms=0), identity="unknown")
    with pytest.raises(NothingToUndoError):
        plan_undo(Store(client), Query(correlation="none"))


def test_undo_of_many_keys_is_several_events_and_one_undo(client: Any, scribe: Scribe) -> None:
    """A command of a script has at most 7,999 arguments, so an undo may append several events."""
    keys = [f"k:{number}" for number in range(2500)]
    scribe.run("a", "MSET", *(word for key in keys for word in (key, "1")))

    done = undo(client)
    assert len(done.events) == 3
    assert client.exists(*keys) == 0

    undo(client, done.correlation)
    assert client.exists(*keys) == 2500


@pytest.mark.parametrize(
    ("bound", "value", "message"),
    [
        ("MAX_KEYS", 1, "2 keys; at most 1 are allowed"),
        ("UNDO_MAX_BYTES", 100, "0 MiB; at most 0 MiB are allowed"),
        ("MAX_SELECTED_BYTES", 9, "before-images"),
    ],
)
def test_undo_that_would_block_the_server_is_an_error(
    client: Any,
    scribe: Scribe,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    value: int,
    message: str,
) -> None:
    """The error comes before any change, and has the size and the limit."""
    client.mset({"k": "x" * 100, "l": "x" * 100})
    scribe.run("a", "MSET", "k", "1", "l", "1")
    for module in (key_plans, undo_selection):
        monkeypatch.setattr(module, bound, value, raising=False)

    with pytest.raises(UndoTooLargeError, match=message):
        plan(client)


def test_restored_sorted_set_that_had_shrunk_is_unchanged(client: Any, scribe: Scribe) -> None:
    """The server then encodes the set in another way, so its DUMP payload differs."""
    client.zadd("z", {f"m{number}": number for number in range(300)})
    scribe.run("a", "ZREMRANGEBYRANK", "z", "3", "-1", correlation="first")
    scribe.run("a", "ZADD", "z", "7", "x", correlation="second")

    undo(client, "second")
    undo(client, "first")

    assert client.zcard("z") == 300
