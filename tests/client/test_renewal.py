"""Clients renew a token from a callable or a file by themselves, beside their calls."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

import keyleash
from client.alike import ONE_EITHER
from client.conftest import BROAD
from keyleash.audit.entries import Denial
from keyleash.audit.read import EVERYTHING, read_denials, read_events
from keyleash.client.guarding import Guarding
from keyleash.operator.tokens.issue import IssuedToken
from keyleash.operator.tokens.list import list_tokens
from keyleash.operator.tokens.revoke import revoke
from support.leash import Leash
from support.renewal import HOUR_MS, pass_time

RULES = {"ttl": "1h", "max_ttl": "4h", "renew": True}


class Clock:
    """The clock of all clients; it stands still between its steps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def step(self, leash: Leash, issued: IssuedToken, hours: float) -> None:
        """Let time pass for clients and for a token."""
        self.now_s += hours * 3600
        pass_time(leash, issued.token, hours)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(Guarding, "clock", staticmethod(made))
    return made


def client_of(leash: Leash, source: Any) -> Any:
    return leash.client(source)


def started(leash: Leash, **body: Any) -> tuple[IssuedToken, Any]:
    """Load a policy; return a token under it, and a client that gets it from a callable."""
    leash.load(one={**BROAD, "token": RULES, **body})
    issued = leash.issue("one")
    return issued, client_of(leash, lambda: issued.token)


def started_with_file(leash: Leash, folder: Path, **body: Any) -> tuple[IssuedToken, Path, Any]:
    """The same for a client that gets it from a file."""
    issued, _ = started(leash, **body)
    path = folder / "token"
    path.write_text(issued.token)
    return issued, path, client_of(leash, keyleash.TokenFile(path))


def ops(leash: Leash) -> list[str]:
    """The commands in the audit log, the oldest first."""
    return [event.op for event in read_events(leash.store, ["one"], EVERYTHING)]


def denials(leash: Leash) -> list[Denial]:
    return list(read_denials(leash.store, ["one"], EVERYTHING))


def expires_ms(leash: Leash) -> int:
    """When the newest token expires."""
    return list_tokens(leash.store, "one")[0].expires_ms


@ONE_EITHER
def test_token_is_renewed_once_when_two_thirds_of_its_life_are_over(
    one_leash: Leash, clock: Clock, packets: list[bytes]
) -> None:
    """Not earlier, before a call that is made anyway, and again after the same time."""
    issued, client = started(one_leash)
    client.set("t:1", "x")
    client.set("t:1", "x")
    clock.step(one_leash, issued, 0.6)
    client.set("t:1", "x")
    assert ops(one_leash) == ["SET"] * 3

    for hours in (0.07, 0.7):
        clock.step(one_leash, issued, hours)
        client.set("t:1", "x")
        client.set("t:1", "x")

    assert ops(one_leash)[3:] == ["RENEW", "SET", "SET"] * 2
    # The token is described once, and before each renewal.
    assert len([packet for packet in packets if issued.token.encode() in packet]) == 7 + 3 + 2
    # The whole life from now on, by a server whose time did not pass.
    assert 0 <= expires_ms(one_leash) - issued.expires_ms < 60_000


@ONE_EITHER
def test_token_of_a_file_is_renewed_up_to_max_ttl_and_then_read_again(
    one_leash: Leash, clock: Clock, tmp_path: Path
) -> None:
    """Its secret stays; at the end of its life the file has the next one."""
    issued, path, client = started_with_file(one_leash, tmp_path)
    client.set("t:1", "x")
    for _ in range(5):
        client.set("t:1", "x")
        clock.step(one_leash, issued, 0.7)
        client.set("t:1", "x")

    # After 2.8 of 4 hours it was renewed to 3.8; after 3.5 to 4, and that is the latest.
    assert ops(one_leash).count("RENEW") == 5
    latest_ms = issued.expires_ms - round(3.5 * HOUR_MS) + 3 * HOUR_MS
    assert abs(expires_ms(one_leash) - latest_ms) < 10
    clock.step(one_leash, issued, 0.4)
    client.set("t:1", "x")
    assert ops(one_leash).count("RENEW") == 5
    second = one_leash.issue("one")
    path.write_text(second.token)
    clock.step(one_leash, issued, 0.2)
    client.set("t:1", "x")
    (newest,) = [event.token for event in read_events(one_leash.store, ["one"], EVERYTHING)][-1:]
    assert newest == second.id


@ONE_EITHER
@pytest.mark.parametrize("rules", [{"renew": False}, {}])
def test_others_send_nothing_but_their_calls(
    one_leash: Leash, clock: Clock, packets: list[bytes], rules: dict[str, Any]
) -> None:
    """Without the permission, or with a string as token, which its holder may renew."""
    issued, client = started(one_leash, token={**RULES, **rules})
    if not rules:
        client = one_leash.client(issued.token)
    client.set("t:1", "x")
    for _ in range(3):
        clock.step(one_leash, issued, 0.3)
        client.set("t:1", "x")
    assert len([packet for packet in packets if issued.token.encode() in packet]) == 4
    assert ops(one_leash) == ["SET"] * 4


def test_threads_of_a_pool_renew_once(one_leash: Leash, clock: Clock) -> None:
    """One of them does, and the others make their calls meanwhile."""
    issued, client = started(one_leash)
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda _: client.set("t:1", "x"), range(40)))
        clock.step(one_leash, issued, 0.7)
        list(threads.map(lambda _: client.set("t:1", "x"), range(200)))
    assert sorted(ops(one_leash)) == ["RENEW", *["SET"] * 240]


@ONE_EITHER
def test_two_processes_with_one_token_do_not_both_renew_it(one_leash: Leash, clock: Clock) -> None:
    """The second one finds that it has been renewed."""
    issued, first = started(one_leash)
    second = client_of(one_leash, lambda: issued.token)
    for client in (first, second, first, second):
        client.set("t:1", "x")
    clock.step(one_leash, issued, 0.7)
    for client in (first, second, first, second):
        client.set("t:1", "x")
    assert ops(one_leash).count("RENEW") == 1


@ONE_EITHER
def test_denied_renewal_does_not_break_the_call(one_leash: Leash, clock: Clock) -> None:
    """Its denial is in the log; it is tried again later."""
    issued, client = started(one_leash, budget={"writes": "1/day"})
    client.set("t:1", "x")
    clock.step(one_leash, issued, 0.7)
    for _ in range(5):
        assert client.get("t:1") == b"x"
    assert [denial.op for denial in denials(one_leash)] == ["RENEW"]
    clock.step(one_leash, issued, 0.05)
    client.get("t:1")
    one_leash.load(one={**BROAD, "token": RULES})
    clock.step(one_leash, issued, 0.05)
    client.get("t:1")
    assert ops(one_leash) == ["SET", "RENEW"]


@ONE_EITHER
@pytest.mark.parametrize("after", [False, True])
def test_connection_lost_in_a_renewal_does_not_break_the_call(
    one_leash: Leash, clock: Clock, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """The call is made on a new connection, once."""
    issued, client = started(one_leash)
    client.incr("t:n")
    client.incr("t:n")
    clock.step(one_leash, issued, 0.7)
    kills: list[Any] = []

    def kill(packet: Any) -> None:
        if b"whoami" in b"".join(map(bytes, packet)) and not kills:
            kills.append(packet)
            if not after:
                raise redis.ConnectionError
            one_leash.admin.client_kill_filter(_type="normal", skipme=True)

    send: Any = redis.Connection.send_packed_command
    asend: Any = redis.asyncio.Connection.send_packed_command

    def sending(self: Any, command: Any, check_health: bool = True) -> None:
        kill(command)
        send(self, command, check_health)

    async def asending(self: Any, command: Any, check_health: bool = True) -> None:
        kill(command)
        await asend(self, command, check_health)

    monkeypatch.setattr(redis.Connection, "send_packed_command", sending)
    monkeypatch.setattr(redis.asyncio.Connection, "send_packed_command", asending)

    assert client.incr("t:n") == 3
    assert kills
    clock.now_s += 200
    assert client.incr("t:n") == 4
    assert ops(one_leash) == ["INCRBY", "INCRBY", "INCRBY", "RENEW", "INCRBY"]


@ONE_EITHER
def test_pipelines_and_batches_renew_and_watched_transactions_do_not(
    one_leash: Leash, clock: Clock
) -> None:
    """A connection that is lost in a renewal would lose the watch as well."""
    issued, client = started(one_leash)
    client.set("t:1", "x")
    client.set("t:1", "x")
    pipeline = client.pipeline()
    pipeline.watch("t:1")
    clock.step(one_leash, issued, 0.7)
    pipeline.multi()
    pipeline.set("t:1", "y").set("t:2", "y")
    pipeline.execute()
    assert ops(one_leash).count("RENEW") == 0
    pipeline.set("t:1", "y").set("t:2", "y")
    pipeline.execute()
    assert ops(one_leash) == ["SET"] * 4 + ["RENEW"] + ["SET"] * 2


@ONE_EITHER
def test_renewal_takes_no_idempotency_id_of_a_block(one_leash: Leash, clock: Clock) -> None:
    """So the calls of a block that is run again have the same ids."""
    issued, client = started(one_leash, idempotency={"keep": "1h"})
    client.get("t:n")
    client.get("t:n")
    for hours in (0.7, 0.7):
        clock.step(one_leash, issued, hours)
        with keyleash.once("step"):
            assert client.incr("t:n") == 1
            client.renew("3h")
            assert client.incr("t:n") == 2
    assert ops(one_leash) == ["RENEW", "INCRBY", "RENEW", "INCRBY", "RENEW"]


def test_explicit_renewal_moves_the_next_one(one_leash: Leash, clock: Clock) -> None:
    """A client that renewed its token by itself does not renew it again."""
    issued, client = started(one_leash)
    client.set("t:1", "x")
    client.set("t:1", "x")
    clock.step(one_leash, issued, 0.5)
    client.renew("2h")
    clock.step(one_leash, issued, 0.5)
    client.set("t:1", "x")
    assert ops(one_leash) == ["SET", "SET", "RENEW", "SET"]


def test_source_that_fails_in_a_renewal_is_the_error_of_the_call(
    one_leash: Leash, clock: Clock, tmp_path: Path
) -> None:
    """A token that was revoked is read again, and that error is not hidden."""
    issued, path, client = started_with_file(one_leash, tmp_path)
    client.set("t:1", "x")
    revoke(one_leash.store, token_id=issued.id)
    with pytest.raises(keyleash.TokenRevokedError):
        client.set("t:1", "x")
    path.unlink()
    clock.now_s = math.inf
    with pytest.raises(keyleash.KeyleashError, match="cannot be read"):
        client.set("t:1", "x")


@pytest.mark.slow
def test_token_of_nine_seconds_lives_for_27(one_leash: Leash, tmp_path: Path) -> None:
    """By the clocks as they are."""
    import time

    *_, client = started_with_file(
        one_leash, tmp_path, token={**RULES, "ttl": "9s", "max_ttl": "27s"}
    )
    ends = time.monotonic() + 24
    while time.monotonic() < ends:
        assert client.set("t:1", "x")
        time.sleep(0.05)
    time.sleep(4)
    with pytest.raises(keyleash.TokenExpiredError):
        client.set("t:1", "x")
