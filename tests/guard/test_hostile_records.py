"""Control keys that hold what no guard writes, as of a damaged server.

Every call is answered by its reply or by a denial, at the cost of a call.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keyleash
from keyleash.operator.limit_reset import reset_limits
from keyleash.operator.suspension import freeze, thaw
from keyleash.store.token import TokenRecord, token_digest
from support.clustered import NODES
from support.leash import NAMES, Leash, grant
from support.thorough import thorough

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="doc:{{{kind}}}")]}
SET = ("SET", "doc:{a}", "x")
NAN, INFINITY, FOREVER = float("nan"), float("inf"), 2.0**53
MINUTE_US = 60_000_000.0
LIMITS: dict[str, dict[str, Any]] = {
    "ring": {"rate": {"writes": "3/minute"}},
    "gcra": {"rate": {"writes": {"limit": "3/minute", "burst": 2}}},
    "budget": {"budget": {"writes": "3/day"}},
}
MEMORY_BYTES = 16 * 1024 * 1024
"""Far more than a call takes, and less than a ring that a record asks for."""
CPU_S = 2.0
"""Of all records of a test: a call takes a fraction of a millisecond, the bomb took seconds."""


def numbers(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


RECORDS = {
    "a ring of 2^24": numbers(0, 2**24, MINUTE_US),
    "a ring of 2^40": numbers(1, 2**40, MINUTE_US),
    "a ring without end": numbers(0, INFINITY, MINUTE_US),
    "a ring of NaN": numbers(0, NAN, NAN),
    "a ring of -5": numbers(0, -5, MINUTE_US),
    "half a slot": numbers(0, 2.5, MINUTE_US),
    "the largest ring, empty": numbers(99_999, 100_000, MINUTE_US),
    "a head beyond the ring": numbers(7, 3, MINUTE_US),
    "a head that is none": numbers(NAN, 3, MINUTE_US),
    "a head at 400 MB": numbers(5e7, 3, MINUTE_US),
    "a ring of another period": numbers(0, 3, 12_345),
    "a slot that is no time": numbers(0, 3, MINUTE_US, INFINITY, NAN, NAN),
    "a part of a slot": numbers(0, 3, MINUTE_US) + b"xyz",
    "an interval of nothing": numbers(2e15, 0, 0),
    "an interval of NaN": numbers(2e15, 0, NAN),
    "an interval below 0": numbers(2e15, 0, -1),
    "an arrival that is none": numbers(NAN, 0, 20_000_000),
    "an arrival without end": numbers(INFINITY, 0, 20_000_000),
    "a window without end": numbers(INFINITY, 0, 86_400e6),
    "a window that is none": numbers(NAN, 3, 86_400e6),
    "a count that is none": numbers(2e15, NAN, 86_400e6),
    "a count below 0": numbers(2e15, -1e15, 86_400e6),
    "a window of another length": numbers(2e15, 0, 1),
    "one byte": b"x",
    "23 bytes": b"\xff" * 23,
    "text": b"infinity",
    "a lot": b"\xff" * 100_000,
}


def is_answer(reply: Any) -> bool:
    """Return whether it is the command's own reply or a denial."""
    return reply in (b"OK", None) or str(reply).startswith("LEASH ")


def answers(leash: Leash, token: str) -> Iterator[Any]:
    """Return the replies to a call: single, and in each kind of batch."""
    yield leash.call("one", token, *SET)
    for mode in ("each", "all"):
        batch = leash.batch("one", token, mode, SET, SET)
        yield from batch if isinstance(batch, list) else [batch]


class Meter:
    """CPU time and memory that a server used since a start, by INFO."""

    def __init__(self, leash: Leash) -> None:
        self._admin = leash.admin
        self._before = self._read()

    def _read(self) -> tuple[float, float]:
        info = self._admin.info()
        cpu_s = info["used_cpu_user"] + info["used_cpu_sys"]
        return cpu_s, info["used_memory_peak"] + info["used_memory_lua"]

    def assert_small(self) -> None:
        for before, now, most in zip(
            self._before, self._read(), (CPU_S, MEMORY_BYTES), strict=True
        ):
            assert now - before < most


@pytest.mark.parametrize("per", ["token", "{kind}"])
@pytest.mark.parametrize("kind", LIMITS)
def test_counter_of_hostile_bytes_is_denied_at_the_cost_of_a_call(
    leash: Leash, kind: str, per: str
) -> None:
    """No record makes a guard fail, or make more than the policy's own capacity."""
    ((group, limits),) = LIMITS[kind].items()
    limit = limits["writes"]
    written = limit if isinstance(limit, dict) else {"limit": limit}
    leash.load(one={**ALL, group: {"writes": {**written, "per": per}}})
    token = leash.issue("one").token
    assert leash.call("one", token, *SET) == b"OK"
    (key,) = leash.counters()
    meter = Meter(leash)

    for name, record in RECORDS.items():
        for answer in answers_to(leash, token, key, record):
            assert is_answer(answer), (name, answer)
        assert leash.admin.strlen(key) <= max(len(record), len(numbers(0, 0, 0)) + 3 * 8), name

    meter.assert_small()


def answers_to(leash: Leash, token: str, key: bytes, record: bytes) -> Iterator[Any]:
    """Of calls that find *record* each time."""
    for mode in ("one", "each", "all"):
        leash.admin.set(key, record)
        if mode == "one":
            yield leash.call("one", token, *SET)
            continue
        batch = leash.batch("one", token, mode, SET, SET)
        yield from batch if isinstance(batch, list) else [batch]


@pytest.mark.parametrize("per", ["token", "{kind}"])
@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("ring", numbers(0, 2**24, MINUTE_US)),
        ("ring", numbers(NAN, 3, MINUTE_US)),
        ("ring", numbers(0, 3, MINUTE_US, NAN)),
        ("gcra", numbers(INFINITY, 0, 20_000_000)),
        ("gcra", b"x"),
        ("budget", numbers(NAN, 0, 86_400e6)),
        ("budget", numbers(2e15, NAN, 86_400e6)),
    ],
)
def test_corrupt_counter_is_named_by_the_denial(
    leash: Leash, kind: str, record: bytes, per: str
) -> None:
    """The call is denied, and the denial names the corrupt limit."""
    ((group, limits),) = LIMITS[kind].items()
    limit = limits["writes"]
    written = limit if isinstance(limit, dict) else {"limit": limit}
    leash.load(one={**ALL, group: {"writes": {**written, "per": per}}})
    agent = leash.agent("one")
    agent.set("doc:{a}", "x")
    (key,) = leash.counters()

    leash.admin.set(key, record)
    with pytest.raises(keyleash.CounterCorruptError) as denial:
        agent.set("doc:{a}", "x")

    assert denial.value.details == {"limit": "budget.writes" if kind == "budget" else "rate.writes"}
    assert leash.denials("one")[-1]["reason"] == denial.value.details["limit"]


@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize(
    "number", [NAN, INFINITY, FOREVER, 1e300, 5e7, 2.5, -1.0, -INFINITY], ids=str
)
def test_state_of_hostile_numbers_is_denied_or_counts(
    leash: Leash, kind: str, number: float
) -> None:
    """In each of its places; a head of 5e7 made the state 400 MB long."""
    leash.load(one={**ALL, **LIMITS[kind]})
    token = leash.issue("one").token
    assert leash.call("one", token, *SET) == b"OK"
    state, meter = leash.state("one"), Meter(leash)

    for place in range(16, len(state), 8):
        leash.admin.set(NAMES.state("one"), state)
        leash.admin.setrange(NAMES.state("one"), place, numbers(number))
        for answer in answers(leash, token):
            assert is_answer(answer), (place, answer)

    assert leash.admin.strlen(NAMES.state("one")) <= len(state) + 2 * 8
    meter.assert_small()


def test_event_number_that_is_none_begins_again(leash: Leash) -> None:
    """A corrupt number must not appear in every later event."""
    leash.load(one=ALL)
    token = leash.issue("one").token

    # The place of the number, of a shard's state or of that of one server.
    name, place = leash.names_at("doc:{a}").state("one"), 48 if NODES else 16
    leash.call("one", token, *SET)

    for number in (NAN, INFINITY, 1e300, 0.5):
        leash.admin.setrange(name, place, numbers(number))
        assert leash.call("one", token, *SET) == b"OK"
        assert leash.events("one")[-1]["seq"] == "1"
        assert leash.batch("one", token, "all", SET) == [b"OK"]
        assert leash.events("one")[-1]["seq"] == "2"


@pytest.mark.parametrize("idle", [{}, {"token": {"idle": "1h"}}], ids=["plain", "idle"])
def test_token_record_of_hostile_bytes_is_denied(leash: Leash, idle: dict[str, Any]) -> None:
    """One that is too short was a script error, and a time past all calendars one of XTRIM."""
    retained = {"audit": {"retain": "7d"}}
    leash.load(one={**ALL, **idle, **retained})
    issued = leash.issue("one")
    key = NAMES.token("one", token_digest(issued.token))
    packed, left_ms = leash.admin.get(key), leash.admin.pttl(key)
    flags = packed[16:]

    for number in (NAN, INFINITY, -INFINITY, 1e300, -1e300, FOREVER, 5.0, 1e12, -1e12):
        leash.admin.set(key, numbers(number) + packed[8:], px=left_ms)
        # A time of long ago sets back the clock of the agent that wrote it: all windows are open.
        is_time = -FOREVER < number < FOREVER
        for answer in [item for _ in range(5) for item in answers(leash, issued.token)]:
            assert is_answer(answer) if is_time else answer == "LEASH TOKEN_EXPIRED", number
        leash.admin.set(key, packed[:8] + numbers(number) + flags, px=left_ms)
        for answer in answers(leash, issued.token):
            assert is_answer(answer), (number, answer)
    for size in (1, 8, 9, 16, 28):
        leash.admin.set(key, packed[:size], px=left_ms)
        for suspended in (0, 1, NAN, 2.0**51):
            leash.admin.setrange(NAMES.state("one"), 8, numbers(suspended))
            for answer in answers(leash, issued.token):
                assert str(answer) == "LEASH TOKEN_UNKNOWN", (size, suspended, answer)


@pytest.mark.parametrize("number", [NAN, INFINITY, FOREVER, 1e300], ids=str)
def test_suspension_until_no_time_has_no_end(leash: Leash, number: float) -> None:
    """And operators may end it, or make it last for a while."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    leash.admin.setrange(NAMES.state("one"), 8, numbers(number))

    with pytest.raises(keyleash.SuspendedError) as denial:
        agent.get("doc:{a}")
    assert denial.value.details == {}
    (frozen,) = freeze(leash.store, "one", reason="why", duration="60s").identities
    assert (frozen.changed, frozen.until_ms) == (False, None)
    assert thaw(leash.store, "one").identities[0].changed
    assert agent.get("doc:{a}") is None


def test_reason_of_hostile_bytes_is_cut_and_stops_no_operator(leash: Leash) -> None:
    """An agent with a circuit breaker writes it, and every denial repeats it."""
    breaker = {"on_denials": {"threshold": "5/minute", "suspend": "1h"}}
    leash.load(one={**ALL, **breaker})
    token = leash.issue("one").token
    leash.admin.setrange(NAMES.state("one"), 8, numbers(2.0**51))
    wrong = {
        "reason": b"\xff\0" * 500_000,
        "until_ms": "nan",
        "since_ms": "9" * 5000,
        "by": b"\xfe",
    }
    leash.admin.hset(NAMES.suspension("one"), mapping=wrong)

    for answer in answers(leash, token):
        assert str(answer) == f"LEASH SUSPENDED reason={'%FF%00' * 64} until_ms={2**51 // 1000 + 1}"
    assert leash.admin.memory_usage(NAMES.denied("one")) < 100_000
    (frozen,) = freeze(leash.store, "one", reason="why", duration="60s").identities
    assert (frozen.changed, frozen.until_ms) == (False, 2**51 // 1000 + 1)


@pytest.mark.parametrize("until", ["nan", "inf", "soon", "1e400", "-5", ""], ids=str)
def test_recorded_end_of_hostile_bytes_stops_no_load(leash: Leash, until: str) -> None:
    """Whose state was lost is suspended as recorded; of what is no time until it is thawed."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    leash.admin.delete(NAMES.state("one"))
    leash.admin.hset(NAMES.suspension("one"), mapping={"reason": "why", "until_ms": until})

    leash.load(one=ALL)

    assert leash.call("one", token, *SET) == "LEASH SUSPENDED reason=why"


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("size", [1, 8, 15, 23, 25])
def test_short_state_stops_no_load_and_is_denied(
    leash: Leash, limit: dict[str, Any], size: int
) -> None:
    """One agent's state must not keep others from their new policy, nor begin again at 0."""
    leash.load(one={**ALL, **limit}, two=ALL)
    first, second = leash.agent("one"), leash.agent("two")
    leash.admin.set(NAMES.state("one"), leash.state("one")[:size])

    retained = {"audit": {"retain": 1000}}
    leash.load(one={**ALL, **limit, **retained}, two={**ALL, **retained})

    assert second.set("doc:{a}", "x")
    with pytest.raises((keyleash.SuspendedError, keyleash.CounterCorruptError)):
        first.set("doc:{a}", "x")
    thaw(leash.store, "one")
    with pytest.raises(keyleash.CounterCorruptError):
        first.set("doc:{a}", "x")
    reset_limits(leash.store, "one", reason="the counter was overwritten")
    assert first.set("doc:{a}", "x")


@pytest.mark.parametrize(
    "entries",
    [[b"x"], [b""], [b"x" * 8], [numbers(NAN)], [numbers(INFINITY)], [b"\0" * 8] * 20_000],
    ids=["short", "empty", "text", "nan", "infinity", "many"],
)
def test_list_of_denials_of_hostile_bytes_suspends(leash: Leash, entries: list[bytes]) -> None:
    """It counts as full, and a list longer than any policy's is not gone through."""
    breaker = {"on_denials": {"threshold": "2/minute", "suspend": "1h"}}
    leash.load(one={**ALL, **breaker})
    token = leash.issue("one").token
    leash.admin.rpush(leash.names_at("{a}").refused("one"), *entries)
    leash.admin.config_resetstat()

    leash.call("one", token, "GET", "{a}nowhere")

    assert str(leash.call("one", token, "GET", "doc:{a}")).startswith("LEASH SUSPENDED")
    pops = leash.admin.info("commandstats").get("cmdstat_lpop", {"calls": 0})
    assert pops["calls"] <= 1000


@pytest.mark.parametrize("value", [b"nan", b"-inf", b"1e400", b"0x7", b"x", b"9" * 400, b""])
def test_counts_of_denials_of_hostile_bytes_leave_a_denial(leash: Leash, value: bytes) -> None:
    """In each field of the hash that counts denials of one kind."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    for command in ("GET", "SET", "GET"):
        fields = leash.admin.hgetall(NAMES.repeats("one"))
        leash.admin.hset(
            NAMES.repeats("one"), mapping={"seq": value, **dict.fromkeys(fields, value)}
        )
        leash.admin.hset(NAMES.repeats("one"), mapping={"folded": value, "id:x": value, "x": value})
        answer = leash.call("one", token, command, "nowhere", *(["x"] if command == "SET" else []))
        assert answer == "LEASH KEY_NOT_GRANTED key=nowhere"


@thorough(40)
@given(st.binary(max_size=64), st.lists(st.floats(width=64), max_size=6))
def test_any_bytes_are_answered(leash: Leash, record: bytes, doubles: list[float]) -> None:
    """In every control key that an agent may write, at once or alone."""
    limits: dict[str, dict[str, Any]] = {"rate": {}, "budget": {}}
    limits["rate"]["writes"] = {"limit": "3/minute", "per": "token"}
    limits["rate"]["requests"] = {"limit": "3/minute", "burst": 2, "per": "{kind}"}
    limits["budget"]["writes"] = {"limit": "3/day", "per": "{kind}"}
    if not leash.admin.exists(NAMES.policy):
        leash.load(one={**ALL, **limits})
    token = leash.issue("one").token
    for value in (record, numbers(*doubles), numbers(*doubles) + record):
        leash.admin.delete(NAMES.repeats("one"))
        for key in leash.counters("one"):
            leash.admin.set(key, value or b"\0")
        assert is_answer(leash.call("one", token, *SET))
        if value:
            leash.admin.setrange(NAMES.state("one"), 8, value[:64])
        assert is_answer(leash.call("one", token, *SET))
        assert is_answer(leash.call("one", token, "SET", "doc:{b}", "x"))
        leash.admin.setrange(NAMES.state("one"), 8, b"\0" * 64)


def test_any_record_is_that_of_a_token() -> None:
    """A record that is too short, or has no times, is read as expired."""
    for data in (b"", b"x", numbers(NAN, NAN), b"\xff" * 40):
        assert TokenRecord.unpack(data).expires_us == 0
