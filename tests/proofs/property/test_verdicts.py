"""Generated policies and commands on real servers: the guard decides as the model does."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from keyleash.commands import CHANNEL_CLASSES, CommandSpec, CommandTable, OperationClass, load_table
from keyleash.commands.spec import KeyRange, NumberedKeys, OptionKey, StreamKeys
from keyleash.errors import PolicyError, ReplyCode
from keyleash.evaluate.abilities import allowed_commands
from keyleash.evaluate.access import matches, named, needs_of_call
from keyleash.evaluate.evaluate import changes, decide
from keyleash.evaluate.trace import Decision
from keyleash.operator.tokens.issue import issue_token
from keyleash.policy import Identity, Pattern, parse_policy
from keyleash.policy.model import AnySuffix, Capture, Literal
from keyleash.store.keyspace import CONTROL_PREFIX, Keyspace
from keyleash.store.live_table import read_table
from keyleash.store.records import guard_record
from keyleash.store.store import Store
from keyleash.store.wire import BatchMode, batch_call, declared_keys
from proofs.oracle.data import model_state
from support.decisions import decision_in
from support.loading import load_policy
from support.servers import RealServer, embedded_label
from support.thorough import thorough

NAMES = Keyspace()
TABLE = load_table()
SCOPABLE = sorted(spec.name for spec in TABLE if spec.refused is None)
OF_TWO_KINDS = sorted(spec.name for spec in TABLE if spec.refused is None and len(spec.keys) > 1)
"""Their first key needs other classes than the rest."""
READ_FOR_KEYS = sorted(spec.name for spec in TABLE if spec.refused is None and spec.walk is None)
"""Their arguments must be read to find the keys."""
REFUSED = sorted(spec.name for spec in TABLE if spec.refused is not None)
COMMANDS = 60
POLICIES = 40
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
    names = iter(draw(st.permutations(["{x}", "{y}", "{z}"])))
    segments = []
    for _ in range(draw(st.integers(1, 3))):
        capture = next(names) if draw(st.booleans()) else ""
        segments.append(draw(TEXTS) + capture + (draw(TEXTS) if capture else ""))
    # A capture and `*` must not share a segment.
    if "{" not in segments[-1].replace("{{", "") and draw(st.booleans()):
        segments[-1] += "*"
    return ":".join(segments) or "*"


COMMAND_NAMES = st.sampled_from(
    ["GET", "SET", "DEL", "MGET", "COPY", "INCR", "LPOP", "XGROUP", "OBJECT ENCODING",
     "@read", "@write", "@string", "@hash",
     "@keyspace", "@fast", "@list", "PING"]
)  # fmt: skip
OF_KEYS = [item for item in OperationClass if item not in CHANNEL_CLASSES]
OF_CHANNELS = st.lists(st.sampled_from(sorted(CHANNEL_CLASSES)), min_size=1, unique=True)
SOME_CLASSES = st.lists(st.sampled_from(OF_KEYS), min_size=1, max_size=3, unique=True)
CLASSES = st.just(OF_KEYS) | SOME_CLASSES


@st.composite
def grants(draw: st.DrawFn, keys: list[str]) -> dict[str, Any]:
    """A grant on some of *keys*; so that two grants often know the same key."""
    grant: dict[str, Any] = {
        "allow": draw(CLASSES),
        "keys": draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True)),
    }
    if draw(st.booleans()):
        grant["allow"] = [*grant["allow"], *draw(OF_CHANNELS)]
        grant["channels"] = [draw(st.sampled_from(keys))]
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


def parsed(document: str, table: CommandTable = TABLE) -> tuple[str, Identity] | None:
    """The document and its identity; None if the parser calls a pattern needless."""
    try:
        policy = parse_policy(document, file="policy.json", commands=table)
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
    candidates = dict.fromkeys(key for item in granted + denied for key in keys_about(item))
    matching = [key for key in candidates if any(matches(pattern, key) for pattern in granted)]
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


STREAM_WORDS = (
    b"STREAMS",
    b"streams",
    b"COUNT",
    b"1",
    b"BLOCK",
    b"GROUP",
    b"NOACK",
    b"CLAIM",
    b"x",
)
OPTION_WORDS = (
    b"STORE",
    b"store\0",
    b"STOREDIST",
    b"LIMIT",
    b"ALPHA",
    b"ASC",
    b"0",
    b"m",
    b"BY",
    b"nosort",
)


def choices_for(spec: CommandSpec, place: int, keys: Sequence[bytes]) -> Sequence[bytes]:
    """Return the choices for a place of a call: mostly keys where a key may be."""
    if spec.name.startswith("BITFIELD") and place > 1:
        return BITFIELD_WORDS
    for search in spec.keys:
        match search:
            case KeyRange(first, last, step):
                if place in range(first, 10_000 if last < 0 else last + 1, step):
                    return keys
            case NumberedKeys(count_at=count_at):
                if place == count_at:
                    return (
                        b"1",
                        b"2",
                        b"1",
                        b"2",
                        b"3",
                        b"0",
                        b"02",
                        b"+1",
                        b" 2",
                        b"x",
                        b"-1",
                        b"",
                    )
                if place > count_at:
                    return [*keys, *WORDS]
            case OptionKey(skipped=(_, *_)):
                patterns = [key[:size] + b"*" for size in (2, 4, None) for key in keys[:9]]
                return [*OPTION_WORDS, b"GET", b"#", b"get", b"BY", *keys[:9], *patterns]
            case OptionKey():
                return [*OPTION_WORDS, *keys[:9]]
            case StreamKeys():
                return [*STREAM_WORDS, *keys[:9], b"0", b">", b"$"]
    if spec.channel == place or (spec.counts and place > 1):
        return [*keys, *(key + end for key in keys[:9] for end in (b"*", b"?x", b"[a]", b"\\"))]
    if spec.scans and place > 1:
        return [b"MATCH", b"match", b"COUNT", b"100", *(key + b"*" for key in keys[:9]), *keys[:9]]
    return WORDS


def drawn(sketch: Sketch, keys: Sequence[bytes]) -> Call:
    """Turn numbers into a call, so that a shrinking test has few things to shrink."""
    kind, which, more, seeds, declare = sketch
    names = {0: REFUSED, 2: OF_TWO_KINDS, 3: READ_FOR_KEYS, 4: READ_FOR_KEYS}.get(kind, SCOPABLE)
    name = names[which % len(names)]
    spec = TABLE.get(name)
    assert spec is not None
    few = max(abs(spec.arity) - 1, 0)
    count = few if spec.arity > 0 and more < 5 else few + more - (more == 5)
    seed = itertools.cycle(seeds)
    argv = [*name.encode().split(b" ")]
    if len(argv) > 1 and which % 2:
        argv[1] = argv[1].lower()
    while len(argv) <= count:
        number = next(seed) + 7 * len(argv)
        choices = choices_for(spec, len(argv), keys)
        argv.append(choices[number % len(choices)])
    if kind == 1 and declare > 15:
        argv[0] = (b"", b"get", b"NOSUCH", b"GET\0", b"LEASH\nOK", b"\xff" * 200)[which % 6]
    declared = [*declared_keys(TABLE, argv)] if spec.refused is None else argv[1:2]
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
    {
        "SPOP", "SRANDMEMBER", "HRANDFIELD", "ZRANDMEMBER", "VRANDMEMBER", "XADD", "TIME", "SCAN",
        "OBJECT IDLETIME", "OBJECT FREQ", "MEMORY USAGE", "XINFO CONSUMERS", "XINFO STREAM",
    }
)  # fmt: skip
"""Two runs of these on the same data may differ, or depend on the database."""
PLAIN_DATABASE = 9
"""No argument names it."""
CLOCKED = ("EXPIRE", "TTL", "EX", "AT")
"""Names with these words: what they do or say depends on the moment."""


class Twins:
    """Two databases of a server: calls that are allowed are run in the other without a guard."""

    def __init__(self, server: RealServer, table: CommandTable = TABLE) -> None:
        self.table = table
        self.admin = server.client()
        self.guarded = server.client(protocol=2).connection_pool.get_connection()
        self.plain = server.client(protocol=2, db=PLAIN_DATABASE).connection_pool.get_connection()
        self.digest = self.batch_digest = self.token = b""
        self.token_id = ""

    def begin(self, document: str) -> None:
        self.admin.flushall()
        load_policy(Store(self.admin), document, table=self.table, allow_unvalidated_restore=True)
        issued = issue_token(Store(self.admin), "one")
        self.token, self.token_id = issued.token.encode(), issued.id
        found = guard_record(self.admin.hgetall(NAMES.guard("one")))  # type: ignore[arg-type]
        assert found is not None
        self.digest, self.batch_digest = found.digest.encode(), found.batch_digest.encode()

    def call(self, call: Call) -> Any:
        """The guard's reply, errors included."""
        header = [self.token, b"correlation"]
        count = b"%d" % len(call.declared)
        return reply_to(
            self.guarded, b"EVALSHA", self.digest, count, *call.declared, *header, *call.argv
        )

    def batch(self, mode: BatchMode, argvs: Sequence[Sequence[bytes]]) -> Any:
        """The reply to all commands in one call."""
        words = batch_call(
            self.table, self.batch_digest.decode(), self.token.decode(), "correlation", mode, argvs
        )
        return reply_to(self.guarded, *words)

    def run_plain(self, spec: CommandSpec, argv: Sequence[bytes]) -> Any:
        """The same command past the guard; one that blocks goes where it cannot."""
        if spec.subscribes and len(argv) > 1:
            # A guard only checks the channel and returns it.
            argv = [b"ECHO", *argv[1:]]
        if "blocking" not in spec.flags:
            return reply_to(self.plain, *argv)
        reply_to(self.plain, b"MULTI")
        queued = reply_to(self.plain, *argv)
        replies = reply_to(self.plain, b"EXEC")
        return queued if isinstance(queued, redis.ResponseError) else replies[0]

    def forget(self, keys: Sequence[bytes]) -> None:
        if keys:
            reply_to(self.guarded, b"DEL", *keys)
            reply_to(self.plain, b"DEL", *keys)

    def data(self) -> tuple[set[bytes], set[bytes]]:
        """Return the agents' keys in each database.

        Without those that expire, which may have been set a moment earlier in one of them.
        """
        guarded, plain = map(lasting_keys, (self.guarded, self.plain))
        return {key for key in guarded if not key.startswith(CONTROL_PREFIX.encode())}, plain


def reply_to(connection: Any, *words: Any) -> Any:
    connection.send_command(*words)
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


def lasting_keys(connection: Any) -> set[bytes]:
    keys = reply_to(connection, b"KEYS", b"*")
    return {key for key in keys if reply_to(connection, b"PTTL", key) == -1}


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


def policies_on(server: RealServer) -> int:
    return POLICIES if server.label == embedded_label() else POLICIES_ELSEWHERE


def test_generated_commands_are_judged_as_the_model_says(server: RealServer) -> None:
    """
    Any policy, any command of any server, any arguments.

    An allowed command answers as it would without a guard, and what is in the database
    afterwards is what the allowed commands put there.
    """
    policies_here = policies_on(server)
    twins = Twins(server)
    pairs = allowed = 0

    # A failing call says all there is to know, and shrinking hundreds of numbers takes minutes.
    @settings(thorough(policies_here), phases=[Phase.generate])
    @given(
        policies().map(parsed).filter(bool),
        st.lists(SKETCHES, min_size=COMMANDS, max_size=COMMANDS),
    )
    def compare(made: tuple[str, Identity], sketches: list[Sketch]) -> None:
        nonlocal pairs, allowed
        document, identity = made
        twins.begin(document)
        state, keys, mutations, unsure = model_state(), pool(identity), 0, 0
        for sketch in sketches:
            call = drawn(sketch, keys)
            expected = decide(identity, TABLE, call.argv, call.declared, state, 0, twins.token_id)
            reply = twins.call(call)
            assert "user_script" not in str(reply)
            assert decision_in(reply) == expected, call
            assert [step.code for step in expected.trace if step.code] == (
                [] if expected.allowed else [expected.code]
            )
            pairs += 1
            if not expected.allowed:
                continue
            allowed += 1
            spec = named(TABLE, call.argv)
            assert spec is not None
            if spec.waits:
                # Without anything to wait for it has no event.
                unsure += 1
            else:
                mutations += changes(spec, needs_of_call(spec, call.argv))
            plain = twins.run_plain(spec, call.argv)
            if spec.name in UNLIKE_ITSELF or is_clocked(call.argv):
                twins.forget(call.declared)
            else:
                assert comparable(reply) == comparable(plain), call
        guarded, plain_keys = twins.data()
        assert guarded == plain_keys
        events: Any = twins.admin.xrange(NAMES.audit("one"))
        assert mutations <= sum(b"of" not in event for _, event in events) <= mutations + unsure

    compare()

    assert pairs >= policies_here * COMMANDS
    assert allowed >= pairs // 10


@settings(thorough(POLICIES_ELSEWHERE * 4), phases=[Phase.generate])
@given(
    policies().map(parsed).filter(bool), st.lists(SKETCHES, min_size=COMMANDS, max_size=COMMANDS)
)
def test_command_of_an_allowed_call_is_listed_as_one_that_the_identity_may_call(
    made: tuple[str, Identity], sketches: list[Sketch]
) -> None:
    """A list that leaves out what an agent can do is worse than none."""
    _, identity = made
    found = allowed_commands(identity.grants, TABLE)
    listed = {*found.together, *(name for names in found.by_grant for name in names)}
    for sketch in sketches:
        call = drawn(sketch, pool(identity))
        decision = decide(identity, TABLE, call.argv, call.declared, model_state(), 0, "")
        spec = named(TABLE, call.argv)
        # A call without any key touches none, whatever the grants say of keys.
        if decision.allowed and spec is not None and call.declared:
            assert spec.name in listed, call


MODULE_NAMES = ("DOC.GET", "DOC.NAME", "JSON.GET", "JSON.MSET", "@read", "@write", "GET", "MGET")
KEYED_NAMES = (
    *(b"DOC.GET", b"DOC.NAME", b"DOC.COPY", b"DOC.CALLBACK", b"GET", b"SET"),
    *(b"JSON.GET", b"JSON.GET", b"JSON.MSET", b"JSON.MGET", b"JSON.SET", b"JSON.DEL"),
    *(b"CMS.MERGE", b"TS.CREATERULE", b"FT.SEARCH"),
)
PATHS = (
    b"$",
    b"$..a",
    b"a,b,c",
    b"..",
    b"$[?(@.a>1)]",
    b"=~",
    b"$.a" + b"b" * 200,
    b"$" + b"b" * 600,
    b"$[*]" + b".a" * 32,
    b"$.a[?(@.b==$.c)]",
    b"$.a\0",
    b"$[0, -" + b"9" * 19 + b"]",
    b"[1]",
    b'"' + b"1" * 1024 + b'"',
    b"indent",
    b"        ",
    b"         ",
    b"2",
    b"",
    b"...",
    b",,,",
)


@st.composite
def module_policies(draw: st.DrawFn) -> str:
    """A policy whose grants may name commands of the test module."""
    document = json.loads(draw(policies()))
    for grant in document["identities"]["one"]["grants"]:
        grant.pop("only", None)
        narrowed = draw(st.sampled_from(["", "only", "only", "except"]))
        if narrowed:
            names = st.lists(st.sampled_from(MODULE_NAMES), min_size=1, max_size=3, unique=True)
            grant[narrowed] = draw(names)
    named_too = {"allow": ["read", "write"], "keys": ["m:*"], "only": ["DOC.GET"]}
    document["identities"]["one"]["grants"] += draw(st.sampled_from([[], [named_too]]))
    return json.dumps(document)


def test_module_commands_are_judged_as_the_model_says(module_server: RealServer) -> None:
    """The model agrees with the guard on a table that has commands of a module."""
    table = read_table(module_server.client())
    assert [spec.name for spec in table if spec.named_only] != []
    twins = Twins(module_server, table)
    codes: set[tuple[str, ReplyCode | None]] = set()

    @settings(thorough(POLICIES_ELSEWHERE), phases=[Phase.generate])
    @given(
        module_policies().map(lambda document: parsed(document, table)).filter(bool),
        st.integers(0, 2**32 - 1),
    )
    def compare(made: tuple[str, Identity], seed: int) -> None:
        document, identity = made
        source = random.Random(seed)
        twins.begin(document)
        state, keys = model_state(), pool(identity)
        for _ in range(COMMANDS):
            name = source.choice((*KEYED_NAMES, b"DOC.QUERY"))
            argv = [name, *source.choices(keys, k=source.choice((1, 1, 1, 2, 0)))]
            if name == b"CMS.MERGE":
                # The model estimates no work without a server.
                argv.insert(2, b"%d" % len(argv[2:]))
            if name.startswith(b"JSON."):
                argv += source.choices(PATHS, k=source.choice((1, 2, 4)))
            declared = declared_keys(table, argv)
            expected = decide(identity, table, argv, declared, state, 0, twins.token_id)
            assert decision_in(twins.call(Call(argv, [*declared]))) == expected, argv
            codes.add((argv[0].decode(), expected.code))

    compare()

    assert {
        ("DOC.GET", None),
        ("DOC.GET", ReplyCode.COMMAND_REFUSED),
        ("DOC.GET", ReplyCode.CLASS_NOT_GRANTED),
        ("DOC.GET", ReplyCode.KEY_NOT_GRANTED),
        ("JSON.GET", None),
        ("JSON.GET", ReplyCode.COMMAND_REFUSED),
        ("FT.SEARCH", ReplyCode.COMMAND_REFUSED),
    } <= codes


@pytest.mark.parametrize("reads", [False, True])
def test_full_audit_stream_denies_the_calls_that_the_evaluator_denies(
    server: RealServer, reads: bool
) -> None:
    """Both agree on the calls with an event, for every command, with and without keys."""
    audit = {"reads": reads, "retain": {"until": "exported", "hard_max": 1}}
    all_classes = [str(item) for item in OperationClass]
    grant = {"allow": all_classes, "keys": ["*"], "channels": ["*"]}
    body = {"kind": "machine", "grants": [grant], "audit": audit}
    made = parsed(json.dumps({"version": 1, "identities": {"one": body}}))
    assert made is not None
    document, identity = made
    twins = Twins(server)
    twins.begin(document)
    twins.admin.xadd(NAMES.audit("one"), {"SET": "k"})
    state, full = model_state(is_full=True), set()

    for name in SCOPABLE:
        spec = TABLE.get(name)
        assert spec is not None
        words = name.encode().split(b" ")
        few = max(abs(spec.arity) - len(words), 0)
        for arguments in ([], [b"1"] * few, [b"1"] * (few + 3), [b"0", b"MATCH", b"a*"]):
            argv = [*words, *arguments]
            declared = [*declared_keys(TABLE, argv)]
            expected = decide(identity, TABLE, argv, declared, state, 0, twins.token_id)
            assert decision_in(twins.call(Call(argv, declared))) == expected, argv
            if expected.code is ReplyCode.AUDIT_FULL:
                full.add(name)

    assert {"SET", "PUBLISH", "PSUBSCRIBE"} <= full
    assert ({"GET", "SCAN", "EXISTS"} <= full) is reads
    assert "PING" not in full


TIGHT_LIMITS = st.sampled_from(
    [
        {"budget": {"requests": "9/month"}},
        {"rate": {"requests": "9/day"}},
        {"rate": {"requests": "12/day", "writes": {"limit": "4/day", "burst": 4}}},
        {"rate": {"requests": {"limit": "12/day", "per": "token"}, "reads": "2/day"}},
        {"rate": {"writes": "3/day"}, "budget": {"requests": {"limit": "9/month", "per": "token"}}},
        {"budget": {"requests": "12/month", "writes": "3/month", "deletes": "2/month"}},
    ]
)
"""Most batches meet one of these; none renews itself while a test runs."""


CAPTURED = (b"cap:1:a", b"cap:2:b", b"cap:1:c", b"cap:2:a", b"cap:1:b", b"cap:3:", b"cap:1:d")


MODES = (BatchMode.EACH, BatchMode.ALL)


@st.composite
def tight_policies(draw: st.DrawFn) -> str:
    """One pattern with a capture among others, and limits that a batch reaches."""
    document = json.loads(draw(policies()))
    body = document["identities"]["one"]
    body.pop("rate", None)
    body.pop("budget", None)
    body["grants"].append({"allow": ["read", "write", "delete"], "keys": ["cap:{k}:*"]})
    body.update(draw(TIGHT_LIMITS))
    for limits in (body.get("rate", {}), body.get("budget", {})):
        for counter, limit in limits.items():
            if draw(st.booleans()) and not isinstance(limit, dict):
                limits[counter] = {"limit": limit, "per": "{k}"}
    return json.dumps(document)


def test_batches_are_judged_as_the_model_says(server: RealServer) -> None:
    """
    A batch is its commands one after the other, but judged before the first one runs.

    In mode `each` every reply is that of the command alone; in mode `all` the first
    refusal is that of the whole, and then nothing has happened.
    """
    policies_here = policies_on(server)
    twins = Twins(server)
    outcomes = dict.fromkeys(("passed", "refused", "whole", "none"), 0)

    @settings(thorough(policies_here), phases=[Phase.generate])
    @given(
        tight_policies().map(parsed).filter(bool),
        st.lists(st.lists(SKETCHES, min_size=1, max_size=9), min_size=4, max_size=6),
    )
    def compare(made: tuple[str, Identity], batches: list[list[Sketch]]) -> None:
        document, identity = made
        twins.begin(document)
        state, keys = model_state(), pool(identity)
        keys = [key for item in keys for key in (item, *CAPTURED)]
        calls = [[drawn(sketch, keys).argv for sketch in sketches] for sketches in batches]
        to_send = [
            (mode, [argv for argv in argvs if fits_a_batch(argv)])
            for argvs, mode in zip(calls, itertools.cycle(MODES), strict=False)
        ]
        while to_send:
            mode, argvs = to_send.pop(0)
            if not argvs:
                continue
            before = copy.deepcopy(state)
            expected = [
                decide(identity, TABLE, argv, declared_keys(TABLE, argv), state, 0, twins.token_id)
                for argv in argvs
            ]
            reply = twins.batch(mode, argvs)
            assert "user_script" not in str(reply)
            refusals = [number for number, item in enumerate(expected) if not item.allowed]
            if mode is BatchMode.ALL and refusals:
                state = before
                outcomes["none"] += 1
                found = decision_in(reply)
                assert found.details["item"] == str(refusals[0] + 1)
                assert_alike(found, expected[refusals[0]])
                allowed = [argv for argv, item in zip(argvs, expected, strict=True) if item.allowed]
                to_send.insert(0, (mode, allowed))
                continue
            outcomes["whole"] += mode is BatchMode.ALL
            changed: set[bytes] = set()
            for argv, item, answer in zip(argvs, expected, reply, strict=True):
                found, touched = decision_in(answer), declared_keys(TABLE, argv)
                if found.code is ReplyCode.WORK_TOO_LARGE and changed.intersection(touched):
                    # It was weighed again, since a command before it changed its key.
                    continue
                assert_alike(found, item)
                outcomes["passed" if item.allowed else "refused"] += 1
                if item.allowed:
                    spec = named(TABLE, argv)
                    assert spec is not None
                    if spec.mutates:
                        changed.update(touched)
                    plain = twins.run_plain(spec, argv)
                    if spec.name not in UNLIKE_ITSELF and not is_clocked(argv):
                        assert comparable(answer) == comparable(plain), argv
        guarded, plain_keys = twins.data()
        assert guarded == plain_keys

    compare()

    assert min(outcomes.values()) >= policies_here // 10, outcomes


def fits_a_batch(argv: list[bytes]) -> bool:
    """Return whether a client sends the call as it is, and the model can judge it."""
    # A client makes upper case of a name, and takes it apart at spaces.
    return argv[0].isalpha() and argv[0].isupper()


def assert_alike(decided: Decision, expected: Decision) -> None:
    """Two decisions but for the moments in them."""
    assert decided.code == expected.code
    for name in ("limit", "key", "class", "command", "channel"):
        assert decided.details.get(name) == expected.details.get(name)


def test_decision_is_neither_true_nor_false() -> None:
    """A refusal that is tested like a reply must not pass for one."""
    with pytest.raises(TypeError):
        bool(Decision(ReplyCode.KEY_DENIED))
