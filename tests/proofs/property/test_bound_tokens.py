"""Generated policies, restrictions and calls: a bound token reaches exactly the intersection."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from keyleash.commands import OperationClass
from keyleash.commands.keys import keys_of
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import named
from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.state import ModelState
from keyleash.limits import Counter as LimitCounter
from keyleash.limits import Period
from keyleash.limits.caps import Cap
from keyleash.policy import Identity, Pattern
from keyleash.policy.keysets import Region, find_key
from keyleash.policy.patterns import bound_pattern, exactly, keys_under
from keyleash.store.restrictions import Restrictions
from keyleash.store.store import batches
from keyleash.store.token import TokenRecord, token_digest
from keyleash.store.wire import BatchMode, declared_keys
from proofs.oracle.data import model_state
from proofs.property.test_verdicts import (
    COMMANDS,
    NAMES,
    SKETCHES,
    TABLE,
    Call,
    Sketch,
    Twins,
    assert_alike,
    drawn,
    parsed,
    policies,
    policies_on,
    pool,
)
from support.decisions import decision_in
from support.servers import RealServer
from support.thorough import thorough

COUNTERS = [counter for counter in LimitCounter if counter is not LimitCounter.BYTES_READ]
"""Those of which the model knows what a call takes."""
MOST = (st.integers(1, 20), st.integers(1, 200))
"""The limits of caps of calls, and of bytes."""
CONTROL = (keys_under(b"keyleash:"),)
VALUES = st.sampled_from([b"a", b"42", b"%", b"\xff\x00", b"]]", b"\n", b"ab"])


@st.composite
def restrictions(draw: st.DrawFn, identity: Identity) -> Restrictions:
    """Bindings of captures that the policy has, and some that no pattern has together."""
    names = sorted(
        {
            name
            for grant in identity.grants
            for pattern in (*grant.keys, *grant.channels)
            for name in pattern.captures
        }
    )
    bound = draw(st.lists(st.sampled_from(names), max_size=3, unique=True)) if names else []
    # Mostly one value: the keys that are tried have the same segment in all places.
    values = draw(st.just(st.just(draw(VALUES))) | st.just(VALUES))
    some = st.lists(st.sampled_from(OperationClass), min_size=1, unique=True)
    classes = draw(st.just([*OperationClass]) | some)
    candidates = [key for key in pool(identity)[:40] if 0 < len(key) < 200]
    keys: list[Pattern] = []
    for key in draw(st.sampled_from([[], [], candidates[:3], candidates])):
        keys.append(keys_under(key[: len(key) // 2]) if draw(st.booleans()) else exactly(key))
    caps = [
        Cap(counter, draw(MOST[counter.is_bytes]), Period.MINUTE, is_for_life=True).new_count()
        for counter in draw(st.lists(st.sampled_from(COUNTERS), max_size=2, unique=True))
    ]
    return Restrictions(
        {name: draw(values) for name in bound},
        tuple(OperationClass(cls) for cls in classes),
        tuple(keys[:16]) or None,
        tuple(caps),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, Identity, Restrictions] | None:
    """A policy whose tokens may be bound, and the restrictions of one."""
    document = json.loads(draw(policies()))
    document["identities"]["one"]["token"] = {"bound": True}
    made = parsed(json.dumps(document))
    return made and (*made, draw(restrictions(made[1])))


def bind(twins: Twins, found: Restrictions) -> ModelState:
    """Put restrictions on the token, and return the state of the model."""
    name = NAMES.token("one", token_digest(twins.token.decode()))
    packed: Any = twins.admin.get(name)
    record = TokenRecord.unpack(packed)
    twins.admin.set(name, replace(record, tail=found.pack()).pack(), keepttl=True)
    for count in found.counts:
        count.ends_us = record.expires_us
    return model_state(restrictions=found)


def test_bound_token_is_judged_as_the_model_says(embedded: RealServer) -> None:
    """Any policy, restrictions, command and arguments; caps are counted in the same way."""
    judge_calls(embedded, 12)


@pytest.mark.slow
def test_bound_token_is_judged_so_everywhere(server: RealServer) -> None:
    """The same for many policies, on every server."""
    judge_calls(server, policies_on(server))


def judge_calls(server: RealServer, examples: int) -> None:
    twins, codes = Twins(server), set()

    @settings(thorough(examples), phases=[Phase.generate])
    @given(cases().filter(bool), st.lists(SKETCHES, min_size=COMMANDS, max_size=COMMANDS))
    def compare(case: tuple[str, Identity, Restrictions], sketches: list[Sketch]) -> None:
        document, identity, found = case
        twins.begin(document)
        state, keys = bind(twins, found), pool(identity)
        for sketch in sketches:
            call = drawn(sketch, keys)
            spec = named(TABLE, call.argv)
            # The model counts a call that would block.
            if spec and spec.waits:
                continue
            expected = decide(identity, TABLE, call.argv, call.declared, state, 0, twins.token_id)
            reply = twins.call(call)
            assert "user_script" not in str(reply)
            assert decision_in(reply) == expected, (call, found)
            codes.add((expected.code, expected.details.get("by")))

    compare()
    assert {(ReplyCode.KEY_NOT_GRANTED, "token"), (ReplyCode.CLASS_NOT_GRANTED, "token")} <= codes


@pytest.mark.parametrize("examples", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_batch_of_a_bound_token_is_judged_as_the_model_says(
    embedded: RealServer, examples: int
) -> None:
    """Each command of a batch is judged as alone, and caps count them one by one."""
    twins = Twins(embedded)

    @settings(thorough(examples), phases=[Phase.generate])
    @given(cases().filter(bool), st.lists(SKETCHES, min_size=COMMANDS, max_size=COMMANDS))
    def compare(case: tuple[str, Identity, Restrictions], sketches: list[Sketch]) -> None:
        document, identity, found = case
        twins.begin(document)
        state, keys = bind(twins, found), pool(identity)
        for some in batches(sketches, 6):
            argvs = [drawn(sketch, keys).argv for sketch in some]
            argvs = [argv for argv in argvs if argv[0].isalpha() and argv[0].isupper()]
            argvs = [argv for argv in argvs if not (spec := named(TABLE, argv)) or not spec.waits]
            replies = twins.batch(BatchMode.EACH, argvs) if argvs else []
            for argv, reply in zip(argvs, replies, strict=True):
                declared = declared_keys(TABLE, argv)
                expected = decide(identity, TABLE, argv, declared, state, 0, twins.token_id)
                assert_alike(decision_in(reply), expected)

    compare()


CALLS: dict[str, list[bytes]] = {
    "GET": [],
    "SET": [b"v"],
    "DEL": [],
    "GETDEL": [],
    "GETSET": [b"v"],
}
"""Commands that need other classes of one key, and their words behind it."""


def reached(identity: Identity, chain: Sequence[Restrictions], name: str) -> tuple[Region, Region]:
    """
    Return the keys that a command of the identity may have, and those that all restrictions leave.

    Each class that the command needs may come from another pattern.
    """
    spec = TABLE.commands[name]
    (use,) = keys_of(spec, [name.encode(), b"key", *CALLS[name]])
    whole = Region((), (*(key for deny in identity.deny for key in deny.keys), *CONTROL))
    narrow = whole
    for cls in use.needs:
        patterns = [
            pattern
            for grant in identity.grants
            if grant.applies_to(spec) and cls in grant.allow
            for pattern in grant.keys
        ]
        whole, narrow = whole.within(patterns), narrow.within(patterns)
        for item in chain:
            bound = (bound_pattern(pattern, item.bind) for pattern in patterns)
            narrow = narrow.within(pattern for pattern in bound if pattern is not None)
            narrow = narrow if cls in item.allow else narrow.within(())
    for item in chain:
        narrow = narrow if item.keys is None else narrow.within(item.keys)
    return whole, narrow


def assert_reach(
    twins: Twins, identity: Identity, chain: Sequence[Restrictions], name: str
) -> list[bool]:
    """Try a key that only the identity may use and one of the token, alone and in a batch."""
    whole, narrow = reached(identity, chain, name)
    tried = []
    for is_granted, key in ((False, find_key(whole, narrow)), (True, find_key(narrow))):
        if key is not None:
            call = Call([name.encode(), key, *CALLS[name]], [key])
            for reply in (twins.call(call), twins.batch(BatchMode.EACH, [call.argv])[0]):
                assert (decision_in(reply).code is None) is is_granted, (call, chain)
            tried.append(is_granted)
    return tried


def test_keys_of_a_bound_token_are_exactly_the_intersection(embedded: RealServer) -> None:
    """
    Searches for a key that the identity may use and the token may not, and for one of both.

    Of several restrictions one may deny what another let pass, so two are also tried alone.
    """
    twins, tried = Twins(embedded), Counter[tuple[str, bool]]()
    readers = tuple(cls for cls in OperationClass if cls is not OperationClass.WRITE)

    @settings(thorough(25), phases=[Phase.generate])
    @given(cases().filter(bool))
    def compare(case: tuple[str, Identity, Restrictions]) -> None:
        document, identity, found = case
        twins.begin(document)
        for kind, restriction in {
            "drawn": replace(found, counts=()),
            "no write": Restrictions(allow=readers),
            "one key": Restrictions(keys=(exactly(pool(identity)[0] or b"a"),)),
        }.items():
            bind(twins, restriction)
            for name in CALLS:
                for is_granted in assert_reach(twins, identity, [restriction], name):
                    tried[kind, is_granted] += 1

    compare()
    assert len(tried) == 6, tried
    assert min(tried.values()) >= 5, tried
