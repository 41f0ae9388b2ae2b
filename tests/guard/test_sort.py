"""SORT with patterns of BY and GET: within read grants, and bounded before it runs."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import pytest
import redis

import keyleash
from keyleash.commands import load_table
from keyleash.evaluate.evaluate import decide
from keyleash.policy import Identity, match, parse_policy
from keyleash.store.store import Store
from keyleash.store.wire import declared_keys
from proofs.oracle.data import model_state
from support.clustered import NODES
from support.leash import NAMES, Leash, grant, policy, with_files
from support.servers import RealServer
from support.streams import command_of

ONE: dict[str, Any] = {
    "grants": [
        grant("read", "write", keys=["{{d}}l:*", "{{d}}w:*", "{{d}}h:{kind}:*"]),
        grant("write", keys="{{d}}d:*"),
        grant("read", keys=["{{d}}x:{id}:y", "{{d}}whole"]),
    ],
    "deny": [{"keys": ["{{d}}w:{id}:lock", "{{d}}h:secret:*"]}],
}

ALLOWED = [
    "SORT {d}l:1 BY {d}w:*:s",
    "SORT {d}l:1 by {d}w:*:s desc get # Get {d}h:a:*->f GET {d}w:*:s->f GET {d}nokey",
    "SORT {d}l:1 BY {d}w:*:s LIMIT 1 1 GET #",
    "SORT {d}l:1 ALPHA BY {d}w:*:s GET {d}h:a:*->f STORE {d}d:1",
    "SORT {d}l:1 BY STORE STORE {d}d:1",
    "SORT {d}l:1 BY {d}other GET {d}other",
    "SORT {d}l:1 GET {d}l:**:x",
    "SORT {d}l:1 GET {d}w:*:s->",
    "SORT {d}l:1 GET {d}w:*:s->->",
    "SORT_RO {d}l:1 GET {d}h:a:*->->f",
    "SORT_RO {d}l:s BY {d}h:a:*->n GET {d}l:*",
    "SORT {d}l:z BY nosort BY {d}w:*:s GET #",
    "SORT {d}l:missing BY {d}w:*:s GET {d}l:*",
]

NOT_GRANTED = [
    ("SORT {d}l:1 BY {d}other:*", "{d}other:*"),
    ("SORT {d}l:1 GET *", "*"),
    ("SORT {d}l:1 GET {d}*", "{d}*"),
    ("SORT {d}l:1 BY nosort GET {d}other:*->f", "{d}other:*->f"),
    # Only closed patterns match keys under it, or patterns for writing.
    ("SORT {d}l:1 GET {d}x:*:y", "{d}x:*:y"),
    ("SORT {d}l:1 GET {d}x:7:y*", "{d}x:7:y*"),
    ("SORT {d}l:1 GET {d}whole*", "{d}whole*"),
    ("SORT {d}l:1 GET {d}d:*", "{d}d:*"),
    # The segment of the grant is not in the pattern.
    ("SORT {d}l:1 GET {d}h:*:x", "{d}h:*:x"),
    ("SORT_RO {d}l:1 GET {d}w*:s", "{d}w*:s"),
    ("SORT {d}l:1 GET {d}w:*:s GET # BY {d}other*", "{d}other*"),
    ("SORT {d}l:1 GET {d}w:*:s\0->f", "{d}w:*:s%00->f"),
    ("SORT {d}l:1 get\0x {d}other:* STORE {d}d:1", "{d}other:*"),
]

DENIED = [
    ("SORT {d}l:1 GET {d}w:*", "{d}w:*"),
    ("SORT {d}l:1 GET {d}w:*:lock", "{d}w:*:lock"),
    ("SORT {d}l:1 GET {d}w:*:lock->f", "{d}w:*:lock->f"),
    ("SORT {d}l:1 GET {d}w:1:l*", "{d}w:1:l*"),
    ("SORT_RO {d}l:1 BY {d}h:secret:*", "{d}h:secret:*"),
    ("SORT_RO {d}l:1 BY {d}h:secret:*->f", "{d}h:secret:*->f"),
]


def words(call: str) -> list[str]:
    return call.split(" ")


@pytest.fixture
def sorting(leash: Leash) -> Leash:
    leash.load(one=ONE)
    admin = leash.admin
    admin.rpush("{d}l:1", 3, 1, 2)
    admin.sadd("{d}l:s", "a:b", "*", "", "->f")
    admin.zadd("{d}l:z", {"1": 3, "2": 2, "3": 1})
    admin.mset(
        {
            "{d}w:1:s": 30,
            "{d}w:2:s": 20,
            "{d}w:3:s": 10,
            "{d}l:*": "star",
            "{d}l:": "none",
            "{d}l:->f": "arrow",
        }
    )
    admin.mset({"{d}w:1:s->": "to the end", "{d}l:1*:x": "second star"})
    for n in ("1", "2", "3", "a:b"):
        admin.hset(f"{{d}}h:a:{n}", mapping={"f": f"v{n}", "->f": f"odd {n}", "n": len(n)})
    return leash


@pytest.mark.parametrize("call", ALLOWED)
def test_sort_within_read_grants_replies_and_stores_as_a_raw_one(sorting: Leash, call: str) -> None:
    """The patterns are read as the server reads them."""
    raw = sorting.server.client().execute_command(*words(call))
    stored = sorting.admin.lrange("{d}d:1", 0, -1)
    sorting.admin.delete("{d}d:1")

    assert sorting.agent("one").execute_command(*words(call)) == raw
    assert sorting.admin.lrange("{d}d:1", 0, -1) == stored


@pytest.mark.parametrize(
    ("call", "code", "named"),
    [
        *((call, "KEY_NOT_GRANTED", named) for call, named in NOT_GRANTED),
        *((call, "KEY_DENIED", named) for call, named in DENIED),
    ],
)
def test_pattern_that_may_name_another_key_is_denied_by_its_name(
    sorting: Leash, call: str, code: str, named: str
) -> None:
    """An element may be any text, so that no element decides; the model agrees."""
    before = sorting.admin.execute_command("DUMP", "{d}d:1")
    token = sorting.issue("one").token
    argv = [word.encode() for word in words(call)]

    assert sorting.call("one", token, *argv) == f"LEASH {code} key={escaped(named)}"
    [refusal] = sorting.batch("one", token, "each", tuple(argv))
    assert refusal.startswith(f"LEASH {code} key={escaped(named)}")
    assert {item["key"] for item in sorting.denials("one")} == {named.replace("%00", "\0")}
    assert sorting.admin.execute_command("DUMP", "{d}d:1") == before
    keys = declared_keys(sorting.server.table, argv)
    decision = decide(identity(), sorting.server.table, argv, keys, model_state(), 0, "x")
    assert str(decision.code) == code


def escaped(named: str) -> str:
    return quote(named, safe="%:-")


def identity(body: dict[str, Any] = ONE) -> Identity:
    return parse_policy(policy(one=body), file="p", commands=load_table()).identities[0]


def test_key_that_an_argument_hides_is_found(sorting: Leash) -> None:
    """A pattern may be named STORE; then the word behind it is the option."""
    token = sorting.issue("one").token
    for option in ("BY", "GET"):
        call = ["SORT", "{d}l:1", option, "STORE"]
        assert "KEY_NOT_GRANTED key=%7Bd%7Dother" in sorting.call(
            "one", token, *call, "STORE", "{d}other"
        )
        error = sorting.call("one", token, *call, "{d}d:1")
        assert error == "syntax error" or (NODES and "option of SORT denied in Cluster" in error)


def test_grants_of_a_pattern_are_those_of_the_command(leash: Leash) -> None:
    """A grant that leaves SORT out covers no pattern of it; SORT and SORT_RO may differ."""
    leash.load(
        one={
            "grants": [
                grant("read", keys="{{d}}l:*"),
                grant("read", keys="{{d}}a:*", only=["SORT"]),
                grant("read", keys="{{d}}b:*", **{"except": ["SORT"]}),
            ]
        }
    )
    token = leash.issue("one").token

    assert leash.call("one", token, "SORT", "{d}l:1", "GET", "{d}a:*") == []
    assert leash.call("one", token, "SORT_RO", "{d}l:1", "GET", "{d}b:*") == []
    for call in (("SORT", "{d}l:1", "GET", "{d}b:*"), ("SORT_RO", "{d}l:1", "GET", "{d}a:*")):
        assert "KEY_NOT_GRANTED" in leash.call("one", token, *call)


def test_control_keys_are_in_no_pattern(leash: Leash) -> None:
    """A grant on every key allows patterns that cannot name them."""
    leash.load(one={"grants": [grant("read", keys="*")]})
    token = leash.issue("one").token
    leash.admin.rpush("{d}l", "state:one", "eyleash:state:one")

    assert leash.call("one", token, "SORT", "{d}l", "ALPHA", "GET", "{d}w:*") == [None, None]
    control = ("keyleash:*", "keyleash:state:*", "keyleash:{kl}:*", "keyleash:{kl}:state:*")
    for pattern in ("*", "k*", *control, "*one", "*->f"):
        reply = leash.call("one", token, "SORT", "{d}l", "ALPHA", "GET", pattern)
        assert reply.startswith("LEASH KEY_DENIED"), reply


TAG = "{d}" if NODES else ""
"""Before all keys of a test by chance; without it elements can name control keys."""
PARTS = ("a", "b", ":", "{x}", "ab", "lock")
ELEMENTS = ("", "a", ":", "b:a", "*", "->a", "lock", "a:lock", "\0", "keyleash:x", "x" * 40)


def drawn_patterns(source: random.Random, count: int) -> list[str]:
    """Return patterns of a policy."""
    found: list[str] = []
    while len(found) < count:
        text = "".join(source.choices(PARTS, k=source.randint(1, 4)))
        text = text.replace("{x}", "\1", 1).replace("{x}", "").replace("\1", "{x}")
        if source.random() < 0.6 and "{" not in text.rpartition(":")[2]:
            text += "*"
        text = TAG.replace("{d}", "{{d}}") + text if text else ""
        if text and text not in found:
            found.append(text)
    return found


def test_allowed_sort_reads_no_key_outside_of_read_grants(server: RealServer) -> None:
    """For policies, patterns and elements by chance: an oracle computes every key that is named."""
    leash = Leash(server)
    source = random.Random(20_260)
    allowed = named = 0
    for _ in range(20 if NODES else 60):
        body: dict[str, Any] = {
            "grants": [
                grant("read", keys=[TAG.replace("{d}", "{{d}}") + "l"]),
                grant(source.choice(("read", "read", "write")), keys=drawn_patterns(source, 3)),
            ],
            "deny": [{"keys": drawn_patterns(source, 2)}],
        }
        try:
            judged = identity(body)
            leash.admin.flushall()
            leash.load(one=body)
        except (keyleash.PolicyError, keyleash.OperationError):
            continue
        token = leash.issue("one").token
        leash.admin.rpush(f"{TAG}l", *ELEMENTS)
        for _ in range(40):
            ends = ("", *PARTS, "*", "->", "->f", "->f->g", "a:->f")
            before = "".join(source.choices(PARTS, k=source.randint(0, 2)))
            if source.random() < 0.7:
                start = source.choice(body["grants"][1]["keys"])[len(TAG) + 2 * bool(TAG) :]
                before = start.replace("*", "") + before
            before = before.replace("{x}", "a")
            after = "".join(source.choices(ends, k=source.randint(0, 2))).replace("{x}", "a")
            pattern = f"{TAG}{before}*{after}"
            call = ["SORT", f"{TAG}l", "ALPHA", source.choice(("BY", "GET")), pattern]
            reply = leash.call("one", token, *call)
            argv = [word.encode() for word in call]
            decision = decide(judged, server.table, argv, [argv[1]], model_state(), 0, "x")
            assert decision.allowed == isinstance(reply, list), (body, call, reply)
            if not isinstance(reply, list):
                assert f"LEASH {decision.code} key=" in reply
                continue
            allowed += 1
            for key in named_keys(pattern.encode(), ELEMENTS):
                named += 1
                assert may_read(judged, key), (body, call, key)
    assert allowed > 60
    assert named > 600


def named_keys(pattern: bytes, elements: Sequence[str]) -> Iterator[bytes]:
    """Yield the keys that a server reads, written apart from the guard."""
    star = pattern.index(b"*")
    arrow = pattern.find(b"->", star + 1)
    has_field = arrow >= 0 and arrow + 2 < len(pattern)
    last = pattern[star + 1 : arrow] if has_field else pattern[star + 1 :]
    for element in elements:
        yield pattern[:star] + element.encode() + last


def may_read(judged: Identity, key: bytes) -> bool:
    readable = any(
        "read" in item.allow and match(pattern, key) is not None
        for item in judged.grants
        for pattern in item.keys
    )
    denied = any(match(pattern, key) is not None for item in judged.deny for pattern in item.keys)
    return readable and not denied and not key.startswith(b"keyleash:")


# Work.

BUDGETED = {
    "grants": [grant("read", "write", keys="{{d}}k:*")],
    "audit": {"before_images": {"max_bytes": "64kb"}},
}


@pytest.fixture
def large(leash: Leash) -> Leash:
    """Few elements that point to long values, and many that point to none."""
    leash.load(one=BUDGETED)
    leash.admin.eval(
        "for i = 1, 200 do redis.call('RPUSH', '{d}k:same', 'x') end"
        " for i = 1, 6000 do redis.call('RPUSH', '{d}k:many', i) end"
        " for i = 1, 100 do redis.call('RPUSH', '{d}k:long', string.rep('y', 100000) .. i) end"
        " redis.call('SET', '{d}k:v:x', string.rep('v', 100000))"
        " redis.call('HSET', '{d}k:h:x', 'f', string.rep('v', 100000))",
        1,
        "{d}k:same",
    )
    leash.admin.rpush("{d}k:few", *range(50))
    return leash


@pytest.mark.parametrize(
    "call",
    [
        "SORT {d}k:same GET {d}k:v:*",
        "SORT {d}k:same BY nosort GET {d}k:h:*->f",
        "SORT_RO {d}k:same BY {d}k:h:*->f ALPHA",
        "SORT {d}k:same BY {d}k:v:*",
        "SORT {d}k:same ALPHA GET {d}k:v:* STORE {d}k:out",
        "SORT {d}k:same ALPHA LIMIT 0 100 GET {d}k:v:*",
        "SORT {d}k:many GET {d}k:none:*",
        "SORT {d}k:many BY {d}k:none:* LIMIT 0 1",
        "SORT {d}k:long ALPHA GET {d}k:none:*",
        "SORT {d}k:few" + " GET #" * 3000,
        "SORT {d}k:few" + " GET none" * 3000,
        "SORT {d}k:few" + " GET {d}k:none:*" * 200,
        "SORT {d}k:few GET {d}k:" + "n" * 500_000 + "*",
        "SORT {d}k:few GET " + "n" * 500_000,
        "SORT {d}k:few BY {d}k:*->" + "n" * 500_000,
    ],
    ids=lambda call: call[:40],
)
def test_sort_that_reads_too_much_is_denied_before_it_runs(large: Leash, call: str) -> None:
    """Elements, look-ups and bytes count, for BY as for GET; `explain` agrees."""
    token = large.issue("one").token
    reply = large.call("one", token, *words(call))

    assert reply.startswith("LEASH WORK_TOO_LARGE command=SORT"), reply
    [refusal] = large.batch("one", token, "each", tuple(words(call)))
    assert refusal.startswith("LEASH WORK_TOO_LARGE command=SORT"), refusal
    assert not large.admin.exists("{d}k:out")
    argv = [word.encode() for word in words(call)]
    keys = declared_keys(large.server.table, argv)
    state = model_state(Store(large.admin, NAMES))
    decision = decide(identity(BUDGETED), large.server.table, argv, keys, state, 0, "x")
    assert str(decision.code) == "WORK_TOO_LARGE"


def test_sort_of_a_thousand_elements_with_patterns_is_allowed(large: Leash) -> None:
    """The default bound is enough for what people sort."""
    agent = large.agent("one")
    large.admin.ltrim("{d}k:many", 0, 999)

    found: Any = agent.sort(
        "{d}k:many", by="{d}k:w:*", get=["#", "{d}k:h:*->f", "{d}k:v:*"], groups=True
    )
    assert len(found) == 1000
    assert agent.sort("{d}k:same", 0, 10, by="nosort") == [b"x"] * 10


def test_value_that_a_batch_makes_longer_counts_before_it_is_sorted(large: Leash) -> None:
    """The estimate of a call behind a change is made again."""
    token = large.issue("one").token
    large.admin.delete("{d}k:v:x")
    grow = ("SETRANGE", "{d}k:v:x", "500000", "x")

    replies = large.batch(
        "one", token, "each", grow, ("SORT", "{d}k:same", "ALPHA", "GET", "{d}k:v:*")
    )
    assert replies[0] == 500_001
    assert replies[1].startswith("LEASH WORK_TOO_LARGE command=SORT")


def test_stored_sort_with_patterns_has_an_event_and_a_before_image(large: Leash) -> None:
    """It writes as one without patterns; reading alone has no event."""
    agent = large.agent("one")
    large.admin.set("{d}k:w:1", "old")
    agent.sort("{d}k:few", get=["{d}k:w:*"])
    assert large.events("one") == []

    large.admin.rpush("{d}k:out", "before")
    agent.sort("{d}k:few", get=["{d}k:w:*"], store="{d}k:out")
    assert large.admin.lindex("{d}k:out", 1) == b"old"
    event, image = large.events("one")
    assert command_of(event) == ("SORT:2", "8:{d}k:few,8:{d}k:out,")
    assert "before" in "".join(image.values()) or image["of"]


# Where servers read no patterns.

RESTRICTED = [
    "SORT {d}l:1 BY {d}w:*",
    "SORT_RO {d}l:1 GET {d}w:*",
    "SORT {d}l:1 GET #",
    "SORT {d}l:1 GET {d}w:* STORE {d}l:2",
]


@pytest.mark.parametrize("call", RESTRICTED)
def test_pattern_for_a_user_without_all_keys_is_denied_with_the_reason(
    server: RealServer, call: str
) -> None:
    """A server refuses patterns to users without rights on all keys; nothing is charged."""
    leash = Leash(server)
    leash.load(
        one={
            "grants": [grant("read", "write", keys=["{{d}}l:*", "{{d}}w:*"])],
            "budget": {"reads": "1/day"},
        }
    )
    rules = ("on", ">pw", "+@all", "~{d}*", "~keyleash:*")
    leash.admin.execute_command("ACL", "SETUSER", "few", *rules)
    leash.admin.rpush("{d}l:1", 2, 1)
    agent = leash.agent("one", username="few", password="pw")

    with pytest.raises(
        (keyleash.CommandRefusedError, redis.exceptions.NoPermissionError)
    ) as denial:
        agent.execute_command(*words(call))
    if call.startswith("SORT_RO") or "redis" in server.label:
        option = "BY" if " BY " in call else "GET"
        assert isinstance(denial.value, keyleash.CommandRefusedError)
        assert denial.value.details["command"] == f"{words(call)[0]} {option}"
        assert "ACL users with all keys" in str(denial.value)
        assert leash.events("one") == []
        assert agent.execute_command("SORT_RO", "{d}l:1", "BY", "nosort") == [b"2", b"1"]


# Scripts.


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("'{d}l:1', 'BY', '{d}w:*:s', 'GET', '#'", [b"3", b"2", b"1"]),
        ("'{d}l:1', 'GET', '{d}other:*'", "KEY_NOT_GRANTED"),
        ("'{d}l:1', 'BY', '{d}w:*'", "KEY_DENIED"),
    ],
)
def test_sort_of_an_approved_script_is_checked_like_the_agents_own(
    sorting: Leash, arguments: str, found: Any
) -> None:
    """Patterns too, in any case of the command's name."""
    for name in ("SORT", "sort_ro"):
        text = f"return redis.call('{name}', {arguments})"
        grants = [{**ONE["grants"][0], "scripts": ["s"]}, *ONE["grants"][1:]]
        document = {
            "version": 1,
            "scripts": {"s": {"file": "s.lua"}},
            "identities": {"one": {"kind": "machine", **ONE, "grants": grants}},
        }
        sorting.load(with_files(json.dumps(document), {"s.lua": text}))
        agent = sorting.agent("one")
        if isinstance(found, str):
            with pytest.raises(redis.ResponseError, match=found):
                agent.eval(text, 1, "{d}l:1")
        else:
            assert agent.eval(text, 1, "{d}l:1") == found


def test_oracle_of_the_property_test_names_what_a_server_reads(server: RealServer) -> None:
    """A GET of each key that it names finds the value."""
    admin = server.client()
    for text, element in itertools.product(
        ("a*", "a*b", "a**", "a*->", "a*x->f", "*->f", "a*->->f", "*a*->f->g"), ELEMENTS[1:]
    ):
        pattern = TAG + text
        admin.flushall()
        admin.rpush(f"{TAG}\1list", element)
        [key] = named_keys(pattern.encode(), [element])
        field = pattern.partition("*")[2].partition("->")[2]
        if field:
            admin.hset(key, field, "v")
        else:
            admin.set(key, "v")
        assert admin.sort(f"{TAG}\1list", alpha=True, get=[pattern]) == [b"v"], (pattern, element)
