"""
Generated pairs of policies: a diff reports that access widens exactly if it does.

The diff is compared with the evaluator: every call that only the new policy allows is reported,
and every reported gain is such a call.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from keyleash.commands import CHANNEL_CLASSES, CommandSpec, OperationClass, keys_of, load_table
from keyleash.errors import UnplacedKeysError
from keyleash.evaluate.access import matches
from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.state import ModelState
from keyleash.policy import Deny, Grant, Identity, Pattern
from keyleash.policy.diff.call_shapes import Form, example_call, forms_of
from keyleash.policy.diff.changes import IdentityDiff, Part
from keyleash.policy.diff.compare import diff_identities
from keyleash.policy.diff.permissions import Gain
from keyleash.policy.model import IdentityKind
from keyleash.policy.patterns import parse_pattern
from support.thorough import thorough

TABLE = load_table()
PROTECTED = (parse_pattern("keyleash:*"),)
PAIRS = 60

SEGMENTS = st.sampled_from(
    ["a", "b", "ab", "{x}", "a{x}", "{x}b", "a{x}b", "", "?", "a[", "keyleash"]
)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    """Of one to three segments over few letters, so that most pairs meet somewhere."""
    names = iter("xyz")
    segments = [draw(SEGMENTS).replace("x", next(names)) for _ in range(draw(st.integers(1, 3)))]
    if "{" not in segments[-1] and draw(st.booleans()):
        segments[-1] += "*"
    return ":".join(segments) or "*"


COMMANDS = st.sampled_from(
    ["GET", "SET", "COPY", "INCR", "SCAN", "PING", "SORT", "XGROUP", "@read", "@write", "@keyspace"]
)
CLASSES = st.lists(st.sampled_from([*OperationClass]), min_size=1, max_size=4, unique=True)


@st.composite
def grants(draw: st.DrawFn, pool: list[str]) -> Grant:
    some = st.lists(st.sampled_from(pool), min_size=1, max_size=3, unique=True)
    allow = draw(CLASSES)
    narrowed = draw(st.sampled_from(["", "", "", "only", "except"]))
    names = tuple(draw(st.lists(COMMANDS, min_size=1, max_size=3, unique=True)))
    return Grant(
        allow=tuple(item for item in OperationClass if item in allow),
        keys=patterns_of(draw(some)) if {*allow} - CHANNEL_CLASSES else (),
        channels=patterns_of(draw(some)) if CHANNEL_CLASSES & {*allow} else (),
        only=names if narrowed == "only" else None,
        except_=names if narrowed == "except" else (),
    )


def patterns_of(sources: list[str]) -> tuple[Pattern, ...]:
    return tuple(map(parse_pattern, sources))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Identity | None, Identity | None]:
    """Two identities that share most of their rules; or one and none; or two ways to say one."""
    pool = draw(st.lists(patterns(), min_size=2, max_size=5, unique=True))
    shared = draw(st.lists(grants(pool), min_size=1, max_size=3))
    denied = draw(st.lists(st.sampled_from([*pool, draw(patterns())]), max_size=2, unique=True))
    before = identity(shared, denied)
    match draw(st.integers(0, 9)):
        case 0:
            return None, before
        case 1:
            return before, None
        case 2 | 3:
            return before, identity([item for grant in shared for item in split(grant)], denied)
    changed = [item for item in shared if draw(st.booleans())]
    if draw(st.booleans()) or not changed:
        changed.append(draw(grants(pool)))
    return before, identity(changed, [item for item in denied if draw(st.booleans())])


def identity(grants: list[Grant], denied: list[str]) -> Identity:
    deny = tuple(Deny((pattern,)) for pattern in patterns_of(denied))
    return Identity("one", IdentityKind.MACHINE, tuple(grants), deny)


def split(grant: Grant) -> Iterator[Grant]:
    """The same as several grants, one for each pattern."""
    for pattern in grant.keys:
        allow = tuple(item for item in grant.allow if item not in CHANNEL_CLASSES)
        yield replace(grant, allow=allow, keys=(pattern,), channels=())
    for pattern in grant.channels:
        allow = tuple(item for item in grant.allow if item in CHANNEL_CLASSES)
        yield replace(grant, allow=allow, keys=(), channels=(pattern,))


KEYS = [
    b":".join(segments)
    for length in (1, 2, 3)
    for segments in itertools.product((b"a", b"b", b"ab", b"", b"x", b"keyleash"), repeat=length)
]
SCOPABLE = [spec for spec in TABLE if spec.refused is None]


def allowed(identity: Identity | None, argv: list[bytes]) -> bool:
    if identity is None:
        return False
    spec = TABLE.find(argv)
    assert spec is not None
    keys = [use.key for use in keys_of(spec, argv)]
    return decide(identity, TABLE, argv, keys, ModelState(), 0).allowed


def shown(identity: Identity | None, key: bytes) -> bool:
    """Return whether some SCAN that is allowed returns *key*."""
    spec = TABLE.get("SCAN")
    assert spec is not None
    if identity is None:
        return False
    grants = [
        grant
        for grant in identity.grants
        if grant.applies_to(spec) and OperationClass.SCAN in grant.allow
    ]
    denied = [pattern for deny in identity.deny for pattern in deny.keys]
    return (
        any(matches(pattern, key) for grant in grants for pattern in grant.keys)
        and not any(matches(pattern, key) for pattern in [*denied, *PROTECTED])
        and any(
            allowed(identity, [b"SCAN", b"0", b"MATCH", glob])
            for glob in (key, *(key[:end] + b"*" for end in range(len(key) + 1)))
        )
    )


def is_special_glob_granted(identity: Identity | None) -> bool:
    """Return whether a literal key that may be scanned has special characters of globs."""
    return identity is not None and any(
        len(key.parts) == 1 and {*key.source} & {*"?["}
        for grant in identity.grants
        for key in grant.keys
    )


def on_channel(spec: CommandSpec, channel: bytes) -> list[bytes]:
    """Return a call that publishes, subscribes or counts subscribers."""
    words = [*spec.name.encode().split(), channel]
    return words if spec.channel_class is OperationClass.SUBSCRIBE else [*words, b"message"]


def call_of(spec: CommandSpec, form: Form, keys: Sequence[bytes]) -> list[bytes]:
    """Return a call that has just these keys."""
    argv = example_call(spec, form, keys)
    uses = {(use.key, use.needs) for use in keys_of(spec, argv)}
    assert uses == {*zip(keys, form.needs, strict=True)}, argv
    return argv


def witnesses(gain: Gain) -> list[list[bytes]]:
    """Return calls that prove a gain, one for each of its commands."""
    if gain.glob is not None:
        return [[b"SCAN", b"0", b"MATCH", gain.glob]]
    if gain.channel is not None:
        return [on_channel(TABLE.commands[name], gain.channel) for name in gain.commands]
    keys = [key for key in gain.keys if key is not None]
    assert len(keys) == len(gain.form.needs)
    found = []
    for name in gain.commands:
        spec = TABLE.get(name)
        assert spec is not None
        found.append(call_of(spec, gain.form, keys))
    return found


def assert_proved(gains: tuple[Gain, ...], new: Identity | None, old: Identity | None) -> None:
    for gain in gains:
        if gain.shown is not None:
            # The keys of such a glob are not computed: all that may be scanned count as shown.
            assert shown(new, gain.shown) or is_special_glob_granted(new), gain
            assert not shown(old, gain.shown), gain
            continue
        for argv in witnesses(gain):
            assert allowed(new, argv), argv
            assert not allowed(old, argv), argv


def says_that_access(diff: IdentityDiff, which: str) -> bool:
    """Return whether some grant or deny rule is marked."""
    return any(
        getattr(change, which) for change in diff.changes if change.part in (Part.GRANT, Part.DENY)
    )


def test_reported_gains_and_losses_are_real() -> None:
    """Each gain has calls that prove it, for every command that it names."""
    counts: Counter[str] = Counter()

    @thorough(PAIRS)
    @given(pairs())
    def compare(pair: tuple[Identity | None, Identity | None]) -> None:
        old, new = pair
        diff = diff_identities(old, new, TABLE, PROTECTED)
        assert_proved(diff.gains, new, old)
        assert_proved(diff.losses, old, new)
        # The marked rules explain each gain and loss.
        assert bool(diff.gains) == says_that_access(diff, "widens") == diff.widens
        assert bool(diff.losses) == says_that_access(diff, "narrows") == diff.narrows
        counts[f"{diff.widens} {diff.narrows}"] += 1

    compare()

    assert len(counts) == 4, counts


def keys_about(identity: Identity | None) -> list[bytes]:
    """Keys that some granted pattern matches, and a few others."""
    granted = [] if identity is None else [key for grant in identity.grants for key in grant.keys]
    return [
        key
        for place, key in enumerate(KEYS)
        if place % 50 == 0 or any(matches(pattern, key) for pattern in granted)
    ]


MORE = (
    b"STORE", b"store\0", b"STOREDIST", b"GET", b"get", b"ALPHA", b"NX", b"0", b"a:b", b"a", b"x",
)  # fmt: skip


def some_calls(seeds: list[int], keys: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Calls of a few commands with every key that these always take, and some words more."""
    for seed in seeds:
        spec = SCOPABLE[seed % len(SCOPABLE)]
        numbers = random.Random(seed)
        plain = forms_of(spec)[0]
        if spec.scans:
            key = numbers.choice(keys)
            argv = [b"SCAN", b"0", b"MATCH", numbers.choice([key, key + b"*", b"*", b"a?*"])]
        elif spec.channel is not None:
            argv = on_channel(spec, numbers.choice(keys))
        else:
            argv = call_of(spec, plain, [numbers.choice(keys) for _ in plain.needs])
            argv += numbers.choices(MORE, k=numbers.randint(0, 3))
        try:
            keys_of(spec, argv)
        except UnplacedKeysError:
            continue
        yield spec.name, argv


def test_no_call_that_is_gained_is_overlooked() -> None:
    """A call of any command, on keys of all kinds, that becomes allowed is announced."""
    found: Counter[bool] = Counter()

    @thorough(PAIRS)
    @given(pairs(), st.lists(st.integers(0, 2**20), min_size=60, max_size=60))
    def compare(pair: tuple[Identity | None, Identity | None], seeds: list[int]) -> None:
        old, new = pair
        diff = diff_identities(old, new, TABLE, PROTECTED)
        announced = {name for gain in diff.gains for name in gain.commands}
        for name, argv in some_calls(seeds, keys_about(new)):
            gained = allowed(new, argv) and not allowed(old, argv)
            found[gained] += 1
            if gained:
                assert diff.widens
                assert name in announced, argv
        for key in KEYS[seeds[0] % 7 :: 7]:
            if shown(new, key) and not shown(old, key):
                assert diff.widens
                assert any(gain.shown is not None for gain in diff.gains), key

    compare()

    assert min(found.values()) > PAIRS // 2, found
