"""Cutting an agent off while eight threads call: what starts after the command has no effect."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any

import pytest

import keyleash
from keyleash.errors import LeashError
from keyleash.operator.suspension import freeze, thaw
from keyleash.operator.tokens.rotate import rotate_token
from support.command_line import Cli
from support.leash import Leash, grant

THREADS = 8
CALLS_BEFORE = 200
CALLS_AFTER = 200
ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="doc:*")]}


class Load:
    """Threads that call without a pause, and note when each call began and what became of it."""

    def __init__(self, leash: Leash, tokens: list[str]) -> None:
        self.passed_ns: list[int] = []
        self.refused: list[tuple[int, str]] = []
        self.broken: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(leash.client(token), n))
            for n, token in enumerate(tokens)
        ]

    def _call(self, agent: keyleash.Redis, n: int) -> None:
        try:
            while not self._stop.is_set():
                began_ns = perf_counter_ns()
                try:
                    agent.set(f"doc:{n}", "x")
                except LeashError as refusal:
                    self.refused.append((began_ns, refusal.code))
                else:
                    self.passed_ns.append(began_ns)
        except BaseException as error:
            self.broken.append(error)

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            assert self.broken == []
            threading.Event().wait(0.002)

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
        assert self.broken == []


def revoked(cli: Cli) -> None:
    assert len(cli.json("token", "revoke", "--identity", "one")["revoked"]) == THREADS


def frozen(cli: Cli) -> None:
    report = cli.json("freeze", "--reason", "incident", "--for", "10m", "--yes")
    assert report["identities"][0]["changed"]


def rotated(cli: Cli) -> None:
    assert len(cli.json("token", "rotate", "one", "--grace", "0")["replaced"]) == THREADS


@pytest.mark.parametrize(
    ("cut", "code"), [(revoked, "TOKEN_REVOKED"), (frozen, "SUSPENDED"), (rotated, "TOKEN_EXPIRED")]
)
def test_no_call_that_began_after_the_cut_goes_through(
    leash: Leash, cut: Callable[[Cli], None], code: str
) -> None:
    """Eight threads are at it, before, during and after."""
    leash.load(one=ALL)
    load = Load(leash, [leash.issue("one").token for _ in range(THREADS)])
    with load.running():
        load.wait_for(lambda: len(load.passed_ns) >= CALLS_BEFORE)
        cut(Cli(leash.server.url))
        done_ns = perf_counter_ns()
        load.wait_for(lambda: sum(at > done_ns for at, _ in load.refused) >= CALLS_AFTER)

    assert [at for at in load.passed_ns if at > done_ns] == []
    assert {found for _, found in load.refused} == {code}


def test_calls_go_through_again_after_a_thaw_under_load(leash: Leash) -> None:
    """No call that starts after the thaw has returned is denied."""
    leash.load(one=ALL)
    load = Load(leash, [leash.issue("one").token for _ in range(THREADS)])
    freeze(leash.store, reason="incident")
    with load.running():
        load.wait_for(lambda: len(load.refused) >= CALLS_BEFORE)
        assert thaw(leash.store, "one").identities[0].changed
        done_ns = perf_counter_ns()
        load.wait_for(lambda: sum(at > done_ns for at in load.passed_ns) >= CALLS_AFTER)

    assert [item for item in load.refused if item[0] > done_ns] == []


def test_both_tokens_are_good_under_load_while_the_grace_lasts(leash: Leash) -> None:
    """A rotation interrupts no agent: no call with either token is denied."""
    leash.load(one=ALL)
    old = leash.issue("one")
    load = Load(leash, [old.token] * (THREADS // 2))
    with load.running():
        load.wait_for(lambda: len(load.passed_ns) >= CALLS_BEFORE)
        new = rotate_token(leash.store, old.id, grace="10m").issued
        later = Load(leash, [new.token] * (THREADS // 2))
        with later.running():
            later.wait_for(lambda: len(later.passed_ns) >= CALLS_AFTER)

    assert load.refused == later.refused == []
