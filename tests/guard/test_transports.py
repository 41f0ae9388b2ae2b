"""A guard answers the same, byte for byte, as a script and as a function."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import hiredis
import pytest

from client.twin import BROAD, Outcome, Twin, count_token_calls, difference
from keyleash.commands import load_table
from keyleash.store.records import GuardRecord, guard_record
from keyleash.store.wire import BatchMode, Transport, batch_call, guard_call
from support.leash import NAMES, Leash
from support.replication import PATIENCE_S
from support.servers import RealServer

UNLIKE = "~?"
"""The marks of calls whose replies may differ by the time that passed, or by chance."""


class Wire:
    """A connection that is read without being understood."""

    def __init__(self, server: RealServer) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)

    def send(self, words: Sequence[Any]) -> bytes:
        """The bytes of the reply."""
        self._socket.sendall(hiredis.pack_command(tuple(words)))
        reader, reply = hiredis.Reader(notEnoughData=self), b""
        while reader.gets() is self:
            part = self._socket.recv(1 << 20)
            assert part, "the server closed the connection"
            reader.feed(part)
            reply += part
        return reply

    def close(self) -> None:
        self._socket.close()


@dataclass
class Caller:
    """Calls the guard of `one` by one transport; stands where `Twin` has a client."""

    wire: Wire
    record: GuardRecord
    token: str
    transport: Transport
    in_batch: bool

    def execute_command(self, *words: Any) -> bytes:
        head = (self.token, "c")
        table = load_table()
        if self.in_batch:
            digest = self.record.batch_digest
            request = batch_call(
                table, digest, *head, BatchMode.EACH, [words, ("PING",)], self.transport
            )
        else:
            request = guard_call(table, self.record.digest, *head, words, self.transport)
        return self.wire.send(request)


class EitherTwin(Twin):
    """A server that has the same guards as scripts and as functions."""

    def __init__(self, server: RealServer) -> None:
        super().__init__(server)
        leash = Leash(server, transport=Transport.FUNCTION)
        leash.load(one=BROAD)
        record = guard_record(leash.admin.hgetall(NAMES.guard("one")))
        assert record is not None
        self.stats = partial(leash.admin.info, "commandstats")
        self.wire = Wire(server)
        self._caller = (self.wire, record, self.guarded._session._token)

    def outcomes(self, call: Any, *, in_batch: bool) -> list[Outcome]:
        found = []
        for transport in (Transport.EVALSHA, Transport.FUNCTION):
            caller: Any = Caller(*self._caller, transport, in_batch)
            outcome = self.outcome(caller, call, with_data=True)
            if call.mark and call.mark in UNLIKE:
                outcome = Outcome(outcome.reply[:1], outcome.data)
            found.append(outcome)
        return found


@pytest.fixture
def twin(server: RealServer) -> Iterator[EitherTwin]:
    twin = EitherTwin(server)
    yield twin
    twin.wire.close()


@pytest.mark.parametrize("in_batch", [False, True], ids=["alone", "in a batch"])
def test_recorded_call_answers_and_leaves_the_same_by_script_and_function(
    twin: EitherTwin, in_batch: bool
) -> None:
    """Every scopable command, its errors and its integers that Lua would round among them."""
    calls = [call for call in count_token_calls() if call.name in twin.commands]
    found = []
    for call in calls:
        text = difference(call.mark, *twin.outcomes(call, in_batch=in_batch))
        if text is not None:
            found.append(f"{call}: {text}")

    assert found == []
    assert twin.stats()["cmdstat_fcall"]["calls"] == len(calls) > 900
