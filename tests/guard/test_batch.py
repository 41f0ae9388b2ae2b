"""Many commands in one call: judged before the first one runs, counted once, one event."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.audit.read import read_events
from keyleash.operator.suspension import freeze
from keyleash.store.records import guard_record
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS
from support.leash import NAMES, Leash, grant

ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*")]}


def test_replies_stand_in_the_order_of_the_commands(leash: Leash) -> None:
    """Nulls, errors and refusals each in their place."""
    leash.load(one=ALL)
    token = leash.issue("one").token

    assert leash.batch(
        "one",
        token,
        "each",
        ("SET", "doc:{d}1", "x"),
        ("GET", "doc:{d}none"),
        ("GET", "{d}other"),
        ("LPUSH", "doc:{d}1", "y"),
        ("GET", "doc:{d}1"),
        ("NOSUCH", "doc:{d}1"),
    ) == [
        b"OK",
        None,
        "LEASH KEY_NOT_GRANTED key=%7Bd%7Dother",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        b"x",
        "LEASH COMMAND_REFUSED command=NOSUCH",
    ]


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_have_the_shapes_of_resp2_whatever_the_caller_speaks(
    leash: Leash, protocol: int
) -> None:
    """Doubles are text, maps flat lists in their order, and a null ends no array."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    leash.admin.xgroup_create("doc:{d}x", "g", mkstream=True)
    fields = [name for number in range(9) for name in (f"f{number}", "v")]

    assert leash.batch(
        "one",
        token,
        "all",
        ("ZADD", "doc:{d}z", 1.5, "m"),
        ("ZSCORE", "doc:{d}z", "m"),
        ("ZMSCORE", "doc:{d}z", "none", "m", "none"),
        ("SADD", "doc:{d}s", "a"),
        ("SMEMBERS", "doc:{d}s"),
        ("HSET", "doc:{d}h", *fields),
        ("HGETALL", "doc:{d}h"),
        ("MGET", "doc:{d}none", "doc:{d}none", "doc:{d}none"),
        ("GEOPOS", "doc:{d}z", "none"),
        ("BITFIELD", "doc:{d}b", "OVERFLOW", "FAIL", "SET", "u8", "0", "300"),
        ("XPENDING", "doc:{d}x", "g"),
        ("ZSCORE", "doc:{d}z", "none"),
        protocol=protocol,
    ) == [
        *(1, b"1.5", [None, b"1.5", None], 1, [b"a"], 9, [name.encode() for name in fields]),
        *([None] * 3, [None], [None], [0, None, None, None], None),
    ]


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (("GET", "{d}other"), "KEY_NOT_GRANTED key=%7Bd%7Dother"),
        (("FLUSHALL",), "COMMAND_REFUSED command=FLUSHALL"),
        (("INCR", "doc:{d}n"), "BUDGET_EXHAUSTED limit=budget.writes"),
    ],
)
def test_refusal_in_a_batch_of_all_refuses_the_whole(
    leash: Leash, command: tuple[str, ...], refusal: str
) -> None:
    """Nothing runs, nothing is counted, and the refusal names the item."""
    leash.load(one={**ALL, "budget": {"writes": "2/month"}})
    token = leash.issue("one").token
    before = leash.spent("one")

    answer = leash.batch(
        "one", token, "all", ("SET", "doc:{d}1", "x"), ("SET", "doc:{d}2", "x"), command, ("PING",)
    )

    assert answer.startswith(f"LEASH {refusal}")
    assert answer.endswith(" item=3")
    assert leash.spent("one") == before
    assert leash.admin.keys("doc:*") == []
    assert leash.events("one") == []
    (denial,) = leash.denials("one")
    assert denial["op"] == command[0]


@pytest.mark.parametrize(
    "limit",
    [
        {"rate": {"writes": "3/hour"}},
        {"rate": {"writes": {"limit": "3/hour", "burst": 3}}},
        {"budget": {"writes": "3/month"}},
        {"rate": {"writes": {"limit": "3/hour", "per": "token"}}},
        {"rate": {"writes": {"limit": "3/hour", "burst": 3, "per": "token"}}},
        {"budget": {"writes": {"limit": "3/month", "per": "token"}}},
    ],
    ids=str,
)
def test_each_command_of_a_batch_counts(leash: Leash, limit: dict[str, Any]) -> None:
    """Within one batch, over several, and together with single calls: three pass."""
    leash.load(one={**ALL, **limit})
    token = leash.issue("one").token

    def passed(count: int) -> int:
        writes = [("SET", "doc:{d}1", "x")] * count
        replies: list[Any] = leash.batch("one", token, "each", *writes)
        return replies.count(b"OK")

    assert leash.call("one", token, "SET", "doc:{d}1", "x") == b"OK"
    assert passed(1) == 1
    assert passed(5) == 1
    assert passed(5) == 0


def test_command_refused_by_its_second_limit_leaves_the_first_as_it_was(leash: Leash) -> None:
    """All limits of a command are taken or none, also in the middle of a batch."""
    leash.load(one={**ALL, "rate": {"requests": "9/hour"}, "budget": {"writes": "1/month"}})
    token = leash.issue("one").token

    answer = leash.batch("one", token, "each", *[("SET", "doc:1", "x")] * 7, ("GET", "doc:1"))

    assert answer[0] == b"OK"
    assert all("BUDGET_EXHAUSTED" in item for item in answer[1:7])
    assert answer[7] == b"x"
    # Two of nine requests are taken.
    gets = leash.batch("one", token, "each", *[("GET", "doc:1")] * 9)
    assert gets.count(b"x") == 7


def test_segments_are_counted_apart_within_a_batch(leash: Leash) -> None:
    """`per` a captured segment holds inside a batch as between calls."""
    leash.load(
        one={
            "grants": [grant("write", keys="doc:{space}:*")],
            "budget": {"writes": {"limit": "2/month", "per": "{space}"}},
        }
    )
    token = leash.issue("one").token
    keys = ["doc:a:1", "doc:b:1", "doc:a:2", "doc:a:3", "doc:b:2", "doc:b:3"]

    answer = leash.batch("one", token, "each", *[("SET", key, "x") for key in keys])

    assert [item == b"OK" for item in answer] == [True, True, True, False, True, False]


def test_batch_is_one_event_that_lists_what_changes(leash: Leash) -> None:
    """Reads and refusals are not in it; a failure is corrected at its place."""
    leash.load(one=ALL)
    issued = leash.issue("one")
    leash.batch(
        "one",
        issued.token,
        "each",
        ("SET", "doc:{d}1", "x"),
        ("GET", "doc:{d}1"),
        ("SET", "{d}other", "x"),
        ("MSET", "doc:{d}2", "x", "doc:{d},3", "y"),
        ("LPUSH", "doc:{d}1", "x"),
        ("XGROUP", "create", "doc:{d}s", "g", "$", "MKSTREAM"),
    )

    assert leash.admin.xlen(leash.audit_name("one")) == 2
    events = list(read_events(leash.store, ["one"]))
    assert [(event.op, event.keys, event.item) for event in events] == [
        ("SET", (b"doc:{d}1",), 1),
        ("MSET", (b"doc:{d}2", b"doc:{d},3"), 2),
        ("LPUSH", (b"doc:{d}1",), 3),
        ("XGROUP CREATE", (b"doc:{d}s",), 4),
    ]
    assert {event.id for event in events} == {events[0].id}
    assert {event.token for event in events} == {issued.id}
    assert [event.error is None for event in events] == [True, True, False, True]


def test_batch_that_only_reads_leaves_no_event(leash: Leash) -> None:
    """As single reads do."""
    leash.load(one=ALL)
    leash.batch("one", leash.issue("one").token, "all", ("GET", "doc:1"), ("PING",))

    assert leash.events("one") == []


@pytest.mark.parametrize("mode", ["each", "all"])
def test_batch_over_its_bounds_is_refused_whole(leash: Leash, mode: str) -> None:
    """1,000 commands or 7,000 values pass, one more does not."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    pings = [("PING",)] * MAX_BATCH_COMMANDS
    wide = ("MGET", *["doc:{kl}1"] * (MAX_ARGUMENTS - 2))

    assert len(leash.batch("one", token, mode, *pings)) == MAX_BATCH_COMMANDS
    assert leash.batch("one", token, mode, *pings, ("PING",)) == (
        f"LEASH ARGS_TOO_MANY commands={MAX_BATCH_COMMANDS + 1}"
    )
    assert len(leash.batch("one", token, mode, wide, ("PING",))) == 2
    assert leash.batch("one", token, mode, wide, ("PING",), ("PING",)) == (
        f"LEASH ARGS_TOO_MANY arguments={MAX_ARGUMENTS + 1}"
    )
    # It is about the whole, and about no command or key before the bound.
    assert [(denial["op"], denial["key"]) for denial in leash.denials("one")] == [("BATCH", "")]
    assert leash.refusals("one") == 2


@pytest.mark.parametrize(
    ("items", "refusal"),
    [
        (["x", "PING"], "COMMAND_REFUSED size=x item=1"),
        (["1", "PING", "3", "GET", "doc:{d}1"], "COMMAND_REFUSED size=3 item=2"),
        (["0", "PING"], "COMMAND_REFUSED size=0 item=1"),
        (["-1", "PING"], "COMMAND_REFUSED size=-1 item=1"),
        (["1.5", "PING", "x"], "COMMAND_REFUSED size=1.5 item=1"),
        (["nan", "PING", "x"], "COMMAND_REFUSED size=nan item=1"),
        (["1", "PING", "1"], "COMMAND_REFUSED size=1 item=2"),
    ],
)
def test_malformed_batch_is_refused_whole(leash: Leash, items: list[str], refusal: str) -> None:
    """The intended commands cannot be determined."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    record = guard_record(leash.admin.hgetall(NAMES.guard("one")))
    assert record is not None

    for mode in ("each", "all"):
        answer = leash.raw("one", [], token, "c", mode, *items, digest=record.batch_digest)
        assert answer == f"LEASH {refusal}"
    unknown = leash.raw("one", [], token, "c", "some", *items, digest=record.batch_digest)
    assert unknown == "LEASH COMMAND_REFUSED mode=some"


def test_batch_without_a_token_is_refused(leash: Leash) -> None:
    """A call without any word, too."""
    leash.load(one=ALL)

    digest = leash.record("one").batch_digest
    assert leash.raw("one", [], digest=digest) == "LEASH TOKEN_UNKNOWN"


def test_keys_of_a_batch_must_be_declared_in_order(leash: Leash) -> None:
    """Each command's keys are declared in its place, also if other commands are denied."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    record = guard_record(leash.admin.hgetall(NAMES.guard("one")))
    assert record is not None

    def answer(mode: str, keys: list[str], *items: str) -> Any:
        found = leash.raw("one", keys, token, "c", mode, *items, digest=record.batch_digest)
        return [str(item) for item in found] if isinstance(found, list) else found

    two = ("2", "GET", "doc:{d}1", "2", "GET", "doc:{d}2")
    assert answer("each", ["doc:{d}1", "doc:{d}2"], *two) == ["None", "None"]
    assert answer("each", ["doc:{d}2", "doc:{d}1"], *two) == ["None", "LEASH KEYS_MISMATCH"]
    assert answer("each", ["doc:{d}1"], *two) == ["None", "LEASH KEYS_MISMATCH"]
    assert answer("each", ["doc:{d}2"], *two) == ["LEASH KEYS_MISMATCH", "None"]
    assert answer("all", ["doc:{d}1"], *two) == "LEASH KEYS_MISMATCH item=2"
    assert answer("all", ["doc:{d}1", "doc:{d}2", "doc:{d}3"], *two) == "LEASH KEYS_MISMATCH"
    # A caller that does not know what is refused declares its keys too.
    assert answer(
        "each", ["{d}other", "doc:{d}2"], "2", "NOSUCH", "{d}other", "2", "GET", "doc:{d}2"
    ) == ["LEASH COMMAND_REFUSED command=NOSUCH", "None"]


def test_keys_of_no_command_are_not_searched_again_and_again(leash: Leash) -> None:
    """As many as commands can have are passed over, in a batch; past these, none is found."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    record = guard_record(leash.admin.hgetall(NAMES.guard("one")))
    assert record is not None

    def answer(needless: int) -> Any:
        keys = ["{d}other"] * needless + ["doc:{d}1"]
        items = ("2", "GET", "doc:{d}1")
        return leash.raw("one", keys, token, "c", "each", *items, digest=record.batch_digest)

    assert answer(MAX_ARGUMENTS) == [None]
    assert [str(item) for item in answer(MAX_ARGUMENTS + 1)] == ["LEASH KEYS_MISMATCH"]


def test_batch_of_a_suspended_or_unknown_caller_is_refused_whole(leash: Leash) -> None:
    """Who calls is asked once, before anything else."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    for mode in ("each", "all"):
        assert leash.batch("one", "kl_one_x", mode, ("PING",)) == "LEASH TOKEN_UNKNOWN"
    freeze(leash.store, "one", reason="x")
    assert leash.batch("one", token, "each", ("PING",)) == "LEASH SUSPENDED reason=x"


def test_batch_script_of_an_earlier_policy_is_stale(leash: Leash) -> None:
    """It goes with its guard."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    record = leash.record("one")
    leash.load(one={"grants": [grant("read", keys="doc:*")]})

    answer = leash.raw("one", [], token, "c", "each", "1", "PING", digest=record.batch_digest)
    assert answer == "LEASH POLICY_STALE"


def test_big_integer_in_a_batch_is_exact(leash: Leash) -> None:
    """As text, which the client makes a number again."""
    leash.load(one=ALL)
    leash.admin.set("doc:{d}n", 2**53)
    leash.admin.hset("doc:{d}h", "f", -(2**60))

    assert leash.batch(
        "one",
        leash.issue("one").token,
        "each",
        ("INCR", "doc:{d}n"),
        ("HINCRBY", "doc:{d}h", "f", "-1"),
    ) == [b"%d" % (2**53 + 1), b"%d" % (-(2**60) - 1)]


def test_command_without_its_arguments_does_not_reach_into_the_next(leash: Leash) -> None:
    """Its key is missing, whatever stands behind it: that is its own error."""
    leash.load(one={"grants": [grant("read", "write", keys="*")]})
    token = leash.issue("one").token

    answers = leash.batch(
        "one", token, "all", ("GET",), ("COPY", "doc:1"), ("XGROUP",), ("SET", "doc:1", "x")
    )
    assert answers == "LEASH COMMAND_REFUSED command=XGROUP%20 item=3"
    answers = leash.batch("one", token, "all", ("GET",), ("COPY", "doc:1"), ("SET", "doc:1", "x"))
    assert answers == [
        "wrong number of arguments for 'get' command",
        "wrong number of arguments for 'copy' command",
        b"OK",
    ]
