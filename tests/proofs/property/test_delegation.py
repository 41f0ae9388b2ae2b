"""Generated policies and delegations: a child token reaches exactly the intersection."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import keyleash
from keyleash.commands import CHANNEL_CLASSES, OperationClass
from keyleash.errors import PolicyError
from keyleash.policy import Identity, Pattern, overlaps, parse_pattern
from keyleash.policy.keysets import covers
from keyleash.policy.patterns import bound_pattern, exactly, keys_under
from keyleash.store.restrictions import Restrictions, restrictions_of
from keyleash.store.token import TokenRecord, new_token, token_digest
from proofs.property.test_bound_tokens import assert_reach, restrictions
from proofs.property.test_verdicts import Twins, parsed, policies, pool, reply_to
from support.leash import NAMES, Leash, policy
from support.servers import RealServer
from support.thorough import FACTOR, thorough

CAPS = (b"requests=900", b"writes=500/hour", b"bytes_read=9kb", b"bytes_written=2gb/day")
LIMITS = st.sampled_from([*CAPS, b"reads=0", b"bytes_read=1", b"writes=1kb", b"x"])
ENDS = st.sampled_from([b"", b"*", b"*"])


@dataclass(frozen=True)
class Wishes:
    """The words of a delegation."""

    bind: tuple[tuple[bytes, bytes], ...]
    allow: tuple[str, ...]
    keys: tuple[bytes, ...]
    budget: tuple[bytes, ...]

    def words(self) -> list[bytes]:
        pairs = [(b"bind", name + b"=" + value) for name, value in self.bind]
        pairs += [(b"allow", cls.encode()) for cls in self.allow]
        pairs += [(b"keys", key) for key in self.keys]
        pairs += [(b"budget", text) for text in self.budget]
        return [word for pair in pairs for word in pair]


@st.composite
def wishes(draw: st.DrawFn, identity: Identity) -> Wishes:
    """Words that narrow, and some that widen or are malformed."""
    captures = {
        name
        for grant in identity.grants
        for pattern in (*grant.keys, *grant.channels)
        for name in pattern.captures
    }
    names = [name.encode() for name in sorted(captures)] or [b"none"]
    values = st.sampled_from([b"a", b"a", b"a", b"42", b"%", b"\xff\x00", b"\n", b"a=b", b"a:b"])
    bind = draw(st.lists(st.tuples(st.sampled_from(names), values), max_size=2))
    usual = [st.just(()), st.just(()), st.just(("read",))]
    allow = draw(st.one_of(*usual, st.lists(st.sampled_from([*OperationClass, "x"]), max_size=2)))
    candidates = [key for key in pool(identity)[:40] if 0 < len(key) < 200] or [b"a"]
    keys = [
        draw(st.sampled_from(candidates))[: draw(st.integers(0, 30))]
        + draw(st.sampled_from([b"", b"*", b"*"]))
        for _ in range(draw(st.sampled_from([0, 0, 1, 2])))
    ]
    return Wishes(
        tuple(bind), tuple(map(str, allow)), tuple(keys), tuple(draw(st.lists(LIMITS, max_size=1)))
    )


def narrowed(identity: Identity, parent: Restrictions, wanted: Wishes) -> Restrictions | str:
    """Return the restrictions of the child, or the reason of the refusal."""
    bind = dict(parent.bind)
    known = {
        name
        for grant in identity.grants
        for pattern in (*grant.keys, *grant.channels)
        for name in pattern.captures
    }
    for raw, value in wanted.bind:
        name = raw.decode()
        if name not in known or not value or b":" in value or bind.get(name, value) != value:
            return "bind"
        bind[name] = value
    bound = [
        (cls, pattern)
        for grant in identity.grants
        for cls in grant.allow
        for item in (grant.channels if cls in CHANNEL_CLASSES else grant.keys)
        if (pattern := bound_pattern(item, bind)) is not None
    ]
    if not bound:
        return "bind"
    given_classes = {str(cls) for cls, _ in bound} & {*map(str, parent.allow)}
    if not given_classes.issuperset(wanted.allow):
        return "allow"
    allow = tuple(cls for cls in OperationClass if not wanted.allow or cls in wanted.allow)
    allow = tuple(cls for cls in allow if cls in parent.allow)
    patterns = [pattern for cls, pattern in bound if cls in allow and cls not in CHANNEL_CLASSES]
    keys = [_pattern(word) for word in wanted.keys]
    for key in keys:
        is_within = parent.keys is None or (key and any(covers(item, key) for item in parent.keys))
        if key is None or not is_within or not any(overlaps(key, item) for item in patterns):
            return "keys"
    for text in wanted.budget:
        if text not in CAPS:
            return "budget"
    found = tuple(key for key in keys if key is not None)
    return Restrictions(bind, allow, found or parent.keys)


def _pattern(word: bytes) -> Pattern | None:
    try:
        found = parse_pattern(word.decode("latin-1"))
    except PolicyError:
        return None
    if found.captures:
        return None
    is_open = word.endswith(b"*")
    text = (word[:-1] if is_open else word).replace(b"{{", b"{").replace(b"}}", b"}")
    return keys_under(text) if is_open else exactly(text)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, Identity, Restrictions | None, list[Wishes]] | None:
    """A policy, the restrictions of the issued token, if any, and delegations."""
    document = json.loads(draw(policies()))
    rules = document["identities"]["one"]
    rules["token"] = {"bound": True}
    rules["delegate"] = {"depth": 8}
    for limits in ("rate", "budget", "on_denials"):
        rules.pop(limits, None)
    document.get("defaults", {}).pop("on_denials", None)
    made = parsed(json.dumps(document))
    if made is None:
        return None
    root = draw(restrictions(made[1])) if draw(st.booleans()) else None
    root = root and replace(root, counts=())
    return (*made, root, draw(st.lists(wishes(made[1]), min_size=4, max_size=8)))


def delegate(twins: Twins, words: list[bytes]) -> tuple[bytes, Any]:
    """Ask for a child of the token; return its secret and the reply."""
    secret = new_token("one").encode()
    digest = token_digest(secret.decode()).encode()
    call = [twins.token, b"", b"delegate", digest, b"", *words]
    return secret, reply_to(twins.guarded, b"EVALSHA", twins.batch_digest, b"0", *call)


SHAPES = (
    "a:{x}:b", "a{x}b:*", "{x}", "{x}:a{y}:*", "a:b*", "a:b", "*", "{x}b:{y}", "ab:{y}a:b*",
    "a:{x}:",
)  # fmt: skip
"""Patterns of one identity each."""


def test_key_of_a_child_is_refused_if_and_only_if_no_pattern_meets_it(embedded: RealServer) -> None:
    """Short keys and beginnings of keys, most of which almost match, with and without bindings."""
    leash, draws = Leash(embedded), random.Random(FACTOR)
    rules = {"token": {"bound": True}, "delegate": {"depth": 1, "children": 1000}}
    leash.load(
        policy(**{
            f"i{number}": {**rules, "grants": [{"allow": ["read"], "keys": [shape]}]}
            for number, shape in enumerate(SHAPES)
        })
    )  # fmt: skip
    seen: Counter[str] = Counter()
    for number, shape in enumerate(SHAPES):
        for _ in range(8):
            agent, held = parent_of(leash, f"i{number}", shape, draws)
            for _ in range(8):
                pattern = parse_pattern(shape)
                bind = {name: draws.choice(("a", "b", "ab")) for name in pattern.captures}
                bind = draws.choice(({}, bind))
                key = almost(draws.choice((shape, *held)), draws) + draws.choice(("", "*"))
                bound = bound_pattern(pattern, {name: bind[name].encode() for name in bind})
                wanted = _pattern(key.encode())
                assert bound is not None
                is_made = wanted is not None and overlaps(wanted, bound)
                if held and wanted is not None:
                    mine = [_pattern(item.encode()) for item in held]
                    is_made = is_made and any(item and covers(item, wanted) for item in mine)
                reason = ""
                try:
                    agent.delegate(bind=bind, keys=[key])
                except keyleash.DelegationRefusedError as refusal:
                    reason = str(refusal.details["reason"])
                assert reason == ("" if is_made else "keys"), (shape, held, bind, key)
                seen[f"{shape} {reason}"] += 1
    assert all(seen[f"{shape} "] > 3 for shape in SHAPES), seen


def parent_of(
    leash: Leash, identity: str, shape: str, draws: random.Random
) -> tuple[Any, list[str]]:
    """Return a client with a token of an identity, and the keys that the token is bound to."""
    held = [almost(shape, draws) + draws.choice(("", "*")) for _ in range(draws.choice((0, 1, 2)))]
    try:
        token = leash.issue(identity, keys=held or None).token
    except keyleash.OperationError:
        # They leave nothing.
        return leash.agent(identity), []
    return leash.client(token), held


def almost(shape: str, draws: random.Random) -> str:
    """Return a key that a pattern matches, or one that is cut, changed or continued."""
    text = re.sub(r"\{\w\}", lambda _: draws.choice(("a", "b", "ab")), shape.removesuffix("*"))
    text += "".join(draws.choices("ab:", k=draws.choice((0, 0, 1, 3))))
    place = draws.randrange(len(text) + 1)
    changed = text[:place] + draws.choice("ab:") + text[place + 1 :]
    return draws.choice((text, text, text[:place], changed))


def test_child_reaches_exactly_the_intersection(embedded: RealServer) -> None:
    """Each delegation is judged as the model says; generated keys show that none is wider."""
    judge(embedded, 20)


@pytest.mark.slow
def test_child_reaches_exactly_the_intersection_of_many(server: RealServer) -> None:
    """The same for many policies, on every server."""
    judge(server, 300)


def judge(server: RealServer, examples: int) -> None:
    twins = Twins(server)
    reasons: Counter[str] = Counter()

    @settings(thorough(examples), phases=[Phase.generate])
    @given(cases().filter(bool))
    def compare(case: tuple[str, Identity, Restrictions | None, list[Wishes]]) -> None:
        document, identity, root, some = case
        twins.begin(document)
        parent = root or Restrictions()
        if root is not None:
            name = NAMES.token("one", token_digest(twins.token.decode()))
            record = TokenRecord.unpack(twins.admin.get(name))  # type: ignore[arg-type]
            twins.admin.set(name, replace(record, tail=root.pack()).pack(), keepttl=True)
        chain = [parent]
        for wanted in some:
            expected = narrowed(identity, parent, wanted)
            secret, reply = delegate(twins, wanted.words())
            if isinstance(expected, str):
                assert re.search(rf" reason={expected}\b", str(reply)), (reply, wanted, parent)
                reasons[expected] += 1
                continue
            assert isinstance(reply, list), (reply, wanted, parent)
            packed: Any = twins.admin.get(NAMES.token("one", token_digest(secret.decode())))
            made = restrictions_of(TokenRecord.unpack(packed))
            assert made is not None
            assert (made.bind, made.allow) == (expected.bind, expected.allow)
            assert len(made.chain) == len(chain)
            twins.token, parent = secret, made
            chain.append(made)
            reasons["made"] += 1
            # Each restriction alone, not the record that joins them.
            for name in ("GET", "SET", "GETDEL"):
                for is_granted in assert_reach(twins, identity, [*chain[:-1], expected], name):
                    reasons[f"{name} {is_granted}"] += 1

    compare()
    assert {"bind", "allow", "keys", "budget", "made", "GET False", "GET True", "GETDEL True"} <= {
        *reasons
    }, reasons
