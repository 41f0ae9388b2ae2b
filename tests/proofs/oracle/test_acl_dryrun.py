"""
The guard against `ACL DRYRUN` of a native user with the same grants, on real servers.

Servers have judged commands, keys and channels for years, in code that shares nothing with
ours. Where a guard intends to decide otherwise, `oracle.differences` says so and why.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import redis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from keyleash.commands import CHANNEL_CLASSES, load_table
from keyleash.commands.facts import KEYLESS_PASSES
from keyleash.commands.spec import NumberedKeys
from keyleash.policy import Identity, Pattern
from keyleash.policy.model import AnySuffix, Literal
from keyleash.store.keyspace import CONTROL_PREFIX
from keyleash.store.live_table import read_table
from proofs.oracle.arguments import Call, Draws, drawn_call
from proofs.oracle.court import Court
from proofs.oracle.differences import DIFFERENCES, grant, reasons
from proofs.property.test_verdicts import parsed
from support.servers import RealServer, embedded_label
from support.thorough import thorough

TABLE = load_table()
REFUSED = [spec for spec in TABLE if spec.refused is not None]
SCOPABLE = [spec for spec in TABLE if spec.refused is None]
INTRICATE = [
    spec
    for spec in SCOPABLE
    if spec.walk is None or spec.variant or spec.channel or spec.scans or len(spec.keys) > 1
]
"""Where keys must be searched, or their needs depend on the call or differ among them."""
SINGULAR = [
    spec
    for spec in INTRICATE
    if not any(isinstance(search, NumberedKeys) for search in spec.keys)
    and (spec.walk is None or spec.variant or spec.channel or spec.scans)
]
"""Where the guard reads arguments in a way of its own: SET, SORT, XREAD, PUBLISH…"""
SPEAKING = {"allow": ["publish", "subscribe"], "channels": ["*"]}
CONTROL = CONTROL_PREFIX.encode()
CALLS = 60
BYTES = 40
"""Of which one call is drawn."""
POLICIES = 100
POLICIES_ELSEWHERE = 60
"""On servers other than the embedded one."""

CALLS_OF_EACH = 8
"""Of every command, for each of the policies that are there for it."""
EVERY_COMMAND = (
    [
        grant("read", "write", "delete", "scan", keys="*"),
        grant("write", keys="*", only=["RESTORE"]),
        SPEAKING,
    ],
    [grant("read", keys="a*")],
    [grant("write", "delete", keys="a*"), grant("read", keys="b")],
)

OFTEN = {
    "refused command", "delete is no write", "invalid arguments", "name not in upper case",
    "glob of SCAN", "unknown option before STREAMS",
    "classes by several patterns", "any grant",
}  # fmt: skip
"""Differences that every run meets; were they rare, the generator would not go where they are."""

# Policies.

PATTERNS = (
    "a", "b", "ab", "a:b", "a*", "ab*", "a:*", "b*", "*", "?", "[a]", "a?b", "a[b]*", "[^a]*",
    "\\", "a\\", "\\a*", "]*", "^", "a-b", ")", "(*", "é*", "STREAMS", "STORE", "LIMIT", "GROUP",
    "STREAM*", "STOREDIST", "c", "keyleash:*", "key*", "%a", "%W~*", "~", "&a*", "+get",
)  # fmt: skip
"""ACL rules cannot hold blanks, and quotes mean something there."""
NESTED = (("a",), ("ab",), ("a*",), ("ab*",), ("*",), ("a", "ab"), ("a", "abc*"), ("ab", "abc"))
"""Lists of patterns that meet those of other lists, but not each other."""
NAMES = (
    "GET", "SET", "DEL", "COPY", "INCR", "LPOP", "SORT", "ZUNIONSTORE", "XREADGROUP", "PUBLISH",
    "SCAN", "RENAME", "XGROUP", "XGROUP CREATE", "XINFO", "OBJECT", "MEMORY USAGE", "@read",
    "@write", "@string", "@stream", "@sortedset", "@keyspace", "@fast", "@dangerous", "@pubsub",
    "@blocking", "@geo", "RESTORE",
)  # fmt: skip
CLASS_LISTS = (
    ("read",), ("write",), ("delete",), ("scan",), ("publish", "subscribe"), ("read", "subscribe"),
    ("read", "write"), ("write", "delete"), ("read", "delete"), ("read", "scan"),
    ("read", "write", "publish"), ("read", "write", "delete"),
    ("read", "write", "delete", "scan", "publish", "subscribe"),
)  # fmt: skip


@st.composite
def grants(draw: st.DrawFn, patterns: Sequence[str]) -> dict[str, Any]:
    """A grant on some of *patterns*, so that two grants often know the same key."""
    some = st.lists(st.sampled_from(patterns), min_size=1, max_size=3, unique=True)
    allow = draw(st.sampled_from(CLASS_LISTS))
    body: dict[str, Any] = {"allow": list(allow)}
    if set(allow) - CHANNEL_CLASSES:
        body["keys"] = draw(some)
    if CHANNEL_CLASSES & set(allow):
        body["channels"] = draw(some)
    narrowed = draw(st.sampled_from(["", "", "", "", "only", "except"]))
    if narrowed:
        names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)
        body[narrowed] = draw(names)
    return body


@st.composite
def split_grants(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Grants that share keys but not classes: a key may have one class by each of them."""
    return [
        {"allow": [cls], "keys": list(draw(st.sampled_from(NESTED)))}
        for cls in draw(st.permutations(["read", "write", "delete", "scan"]))[:3]
    ]


@st.composite
def policies(draw: st.DrawFn) -> str:
    """A policy document of one identity; some of it may be needless to the parser."""
    patterns = draw(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=4, unique=True))
    denied = draw(st.lists(st.sampled_from(PATTERNS), max_size=2, unique=True))
    few = draw(st.lists(grants(patterns), min_size=1, max_size=4) | split_grants())
    return document_of(few, denied if draw(st.integers(0, 3)) == 3 else [])


def document_of(few: Sequence[dict[str, Any]], denied: Sequence[str]) -> str:
    body: dict[str, Any] = {"kind": "machine", "grants": few}
    if denied:
        body["deny"] = [{"keys": denied}]
    return json.dumps({"version": 1, "identities": {"one": body}})


# Calls.


def names_about(patterns: Sequence[Pattern]) -> list[bytes]:
    """Keys or channels that match some pattern, then some that may not."""
    found = []
    for pattern in patterns:
        text = b"".join(part.text for part in pattern.parts if isinstance(part, Literal))
        found += [text, text + b"x"] if isinstance(pattern.parts[-1], AnySuffix) else [text, text]
    others = [name[:-1] for name in found] + [b"x" + name for name in found]
    others += [b"", b"\0", b"a", b"b", b"abc", b"STREAMS", b"keyleash:state:one", b"keyleash:"]
    granted = itertools.islice(itertools.cycle(found or [b"a"]), 3 * len(others))
    return [*granted, *others]


def plainly_named(call: Call) -> Call:
    """The call without a NUL in the name of its sub-command; see the last test."""
    if call[0].decode() in TABLE.containers and len(call) > 1:
        return (call[0], call[1].replace(b"\0", b""), *call[2:])
    return call


def drawn(data: bytes, keys: Sequence[bytes], channels: Sequence[bytes]) -> Call:
    """Turn bytes into a call, so that there is little to draw and little to shrink."""
    draws = Draws(data)
    specs = REFUSED if draws.once_in(12) else draws.pick((SCOPABLE, INTRICATE, SINGULAR))
    call = plainly_named(drawn_call(draws, draws.pick(specs), keys, channels))
    return (call[0].lower(), *call[1:]) if draws.once_in(40) else call


# The comparison.


@pytest.mark.slow
def test_generated_calls_are_judged_as_a_native_user_is_but_for_intended_differences(
    server: RealServer,
) -> None:
    """Whatever the policy and the call: an unexplained difference is a hole in one of the two."""
    examples = POLICIES if server.label == embedded_label() else POLICIES_ELSEWHERE
    court = Court(server)
    explained: Counter[str] = Counter()
    unexplained: list[Any] = []

    # A failing call says all there is to know, and all that fail say what they have in common.
    @settings(thorough(examples), phases=[Phase.generate])
    @given(policies().map(parsed).filter(bool), st.integers(0, 2**32 - 1))
    def compare(made: tuple[str, Identity], seed: int) -> None:
        document, identity = made
        court.install(document, identity)
        source = random.Random(f"{seed} {document}")
        keys = names_about([key for grant in identity.grants for key in grant.keys])
        channels = names_about([channel for grant in identity.grants for channel in grant.channels])
        calls = [drawn(source.randbytes(BYTES), keys, channels) for _ in range(CALLS)]
        for example in court.compare(calls):
            names = reasons(example)
            explained.update(names)
            if len(names) != 1:
                unexplained.append((names, document, example.call, example))

    compare()

    assert unexplained == []
    heard = court.tally.allowed + court.tally.refused
    assert court.tally.allowed > heard // 8
    assert court.tally.refused > heard // 8
    assert set(explained) >= OFTEN


def test_every_command_is_judged_as_a_native_user_is_but_for_intended_differences(
    server: RealServer,
) -> None:
    """Chance passes some commands by; here each is allowed, and refused for its class and key."""
    court = Court(server)
    explained: set[tuple[str, str]] = set()
    unexplained: list[Any] = []

    for few in EVERY_COMMAND:
        made = parsed(document_of(few, []))
        assert made is not None
        court.install(*made)
        for spec in TABLE:
            source = random.Random(f"{spec.name} {few}")
            draws = [Draws(source.randbytes(BYTES)) for _ in range(CALLS_OF_EACH)]
            calls = [drawn_call(draw, spec, (b"a", b"ab", b"b"), (b"a", b"b")) for draw in draws]
            for example in court.compare([plainly_named(call) for call in calls]):
                names = reasons(example)
                explained.update((spec.name, name) for name in names)
                if len(names) != 1:
                    unexplained.append((names, few, example.call, example))

    assert unexplained == []
    own = [spec for spec in TABLE if spec.name in court.known - TABLE.containers]
    heard = {name for name, _ in explained | court.tally.agreed}
    assert {spec.name for spec in own} - heard == set()
    scopable = [spec for spec in own if spec.refused is None]
    assert {item.name for item in scopable if (item.name, True) not in court.tally.agreed} == set()
    never_refused = {item.name for item in scopable if (item.name, False) not in court.tally.agreed}
    assert never_refused == KEYLESS_PASSES


OF_MODULE: tuple[list[dict[str, Any]], ...] = (
    [grant("read", "write", "delete", "scan", keys="*")],
    [grant("read", "write", keys="a*", only=["DOC.GET", "GET"])],
    [grant("read", keys="a*", only=["DOC.GET"]), grant("write", keys="b", only=["DOC.NAME"])],
    [grant("read", "write", keys="*", only=["@read"]), grant("read", "write", keys="ab")],
)
"""Policies for a server with the module: some name its commands, some only seem to."""


@pytest.mark.parametrize("few", OF_MODULE)
def test_module_command_is_judged_as_a_native_user_is(
    module_server: RealServer, few: list[dict[str, Any]]
) -> None:
    """The comparison also holds for a table that has commands of a module."""
    table = read_table(module_server.client())
    court = Court(module_server, table)
    made = parsed(document_of(few, []), table)
    assert made is not None
    court.install(*made)
    own = [spec for spec in table if spec.name.startswith("DOC.")]
    assert any(spec.named_only for spec in own)

    for spec in own:
        source = random.Random(f"{spec.name} {few}")
        draws = [Draws(source.randbytes(BYTES)) for _ in range(CALLS_OF_EACH)]
        calls = [drawn_call(draw, spec, (b"a", b"ab", b"b")) for draw in draws]
        # Without a key, what the module does is its own affair.
        for example in court.compare([call for call in calls if len(call) > 1]):
            assert len(reasons(example)) == 1, (spec.name, example)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_intended_difference_is_needed(server: RealServer, name: str) -> None:
    """An entry without a difference would hide the next difference."""
    difference = DIFFERENCES[name]
    made = parsed(document_of(difference.grants, difference.deny or []))
    assert made is not None
    court = Court(server)
    court.install(*made)

    found = court.compare([tuple(difference.call.encode().split(b" "))])

    differs = court.label.startswith(difference.servers)
    assert [reasons(example) for example in found] == [[name]] * differs
    assert [example.decision.allowed for example in found] == [difference.allows] * differs


@pytest.mark.slow
def test_scan_lists_what_a_native_user_may_read(server: RealServer) -> None:
    """ACLs leave SCAN unchecked; but each key that it lists, they know to judge."""
    court = Court(server)
    listings = 0
    for source in PATTERNS:
        made = parsed(document_of([grant("scan", "read", keys=source)], []))
        assert made is not None
        document, identity = made
        court.install(document, identity)
        (pattern,) = identity.grants[0].keys
        keys = {key for key in names_about([pattern]) if not key.startswith(CONTROL)}
        court.admin.mset(dict.fromkeys(keys, b"v"))
        text = b"".join(part.text for part in pattern.parts if isinstance(part, Literal))
        glob = text + b"*" * isinstance(pattern.parts[-1], AnySuffix)
        found = [*court.admin.scan_iter(glob, count=1000)]
        may = {call[1]: may for call, _, may in court.hear([(b"GET", key) for key in found])}

        reply = court.reply((b"SCAN", b"0", b"MATCH", glob, b"COUNT", b"1000"))

        if isinstance(reply, redis.ResponseError):
            # What is literal in the policy is special in the glob, so less of it is literal.
            assert set(b"?[\\") & set(text)
            continue
        control = {key for key in found if key.startswith(CONTROL)}
        empty = {b""} & {*found}
        assert {*reply[1]} == {key for key in found if may[key]} - control | empty
        listings += 1
    assert listings > 2 * len(PATTERNS) // 3


def test_sub_command_behind_a_nul_is_refused_though_servers_may_find_it(server: RealServer) -> None:
    r"""
    Servers look a name up by the hash of all of it, then compare up to the NUL.

    So it depends on a hash seed whether `GROUPS\0x` is GROUPS; a guard compares it whole.
    """
    made = parsed(document_of([grant("read", keys="*")], []))
    assert made is not None
    court = Court(server)
    court.install(*made)

    heard = court.hear([(b"XINFO", b"GROUPS\0%d" % n, b"a") for n in range(200)])

    assert not any(decision.allowed for _, decision, _ in heard)
    assert any(may for _, _, may in heard)
