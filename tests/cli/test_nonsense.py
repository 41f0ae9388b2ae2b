"""A server that answers nonsense: one clear error, and no traceback, whatever the command."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result

from support.command_line import Cli
from support.every_command import ONLINE, run_online
from support.fake_resp import HANG_UP, bulk, fake_resp

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
BUGS = {70}


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


@pytest.mark.slow
@pytest.mark.parametrize("words", ONLINE, ids=" ".join)
def test_nonsense_for_every_reply_is_one_clear_error(
    example: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """The first reply shows that it is no server of Redis."""
    for name, reply in NONSENSE.items():

        def answer(_words: list[bytes], reply: bytes = reply) -> bytes:
            return reply

        with fake_resp(answer) as server:
            result = run_online(
                Cli(server.url, {"KEYLEASH_TIMEOUT": "0.2"}), words, example, tmp_path
            )
        require_no_bug(result, name)
        assert result.exit_code != 0, (name, result.output)
