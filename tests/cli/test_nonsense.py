"""A server that answers nonsense: one clear error, and no traceback, whatever the command."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import pytest
from click.testing import Result

from support.command_line import Cli
from support.every_command import ONLINE, run_online
from support.fake_resp import HANG_UP, bulk, fake_resp, info
from support.servers import RealServer
from support.thorough import FACTOR

NONSENSE: dict[str, bytes] = {
    "status": b"+OK\r\n",
    "empty": b"$0\r\n\r\n",
    "text": bulk("nonsense"),
    "bytes": bulk(b"\xff\xfe\x00\x80"),
    "null": b"$-1\r\n",
    "null array": b"*-1\r\n",
    "number": b":7\r\n",
    "huge number": b":9223372036854775807\r\n",
    "no number": b":seven\r\n",
    "empty array": b"*0\r\n",
    "one": b"*1\r\n$1\r\nx\r\n",
    "pair": b"*2\r\n$1\r\nx\r\n$1\r\ny\r\n",
    "bytes pair": b"*2\r\n$2\r\n\xff\xfe\r\n$2\r\n\xff\xfe\r\n",
    "nulls": b"*2\r\n$-1\r\n$-1\r\n",
    "numbers": b"*3\r\n:1\r\n:-1\r\n:9223372036854775807\r\n",
    "nested": b"*2\r\n*2\r\n*1\r\n:1\r\n$1\r\nx\r\n*0\r\n",
    "cut off": b"*3\r\n$3\r\nabc\r\n",
    "error": b"-ERR nonsense\r\n",
    "error without a word": b"-\r\n",
    "error of bytes": b"-\xff\xfe\r\n",
    "MOVED": b"-MOVED nonsense\r\n",
    "not RESP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "binary": b"\x15\x03\x03\x00\x02\x02\x28",
    "nothing": HANG_UP,
}
GREETING = {b"INFO": info(), b"CLIENT": b"+OK\r\n", b"SELECT": b"+OK\r\n", b"PING": b"+PONG\r\n"}
BUGS = {70}
# `watch` asks again for as long as it may.
ASKED = [
    pytest.param(words, marks=pytest.mark.slow if words[0] == "watch" else ()) for words in ONLINE
]


def require_no_bug(result: Result, about: object) -> None:
    """Require an error without a traceback, and an exit code other than that of a bug."""
    assert "Traceback" not in result.output, (about, result.output)
    assert result.exit_code not in BUGS, (about, result.output)
    if result.exit_code not in (0, 1):
        assert result.stderr.count("error: ") <= 1 or "note" in result.stderr, (
            about,
            result.output,
        )
    assert len(result.stderr) < 4000, about


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
@pytest.mark.parametrize(
    "greets",
    [
        pytest.param(False, id="at once", marks=pytest.mark.slow),
        pytest.param(True, id="after a greeting"),
    ],
)
def test_nonsense_for_every_reply_is_one_clear_error(
    example: Path, tmp_path: Path, words: tuple[str, ...], greets: bool
) -> None:
    """The server may identify itself as Redis."""
    for name, reply in NONSENSE.items():

        def answer(asked: list[bytes], reply: bytes = reply) -> bytes:
            return GREETING.get(asked[0], reply) if greets else reply

        with fake_resp(answer) as server:
            result = run_online(
                Cli(server.url, {"KEYLEASH_TIMEOUT": "0.2"}), words, example, tmp_path
            )
        require_no_bug(result, name)
        if not greets:
            assert result.exit_code != 0 or words == ("watch", "--once"), (name, result.output)


@pytest.mark.parametrize("words", [w for w in ONLINE if w[:2] != ("audit", "follow")], ids=" ".join)
def test_nonsense_for_one_command_is_one_clear_error(
    loaded: Cli, embedded: RealServer, example: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """A real server replies to all other commands, so that every reply is tested."""
    token = loaded.token("agent-runner")
    loaded.ok("exec", "SET", "agents:jobs:1:state", "x", KEYLEASH_TOKEN=token)
    wrong: dict[bytes, bytes] = {}

    def answer(asked: list[bytes]) -> bytes:
        return wrong.get(asked[0]) or passed_on(embedded, asked)

    with fake_resp(answer) as server:
        cli = Cli(server.url, {"KEYLEASH_TIMEOUT": "2"})
        run_online(cli, words, example, tmp_path, KEYLEASH_TOKEN=token)
        names = sorted({words[0] for words in server.commands} - {b"CLIENT"})
        # All kinds for all commands take minutes: those of one differ from those of the next.
        kinds = itertools.cycle(name for name in NONSENSE if name not in ("cut off", "nothing"))
        for name in names:
            for kind in itertools.islice(kinds, KINDS_EACH):
                wrong = {name: NONSENSE[kind]}
                result = run_online(cli, words, example, tmp_path, KEYLEASH_TOKEN=token)
                require_no_bug(result, (name, kind))


KINDS_EACH = min(3 * FACTOR, len(NONSENSE))


def passed_on(server: RealServer, words: list[bytes]) -> bytes:
    """Return the bytes of a real server's reply."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        packed = b"".join(map(bulk, words))
        # It hangs up after QUIT, so that what stands before its OK is the reply.
        connection.sendall(b"*%d\r\n%s*1\r\n$4\r\nQUIT\r\n" % (len(words), packed))
        shown = b""
        while data := connection.recv(65536):
            shown += data
    return shown.removesuffix(b"+OK\r\n")
