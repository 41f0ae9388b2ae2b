"""Fifty threads at once: exactly as many calls pass as the limit says, and each has its event."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import keyleash
from keyleash.audit.read import read_events
from support.leash import NAMES, Leash, grant
from support.servers import RealServer

THREADS = 50

Attempt = Callable[[keyleash.Redis, int], Any]


@pytest.fixture
def leash(server: RealServer) -> Leash:
    return Leash(server)


def noon_zone(leash: Leash) -> str:
    """A time zone in which it is about noon, so that no day ends while a test runs."""
    seconds, _ = leash.admin.time()
    ahead = 12 - int(seconds) // 3600 % 24
    return f"Etc/GMT{-ahead:+d}"


def rush(clients: list[keyleash.Redis], tries: int, attempt: Attempt) -> tuple[list[Any], int]:
    """Every client tries so often, all at once; the replies, and how many were refused."""
    start = threading.Barrier(len(clients))

    def run(number: int) -> tuple[list[Any], int]:
        replies, refused = [], 0
        start.wait()
        for turn in range(tries):
            try:
                replies.append(attempt(clients[number], number * tries + turn))
            except (keyleash.BudgetExhaustedError, keyleash.RateLimitedError):
                refused += 1
        return replies, refused

    with ThreadPoolExecutor(len(clients)) as threads:
        results = list(threads.map(run, range(len(clients))))
    return [reply for replies, _ in results for reply in replies], sum(n for _, n in results)


@pytest.mark.parametrize("shared", [False, True], ids=["client-per-thread", "one-client"])
def test_budget_lets_exactly_its_number_through(leash: Leash, shared: bool) -> None:
    """Of 2,000 calls on a budget of 777, 777 pass, happen, and are in the audit stream."""
    budget = {"writes": {"limit": "777/day", "timezone": noon_zone(leash)}}
    leash.load(one={"grants": [grant("read", "write", keys="n:*")], "budget": budget})
    token = leash.issue("one").token
    clients = (
        [leash.client(token)] * THREADS if shared else [leash.client(token) for _ in range(THREADS)]
    )

    replies, refused = rush(clients, 40, lambda client, _: client.incr("n:count"))

    assert sorted(replies) == list(range(1, 778))
    assert refused == THREADS * 40 - 777
    assert leash.admin.get("n:count") == b"777"
    assert leash.admin.xlen(NAMES.audit("one")) == 777


@pytest.mark.parametrize(
    "rate", [{"limit": "200/day", "burst": 200}, {"limit": "200/hour"}], ids=["gcra", "ring"]
)
@pytest.mark.parametrize("per", ["identity", "token", "{x}"])
def test_rate_lets_exactly_its_number_through(leash: Leash, rate: dict[str, Any], per: str) -> None:
    """As many keys are written as calls passed, and each event names another of them."""
    leash.load(
        one={"grants": [grant("write", keys="k:{x}:*")], "rate": {"writes": {**rate, "per": per}}}
    )
    token = leash.issue("one").token
    clients = [leash.client(token) for _ in range(THREADS)]

    replies, refused = rush(clients, 10, lambda client, n: client.set(f"k:same:{n}", "v"))

    assert replies == [True] * 200
    assert refused == THREADS * 10 - 200
    written = {key.decode() for key in leash.admin.scan_iter("k:*", count=1000)}
    assert len(written) == 200
    events = leash.events("one")
    assert len(events) == 200
    assert {event["SET"] for event in events} == written


def test_limits_are_taken_all_or_none_by_threads_that_race(leash: Leash) -> None:
    """Calls refused by one limit take nothing from another, however they interleave."""
    leash.load(
        one={
            "grants": [grant("read", "write", "delete", keys="k:*")],
            "rate": {"requests": "300/hour", "writes": {"limit": "100/day", "burst": 100}},
            "budget": {"reads": {"limit": "150/day", "timezone": noon_zone(leash)}},
        }
    )
    clients = [leash.agent("one") for _ in range(THREADS)]

    def attempt(client: keyleash.Redis, number: int) -> str:
        if number % 2:
            client.set(f"k:{number}", "v")
            return "write"
        client.get("k:0")
        return "read"

    replies, _ = rush(clients, 10, attempt)

    assert replies.count("write") == 100
    assert replies.count("read") == 150
    # 250 of the 300 requests are taken, and not one more.
    deletes, refused = rush(clients, 2, lambda client, number: client.delete(f"k:{number}"))
    assert len(deletes) == 50
    assert refused == THREADS * 2 - 50


def test_pipelines_that_race_let_exactly_the_budget_through(leash: Leash) -> None:
    """Commands of a pipeline are counted one by one, whatever else runs between two pipelines."""
    budget = {"writes": {"limit": "777/day", "timezone": noon_zone(leash)}}
    leash.load(one={"grants": [grant("read", "write", keys="n:*")], "budget": budget})
    clients = [leash.agent("one") for _ in range(THREADS)]

    def attempt(client: keyleash.Redis, _: int) -> list[Any]:
        pipe = client.pipeline(transaction=False)
        for _turn in range(8):
            pipe.incr("n:count")
        return pipe.execute(raise_on_error=False)

    replies, _ = rush(clients, 5, attempt)

    passed = [item for batch in replies for item in batch if isinstance(item, int)]
    refused = [item for batch in replies for item in batch if not isinstance(item, int)]
    assert sorted(passed) == list(range(1, 778))
    assert len(refused) == THREADS * 5 * 8 - 777
    assert {type(item) for item in refused} == {keyleash.BudgetExhaustedError}
    assert leash.admin.get("n:count") == b"777"
    events = list(read_events(leash.store, ["one"]))
    assert len(events) == 777


def test_batches_that_race_pass_whole_or_not_at_all(leash: Leash) -> None:
    """Of batches of 8 on a budget of 777, 97 pass, and nothing of any other."""
    budget = {"writes": {"limit": "777/day", "timezone": noon_zone(leash)}}
    leash.load(one={"grants": [grant("read", "write", keys="n:*")], "budget": budget})
    clients = [leash.agent("one") for _ in range(THREADS)]

    def attempt(client: keyleash.Redis, _: int) -> list[Any]:
        with client.batch() as batch:
            for _turn in range(8):
                batch.incr("n:count")
        return batch.results

    replies, refused = rush(clients, 5, attempt)

    assert len(replies) == 777 // 8
    assert refused == THREADS * 5 - 777 // 8
    assert all(batch == list(range(batch[0], batch[0] + 8)) for batch in replies)
    assert sorted(batch[0] for batch in replies) == list(range(1, 777 // 8 * 8, 8))
    assert leash.admin.xlen(NAMES.audit("one")) == 777 // 8
    # What is left is exactly what the refused batches did not take.
    lone, _ = rush(clients, 1, lambda client, _: client.incr("n:count"))
    assert len(lone) == 777 % 8
