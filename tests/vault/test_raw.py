"""What a sealed agent can do without its guard: nothing."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

import keyleash
from client.twin import recorded_calls
from keyleash.commands import load_table
from keyleash.protocol.active import guard_record
from support.leash import Leash, grant
from support.sealed import SEALED, assert_hidden
from support.servers import RealServer
from support.walls import PASSWORD, wall

MARK = b"what-nobody-may-see"
ALL: dict[str, Any] = {
    "grants": [grant("read", "write", "delete", "scan", keys="t:*")],
    "budget": {"requests": "5/month"},
}
ALWAYS = {"AUTH", "HELLO", "QUIT", "RESET", "PING", "ECHO", "TIME"}
"""What a connection is for, and what touches nothing."""
HANGS = {"MONITOR", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "SYNC", "PSYNC"}

KEYS = ("t:str", "t:list", "t:hash", "t:set", "t:z", "t:stream", "t:num", "t:missing")


def sow(admin: redis.Redis, prefix: str) -> None:
    """The same names within the vault, and outside it."""
    admin.set(f"{prefix}t:str", MARK)
    admin.set(f"{prefix}t:num", 7)
    admin.rpush(f"{prefix}t:list", MARK, "b")
    admin.hset(f"{prefix}t:hash", MARK, MARK)
    admin.sadd(f"{prefix}t:set", MARK)
    admin.zadd(f"{prefix}t:z", {MARK: 1})
    admin.xadd(f"{prefix}t:stream", {MARK: MARK}, id="1-1")
    admin.xgroup_create(f"{prefix}t:stream", "g", "0")


@pytest.fixture
def leash(server: RealServer) -> Leash:
    leash = Leash(server, SEALED)
    leash.load(one=ALL, two=ALL)
    for prefix in ("", SEALED.vault):
        sow(leash.admin, prefix)
    for identity in ("one", "two"):
        wall(leash.admin, SEALED, identity, load_table(), "t:*")
    return leash


def content(admin: redis.Redis) -> dict[bytes, Any]:
    """Everything that the server holds."""
    client: Any = admin
    return {key: (client.dump(key), client.pexpiretime(key)) for key in client.keys("*")}


def guarded(leash: Leash, identity: str = "one", **options: Any) -> keyleash.Redis:
    token = leash.issue(identity).token
    return leash.client(token, username=identity, password=PASSWORD, **options)


def asked(leash: Leash, *words: Any) -> Any:
    """What the server answers an operator, as it came."""
    client = leash.server.client(protocol=2)
    client.response_callbacks.clear()
    return client.execute_command(*words)


class Raw:
    """An agent's user, without its wrapper."""

    def __init__(self, leash: Leash, protocol: int) -> None:
        self.client = leash.server.client(
            username="one", password=PASSWORD, protocol=protocol, socket_timeout=2
        )
        self.client.response_callbacks.clear()
        self.refused = self.answered = 0

    def call(self, *words: Any) -> None:
        """Make a call, which must tell nothing."""
        try:
            reply: Any = self.client.execute_command(*words)
            self.answered += 1
        except NoPermissionError as error:
            reply = error
            self.refused += 1
        except (redis.ResponseError, redis.ConnectionError) as error:
            reply = error
        assert MARK not in str(reply).encode(), words
        assert_hidden(reply)


def argument_lists(name: str) -> list[tuple[Any, ...]]:
    """Ways to call a command of which nothing is known."""
    words = name.split("|")
    return [
        tuple(words),
        *((*words, key) for key in KEYS[:2]),
        (*words, "t:str", "t:list"),
        (*words, "t:str", "0"),
        (*words, "1", "t:str"),
        (*words, "0", "MATCH", "*"),
        (*words, "*"),
        (*words, "t:str", "t:list", "x", "y"),
    ]


@pytest.mark.parametrize("protocol", [2, 3])
def test_no_command_changes_or_tells_anything_past_the_guard(leash: Leash, protocol: int) -> None:
    """
    Every command of the server, with keys of the agent's own by its own names, and of others.

    The calls of the recorded surface, which are right, and guesses for all that is refused.
    """
    raw, admin = Raw(leash, protocol), leash.admin
    before = content(admin)
    names = {name.decode().upper() for name in admin.command_list()}
    infos: Any = asked(leash, "COMMAND", "INFO", *sorted(names))
    subcommands = [one[0].decode().upper() for info in infos for one in info[9]]

    for call in recorded_calls():
        if call.name in names:
            raw.call(*call.words)
    for name in [*sorted(names - ALWAYS - HANGS), *subcommands]:
        for words in argument_lists(name):
            if name not in {"CLIENT|SETNAME", "CLIENT|SETINFO"}:
                raw.call(*words)

    assert content(admin) == before
    assert raw.refused > 2000
    # PING, ECHO and TIME of the recorded surface alone.
    assert raw.answered < 20


def test_what_is_known_of_native_holes_opens_nothing(leash: Leash) -> None:
    """Calls whose keys a server does not always find when it asks its rules."""
    raw = Raw(leash, 2)
    before = content(leash.admin)

    for words in (
        ("PFMERGE", "t:new"),
        ("PFMERGE", "other"),
        ("SORT", "t:list", "LIMIT", "STORE", "t:new", "ALPHA"),
        ("SORT", "t:set", "BY", "nosort", "GET", "t:str"),
        ("XREADGROUP", "GROUP", "STREAMS", "c", "STREAMS", "t:stream", ">"),
        ("XREAD", "STREAMS", "t:stream", "0"),
        ("GEORADIUS", "t:z", "0", "0", "1", "m", "STORE", "t:a", "STORE", "t:b"),
        ("EVAL", "return redis.call('GET', 't:str')", "0"),
        ("EVAL_RO", "return redis.call('GET', 't:str')", "0"),
        ("EVALSHA_RO", leash.digest("one"), "0"),
        ("FCALL", "f", "0"),
        ("SCRIPT", "SHOW", leash.digest("one")),
        ("HGETALL", SEALED.sealed),
        ("HGETALL", "keyleash:guard:two"),
        ("HGETALL", "keyleash:source:one"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("RANDOMKEY",),
        ("DBSIZE",),
        ("CLIENT", "TRACKING", "ON", "BCAST"),
        ("OBJECT", "HELP"),
        ("COMMAND", "GETKEYS", "GET", "t:str"),
        ("WATCH", "t:str"),
        ("MULTI",),
        ("DEBUG", "OBJECT", "t:str"),
        ("PSUBSCRIBE", "*"),
        ("MONITOR",),
        ("SLOWLOG", "GET"),
        ("LATENCY", "DOCTOR"),
        ("INFO",),
    ):
        raw.call(*words)

    assert content(leash.admin) == before


def test_guard_of_another_identity_is_not_called(leash: Leash) -> None:
    """Not by its digest, nor with another's token on one's own."""
    raw = Raw(leash, 2)
    record = guard_record(leash.admin.hgetall(SEALED.guard("two")))
    assert record is not None
    token = leash.issue("two").token
    before = content(leash.admin)

    for digest in (record.digest, record.batch_digest):
        raw.call("EVALSHA", digest, 1, "t:str", token, "c", "2", "GET", "t:str")
    assert raw.refused == 2
    assert content(leash.admin) == before
    with pytest.raises(redis.ResponseError, match=r"^LEASH TOKEN_UNKNOWN$"):
        raw.client.execute_command(
            "EVALSHA", leash.digest("one"), 1, "t:str", token, "c", "2", "GET", "t:str"
        )


@pytest.mark.parametrize("protocol", [2, 3])
def test_guard_does_within_the_wall_what_it_does_without(leash: Leash, protocol: int) -> None:
    """The wrapper needs no change but its user and password."""
    agent = guarded(leash, protocol=protocol)

    assert agent.get("t:str") == MARK
    assert agent.incr("t:num") == 8
    assert agent.blpop(["t:missing", "t:list"], 1) in ([b"t:list", MARK], (b"t:list", MARK))
    pipe = agent.pipeline(transaction=False)
    pipe.hgetall("t:hash")
    pipe.set("t:new", "x")
    assert pipe.execute() == [{MARK: MARK}, True]
    with pytest.raises(keyleash.BudgetExhaustedError):
        agent.get("t:str")
    assert leash.admin.get("t:num") == b"7"
    assert [event.get("op", "BATCH") for event in leash.events("one")][-1] == "BATCH"


def test_lost_script_is_an_error_that_tells_nothing(leash: Leash) -> None:
    """Neither the source nor SCRIPT LOAD is for an agent."""
    agent = guarded(leash)
    assert agent.get("t:str") == MARK
    leash.admin.script_flush()

    with pytest.raises(redis.ResponseError) as error:
        agent.get("t:str")
    assert_hidden(error.value, error.value.__cause__, error.value.__context__)


def test_arguments_of_any_kind_get_no_error_that_tells_where_keys_are(leash: Leash) -> None:
    """Forged keys, huge and empty arguments, a token that is none."""
    leash.load(one={"grants": ALL["grants"]})
    wall(leash.admin, SEALED, "one", load_table(), "t:*")
    raw, token, digest = Raw(leash, 2), leash.issue("one").token, leash.digest("one")
    before = content(leash.admin)

    for keys, argv in (
        ((), ()),
        ((), (token,)),
        (("t:str",), (token, "c", "2", "GET", "t:list")),
        (("t:str", "t:list"), (token, "c", "2", "GET", "t:str")),
        (("t:str",), (token, "c", "9", "GET", "t:str", "x")),
        (("t:str",), (token, "c", "2", "LPUSH", "t:str", "x")),
        (("t:" + "x" * 100_000,), (token, "c", "3", "INCR", "t:" + "x" * 100_000, "y")),
        (
            ("t:stream",),
            (token, "c", "3", *["XREADGROUP", "GROUP", "x", "c", "STREAMS", "t:stream", ">"]),
        ),
        (("t:str",), ("x" * 100_000, "c", "2", "GET", "t:str")),
        ((), (token, "c", "2", "SCAN", "0", "MATCH", "*")),
        ((), (token, "c", "2", "NOSUCH", "t:str")),
    ):
        raw.call("EVALSHA", digest, len(keys), *keys, *argv)

    changed = {key for key, held in content(leash.admin).items() if before.get(key) != held}
    assert not any(key.startswith((SEALED.vault.encode(), b"t:")) for key in changed)
