"""`docs/reference/wire.md`, compared with the code and with replies of servers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
import redis

from keyleash.commands import keys_of, load_table
from keyleash.doubles import DOUBLE
from keyleash.errors import ReplyCode
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.state import FIRST_NUMBER
from keyleash.store.token import TokenRecord, token_digest
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS
from support.leash import NAMES, Leash, grant
from support.servers import RealServer

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "reference" / "wire.md").read_text(encoding="utf-8")
CODE_ROW = re.compile(r"^\| `([A-Z_]+)` \| (.*?) \|", re.MULTILINE)
KEYS_ROW = re.compile(
    r"^\| (`[A-Z]+(?: [^`]+)?`(?:, `[^`]+`)*) \| (none|`\S+`(?: `\S+`)*) \|$", re.M
)
ALLOWED = rb"[A-Za-z0-9:._/@+%-]*"


@pytest.fixture
def leash(server: RealServer) -> Leash:
    """Identities for which each denial has one reason."""
    leash = Leash(server)
    broad = {"grants": [grant("read", "write", keys="t:*")]}
    leash.load(
        one={
            "grants": [
                *broad["grants"],
                grant("read", keys="r:*"),
                grant("scan", keys="t:*"),
                {**grant("write", keys="v:*"), "values": {"max_elements": 1}},
                {"allow": ["publish"], "channels": ["c:{x}"]},
            ],
            "deny": [{"keys": ["t:lock"]}],
            "rate": {"writes": "100/minute"},
            "token": {"idle": "1h", "bound": True, "renew": True},
            "delegate": {"depth": 1},
        },
        repeating={**broad, "idempotency": {"keep": "1h", "max_reply": "1b"}},
        hasty={**broad, "rate": {"requests": "1/minute"}},
        spent={**broad, "budget": {"requests": "1/day"}},
        unexported={**broad, "audit": {"retain": {"until": "exported", "hard_max": 1}}},
    )
    return leash


@pytest.fixture
def token(leash: Leash) -> str:
    return leash.issue("one").token


def documented_details() -> dict[str, set[str]]:
    return {code: set(re.findall(r"`([a-z_]+)`", cell)) for code, cell in CODE_ROW.findall(PAGE)}


def details_of(line: Any) -> tuple[str, dict[str, bytes]]:
    """Parse a denial as the page documents it."""
    mark, code, *pairs = line.split(" ")
    assert mark == "LEASH", line
    return code, {
        name: unquote_to_bytes(value) for name, value in (pair.split("=") for pair in pairs)
    }


def batch(leash: Leash, token: str, keys: list[str], mode: str, *items: Any) -> Any:
    record = leash.admin.hgetall(NAMES.guard("one"))
    digest = record[b"batch_digest"].decode()
    return leash.raw("one", keys, token, "id", mode, *items, digest=digest)


def test_table_of_denials_names_every_reply_code() -> None:
    """A client can handle all codes from the page."""
    assert sorted(documented_details()) == sorted(ReplyCode)


def test_limits_on_the_page_are_those_of_the_scripts() -> None:
    """Clients split calls by these limits."""
    assert f"| {MAX_ARGUMENTS:,} arguments, including its name |" in PAGE
    assert f"| {MAX_BATCH_COMMANDS:,} commands and {MAX_ARGUMENTS:,} arguments in total" in PAGE


@pytest.mark.parametrize(("calls", "declared"), KEYS_ROW.findall(PAGE))
def test_keys_that_the_page_declares_are_those_of_the_command(calls: str, declared: str) -> None:
    """The examples declare the right keys, in order and in number."""
    for call in re.findall(r"`([^`]+)`", calls):
        argv = [word.encode() for word in shlex.split(call)]
        spec = load_table().find(argv)

        assert spec is not None
        names = [use.key.decode() for use in keys_of(spec, argv)]
        assert names == re.findall(r"`([^`]+)`", declared)


def test_getkeys_gives_the_keys_that_the_page_declares(server: RealServer) -> None:
    """The page recommends COMMAND GETKEYS."""
    rows = [row for row in KEYS_ROW.findall(PAGE) if row[1] != "none"]
    client = server.client()

    assert len(rows) >= 5
    for call, declared in rows:
        keys = client.execute_command("COMMAND GETKEYS", *shlex.split(call.strip("`")))
        assert [str(key) for key in keys] == re.findall(r"`([^`]+)`", declared)
    with pytest.raises(redis.ResponseError, match="no key arguments"):
        client.execute_command("COMMAND GETKEYS", "PING")


def test_details_of_every_denial_are_those_of_the_page(leash: Leash, token: str) -> None:
    """The page documents the details of each code."""
    seen: dict[str, set[str]] = {}
    for line in [
        *denied_commands(leash, token),
        *denied_batches(leash, token),
        *used_up_limits(leash),
        *denied_tokens(leash),
        *denied_restrictions(leash),
        *denied_ids(leash),
        *identities_out_of_service(leash, token),
    ]:
        code, details = details_of(line)
        seen.setdefault(code, set()).update(set(details) - {"item"})

    of_clusters = {"LEASE_NEEDED": {"request"}, "LEASE_REFUSED": {"reason"}}
    of_modules = {"INDEX_NOT_GRANTED": {"index", "by"}}
    assert seen | of_clusters | of_modules == documented_details()


def denied_restrictions(leash: Leash) -> list[Any]:
    """Denials of tokens that may do less than their identity."""
    reader = leash.issue("one", allow=["read"], keys=["t:a"]).token
    bound = leash.issue("one", bind={"x": "1"}).token
    parent = leash.issue("one", budget={"requests": 3})
    # A delegation counts as a request.
    child, other = (leash.client(parent.token).delegate(ttl=ttl) for ttl in ("1m", None))
    leash.call("one", child.token, "GET", "t:a")
    words = [parent.token, "id", "delegate", "f" * 40, "", "allow", "delete"]
    digest = leash.record("one").batch_digest
    spent = leash.call("one", other.token, "GET", "t:a")
    refused = leash.raw("one", [], *words, digest=digest)
    # As a policy with a greater depth would have made it.
    name = NAMES.token("one", token_digest(other.token))
    record = leash.admin.get(name)
    leash.admin.set(name, record[:-1] + record[-53:-1] + b"\x02", keepttl=True)
    too_deep = leash.call("one", other.token, "GET", "t:a")
    revoke(leash.store, token_id=parent.id)
    return [
        spent,
        too_deep,
        refused,
        leash.call("one", child.token, "GET", "t:a"),
        leash.call("one", reader, "GET", "t:b"),
        leash.call("one", reader, "SET", "t:a", "1"),
        leash.call("one", bound, "PUBLISH", "c:2", "x"),
    ]


def denied_ids(leash: Leash) -> Iterator[Any]:
    """Denials of calls with an idempotency id, the last of one that was done."""
    token = leash.issue("repeating").token
    for id, value in [("i d", "x"), ("i d", "y"), ("\n", "x"), ("i d", "x")]:
        reply = leash.raw("repeating", ["t:a"], token, "", "once", id, "SET", "t:a", value)
        if reply != b"OK":
            yield reply


def denied_commands(leash: Leash, token: str) -> Iterator[Any]:
    for command in [
        ("CONFIG", "GET", "*"),
        ("COPY", "t:a", "t:b", "DB", "1"),
        ("SORT", "t:a", "BY", "d:*"),
        ("DEL", "t:a"),
        ("SET", "r:a", "x"),
        ("GET", "x"),
        ("GET", "t:lock"),
        ("SCAN", "0"),
        ("PUBLISH", "d", "x"),
        ("MGET", *["t:a"] * MAX_ARGUMENTS),
        ("GET", "t:" + "x" * 1023),
        ("SETRANGE", "t:a", "67108864", "x"),
        ("PFCOUNT", *["t:a"] * 6000),
        ("RPUSH", "v:a", "x", "y"),
    ]:
        yield leash.call("one", token, *command)
    yield leash.raw("one", ["t:b"], token, "id", "GET", "t:a")


def denied_batches(leash: Leash, token: str) -> Iterator[Any]:
    yield batch(leash, token, [], "some", 1, "PING")
    yield batch(leash, token, [], "each", 2, "PING")
    yield batch(leash, token, [], "each", *[1, "PING"] * (MAX_BATCH_COMMANDS + 1))
    batch(leash, token, [], "renew", 2, "RENEW", 366 * 86_400)
    yield batch(leash, token, [], "renew", 2, "RENEW", 366 * 86_400)
    yield batch(leash, token, [], "each", MAX_ARGUMENTS, *["PING"] * MAX_ARGUMENTS, 1, "PING")


def used_up_limits(leash: Leash) -> Iterator[Any]:
    for identity in ("hasty", "spent", "unexported"):
        token = leash.issue(identity).token
        assert leash.call(identity, token, "SET", "t:a", "x") == b"OK"
        yield leash.call(identity, token, "SET", "t:a", "x")
        if identity == "spent":
            leash.admin.setrange(NAMES.state(identity), FIRST_NUMBER * DOUBLE, b"\xff" * DOUBLE)
            yield leash.call(identity, token, "SET", "t:a", "x")


def denied_tokens(leash: Leash) -> Iterator[Any]:
    now_us = int(leash.admin.time()[0]) * 1_000_000
    hour_us = 3_600_000_000
    for expires_us, used_us, revoked in [
        (now_us - hour_us, now_us, False),
        (now_us + hour_us, now_us - 2 * hour_us, False),
        (now_us + hour_us, now_us, True),
    ]:
        record = TokenRecord("a" * 12, expires_us, used_us, revoked)
        leash.put_token("one", "old", record)
        yield leash.call("one", "old", "PING")
    record = TokenRecord("a" * 12, now_us + hour_us, now_us, tail=b"")
    leash.put_token("hasty", "bound", record)
    yield leash.call("hasty", "bound", "PING")
    yield leash.call("one", "unknown", "PING")


def identities_out_of_service(leash: Leash, token: str) -> Iterator[Any]:
    freeze(leash.store, "one", reason="incident", duration="60s")
    yield leash.call("one", token, "PING")
    old = leash.digest("one")
    leash.load(one={"grants": [grant("read", keys="t:*")]})
    yield leash.raw("one", [], token, "id", "PING", digest=old)
    leash.admin.delete(NAMES.state("one"))
    yield leash.call("one", token, "PING")


def test_values_of_a_denial_are_escaped_as_the_page_documents(leash: Leash, token: str) -> None:
    """A denial is one line with the first 128 bytes of a key, whatever they are."""
    key = bytes(range(256))
    line = leash.call("one", token, "GET", key)

    assert re.fullmatch(rb"LEASH KEY_NOT_GRANTED key=" + ALLOWED, line.encode("latin-1"))
    assert not re.search(r"%[0-9A-F]?[^0-9A-F]", line.partition("=")[2] + " ")
    assert details_of(line) == ("KEY_NOT_GRANTED", {"key": key[:128]})


def test_empty_poll_is_not_charged_and_not_audited(leash: Leash, token: str) -> None:
    """A poll without a result costs nothing."""
    before = leash.state("one")
    assert leash.call("one", token, "XREAD", "BLOCK", "9", "STREAMS", "t:s", "0") is None

    assert leash.state("one") == before
    assert leash.events("one") == []


def test_batches_that_the_page_calls_the_same_are(leash: Leash) -> None:
    """With runs and without, they have the same effect, and the replies that the page gives."""
    leash.load(one={"grants": [grant("read", "write", keys=["a", "b", "c"])]})
    token = leash.issue("one").token
    calls = re.findall(
        r"^    EVALSHA <batch_digest> (\d) (.*) <token> <.*?> (.*)$", PAGE, re.MULTILINE
    )
    ((first, second),) = re.findall("The replies are (.*) and (.*), if `c`", PAGE)
    replies = [
        [word.encode() for word in re.findall("`(.+?)`", words)] for words in (first, second)
    ]
    leash.admin.set("c", "1")

    assert len(calls) == 2
    for (count, words, items), expected in zip(calls, replies, strict=True):
        keys = words.split()
        assert len(keys) == int(count)
        assert batch(leash, token, keys, *items.split()) == expected
        assert leash.admin.mget("a", "b") == [b"1", b"2"]
        leash.admin.delete("a", "b")


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**63 - 1])
def test_integer_beyond_a_double_is_text(leash: Leash, token: str, number: int) -> None:
    """The page documents the commands whose replies are text beyond 2^53."""
    leash.admin.set("t:n", number - 1)

    assert leash.call("one", token, "INCR", "t:n") == str(number).encode()


@pytest.mark.parametrize("protocol", [2, 3])
def test_reply_has_the_shape_of_resp2_on_any_connection(
    leash: Leash, token: str, protocol: int
) -> None:
    """Clients of other languages parse one shape."""
    leash.admin.zadd("t:z", {"a": 1.5})
    connection = leash.server.client(protocol=protocol)
    leash.admin.hset("t:h", "a", "1")

    def reply(command: str, *arguments: str) -> Any:
        call = (token, "id", command, *arguments)
        return connection.evalsha(leash.digest("one"), 1, arguments[0], *call)

    assert reply("HGETALL", "t:h") == [b"a", b"1"]
    assert reply("ZSCORE", "t:z", "a") == b"1.5"
    assert reply("ZMSCORE", "t:z", "b", "a") == [None, b"1.5"]
