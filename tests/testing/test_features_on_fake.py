"""The same calls on the fake and on a real server: ids, children, renewal, values, bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

import keyleash
from keyleash.addons.testing.leash import FakeLeash, LeashServer
from support.servers import RealServer

POLICY = """
version: 1
identities:
  runner:
    kind: machine
    token: {ttl: 5m, max_ttl: 1h, bound: true, renew: true}
    grants:
      - {allow: [read, write, delete], keys: ["jobs:{job_id}:*"]}
      - {allow: [read, write], keys: ["shared:*"]}
    delegate: {depth: 2, children: 2, max_ttl: 1h}
    idempotency: {keep: 1h, max_reply: 1kb}
  writer:
    kind: machine
    grants:
      - allow: [read, write, delete]
        keys: ["v:*"]
        values: {max_bytes: 100b, max_elements: 3, ttl: {default: 1d, max: 7d}}
      - {allow: [write], keys: ["new:*"], values: {only: absent}}
    budget: {bytes_written: 2kb/day, bytes_read: 1kb/day}
"""
BINARY = bytes(range(256))

AnyLeash = FakeLeash | LeashServer


@pytest.fixture
def pair(embedded: RealServer) -> Iterator[tuple[AnyLeash, AnyLeash]]:
    """The fake and a real server, with the same policy."""
    with contextlib.ExitStack() as stack:
        found = FakeLeash(Path()), LeashServer(embedded, Path())  # type: ignore[arg-type]
        for leash in found:
            stack.callback(leash.close)
            leash.load(POLICY)
        yield found


def outcome(call: Callable[[], Any]) -> Any:
    """Return a result, or what an error says; without ids and times."""
    try:
        return plain(call())
    except keyleash.LeashError as denial:
        varying = {"token", "ancestor", "until_ms", "resets_at_ms", "retry_after_ms"}
        shown = {name: value for name, value in denial.details.items() if name not in varying}
        return type(denial).__name__, shown
    except ResponseError as error:
        return type(error).__name__, str(error)


def plain(reply: Any) -> Any:
    """Make 1 and True differ, and errors inside a reply comparable."""
    if isinstance(reply, list | tuple):
        return [plain(item) for item in reply]
    return type(reply).__name__, str(reply) if isinstance(reply, Exception) else reply


def same(pair: tuple[AnyLeash, AnyLeash], scenario: Callable[[AnyLeash], list[Any]]) -> list[Any]:
    """Return the outcomes of a scenario, which are those of both servers."""
    fake, real = (scenario(leash) for leash in pair)
    assert fake == real
    return fake


CALLS: list[tuple[Any, ...]] = [
    ("SET", "jobs:1:s", BINARY),
    ("SETNX", "jobs:1:s", "x"),
    ("GETSET", "jobs:1:s", "plain"),
    ("APPEND", "jobs:1:s", "!"),
    ("GETDEL", "jobs:1:s"),
    ("GETDEL", "jobs:1:s"),
    ("INCR", "jobs:1:n"),
    ("INCRBYFLOAT", "jobs:1:n", "0.5"),
    ("RPUSH", "jobs:1:l", "a", BINARY, "", "d", "e"),
    ("LPOP", "jobs:1:l", 2),
    ("LPOP", "jobs:1:l"),
    ("LPOP", "jobs:1:none"),
    ("LMPOP", 1, "jobs:1:l", "LEFT", "COUNT", 2),
    ("ZADD", "jobs:1:z", 1.5, "m", 2, "n"),
    ("ZPOPMIN", "jobs:1:z", 2),
    ("HSET", "jobs:1:h", "f", "1"),
    ("LPUSH", "jobs:1:h", "x"),
    ("INCR", "jobs:1:h"),
    ("EXPIRE", "jobs:1:h", 100),
    ("XADD", "jobs:1:x", "1-1", "f", BINARY),
    ("XGROUP", "CREATE", "jobs:1:x", "g", "0"),
    ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "jobs:1:x", ">"),
    ("XAUTOCLAIM", "jobs:1:x", "g", "d", 0, "0"),
    ("SET", "jobs:1:s", 900 * "x"),
    ("GETDEL", "jobs:1:s"),
    ("SET", "jobs:1:s", 1100 * "x"),
    ("GETDEL", "jobs:1:s"),
    ("SET", "other", "denied"),
    ("GET", "jobs:1:n"),
]


def test_replies_to_ids_replay_as_on_a_real_server(pair: tuple[AnyLeash, AnyLeash]) -> None:
    """Each of them twice: status, nil, numbers, nested lists, any bytes, errors, too long ones."""

    def scenario(leash: AnyLeash) -> list[Any]:
        agent = leash.client("runner")
        found = []
        for number, words in enumerate(CALLS):
            for _ in range(2):
                once = f"call-{number}"
                found.append(outcome(lambda: agent.execute_command(*words, once=once)))  # noqa: B023
        return [*found, len(leash.events("runner")), len(leash.denials("runner"))]

    *found, events, denials = same(pair, scenario)
    first, second = found[::2], found[1::2]
    differing = [words for words, a, b in zip(CALLS, first, second, strict=True) if a != b]
    assert differing == [CALLS[-3]]
    assert second[-3][0] == "ReplayedError"
    assert (events, denials) == (len(CALLS) - 2, 1)


def test_ids_of_batches_and_conflicts_are_as_on_a_real_server(
    pair: tuple[AnyLeash, AnyLeash],
) -> None:
    """The other arguments, another token, a malformed id, a block of calls."""

    def scenario(leash: AnyLeash) -> list[Any]:
        agent, other = leash.client("runner"), leash.client("runner")

        def batch(*values: str) -> Any:
            pipe = agent.pipeline(transaction=False, once="batch")
            for value in values:
                pipe.set("jobs:1:s", value)
                pipe.incr("jobs:1:n")
                pipe.lpush("jobs:1:s", "x")
                pipe.get("other")
            return pipe.execute(raise_on_error=False)

        def block() -> Any:
            with keyleash.once("block"):
                return [agent.incr("jobs:1:n"), agent.get("jobs:1:n"), agent.incr("jobs:1:n")]

        return [
            *(outcome(lambda: batch(*values)) for values in ("ab", "ab", "ac")),  # noqa: B023
            *(outcome(block) for _ in range(2)),
            outcome(lambda: agent.execute_command("INCR", "jobs:1:m", once="block")),
            outcome(lambda: other.execute_command("INCR", "jobs:1:m", once="block")),
            leash.admin.get("jobs:1:n"),
        ]

    found = same(pair, scenario)
    assert found[0] == found[1] != found[2]
    assert found[5][0] == "IdempotencyConflictError"
    assert found[6:] == [("int", 1), b"4"]


def test_bound_tokens_and_children_are_as_on_a_real_server(pair: tuple[AnyLeash, AnyLeash]) -> None:
    """Bindings, keys, classes and caps; wider children, too many, too deep; a revoked parent."""

    def scenario(leash: AnyLeash) -> list[Any]:
        issued = leash.operator.tokens.issue(
            "runner", bind={"job_id": "42"}, allow=["read", "write"], budget={"writes": 5}
        )
        parent = leash.client("runner", token=issued.token)
        made = parent.delegate(keys=["jobs:42:a*"], budget={"writes": 2}, meta={"run": "r-17"})
        child = leash.client("runner", token=made.token)
        leaf = leash.client("runner", token=child.delegate(allow=["read"]).token)
        calls = [
            *[
                (agent, ("SET", f"jobs:{job}:a", "x"))
                for agent in (parent, child)
                for job in (42, 43)
            ],
            (parent, ("SET", "jobs:42:b", "x")),
            (child, ("SET", "jobs:42:b", "x")),
            (child, ("SET", "shared:a", "x")),
            (parent, ("DEL", "jobs:42:a")),
            (leaf, ("GET", "jobs:42:a")),
            (leaf, ("SET", "jobs:42:a", "x")),
            (child, ("COPY", "jobs:42:a", "jobs:42:a2")),
            (child, ("SORT", "jobs:42:a")),
            (child, ("SCAN", 0, "MATCH", "jobs:42:a*")),
            (parent, ("SET", "jobs:42:c", "x")),
        ]
        found = [outcome(lambda: agent.execute_command(*words)) for agent, words in calls]  # noqa: B023
        wishes: list[dict[str, Any]] = [
            {"bind": {"job_id": "43"}},
            {"allow": ["delete"]},
            {"keys": ["jobs:43:*"]},
            {"ttl": "2h"},
            {"budget": {"writes": 0}},
            {"meta": {"Run": "x"}},
        ]
        for wish in wishes:
            found.append(outcome(lambda: parent.delegate(**wish)))  # noqa: B023
        found.append(outcome(leaf.delegate))
        who = child.whoami()
        assert who.restrictions is not None
        found += [
            replace(who.restrictions, chain=()),
            len(who.restrictions.chain),
            [(item.name, item.left) for item in who.limits],
        ]
        listed = {item.id: item.state for item in leash.operator.tokens.list("runner")}
        found.append([str(listed[id_]) for id_ in (issued.id, made.id)])
        leash.operator.tokens.revoke(issued.id)
        found += [outcome(lambda: agent.get("jobs:42:a")) for agent in (parent, child, leaf)]  # noqa: B023
        return [*found, len(leash.events("runner")), len(leash.denials("runner"))]

    found = same(pair, scenario)
    assert [item[0] for item in found[-5:-2]] == ["TokenRevokedError"] * 3


def test_renewal_is_as_on_a_real_server(pair: tuple[AnyLeash, AnyLeash]) -> None:
    """Up to the longest life; not for a child, nor for a revoked token."""

    def scenario(leash: AnyLeash) -> list[Any]:
        issued = leash.operator.tokens.issue("runner", ttl=timedelta(seconds=60))
        agent = leash.client("runner", token=issued.token)
        minutes = []
        for ttl in ("3m", "2h"):
            expires_ms = agent.renew(ttl).expires_ms
            minutes.append(round((expires_ms - issued.expires_ms) / 60_000))
        child = leash.client("runner", token=agent.delegate().token)
        found = [*minutes, outcome(child.renew)]
        leash.operator.tokens.renew(issued.id, ttl=timedelta(minutes=30))
        later = agent.whoami().expires_at.timestamp() * 1000 - issued.expires_ms
        found.append(round(later / 60_000))
        leash.operator.tokens.revoke(issued.id)
        return [*found, outcome(agent.renew)]

    found = same(pair, scenario)
    assert (*found[:2], found[3]) == (2, 59, 59)
    assert found[4][0] == "TokenRevokedError"


VALUES: list[tuple[Any, ...]] = [
    ("SET", "v:s", "x" * 100),
    ("SET", "v:s", "x" * 101),
    ("APPEND", "v:s", "x"),
    ("SETRANGE", "v:s", 200, "x"),
    ("RPUSH", "v:l", "1", "2", "3"),
    ("RPUSH", "v:l", "4"),
    ("COPY", "v:s", "v:t"),
    ("RENAME", "v:t", "v:u"),
    ("SORT", "v:l", "STORE", "v:m"),
    ("SADD", "v:a", "1", "2"),
    ("SUNIONSTORE", "v:b", "v:a", "v:a"),
    ("BITOP", "NOT", "v:c", "v:s"),
    ("ZADD", "v:z", 1, "a"),
    ("ZUNIONSTORE", "v:y", 1, "v:z"),
    ("PERSIST", "v:s"),
    ("EXPIRE", "v:s", 8 * 86_400),
    ("EXPIRE", "v:s", 60),
    ("SET", "new:a", "x"),
    ("SET", "new:a", "y"),
    ("GET", "v:s"),
    *[("SET", "v:big", "x" * 100)] * 15,
    *[("GET", "v:big")] * 12,
]


def test_rules_for_values_and_bytes_are_as_on_a_real_server(
    pair: tuple[AnyLeash, AnyLeash],
) -> None:
    """Sizes, elements, lives and overwriting; budgets of bytes end at the same call."""

    def scenario(leash: AnyLeash) -> list[Any]:
        agent = leash.client("writer")
        found = [outcome(lambda: agent.execute_command(*words)) for words in VALUES]  # noqa: B023
        lives = {key: round(leash.admin.ttl(key), -1) for key in sorted(leash.admin.keys("v:*"))}
        left = {item.name: item.left for item in agent.whoami().limits}
        return [*found, lives, left]

    found = same(pair, scenario)
    names = [item[0] for item in found[:-2]]
    assert {"ValueTooLargeError", "ValueRefusedError", "BudgetExhaustedError"} <= set(names)


def test_caps_in_bytes_are_counted_as_on_a_real_server(pair: tuple[AnyLeash, AnyLeash]) -> None:
    """Alone, in a batch, and of a child for its parent."""

    def scenario(leash: AnyLeash) -> list[Any]:
        budget: dict[str, str | int] = {
            "bytes_written": "60b",
            "bytes_read": "30b/hour",
            "writes": 9,
        }
        issued = leash.operator.tokens.issue("runner", budget=budget)
        agent = leash.client("runner", token=issued.token)
        child = leash.client("runner", token=agent.delegate(budget={"bytes_read": "9b"}).token)
        found = [outcome(lambda: child.set("shared:{t}", 10 * "x"))]
        found += [outcome(lambda: child.get("shared:{t}")) for _ in range(2)]
        pipe = agent.pipeline(transaction=False)
        pipe.set("shared:{t}", 20 * "x")
        pipe.get("shared:{t}")
        pipe.get("shared:{t}")
        pipe.append("shared:{t}", "")
        found += [len(str(item)) for item in pipe.execute(raise_on_error=False)[:2]]
        found.append(outcome(lambda: agent.set("shared:{t}", "x")))
        return [*found, [(item.name, item.left) for item in agent.whoami().limits]]

    *_, over, left = same(pair, scenario)
    assert over == ("BudgetExhaustedError", {"limit": "token.bytes_written"})
    assert left == [("token.bytes_written", 0), ("token.bytes_read", 0), ("token.writes", 5)]
