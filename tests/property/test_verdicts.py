"""Generated policies and commands on real servers: the guard decides as the model does."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from keyleash.commands import CommandSpec, OperationClass, load_table
from keyleash.deploy import load_policy
from keyleash.errors import LeashError, PolicyError, ReplyCode
from keyleash.policy import AnySuffix, Capture, Identity, Literal, Pattern, parse_policy
from keyleash.protocol.active import guard_record
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.reply import refusal
from keyleash.tokens import issue_token
from support.reference import Decision, ModelState, captured, decide
from support.servers import RealServer, embedded_label
from support.thorough import thorough

NAMES = Keyspace()
TABLE = load_table()
SCOPABLE = sorted(spec.name for spec in TABLE if spec.refused is None)
OF_TWO_KINDS = sorted(spec.name for spec in TABLE if spec.refused is None and len(spec.ranges) > 1)
"""Their first key needs other classes than the rest."""
REFUSED = sorted(spec.name for spec in TABLE if spec.refused is not None)
COMMANDS = 60
POLICIES = 60
POLICIES_ELSEWHERE = 15
"""On servers other than the embedded one."""

# Policies.

AWKWARD = (
    "a", "b", "ab", "%", ".", "-", "[", "]", "(", ")", "?", "^", "$", "+", "%a", "[^", "%z",
    "\0", "é", "\u00ff", "\U0001f511", '"', "'", "\n", "\r\n", "]]", "--", "\\", "\\n", "{{", "}}",
    " ", "#", "keyleash",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(AWKWARD), max_size=2).map("".join)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    """One to three segments, with a capture in some and a suffix at the end of some."""
    names = iter(("{x}", "{y}", "{z}"))
    segments = []
    for _ in range(draw(st.integers(1, 3))):
        capture = next(names) if draw(st.booleans()) else ""
        segments.append(draw(TEXTS) + capture + (draw(TEXTS) if capture else ""))
    # A capture and `*` must not share a segment.
    if "{" not in segments[-1].replace("{{", "") and draw(st.booleans()):
        segments[-1] += "*"
    return ":".join(segments) or "*"


COMMAND_NAMES = st.sampled_from(
    ["GET", "SET", "DEL", "MGET", "COPY", "INCR", "LPOP", "@read", "@write", "@string", "@hash",
     "@keyspace", "@fast", "@list", "PING"]
)  # fmt: skip
SOME_CLASSES = st.lists(st.sampled_from(OperationClass), min_size=1, max_size=3, unique=True)
CLASSES = st.just([*OperationClass]) | SOME_CLASSES


@st.composite
def grants(draw: st.DrawFn, keys: list[str]) -> dict[str, Any]:
    """A grant on some of *keys*; so that two grants often know the same key."""
    grant: dict[str, Any] = {
        "allow": draw(CLASSES),
        "keys": draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True)),
    }
    narrowed = draw(st.sampled_from(["", "", "", "only", "except"]))
    if narrowed:
        names = st.lists(COMMAND_NAMES, min_size=1, max_size=4, unique=True)
        grant[narrowed] = draw(names)
    return grant


WIDE_LIMITS: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {},
        {},
        {"rate": {"requests": "90000/hour"}},
        {"rate": {"writes": {"limit": "100000/hour", "burst": 90_000}, "reads": "100000/day"}},
        {"budget": {"requests": {"limit": "100000/day", "timezone": "Europe/Berlin"}}},
        {
            "rate": {"reads": {"limit": "90000/day", "per": "token"}},
            "budget": {"deletes": "90000/day"},
        },
    ]
)
"""None of these is ever reached here; see test_moving_clock for those that are."""


@st.composite
def split_grants(draw: st.DrawFn, keys: list[str]) -> list[dict[str, Any]]:
    """Grants that share keys but not classes: of two keys of a call, one may lack its class."""
    return [
        {
            "allow": draw(st.sampled_from([["read"], ["write"], ["delete"], ["read", "write"]])),
            "keys": draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True)),
        }
        for _ in range(3)
    ]


@st.composite
def policies(draw: st.DrawFn) -> str:
    """A policy document, some parts of which may be too much for the parser."""
    keys = draw(st.lists(patterns(), min_size=1, max_size=4, unique=True))
    body: dict[str, Any] = {
        "kind": "machine",
        "grants": draw(st.lists(grants(keys), min_size=1, max_size=3) | split_grants(keys)),
        **draw(WIDE_LIMITS),
    }
    denied = draw(st.lists(patterns(), max_size=2, unique=True))
    if denied:
        body["deny"] = [{"keys": denied}]
    return json.dumps({"version": 1, "identities": {"one": body}}, ensure_ascii=draw(st.booleans()))


def parsed(document: str) -> tuple[str, Identity] | None:
    """The document and its identity; None if the parser calls a pattern needless."""
    try:
        policy = parse_policy(document, file="policy.json", commands=TABLE)
    except PolicyError as error:
        if {problem.code for problem in error.problems} <= {"covered-pattern", "repeated-pattern"}:
            return None
        raise
    return document, policy.identities[0]


# Commands.

SEGMENTS = (b"a", b"42", b"%", b"\xff\x00", b"]]", b"\n", b"")
KEYS = (b"", b"\0", b"a", b"a:b", b":", b"\xc3", b"keyleash:state:one", b"keyleash:", b"keyleash")
WORDS = (
    b"", b"0", b"2", b"-1", b"v", b"GET", b"get", b"gEt\0x", b"GETX", b"NX", b"XX", b"a:b", b"*",
    b"(1", b"[a", b"+", b"-", b"1-1", b"FIELDS", b"COUNT", b"MATCH", b"WITHSCORES", b"LEFT",
    b"RIGHT", b"BEFORE", b"AND", b"m", b"\xff\xfe\0\r\n", b"100000",
)  # fmt: skip


def keys_about(pattern: Pattern) -> list[bytes]:
    """Keys that match the pattern, and keys that almost do."""
    found = []
    for segment in SEGMENTS:
        key = b"".join(
            part.text
            if isinstance(part, Literal)
            else segment
            if isinstance(part, Capture)
            else segment + b":" + segment
            for part in pattern.parts
        )
        found += [key, key + b"x", key[:-1], b"x" + key, key.replace(b":", b"::"), key.upper()]
    if isinstance(pattern.parts[-1], AnySuffix):
        found.append(b"".join(p.text for p in pattern.parts if isinstance(p, Literal)))
    return found


def pool(identity: Identity) -> list[bytes]:
    """Keys to try: half match some pattern of the policy, unless few can."""
    granted = [pattern for grant in identity.grants for pattern in grant.keys]
    denied = [pattern for deny in identity.deny for pattern in deny.keys]
    candidates = dict.fromkeys(key for one in granted + denied for key in keys_about(one))
    matching = [key for key in candidates if any(captured(p, key) is not None for p in granted)]
    others = [*KEYS, *(key for key in candidates if key not in set(matching))]
    triples = zip(itertools.cycle(matching or [b"a"]), itertools.cycle(matching or [b"b"]), others)
    return [key for triple in triples for key in triple]


BITFIELD_WORDS = (
    b"GET", b"SET", b"INCRBY", b"get\0x", b"OVERFLOW", b"WRAP", b"FAIL", b"u8", b"i53", b"u60",
    b"i64", b"i5", b"0", b"#1", b"7", b"300", b"x",
)  # fmt: skip
Sketch = tuple[int, int, int, list[int], int]
SKETCHES = st.tuples(
    st.integers(0, 9),  # what the command is to be
    st.integers(0, 10_000),  # which
    st.integers(0, 5),  # how many arguments beyond the fewest
    st.lists(st.integers(0, 2**16 - 1), min_size=3, max_size=5),  # what the arguments are
    st.integers(0, 19),  # what is declared
)


@dataclass(frozen=True)
class Call:
    argv: list[bytes]
    declared: list[bytes]


def drawn(sketch: Sketch, keys: Sequence[bytes]) -> Call:
    """Turn numbers into a call, so that a shrinking test has few things to shrink."""
    kind, which, more, seeds, declare = sketch
    names = REFUSED if kind == 0 else OF_TWO_KINDS if kind in (2, 3) else SCOPABLE
    name = names[which % len(names)]
    spec = TABLE.get(name)
    assert spec is not None
    few = max(abs(spec.arity) - 1, 0)
    count = few if spec.arity > 0 and more < 5 else few + more - (more == 5)
    seed = itertools.cycle(seeds)
    argv = [name.split(" ")[0].encode(), *name.encode().split(b" ")[1:]]
    words = BITFIELD_WORDS if name.startswith("BITFIELD") else WORDS
    places = range(10_000)[spec.key_slice] if spec.refused is None and spec.ranges else range(0)
    while len(argv) <= count:
        number = next(seed) + 7 * len(argv)
        is_key = len(argv) in places and (spec.ranges[-1].last < 0 or len(argv) <= spec.walk[1])
        argv.append(keys[number % len(keys)] if is_key else words[number % len(words)])
    if kind == 1 and declare > 15:
        argv[0] = (b"", b"get", b"NOSUCH", b"GET\0", b"LEASH\nOK", b"\xff" * 200)[which % 6]
    declared = argv[spec.key_slice] if spec.refused is None else argv[1:2]
    match declare:
        case 0:
            declared = declared[1:]
        case 1:
            declared = [*declared, b"a"]
        case 2:
            declared = declared[::-1]
        case 3:
            declared = [key + b"x" for key in declared]
    return Call(argv, declared)


# The comparison.

UNLIKE_ITSELF = frozenset(
    {"SPOP", "SRANDMEMBER", "HRANDFIELD", "ZRANDMEMBER", "XADD", "TIME", "MOVE"}
)
"""Two runs of these on the same data may differ, or depend on the database."""
PLAIN_DATABASE = 9
"""No argument names it, so MOVE never goes there."""
CLOCKED = ("EXPIRE", "TTL", "EX", "AT")
"""Names with these words: what they do or say depends on the moment."""


class Twins:
    """Two databases of a server: calls that are allowed are run in the other without a guard."""

    def __init__(self, server: RealServer, protocol: int) -> None:
        self.admin = server.client()
        self.guarded = server.client(protocol=protocol).connection_pool.get_connection()
        self.plain = server.client(
            protocol=protocol, db=PLAIN_DATABASE
        ).connection_pool.get_connection()
        self.protocol = str(protocol).encode()
        self.digest = self.token = b""
        self.token_id = ""

    def begin(self, document: str) -> None:
        self.admin.flushall()
        load_policy(self.admin, document)
        issued = issue_token(self.admin, "one")
        self.token, self.token_id = issued.token.encode(), issued.id
        record = guard_record(self.admin.hgetall(NAMES.guard("one")))  # type: ignore[arg-type]
        assert record is not None
        self.digest = record.digest.encode()

    def call(self, call: Call) -> Any:
        """The guard's reply, errors included."""
        header = [self.token, b"correlation", self.protocol]
        count = b"%d" % len(call.declared)
        return reply_to(
            self.guarded, b"EVALSHA", self.digest, count, *call.declared, *header, *call.argv
        )

    def run_plain(self, spec: CommandSpec, argv: Sequence[bytes]) -> Any:
        """The same command past the guard; one that blocks goes where it cannot."""
        if "blocking" not in spec.flags:
            return reply_to(self.plain, *argv)
        reply_to(self.plain, b"MULTI")
        queued = reply_to(self.plain, *argv)
        replies = reply_to(self.plain, b"EXEC")
        return queued if isinstance(queued, redis.ResponseError) else replies[0]

    def forget(self, keys: Sequence[bytes]) -> None:
        for connection in (self.guarded, self.plain):
            if keys:
                reply_to(connection, b"DEL", *keys)

    def data(self) -> tuple[set[bytes], set[bytes]]:
        guarded, plain = reply_to(self.guarded, b"KEYS", b"*"), reply_to(self.plain, b"KEYS", b"*")
        return {key for key in guarded if not key.startswith(b"keyleash:")}, set(plain)


def reply_to(connection: Any, *words: bytes) -> Any:
    connection.send_command(*words)
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


def decision_in(reply: Any) -> Decision:
    """What a reply says: a refusal of the guard's, or, whatever else it is, that it ran."""
    found = refusal(str(reply)) if isinstance(reply, redis.ResponseError) else None
    if found is None:
        return Decision()
    assert isinstance(found, LeashError)
    return Decision(ReplyCode(found.code), found.details)


def assert_same(call: Call, decided: Decision, expected: Decision) -> None:
    under_control = expected.details.get("key", "").startswith("keyleash:")
    if under_control and decided.code is ReplyCode.KEY_NOT_GRANTED:
        # The deny rule on control keys is left out of a guard that no grant leads there.
        assert expected.code is ReplyCode.KEY_DENIED
        assert decided.details == expected.details
    else:
        assert decided == expected, call


def is_clocked(argv: Sequence[bytes]) -> bool:
    name = argv[0].decode("latin-1")
    return any(word in name for word in CLOCKED) or any(
        word.upper().split(b"\0")[0] in (b"EX", b"PX", b"EXAT", b"PXAT") for word in argv
    )


def comparable(reply: Any) -> Any:
    """
    An error by its text, everything else as it is.

    To a command that it does not have a server answers with the arguments, which a guard
    does not repeat.
    """
    if isinstance(reply, redis.ResponseError):
        return f"{type(reply).__name__}: {reply}".split(", with args beginning with:")[0]
    return reply


def test_generated_commands_are_judged_as_the_model_says(server: RealServer) -> None:
    """
    Any policy, any command of any server, any arguments.

    An allowed command answers as it would without a guard, and what is in the database
    afterwards is what the allowed commands put there.
    """
    policies_here = POLICIES if server.label == embedded_label() else POLICIES_ELSEWHERE
    by_protocol = {protocol: Twins(server, protocol) for protocol in (2, 3)}
    pairs = allowed = 0

    # A failing call says all there is to know, and shrinking hundreds of numbers takes minutes.
    @settings(thorough(policies_here), phases=[Phase.generate])
    @given(
        policies().map(parsed).filter(bool),
        st.sampled_from([2, 3]),
        st.lists(SKETCHES, min_size=COMMANDS, max_size=COMMANDS),
    )
    def compare(made: tuple[str, Identity], protocol: int, sketches: list[Sketch]) -> None:
        nonlocal pairs, allowed
        document, identity = made
        twins = by_protocol[protocol]
        twins.begin(document)
        state, keys, mutations = ModelState(), pool(identity), 0
        for sketch in sketches:
            call = drawn(sketch, keys)
            expected = decide(identity, TABLE, call.argv, call.declared, state, 0, twins.token_id)
            reply = twins.call(call)
            assert "user_script" not in str(reply)
            assert_same(call, decision_in(reply), expected)
            pairs += 1
            if not expected.allowed:
                continue
            allowed += 1
            spec = TABLE.get(call.argv[0].decode())
            assert spec is not None
            mutations += spec.mutates
            plain = twins.run_plain(spec, call.argv)
            if spec.name in UNLIKE_ITSELF or is_clocked(call.argv):
                twins.forget(call.declared)
            else:
                assert comparable(reply) == comparable(plain), call
        guarded, plain_keys = twins.data()
        assert guarded == plain_keys
        events: Any = twins.admin.xrange(NAMES.audit("one"))
        assert sum(b"of" not in event for _, event in events) == mutations

    compare()

    assert pairs >= policies_here * COMMANDS
    assert allowed >= pairs // 10


def test_decision_is_neither_true_nor_false() -> None:
    """A refusal that is tested like a reply must not pass for one."""
    with pytest.raises(TypeError):
        bool(Decision(ReplyCode.KEY_DENIED))
