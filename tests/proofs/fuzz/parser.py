"""Fuzz the gateway's parsers: `make fuzz-parser SECONDS=120`, needs the extra `fuzz`.

An input is parsed whole and in pieces, as a request and as a reply; nothing may differ, and nothing
but a protocol error may be raised. libFuzzer reports an input that takes long, or much memory.

    python -m proofs.fuzz.parser --seconds 120
    python -m proofs.fuzz.parser --replay FILE            # one input again
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(".fuzz")
MAX_BYTES = 1000
TIMEOUT_S = 5
MAX_MIB = 512
REPORT_EVERY = 200_000


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return *data* cut at some places."""
    places = sorted(cut % (len(data) + 1) for cut in cuts)
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def requests_in(parts: Sequence[bytes], is_trusted: bool) -> tuple[list[Any] | None, int]:
    """Return the requests in what an agent sends, and the bytes of the next one.

    Returns:
        No requests if they break the protocol: those before the error may be lost with it.
    """
    from keyleash.gateway.resp import ProtocolError, Requests

    parser, found = Requests(), list[Any]()
    parser.is_trusted = is_trusted
    try:
        for part in parts:
            found += parser.feed(part)
            while parser.has_more:
                found += parser.feed(b"")
    except ProtocolError:
        return None, 0
    return found, parser.size


def replies_in(parts: Sequence[bytes]) -> list[bytes] | None:
    """Return the replies in what a server sends; None if they are none."""
    from keyleash.gateway.resp import Frames

    parser, found = Frames(), list[bytes]()
    try:
        for part in parts:
            found += parser.feed(part)
    except ValueError:
        return None
    return found


def check(data: bytes) -> None:
    """Parse an input, whose first bytes say where it is cut.

    Raises:
        AssertionError: a cut makes a difference, or a reply is not read to its end.
    """
    from keyleash.gateway.resp import parse

    head, data = data[:4], data[4:]
    parts = pieces(data, [byte * 7 for byte in head])
    single = [data[at : at + 1] for at in range(len(data))]
    for is_trusted in (False, True):
        whole = requests_in([data], is_trusted)
        assert whole == requests_in(parts, is_trusted) == requests_in(single, is_trusted)
    replies = replies_in([data])
    assert replies == replies_in(parts) == replies_in(single)
    for reply in replies or ():
        try:
            parse(reply)
        except (ValueError, RecursionError):
            # Of a server that sends no numbers where they belong, or nests without end.
            continue


def main() -> None:
    """Fuzz for as long as is wanted; libFuzzer ends the process."""
    parser = argparse.ArgumentParser(description="Fuzz the gateway's parsers.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--replay", type=Path, metavar="FILE", help="parse one input and end")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        check(arguments.replay.read_bytes())
        return
    import atheris

    # What the parsers import is not what is fuzzed.
    with atheris.instrument_imports(include=["keyleash.gateway.resp"]):
        import keyleash.gateway.resp  # noqa: F401
    corpus = FOLDER / "parser"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(b"\x00\x05\x11\x20" + seed)
    count = 0

    def one_input(data: bytes) -> None:
        nonlocal count
        check(data)
        count += 1
        if count % REPORT_EVERY == 0:
            peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{count} inputs, at most {peak_mib} MiB", flush=True)

    options = [
        f"-max_total_time={arguments.seconds}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={TIMEOUT_S}",
        f"-rss_limit_mb={MAX_MIB}",
        f"-artifact_prefix={FOLDER}{os.sep}",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input)
    atheris.Fuzz()


SEEDS = (
    b"*2\r\n$4\r\nAUTH\r\n$3\r\nabc\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n",
    b"*0\r\n*1\r\n$4\r\nPING\r\n*7001\r\n$1\r\na\r\n$1\r\nb\r\n",
    b"*1048576\r\n$67108864\r\n",
    b"\r\n*-9\r\nset a \"b\\x41\\\"\" 'c\\'d'\nget\ta \r\n",
    b"*4\r\n$-1\r\n*-1\r\n:12\r\n*2\r\n+OK\r\n-ERR no\r\n$2\r\nab\r\n",
)

if __name__ == "__main__":
    main()
