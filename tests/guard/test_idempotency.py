"""Calls with an idempotency id: they run once, and a repeated call gets the first reply."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from keyleash.operator.suspension import freeze, thaw
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.keyspace import Keyspace
from support.clustered import NODES
from support.distress import full_memory
from support.leash import Leash, grant

ONCE: dict[str, Any] = {"idempotency": {"keep": "1h", "max_reply": "1kb"}}
ALL: dict[str, Any] = {
    "grants": [
        grant("read", "write", "delete", keys="{{d}}:*"),
        {"allow": ["publish", "subscribe"], "channels": ["news"]},
    ],
    "budget": {"requests": "5000/day", "writes": "4000/day"},
    **ONCE,
}
RECORDS = f"{Keyspace(tag='*' if NODES else '').once_prefix('one')}*"


@pytest.fixture
def token(leash: Leash) -> str:
    leash.load(one=ALL)
    return leash.issue("one").token


def once(leash: Leash, token: str, id: str | bytes, *command: Any, key: int | None = 1) -> Any:
    """Call the guard for a command with at most one key; an error as its text."""
    keys = [] if key is None else [command[key]]
    return leash.raw("one", keys, token, "req", "once", id, *command)


def batch(leash: Leash, token: str, id: str, mode: str, *commands: tuple[Any, ...]) -> Any:
    """Call the guard for a batch of commands with one key each; an error as its text."""
    keys = [command[1] for command in commands]
    items = [word for command in commands for word in (len(command), *command)]
    digest = leash.record("one").batch_digest
    reply = leash.raw("one", keys, token, "req", "once", id, mode, *items, digest=digest)
    if isinstance(reply, list):
        return [str(item) if isinstance(item, Exception) else item for item in reply]
    return reply


def test_repeated_call_gets_the_first_reply_and_nothing_runs(leash: Leash, token: str) -> None:
    """No command, no charge, no event; another id runs."""
    assert once(leash, token, "a", "INCR", "{d}:n") == 1
    spent, events = leash.spent("one"), leash.events("one")

    assert [once(leash, token, "a", "INCR", "{d}:n") for _ in range(3)] == [1, 1, 1]

    assert (leash.spent("one"), leash.events("one")) == (spent, events)
    assert leash.admin.get("{d}:n") == b"1"
    assert leash.admin.hget(leash.names_at("{d}:n").repeats("one"), "replays") == b"3"
    assert once(leash, token, "b", "INCR", "{d}:n") == 2
    assert len(leash.events("one")) == 2


def test_calls_without_an_id_run_each_time(leash: Leash, token: str) -> None:
    """Alone and in a batch, beside one with an id; nothing is remembered of them."""
    assert [leash.call("one", token, "INCR", "{d}:n") for _ in range(2)] == [1, 2]
    incrs = [("INCR", "{d}:n"), ("SET", "{d}:k", "once")]
    assert leash.batch("one", token, "all", *incrs) == [3, b"OK"]
    assert leash.batch("one", token, "each", *incrs) == [4, b"OK"]
    assert leash.admin.keys(RECORDS) == []
    assert once(leash, token, "a", "INCR", "{d}:n") == 5
    assert leash.call("one", token, "INCR", "{d}:n") == 6


def test_id_of_another_call_is_a_conflict(leash: Leash, token: str) -> None:
    """Of other arguments, another command, a batch; it is recorded, and nothing runs."""
    once(leash, token, "a/1", "SET", "{d}:k", "v")

    found = "LEASH IDEMPOTENCY_CONFLICT once=a/1"
    assert once(leash, token, "a/1", "SET", "{d}:k", "w") == found
    assert once(leash, token, "a/1", "SETNX", "{d}:k", "v") == found
    assert batch(leash, token, "a/1", "all", ("SET", "{d}:k", "v"), ("INCR", "{d}:n")) == found
    assert leash.admin.get("{d}:k") == b"v"
    assert leash.admin.exists("{d}:n") == 0
    assert leash.denials("one")[0]["code"] == "IDEMPOTENCY_CONFLICT"
    assert leash.refusals("one") == 3
    assert once(leash, token, "a/1", "SET", "{d}:k", "v") == b"OK"


@pytest.mark.parametrize("mode", ["all", "each"])
def test_batch_runs_once(leash: Leash, token: str, mode: str) -> None:
    """All of it; runs are remembered like commands, and keys count."""
    commands = [("INCR", "{d}:n"), ("INCR", "{d}:n"), ("SET", "{d}:k", "v"), ("GET", "{d}:k")]
    first = batch(leash, token, "a", mode, *commands)
    spent = leash.spent("one")

    assert first == [1, 2, b"OK", b"v"]
    assert batch(leash, token, "a", mode, *commands) == first
    assert leash.spent("one") == spent
    assert len(leash.events("one")) == 1
    other = [*commands[:-1], ("GET", "{d}:n")]
    assert batch(leash, token, "a", mode, *other) == "LEASH IDEMPOTENCY_CONFLICT once=a"
    digest = leash.record("one").batch_digest
    run = ("once", "run", mode, "2*2", "INCR", 1)
    for _ in range(2):
        assert leash.raw("one", ["{d}:n", "{d}:m"], token, "", *run, digest=digest) == [[3, 1]]
    swapped = leash.raw("one", ["{d}:m", "{d}:n"], token, "", *run, digest=digest)
    assert swapped == "LEASH IDEMPOTENCY_CONFLICT once=run"


def test_denied_command_of_a_batch_is_part_of_its_reply(leash: Leash, token: str) -> None:
    """In mode `each` the others have run; without any that ran, nothing is remembered."""
    commands = [("INCR", "{d}:n"), ("SET", "{d}other", "v")]
    first = batch(leash, token, "a", "each", *commands)

    assert first == [1, "LEASH KEY_NOT_GRANTED key=%7Bd%7Dother"]
    assert batch(leash, token, "a", "each", *commands) == first
    assert leash.admin.get("{d}:n") == b"1"
    batch(leash, token, "b", "each", ("SET", "{d}other", "v"), ("GET", "{d}:n"))
    assert batch(leash, token, "b", "each", ("INCR", "{d}:n"), ("GET", "{d}:n")) == [2, b"2"]


def test_commands_that_only_read_ignore_the_id(leash: Leash, token: str) -> None:
    """Alone and in a batch, also with the id of another call, and where reads are recorded."""
    for reads in (False, True):
        leash.load(one={**ALL, "audit": {"reads": reads}})
        leash.admin.delete("{d}:n")
        once(leash, token, f"a{reads}", "INCR", "{d}:n")
        assert once(leash, token, f"a{reads}", "GET", "{d}:n") == b"1"
        assert batch(leash, token, f"a{reads}", "all", ("GET", "{d}:n"), ("GET", "{d}:n"))
        assert once(leash, token, f"b{reads}", "GET", "{d}:n") == b"1"
        leash.admin.set("{d}:n", "2")
        assert once(leash, token, f"b{reads}", "GET", "{d}:n") == b"2"
        assert once(leash, token, f"b{reads}", "INCR", "{d}:n") == 3


def test_message_is_published_once(leash: Leash, token: str) -> None:
    """A command without a key, which changes no data; on a cluster it has no place for an id."""
    pubsub = leash.server.client().pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe("news")
    pubsub.get_message(timeout=5)

    replies = [once(leash, token, "a", "PUBLISH", "news", "x", key=None) for _ in range(2)]

    if NODES:
        assert replies == ["LEASH COMMAND_REFUSED once=key"] * 2
        return
    assert replies == [1, 1]
    assert pubsub.get_message(timeout=5)["data"] == b"x"
    assert pubsub.get_message(timeout=0.05) is None


def test_ids_of_tokens_are_apart(leash: Leash, token: str) -> None:
    """A rotated token has other ids."""
    other = leash.issue("one").token

    assert once(leash, token, "a", "INCR", "{d}:n") == 1
    assert once(leash, other, "a", "INCR", "{d}:n") == 2
    assert once(leash, other, "a", "SET", "{d}:k", "v").startswith("LEASH IDEMPOTENCY_CONFLICT")


def test_token_and_suspension_are_checked_before_a_replay(leash: Leash) -> None:
    """A remembered reply is none for a token that is over."""
    leash.load(one=ALL)
    issued = leash.issue("one")
    once(leash, issued.token, "a", "INCR", "{d}:n")

    freeze(leash.store, "one", reason="drill")
    assert once(leash, issued.token, "a", "INCR", "{d}:n").startswith("LEASH SUSPENDED")
    thaw(leash.store, "one")
    assert once(leash, issued.token, "a", "INCR", "{d}:n") == 1
    revoke(leash.store, token_id=issued.id)
    assert once(leash, issued.token, "a", "INCR", "{d}:n") == "LEASH TOKEN_REVOKED"


def test_denial_is_not_remembered(leash: Leash, token: str) -> None:
    """The same id may try again."""
    leash.load(one={**ALL, "budget": {"writes": "1/day"}})
    once(leash, token, "first", "INCR", "{d}:n")

    denied = once(leash, token, "a", "INCR", "{d}:n")
    assert denied.startswith("LEASH BUDGET_EXHAUSTED")
    assert once(leash, token, "b", "INCR", "other").startswith("LEASH KEY_NOT_GRANTED")
    assert once(leash, token, "first", "INCR", "{d}:n") == 1
    leash.load(one=ALL)
    assert once(leash, token, "a", "INCR", "{d}:n") == 2
    assert once(leash, token, "b", "SET", "{d}:k", "v") == b"OK"


def test_error_of_the_command_is_remembered(leash: Leash, token: str) -> None:
    """It has run: the event stands, and so does the charge."""
    leash.admin.rpush("{d}:list", "x")
    error = once(leash, token, "a", "INCR", "{d}:list")
    leash.admin.delete("{d}:list")

    assert error.startswith("WRONGTYPE ")
    assert once(leash, token, "a", "INCR", "{d}:list") == error
    assert leash.admin.exists("{d}:list") == 0


def test_long_reply_is_remembered_as_done(leash: Leash, token: str) -> None:
    """A replay says so, whether the call was alone or a batch; a reply of the limit is stored."""
    leash.admin.set("{d}:k", 2000 * "x")

    assert once(leash, token, "a", "GETDEL", "{d}:k") == 2000 * b"x"
    assert once(leash, token, "a", "GETDEL", "{d}:k") == "LEASH REPLAYED"
    leash.admin.mset({"{d}:k": 1021 * "x", "{d}:l": 1022 * "x"})
    assert batch(leash, token, "b", "all", ("GETDEL", "{d}:k"), ("GETDEL", "{d}:l"))
    found = batch(leash, token, "b", "all", ("GETDEL", "{d}:k"), ("GETDEL", "{d}:l"))
    assert found == "LEASH REPLAYED"
    # 3 bytes are the length.
    leash.admin.mset({"{d}:k": 1021 * "x", "{d}:l": 1022 * "x"})
    for id, key in (("c", "{d}:k"), ("d", "{d}:l")):
        once(leash, token, id, "GETDEL", key)
    assert once(leash, token, "c", "GETDEL", "{d}:k") == 1021 * b"x"
    assert once(leash, token, "d", "GETDEL", "{d}:l") == "LEASH REPLAYED"
    assert not leash.refusals("one")


def test_id_is_forgotten_after_the_time(leash: Leash, token: str) -> None:
    """By the expiry of its key alone."""
    leash.load(one={**ALL, "idempotency": {"keep": "1h"}})
    once(leash, token, "a", "INCR", "{d}:n")
    (name,) = leash.admin.keys(RECORDS)

    assert 0 < leash.admin.pttl(name) <= 3_600_000
    leash.admin.pexpire(name, 1)
    while leash.admin.exists(name):
        time.sleep(0.02)
    assert once(leash, token, "a", "INCR", "{d}:n") == 2


@pytest.mark.parametrize(
    ("id", "shown"),
    [
        ("", ""),
        (201 * "x", 128 * "x"),
        ("a\nb", "a%0Ab"),
        (b"\xff", "%FF"),
        ("é", "%C3%A9"),
        ("kl_one_" + 32 * "A", "token"),
        (190 * "x" + "KL_one_" + 32 * "A", "token"),
    ],
)
def test_malformed_id_is_denied(leash: Leash, token: str, id: str | bytes, shown: str) -> None:
    """Whatever the command; the denial names the id, unless it contains a token."""
    found = f"LEASH COMMAND_REFUSED once={shown}"
    assert once(leash, token, id, "INCR", "{d}:n") == found
    assert once(leash, token, id, "GET", "{d}:n") == found
    assert leash.admin.keys(RECORDS) == []


def test_longest_id_is_accepted(leash: Leash, token: str) -> None:
    """Every printable byte counts."""
    ids = [f"{100 * '~'} {98 * '!'}{end}" for end in "ab"]

    assert [once(leash, token, id, "INCR", "{d}:n") for id in (*ids, *ids)] == [1, 2, 1, 2]


def test_call_that_ends_behind_its_id_is_denied(leash: Leash, token: str) -> None:
    """Without a command or an id; so is a mode without commands."""
    assert leash.raw("one", [], token, "", "once", "a") == "LEASH COMMAND_REFUSED command="
    assert leash.raw("one", [], token, "", "once") == "LEASH COMMAND_REFUSED once="
    digest = leash.record("one").batch_digest
    for modes in ([], ["whoami"], ["delegate"]):
        found = leash.raw("one", [], token, "", "once", "a", *modes, digest=digest)
        assert found == f"LEASH COMMAND_REFUSED mode={''.join(modes)}"


@pytest.mark.parametrize("command", ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"])
def test_subscription_takes_no_id(leash: Leash, token: str, command: str) -> None:
    """A reply from memory would let a client subscribe when the right is gone, uncharged."""
    for _ in range(2):
        reply = once(leash, token, "a", command, "news", key=None)
        assert reply == "LEASH COMMAND_REFUSED once=subscription"
    assert leash.admin.keys(RECORDS) == []
    assert leash.raw("one", [], token, "", command, "news") == b"news"


def test_call_with_too_many_arguments_is_denied_with_their_number(leash: Leash, token: str) -> None:
    """The two words of the id do not count."""
    for count in (8_000, 20_000):
        words = ["DEL", *["{d}:n"] * (count - 1)]
        assert once(leash, token, "a", *words) == f"LEASH ARGS_TOO_MANY arguments={count}"


def test_identity_without_idempotency_refuses_an_id(leash: Leash) -> None:
    """Its guard is as it was, and takes the word for a command or a mode."""
    leash.load(one={**ALL, "idempotency": "off"})
    token = leash.issue("one").token

    assert once(leash, token, "a", "INCR", "{d}:n") == "LEASH COMMAND_REFUSED command=once"
    found = batch(leash, token, "a", "all", ("INCR", "{d}:n"), ("INCR", "{d}:n"))
    assert found == "LEASH COMMAND_REFUSED mode=once"
    assert leash.admin.exists("{d}:n") == 0
    assert not leash.record("one").takes_ids


def test_too_many_words_behind_an_id_are_denied(leash: Leash, token: str) -> None:
    """As without one, whatever their number."""
    for count in (7001, 9000, 40_000):
        words = ["MSET", *(["{d}:k", "v"] * count)][:count]
        found = leash.raw("one", words[1::2], token, "", "once", "a", *words)
        assert found.startswith("LEASH ARGS_TOO_MANY arguments=")
        items = [3, "SET", "{d}:k", "v"] * count
        digest = leash.record("one").batch_digest
        keys = ["{d}:k"] * count
        found = leash.raw("one", keys, token, "", "once", "a", "all", *items, digest=digest)
        assert found.startswith("LEASH ARGS_TOO_MANY commands=1001")
    words = ["MSET", *(["{d}:k", "v"] * 3499), "{d}:k"]
    reply = leash.raw("one", words[1::2], token, "", "once", "a", *words)
    assert reply.startswith("wrong number")


def test_many_clients_with_one_id_run_one_call(leash: Leash, token: str) -> None:
    """One event, one charge, equal replies."""
    words = (token, "", "once", "a", "INCR", "{d}:n")
    with ThreadPoolExecutor(50) as threads:
        replies = list(threads.map(lambda _: leash.raw("one", ["{d}:n"], *words), range(50)))

    assert replies == [1] * 50
    assert len(leash.events("one")) == 1
    assert leash.used("one") == {"budget.requests": 1, "budget.writes": 1}


def test_full_server_refuses_a_call_before_it_is_remembered(leash: Leash, token: str) -> None:
    """And still replies to a remembered one."""
    once(leash, token, "a", "INCR", "{d}:n")
    with full_memory(leash.server):
        assert "'maxmemory'" in once(leash, token, "b", "INCR", "{d}:n")
        assert "'maxmemory'" in once(leash, token, "b", "DEL", "{d}:n")
        assert once(leash, token, "a", "INCR", "{d}:n") == 1

    assert leash.used("one") == {"budget.requests": 1, "budget.writes": 1}
    assert once(leash, token, "b", "INCR", "{d}:n") == 2


def test_id_stays_over_a_load(leash: Leash, token: str) -> None:
    """Also if the new policy stores shorter replies."""
    once(leash, token, "a", "SET", "{d}:k", "v")
    leash.load(one={**ALL, "idempotency": {"keep": "1m", "max_reply": "1b"}, "rate": {}})

    assert once(leash, token, "a", "SET", "{d}:k", "v") == b"OK"


def test_absent_key_that_the_call_created_is_no_obstacle(leash: Leash, token: str) -> None:
    """Rules for values apply to the first call alone."""
    grants = [{**grant("write", keys="{{d}}:*"), "values": {"only": "absent"}}]
    leash.load(one={**ALL, "grants": grants})

    assert [once(leash, token, "a", "SET", "{d}:k", "v") for _ in range(2)] == [b"OK", b"OK"]
    assert once(leash, token, "b", "SET", "{d}:k", "v").startswith("LEASH VALUE_REFUSED")


def test_blocking_command_is_remembered_when_it_has_a_result(leash: Leash, token: str) -> None:
    """An empty poll is none."""
    assert once(leash, token, "a", "BLPOP", "{d}:l", 1) is None
    leash.admin.rpush("{d}:l", "x", "y")
    for _ in range(2):
        assert once(leash, token, "a", "BLPOP", "{d}:l", 1) == [b"{d}:l", b"x"]
    assert leash.admin.llen("{d}:l") == 1


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"x",
        b"\x91" * 60_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xc1",
        b"\xdb\xff\xff\xff\xff",
        66_000 * b"\x90",
    ],
    ids=len,
)
def test_hostile_record_stops_nothing(leash: Leash, token: str, stored: bytes) -> None:
    """A damaged record may hold anything: it gets them, or an error; nothing runs."""
    once(leash, token, "a", "INCR", "{d}:n")
    (name,) = leash.admin.keys(RECORDS)
    written = leash.admin.get(name)
    for hostile in (written[:40] + stored, stored):
        leash.admin.set(name, hostile)
        with contextlib.suppress(redis.RedisError):
            once(leash, token, "a", "INCR", "{d}:n")
        assert leash.admin.get("{d}:n") == b"1"
    leash.admin.set(name, written)
    assert once(leash, token, "a", "INCR", "{d}:n") == 1
