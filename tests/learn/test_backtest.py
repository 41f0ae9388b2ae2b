"""Recorded calls under another policy, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import keyleash
from keyleash.addons.learn.backtest import Outcome, Replay, example_of
from keyleash.addons.learn.calls import CallLog, Coverage, RecordedCall
from keyleash.commands import known_table
from keyleash.limits import Counter
from keyleash.policy import parse_policy
from support.servers import RealServer

POLICY = """\
version: 1
identities:
  one:
    kind: machine
    grants:
      - {allow: [read, write], keys: ["a:{x}", "c"]}
      - {allow: [publish], channels: ["ev:*"]}
      - {allow: [write], keys: ["v:*"], values: {max_bytes: 10b}}
      - {allow: [write], keys: ["n:*"], values: {max_elements: 2}}
      - {allow: [read, write, delete], keys: ["l:*"], scripts: [redis-py-lock]}
    deny: [{keys: ["a:no"]}]
    rate: {writes: 3/minute}
    on_denials: {threshold: 3/minute, suspend: 1m}
"""
NEW = parse_policy(POLICY, file="new.yaml", commands=known_table())
DENIED, ALLOWED, SAME, OPEN = (
    Outcome.DENIED, Outcome.ALLOWED, Outcome.UNCHANGED, Outcome.UNDECIDED
)  # fmt: skip


def call(command: str, *keys: bytes, time_ms: int = 1_000_000, **facts: Any) -> RecordedCall:
    return RecordedCall("one", time_ms, command, keys, "token", **facts)


def words(*argv: bytes) -> dict[str, Any]:
    return {"argv": argv}


@pytest.mark.parametrize(
    ("recorded", "outcome", "rule"),
    [
        (call("GET", b"a:1"), SAME, "grant of `a:{x}`"),
        (call("GET", b"b"), DENIED, "KEY_NOT_GRANTED"),
        (call("GET", b"a:no"), DENIED, "KEY_DENIED `a:no`"),
        (call("DEL", b"a:1"), DENIED, "CLASS_NOT_GRANTED delete"),
        (call("COPY", b"a:1", b"b"), DENIED, "KEY_NOT_GRANTED"),
        (call("PUBLISH", b"ev:1"), SAME, "a grant of the command"),
        (call("PUBLISH", b"x"), DENIED, "CHANNEL_NOT_GRANTED"),
        (call("SCAN", b"a:*"), DENIED, "CLASS_NOT_GRANTED scan"),
        (call("FT.SEARCH", b"i"), DENIED, "COMMAND_REFUSED FT.SEARCH"),
        (call("SORT", b"a:1"), OPEN, "patterns of keys in the arguments"),
        (call("GET", b"a:1", script="tidy"), DENIED, "no grant approves the script tidy"),
        (call("GET", b"l:1", script="redis-py-lock"), OPEN, "KEYS of the script"),
        (call("GET", b"a:1", depth=1), DENIED, "delegate.depth 0"),
        # SET … GET reads; the log may not know.
        (call("SET", b"v:1", is_variant=None), OPEN, "options of the call"),
        # What is shown of a masked key decides if patterns match all such keys, or none.
        (call("GET", b"a:#" + b"0" * 40), OPEN, "masked keys"),
        (call("GET", b"l:x#" + b"0" * 40), SAME, "grant of `l:*`"),
        (call("GET", b"z:#" + b"0" * 40), DENIED, "KEY_NOT_GRANTED"),
        # Only a guard decides by rules for values.
        (call("SET", b"v:1"), OPEN, "rules for values"),
        (call("SET", b"v:1", **words(b"SET", b"v:1", b"short")), OPEN, "rules for values"),
        (call("RPUSH", b"n:1", **words(b"RPUSH", b"n:1", b"x")), OPEN, "rules for values"),
        # Denied calls, of which one key at most is recorded.
        (call("GET", b"a:1", code="KEY_NOT_GRANTED"), ALLOWED, "grant of `a:{x}`"),
        (call("GET", b"b", code="KEY_NOT_GRANTED"), SAME, "KEY_NOT_GRANTED"),
        (call("MGET", b"a:1", code="KEY_NOT_GRANTED"), OPEN, "KEY_NOT_GRANTED, perhaps"),
        (call("MGET", b"b", code="KEY_NOT_GRANTED"), SAME, "KEY_NOT_GRANTED"),
        (call("PUBLISH", b"ev:1", code="CHANNEL_NOT_GRANTED"), ALLOWED, "a grant of the command"),
        (
            call("DEL", code="CLASS_NOT_GRANTED", reason="delete"),
            OPEN,
            "CLASS_NOT_GRANTED, perhaps",
        ),
        (call("SCAN", code="CLASS_NOT_GRANTED", reason="scan"), SAME, "CLASS_NOT_GRANTED scan"),
        (call("FLUSHALL", code="COMMAND_REFUSED"), SAME, "COMMAND_REFUSED FLUSHALL"),
        (call("SORT", code="COMMAND_REFUSED"), OPEN, "COMMAND_REFUSED, perhaps"),
        (call("SET", b"a:1", code="VALUE_REFUSED"), OPEN, "VALUE_REFUSED, perhaps"),
        (call("SET", b"b", code="VALUE_REFUSED"), SAME, "KEY_NOT_GRANTED"),
        (call("SET", b"a:1", code="RATE_LIMITED"), ALLOWED, ""),
        (call("SET", b"a:1", code="TOKEN_EXPIRED"), SAME, "TOKEN_EXPIRED"),
    ],
)
def test_a_call_is_decided_by_what_the_log_says(
    recorded: RecordedCall, outcome: Outcome, rule: str
) -> None:
    """Arguments and data that are not recorded leave a call undecided, never allowed."""
    found, ruling = Replay(NEW).outcome(recorded)

    assert found is outcome, ruling
    assert ruling.rule.startswith(rule)


def test_an_unknown_identity_is_denied() -> None:
    """The policy may have left it out."""
    found, ruling = Replay(NEW).outcome(RecordedCall("two", 1, "GET", (b"a:1",)))

    assert (found, ruling.rule) == (DENIED, "the policy has no such identity")


def test_keys_of_scripts_are_decided_if_none_is_lost() -> None:
    """An event has the commands of a script, and not its KEYS."""
    lost = parse_policy(POLICY.replace('"c"', '"d"'), file="lost.yaml", commands=known_table())
    denying = parse_policy(POLICY.replace("a:no", "a:n"), file="d.yaml", commands=known_table())
    ran = call("GET", b"l:1", script="redis-py-lock")
    denied = call("EVALSHA", script="redis-py-lock", code="KEY_NOT_GRANTED")

    assert Replay(NEW, NEW).outcome(ran)[0] is SAME
    assert [Replay(x, NEW).outcome(ran)[0] for x in (lost, denying)] == [OPEN, OPEN]
    assert Replay(NEW, NEW).outcome(denied)[0] is OPEN


def test_limits_are_charged_by_time_and_a_script_once() -> None:
    """A call after the window is allowed again, and a hit says by how much."""
    replay = Replay(NEW)
    script: dict[str, Any] = {"script": "redis-py-lock"}
    cost = {Counter.REQUESTS: 1, Counter.WRITES: 1}
    calls = [
        call("SET", b"l:1", cost=cost, **script),
        call("SET", b"l:1", **script),
        *(call("SET", b"a:1") for _ in range(4)),
        call("GET", b"a:1"),
        call("SET", b"a:1", time_ms=1_060_000),
    ]

    found = [replay.outcome(item)[0] for item in calls]

    assert found == [OPEN, OPEN, SAME, SAME, DENIED, DENIED, SAME, SAME]
    (hit,) = replay.hits.values()
    assert (hit.limit, hit.calls, hit.worst) == ("rate.writes", 2, 2)


class Log(CallLog):
    """A log without calls, with a coverage."""

    def __init__(self, **coverage: Any) -> None:
        super().__init__("a log", None)
        self.coverage["one"] = Coverage("one", **coverage)


def test_a_limit_of_requests_needs_recorded_reads() -> None:
    """Reads that are not recorded may have used it up; the active policy's own limit allowed."""
    limited = parse_policy(
        POLICY.replace("writes: 3/minute", "requests: 3/minute"), file="r.yaml", commands=None
    )
    rule = "rate.requests, which counts reads, and these are not recorded"

    found, ruling = Replay(limited, NEW, log=Log(since_ms=1)).outcome(call("SET", b"a:1"))

    assert (found, ruling.rule) == (OPEN, rule)
    assert Replay(limited, limited, log=Log(since_ms=1)).outcome(call("SET", b"a:1"))[0] is SAME
    recorded = Log(since_ms=1, reads_since_ms=1)
    assert Replay(limited, NEW, log=recorded).outcome(call("SET", b"a:1"))[0] is SAME


def test_a_cut_log_does_not_decide_limits_at_its_beginning() -> None:
    """Calls that were trimmed may have used up what a later call was denied."""
    log = Log(since_ms=1_000_000, reads_since_ms=1, is_cut=True)
    replay = Replay(NEW, NEW, log=log)
    denied: dict[str, Any] = {"code": "RATE_LIMITED", "reason": "rate.writes"}

    early, ruling = replay.outcome(call("SET", b"a:1", time_ms=1_059_999, **denied))
    late, _ = replay.outcome(call("SET", b"a:1", time_ms=1_060_000, **denied))

    assert (early, late) == (OPEN, ALLOWED)
    assert ruling.rule == "rate.writes, whose use before 1970-01-01 00:16:40Z is not in the log"
    assert replay.outcome(call("SET", b"a:1"))[0] is SAME
    log.coverage["one"].is_cut = False
    assert Replay(NEW, NEW, log=log).outcome(call("SET", b"a:1", **denied))[0] is ALLOWED


def test_a_capture_masks_no_key() -> None:
    """A client may choose a name that looks like a masked one."""
    log = Log(reads_since_ms=0)
    log.is_capture = True

    assert Replay(NEW, log=log).outcome(call("GET", b"a:#" + b"0" * 40))[0] is SAME


def test_a_breaker_that_would_suspend_denies_what_follows() -> None:
    """Denials of the new policy have the consequences that they would have."""
    replay = Replay(NEW)

    denied = [replay.outcome(call("GET", b"b"))[0] for _ in range(3)]
    after, ruling = replay.outcome(call("GET", b"a:1", time_ms=1_030_000))
    later, _ = replay.outcome(call("GET", b"a:1", time_ms=1_060_000))

    assert denied == [DENIED] * 3
    assert (after, ruling.rule) == (DENIED, "on_denials: 3/minute")
    assert later is SAME


def test_what_the_active_policy_enforces_is_decided() -> None:
    """It allowed the calls since its activation, with arguments that no log has."""
    replay = Replay(NEW, NEW, since_ms=500)

    assert replay.outcome(call("SET", b"v:1", time_ms=499))[0] is OPEN
    assert replay.outcome(call("SET", b"v:1", time_ms=500))[0] is SAME
    assert replay.outcome(call("SORT", b"a:1"))[0] is SAME


def test_a_batch_with_a_denied_command_is_undecided(embedded: RealServer, tmp_path: Path) -> None:
    """The log does not say whether it is denied as a whole; a capture has its bounds too."""
    old = "version: 1\nidentities:\n  one:\n    kind: machine\n    grants:\n      - {}\n"
    operator = keyleash.Operator(embedded.client())
    operator.load(keyleash.Policy(old.format('{allow: [read, write], keys: ["*"]}')))
    agent = keyleash.Redis.from_url(embedded.url, token=operator.tokens.issue("one").token)
    with agent.pipeline() as pipe:
        pipe.set("a", 1)
        pipe.set("z", 1)
        pipe.execute()
    agent.set("a", 1)
    calls = ("HELLO 2 SETNAME one", "MULTI", "SET a 1", "SET z 1", "EXEC", "SET a 1")
    quoted = (line.replace(" ", '" "') for line in calls)
    capture = tmp_path / "capture.txt"
    capture.write_text("".join(f'17.000001 [0 c:1] "{line}"\n' for line in quoted))
    new = keyleash.Policy(old.format('{allow: [read, write], keys: ["a"]}'))

    for found in (operator.backtest(new), operator.backtest(new, monitor=capture)):
        assert found.outcomes == {SAME: 1, DENIED: 1, ALLOWED: 0, OPEN: 1}
        assert "another command of the batch" in found.rows[-1].rule


def test_a_denial_and_an_event_with_one_id_are_two_calls() -> None:
    """They are in two streams, which number their entries apart."""
    denied = call("GET", b"b", event="17-0", code="KEY_NOT_GRANTED")
    calls = [call("GET", b"b", event="17-0"), denied]

    assert [outcome for _, outcome, _ in Replay(NEW, NEW).outcomes(calls)] == [DENIED, SAME]


def test_a_batch_with_an_undecided_command_is_undecided() -> None:
    """It may deny all of it."""
    batch = [call("SORT", b"a:1", event="1"), call("SET", b"a:1", event="1")]
    later = call("SET", b"a:1", event="2")

    found = [outcome for _, outcome, _ in Replay(NEW).outcomes([*batch, later])]

    assert found == [OPEN, OPEN, SAME]


def test_a_denial_by_restrictions_of_a_token_stays(embedded: RealServer) -> None:
    """The active policy granted the call."""
    text = "version: 1\nidentities:\n  one:\n    kind: machine\n    token: {bound: true}\n"
    policy = keyleash.Policy(f"{text}    grants: [{{allow: [read, write], keys: ['j:{{id}}:s']}}]")
    operator = keyleash.Operator(embedded.client())
    operator.load(policy)
    token = operator.tokens.issue("one", bind={"id": "4"}, allow=["read"]).token
    agent = keyleash.Redis.from_url(embedded.url, token=token)
    for words in (("GET", "j:5:s"), ("SET", "j:4:s", "x"), ("SET", "j:5:s", "x")):
        with pytest.raises(keyleash.LeashError):
            agent.execute_command(*words)

    assert operator.backtest(policy).outcomes[SAME] == 3


def test_an_example_has_no_value_of_a_client() -> None:
    """Values may be secrets."""
    recorded = call("SET", b"b", argv=(b"SET", b"b", b"s3cret", b"EX", b"9"))

    assert example_of(recorded) == (b"SET", b"b", b"1")
