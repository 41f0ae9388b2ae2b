"""Strings with one hash in the Lua of a server: a call may read a number that stays short."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

import keyleash
from keyleash.evaluate.evaluate import decide
from keyleash.policy import parse_policy
from keyleash.store.store import Store
from proofs.oracle.data import model_state
from support.collisions import colliding_words, hash_of
from support.leash import NAMES, Leash, grant, policy
from support.scripted import scripted
from support.servers import RealServer

ALL: dict[str, Any] = {
    "grants": [grant("read", "write", "delete", keys="doc:*")],
    "budget": {"requests": "100000/day"},
}
BOUND = 2000
"""Of strings; the default takes a busy machine long."""
DEFAULT = 10_000
STEP = 1000
BOUNDED: dict[str, Any] = {**ALL, "limits": {"strings": BOUND}}
TRUSTED: dict[str, Any] = {**ALL, "limits": {"strings": 3 * BOUND}}


@pytest.fixture
def leash(server: RealServer) -> Leash:
    leash = Leash(server)
    leash.load(one=BOUNDED, trusted=TRUSTED, usual=ALL)
    return leash


def fill(leash: Leash, key: str, count: int, prefix: bytes = b"") -> None:
    """Give a key this number of colliding elements; the type is the name's first letter."""
    words = colliding_words(leash.server.label, count, prefix)
    for start in range(0, count, STEP):
        part = words[start : start + STEP]
        match key.rpartition("}")[2][:1]:
            case "l":
                leash.admin.rpush(key, *part)
            case "s":
                leash.admin.sadd(key, *part)
            case "z":
                leash.admin.zadd(key, {word: at for at, word in enumerate(part)})
            case "h":
                leash.admin.hset(key, mapping={word: word for word in part})


@pytest.mark.parametrize("prefix", [b"", b"doc:"])
def test_words_have_one_hash_on_a_server(server: RealServer, prefix: bytes) -> None:
    """Computed as its Lua does; each word is another."""
    words = colliding_words(server.label, 2 * BOUND, prefix)

    assert len(set(words)) == 2 * BOUND
    assert all(word.startswith(prefix) for word in words)
    assert len({(len(word), hash_of(server.label, word)) for word in words}) == 1


READS = {
    "LRANGE": (("LRANGE", "doc:{d}l", "0", "-1"), 1),
    "SMEMBERS": (("SMEMBERS", "doc:{d}s"), 1),
    "SUNION": (("SUNION", "doc:{d}s", "doc:{d}none"), 1),
    "SORT": (("SORT", "doc:{d}l", "ALPHA"), 1),
    "HKEYS": (("HKEYS", "doc:{d}h"), 1),
    "HGETALL": (("HGETALL", "doc:{d}h"), 2),
    "ZRANGE": (("ZRANGE", "doc:{d}z", "0", "-1", "WITHSCORES"), 2),
    "ZRANGEBYSCORE": (("ZRANGEBYSCORE", "doc:{d}z", "-inf", "+inf"), 1),
    "LPOP": (("LPOP", "doc:{d}l", "9999999"), 1),
    "SPOP": (("SPOP", "doc:{d}s", "9999999"), 1),
    "ZPOPMIN": (("ZPOPMIN", "doc:{d}z", "9999999"), 2),
}
"""Calls, and the strings in the reply for each element."""


@pytest.mark.parametrize(("call", "strings"), READS.values(), ids=READS)
def test_call_reads_as_many_colliding_strings_as_the_bound_allows(
    leash: Leash, call: tuple[str, ...], strings: int
) -> None:
    """With more it is denied, uncharged; one identity may read more; `explain` agrees."""
    # Memory of a key counts from about 100 bytes for each string, so a set may have fewer.
    allowed, denied = BOUND * 6 // 10 // strings, BOUND * 11 // 10 // strings
    token, trusted = leash.issue("one").token, leash.issue("trusted").token
    argv = [word.encode() for word in call]

    def explained(name: str) -> str:
        document = policy(one=BOUNDED, trusted=TRUSTED)
        table = leash.server.table
        identities = parse_policy(document, file="p", commands=table).identities
        identity = next(item for item in identities if item.name == name)
        state = model_state(Store(leash.at("{d}"), NAMES))
        keys = [word for word in argv if word.startswith(b"doc:")]
        return str(decide(identity, table, argv, keys, state, 0, "x").code)

    fill(leash, call[1], denied)
    before = leash.spent("one")
    assert explained("one") == "WORK_TOO_LARGE"
    assert leash.call("one", token, *call).startswith(f"LEASH WORK_TOO_LARGE command={call[0]}")
    assert leash.spent("one") == before
    assert explained("trusted") == "None"
    assert len(leash.call("trusted", trusted, *call)) in (denied, denied * strings)
    leash.admin.delete(call[1])
    fill(leash, call[1], allowed)
    assert explained("one") == "None"
    assert len(leash.call("one", token, *call)) in (allowed, allowed * strings)
    assert leash.spent("one") != before


def test_default_allows_ten_thousand_strings_and_no_more(leash: Leash) -> None:
    """A denied call pushes none of them."""
    token = leash.issue("usual").token
    fill(leash, "doc:{d}l", DEFAULT + 200)

    denied = leash.call("usual", token, "LRANGE", "doc:{d}l", "0", "-1")
    allowed = leash.call("usual", token, "LRANGE", "doc:{d}l", "0", str(DEFAULT - 1))

    assert denied.startswith("LEASH WORK_TOO_LARGE command=LRANGE")
    assert len(allowed) == DEFAULT


def test_reads_of_a_batch_share_the_bound_of_strings(leash: Leash) -> None:
    """Also reads of few elements, of which no size is asked before they run."""
    token = leash.issue("one").token
    fill(leash, "doc:{d}l", BOUND)
    parts = [("LRANGE", "doc:{d}l", str(at), str(at + 98)) for at in range(0, BOUND, 99)] * 2

    replies = leash.batch("one", token, "each", *parts)

    read = sum(len(reply) for reply in replies if isinstance(reply, list))
    assert BOUND * 8 // 10 < read <= BOUND + 99
    assert replies[-1].startswith("LEASH WORK_TOO_LARGE command=LRANGE")


def test_bytes_of_many_long_strings_count(leash: Leash) -> None:
    """Such strings are compared to their end; a few of them may be long."""
    token = leash.issue("one").token
    fill(leash, "doc:{d}l", STEP, b"x" * 2000)

    assert len(leash.call("one", token, "LRANGE", "doc:{d}l", "0", "199")) == 200
    denied = leash.call("one", token, "LRANGE", "doc:{d}l", "0", "-1")

    assert denied.startswith("LEASH WORK_TOO_LARGE command=LRANGE")


def test_reads_of_far_and_sparse_places_count_what_they_return(leash: Leash) -> None:
    """The way to them is other work."""
    token = leash.issue("one").token
    fill(leash, "doc:{d}l", BOUND)
    fill(leash, "doc:{d}z", BOUND)
    leash.admin.rpush("doc:{d}l", *[b"x"] * 60_000)
    few = ("LIMIT", "1900", "20")

    assert len(leash.call("one", token, "LRANGE", "doc:{d}l", "50000", "50199")) == 200
    assert len(leash.call("one", token, "ZRANGEBYSCORE", "doc:{d}z", "-inf", "+inf", *few)) == 20


def test_digest_of_many_elements_is_not_made(server: RealServer) -> None:
    """A write with before-images reads all elements, which may collide."""
    leash = Leash(server)
    leash.load(one={**ALL, "audit": {"before_images": {"max_bytes": "4mb"}}})
    fill(leash, "doc:{d}s", 3 * BOUND)
    fill(leash, "doc:{d}h", BOUND)

    leash.agent("one").sadd("doc:{d}s", "one more")
    leash.agent("one").hset("doc:{d}h", "one more", "value")

    many, few = (event["after"] for event in leash.events("one") if "after" in event)
    assert many == "large"
    assert few != "large"


TEXTS = {
    "gmatch": "for word in string.gmatch(ARGV[1], PATTERN) do n = n + 1 end",
    "gsub": "string.gsub(ARGV[1], PATTERN, function(word) n = n + 1 end)",
    "sub": "for at = 1, #ARGV[1], 8 do n = n + #string.sub(ARGV[1], at, at + 7) end",
    "unpack": "for at = 1, #ARGV[1] - 8, 8 do n = n + #struct.unpack('c8', ARGV[1], at) end",
    "join": "for at = 1, 10000 do n = n + #('x' .. ARGV[2]) end",
    "decode": "n = #cjson.decode('[' .. string.rep('\"12345678\",', 11000) .. '1]')",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_texts_that_a_script_makes_count(server: RealServer, text: str) -> None:
    """They are strings of the server's Lua as those of replies are."""
    text = text.replace("PATTERN", f"'{'.' * 8}'")
    leash = Leash(server)
    client = scripted(leash, f"local n = 0 {text} return n")
    words = b"".join(f"{n:08}".encode() for n in range(DEFAULT))

    with pytest.raises(keyleash.WorkTooLargeError):
        client.eval(f"local n = 0 {text} return n", 1, "app:n", words, "x")


COUNTS = {
    "nothing often": ("#string.rep('', 2147483647)", None),
    "nothing less than once": ("#string.rep('', -2147483647)", 0),
    "join": ("table.concat({}, '', 1, 2147483646)", None),
    "values": ("#{unpack({}, 1, 2147483646)}", None),
    "place": ("select('#', table.insert({}, 2147483646, 1))", 0),
    "bytes": ("#{string.byte(ARGV[1], 1, 2147483646)}", 4),
    "part": ("#string.sub(ARGV[1], -2147483647, 2147483647)", 4),
    "width": ("#string.format('%99d', 1)", 99),
    "rest": ("select('#', select(2147483646, 1))", 0),
    "matches": ("select(2, string.gsub(ARGV[1], '', '', 2147483646))", 5),
}
"""Results of functions that get a count which is large beside all else; None if it is work."""


@pytest.mark.parametrize(("call", "result"), COUNTS.values(), ids=COUNTS)
def test_large_count_of_a_function_is_work_if_it_takes_time(
    server: RealServer, call: str, result: int | None
) -> None:
    """Also if each of its rounds makes nothing."""
    client = scripted(Leash(server), f"return {call}")

    if result is not None:
        assert client.eval(f"return {call}", 1, "app:n", "text") == result
        return
    with pytest.raises(keyleash.WorkTooLargeError):
        client.eval(f"return {call}", 1, "app:n", "text")


LARGEST = {
    "list": ("LRANGE", "doc:{d}l", "0", "9999"),
    "set": ("SMEMBERS", "doc:{d}s"),
    "sorted-set": ("ZRANGE", "doc:{d}z", "0", "-1"),
    "hash": ("HGETALL", "doc:{d}h"),
    "fields": ("HMGET", "doc:{d}h", *(f"f{at}" for at in range(5000))),
    "stream": ("XRANGE", "doc:{d}x", "-", "+"),
    "scan": ("SSCAN", "doc:{d}s", "0", "COUNT", "10000"),
    "hash-scan": ("HSCAN", "doc:{d}h", "0", "COUNT", "5000"),
}


@pytest.mark.parametrize("call", LARGEST.values(), ids=LARGEST)
def test_largest_call_of_the_page_is_allowed_for_elements_of_usual_length(
    leash: Leash, call: tuple[str, ...]
) -> None:
    """The page on work limits names these sizes; the elements are UUIDs."""
    words = [str(UUID(int=at * 2**90 + at)) for at in range(DEFAULT)]
    leash.admin.rpush("doc:{d}l", *words)
    leash.admin.sadd("doc:{d}s", *words)
    leash.admin.zadd("doc:{d}z", {word: at for at, word in enumerate(words)})
    leash.admin.hset("doc:{d}h", mapping={f"f{at}": words[at] for at in range(5000)})
    pipe = leash.admin.pipeline()
    for word in words[:1400]:
        pipe.xadd("doc:{d}x", {"job": word})
    pipe.execute()

    reply = leash.call("usual", leash.issue("usual").token, *call)

    assert not isinstance(reply, str), reply
