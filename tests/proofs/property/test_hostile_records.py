"""Control keys of arbitrary bytes, as of a damaged server: guard and model agree."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.doubles import DOUBLE
from keyleash.evaluate.evaluate import decide, subjects
from keyleash.evaluate.state import stored_state
from keyleash.evaluate.trace import Decision
from keyleash.limits import Limit, Rate, SubjectKind
from keyleash.limits.calendar import PERIOD_US
from keyleash.limits.rate import RATE_PERIODS_US
from keyleash.store.states import counter_key
from keyleash.store.token import REVOKED_OFFSET, TokenRecord, token_digest
from keyleash.store.wire import BatchMode
from proofs.oracle.data import model_state
from support.clockwork import COMMANDS, STARTS, SUBJECTS, Command, document, limits
from support.lua_guard import FAR_US, FIRST_TOKEN, KEYS, TABLE, LuaGuard, LuaServer
from support.thorough import thorough

pytestmark = pytest.mark.slow

FAR_MS = 2**42
NAN, INFINITY = float("nan"), float("inf")
ODD = st.sampled_from(
    [NAN, INFINITY, -INFINITY, -1.0, -0.5, 0.5, 2.0**24, 2.0**53, 2.0**63, 1e300, -1e300, 5e-324]
)
LENGTHS = [0, 1, 2, 3, 5, 99_999, 100_000, 100_001, *RATE_PERIODS_US.values(), *PERIOD_US.values()]


def numbers(start_us: int) -> st.SearchStrategy[float]:
    """Numbers that a guard may write in some place, and such as it never writes."""
    near = st.integers(-(2**42), 2**42).map(lambda by_us: float(start_us + by_us))
    return ODD | st.sampled_from(LENGTHS).map(float) | near | st.floats()


def doubles(start_us: int, least: int, most: int) -> st.SearchStrategy[bytes]:
    some = st.lists(numbers(start_us), min_size=least, max_size=most)
    return some.map(lambda found: struct.pack(f"<{len(found)}d", *found))


def records(start_us: int) -> st.SearchStrategy[bytes]:
    """Whole doubles, or any bytes, also such as end within a number."""
    odd_end = st.tuples(doubles(start_us, 0, 8), st.binary(max_size=7)).map(b"".join)
    return doubles(start_us, 3, 9) | odd_end | st.binary(min_size=1, max_size=64)


def capacity_of(limit: Limit) -> int:
    return limit.limit if isinstance(limit, Rate) and limit.burst is None else 0


def plant(data: st.DataObject, server: LuaServer, guard: LuaGuard, declared: list[bytes]) -> None:
    """Put arbitrary bytes wherever the limits of a call look."""
    state = KEYS.state("a").encode()
    size = len(server.state("a")) - DOUBLE
    # Mostly not suspended: or nothing else would be looked at.
    header = data.draw(st.sampled_from([b"\0" * DOUBLE] * 3) | doubles(server.now_us, 1, 1))
    rest = data.draw(doubles(server.now_us, size // DOUBLE, size // DOUBLE + 6))
    tail = data.draw(st.binary(max_size=7))
    server.data[state] = server.state("a")[:DOUBLE] + header + rest[DOUBLE:] + tail
    for limit in guard.identity.limits:
        if limit.subject.kind is SubjectKind.IDENTITY:
            continue
        for subject in subjects(guard.identity, limit, declared, guard.token_id):
            key = counter_key(KEYS, guard.identity.name, limit, subject).encode()
            server.data[key] = data.draw(records(server.now_us))
            server.expires_ms[key] = FAR_MS


def as_stored(guard: LuaGuard, argv: list[bytes], declared: list[bytes], reason: str) -> Decision:
    """Return the decision of the evaluator from the records on the server alone."""
    server, identity = guard.server, guard.identity
    state = stored_state(identity, server.state("a"), guard.compiled.layout, reason)
    state.data = model_state().data
    for limit in identity.limits:
        if limit.subject.kind is SubjectKind.IDENTITY:
            continue
        for subject in subjects(identity, limit, declared, guard.token_id):
            record = server.data[counter_key(KEYS, identity.name, limit, subject).encode()]
            assert isinstance(record, bytes)
            if record:
                # What holds nothing is as good as not there.
                state.counts[limit.name, subject] = limit.read_record(record, server.now_us)
    return decide(identity, TABLE, argv, declared, state, server.now_us, guard.token_id)


@thorough(75)
@given(STARTS, limits(SUBJECTS), COMMANDS, st.sampled_from(["", "why", "é" * 100]), st.data())
def test_guard_and_model_agree_on_counters_of_arbitrary_bytes(
    start_us: int, limits_of: dict[str, Any], command: Command, reason: str, data: st.DataObject
) -> None:
    """An allow or a denial, the same from both, alone and in a batch, and no record grows."""
    server = LuaServer(start_us)
    server.activate(document(limits_of))
    guard = server.guard("a")
    argv = [word.encode() for word in command]
    declared = argv[TABLE.key_slices[command[0]]]
    plant(data, server, guard, declared)
    suspension = KEYS.suspension("a").encode()
    server.data[suspension] = {b"reason": reason.encode()} if reason else {}
    before = {key: len(value) for key, value in server.data.items() if isinstance(value, bytes)}
    twin = server.copy()

    expected = as_stored(guard, argv, declared, reason)
    assert guard.call(*command) == expected
    assert twin.guard("a").batch(BatchMode.EACH, command)[0] == expected

    most = 3 * DOUBLE + DOUBLE * max(map(capacity_of, guard.identity.limits))
    for key, value in server.data.items():
        if isinstance(value, bytes):
            assert len(value) <= max(before.get(key, 0), most)


@thorough(75)
@given(STARTS, limits(SUBJECTS), st.data())
def test_reload_over_arbitrary_bytes_leaves_what_a_guard_reads(
    start_us: int, limits_of: dict[str, Any], data: st.DataObject
) -> None:
    """The moved state is as long as its layout says, whatever was in it, and calls are judged."""
    server = LuaServer(start_us)
    server.activate(document(limits_of))
    plant(data, server, server.guard("a"), [])
    before = len(server.state("a"))
    server.activate(document(data.draw(limits(SUBJECTS))))

    guard = server.guard("a")
    layout = guard.compiled.layout
    ends = [slot.offset + slot.capacity * DOUBLE for slot in layout.slots]
    assert layout.header_bytes <= len(server.state("a")) <= max(before, layout.header_bytes, *ends)
    guard.call("SET", "k:a:1", "v")


@thorough(75)
@given(STARTS, st.data())
def test_token_record_of_arbitrary_bytes_denies_or_allows(
    start_us: int, data: st.DataObject
) -> None:
    """A record too short, or with times that are none, is the record of no live token."""
    server = LuaServer(start_us)
    server.activate(document({}))
    guard = server.guard("a")
    key = KEYS.token("a", token_digest(FIRST_TOKEN)).encode()
    record = TokenRecord("x" * 12, FAR_US, 0).pack()
    times = data.draw(doubles(start_us, 2, 2))
    planted = data.draw(
        st.just(times + record[REVOKED_OFFSET:]) | st.binary(min_size=1, max_size=40)
    )
    server.data[key] = planted
    server.data[KEYS.state("a").encode()] = (
        server.state("a")[:DOUBLE] + data.draw(doubles(start_us, 1, 1)) + server.state("a")[16:]
    )

    found = guard.call("GET", "k:a:1")

    if len(planted) < len(record):
        assert not found.allowed
