"""Sessions through the gateway give the replies of a raw connection.

KEYLEASH_SESSIONS=20000 pytest tests/gateway/test_sessions.py   # `make sessions`, a new seed
"""

from __future__ import annotations

import io
import os
import random
import re
import socket
from collections.abc import Callable, Sequence
from itertools import zip_longest

import pytest

from gateway.conftest import BROAD
from gateway.sessions import KEYS, Command, Draws, Step, commands_of, listening_of, packets
from support.gateways import Raw, ServedGateway
from support.leash import Leash
from support.replication import wait_until
from support.servers import find_server_binaries

Connect = Callable[..., Raw]

FEW = 240
SESSIONS = int(os.environ.get("KEYLEASH_SESSIONS", FEW))
"""On all servers and in both protocols together."""
SEED = int(os.environ.get("KEYLEASH_SEED", 1 if SESSIONS == FEW else random.randrange(10**9)))
PER_CONNECTION = 25
END = b"the end of the session"
LISTENERS = 3
ENDING: list[Command] = [(b"DISCARD",), (b"UNWATCH",), (b"PING", END)]
LARGE = {"work": 10**9, "strings": 10**9}
PROTOCOLS = (2, 3)
EACH = SESSIONS // len(PROTOCOLS) // len(find_server_binaries())
OF_SUBSCRIPTIONS = re.compile(rb"subscribe\r\n|message\r\n")
MASKS = (
    # Seconds pass; and Valkey stores integers of scripts as text.
    (re.compile(rb":89[89][0-9]\r\n"), b":9000\r\n"),
    (re.compile(rb"\$3\r\nint\r\n"), b"$6\r\nembstr\r\n"),
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_random_sessions_have_the_replies_of_a_raw_connection(
    leash: Leash, gateway: ServedGateway, connect: Connect, protocol: int
) -> None:
    """Byte for byte, however packets are cut; pipelines, transactions and errors too."""
    leash.load(one={**BROAD, "limits": LARGE})
    token = leash.issue("one").token
    known = {name.decode().upper() for name in leash.admin.command_list()}
    for number in range(EACH):
        if number % PER_CONNECTION == 0:
            pair = [connect(leash.server.port, None), connect(gateway.port, token, protocol)]
            pair[0].call("HELLO", protocol)
            for raw in pair:
                raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        draws = Draws(f"{SEED} {number}", known)
        commands = commands_of(draws)
        parts = packets(draws, commands + ENDING)
        replies = []
        for raw in pair:
            leash.admin.delete(*KEYS)
            replies.append(_answers(raw, parts))
        if replies[0] != replies[1]:
            pytest.fail(f"KEYLEASH_SEED={SEED}, session {number}: {_first(commands, *replies)}")


def _answers(raw: Raw, parts: Sequence[bytes]) -> bytes:
    """Send a session in parts; return the bytes of all its replies."""
    for part in parts:
        raw.socket.sendall(part)
    received = b""
    while not received.endswith(b"%b\r\n" % END):
        data = raw.socket.recv(1 << 20)
        if not data:
            break
        received += data
    for mask, text in MASKS:
        received = mask.sub(text, received)
    return received


def _first(commands: Sequence[Command], ours: bytes, theirs: bytes) -> str:
    """Return the first command whose replies differ, and both."""
    pairs = zip([*commands, *ENDING], _split(ours), _split(theirs), strict=False)
    for at, (words, expected, got) in enumerate(pairs):
        if expected != got:
            return f"command {at}, {words!r}\n  raw     {expected!r}\n  gateway {got!r}"
    return f"{theirs[-1000:]!r}"


def _split(received: bytes) -> list[bytes]:
    raw = Raw.__new__(Raw)
    raw._file = io.BufferedReader(io.BytesIO(received))
    return [*iter(raw.reply, b"")]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_random_subscriptions_have_the_messages_of_a_raw_connection(
    leash: Leash, gateway: ServedGateway, connect: Connect, protocol: int
) -> None:
    """The same messages and replies, also of several connections; those of one kind in order."""
    leash.load(one=BROAD)
    token = leash.issue("one").token
    for number in range(EACH // 10):
        drawn = [listening_of(Draws(f"{SEED} {number} {at}")) for at in range(LISTENERS)]
        steps = [pair for several in zip_longest(*drawn) for pair in enumerate(several) if pair[1]]
        expected: list[list[list[bytes]]] = [[[]] * (LISTENERS + 1)] * len(steps)
        for port, password in ((leash.server.port, None), (gateway.port, token)):
            raws = [connect(port, password, protocol) for _ in range(LISTENERS + 1)]
            for raw in raws:
                raw.call("HELLO", protocol)
            heard = [
                _heard(raws, step, [*map(len, frames)])
                for step, frames in zip(steps, expected, strict=True)
            ]
            for raw in raws:
                raw.close()
            # A server counts those that have left until it sees it.
            wait_until(lambda: not (leash.admin.pubsub_numpat() or leash.admin.pubsub_channels()))
            if password is not None:
                assert heard == expected, (SEED, number, steps)
            expected = heard


def _heard(raws: Sequence[Raw], step: tuple[int, Step], counts: Sequence[int]) -> list[list[bytes]]:
    """Let one connection take a step, or the last one publish; return the frames that come."""
    at, commands = step
    if isinstance(commands, list):
        raws[at].send(*commands)
    else:
        at = LISTENERS
        raws[at].send((b"PUBLISH", *commands), (b"PUBSUB", b"NUMSUB", b"c:1", b"c:2", b"c:3"))
    first = _received(raws[at], counts[at])
    return [
        first if number == at else _received(raw, count)
        for number, (raw, count) in enumerate(zip(raws, counts, strict=True))
    ]


def _received(raw: Raw, count: int) -> list[bytes]:
    """Return the frames up to the reply to PING, or to a number."""
    raw.send((b"PING", END))
    frames = [raw.reply()]
    while len(frames) < count or (not count and END not in frames[-1]):
        frames.append(raw.reply())
    # A message may come before or after replies that do not wait for it.
    return sorted(frames, key=lambda frame: bool(OF_SUBSCRIPTIONS.search(frame[:26])))
