"""The gateway's parsers: requests of agents, and replies of servers."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.gateway.resp import (
    LOGIN_BYTES,
    LOGIN_WORDS,
    MAX_NAME,
    MAX_REQUEST_BYTES,
    MAX_WORDS,
    Frames,
    ProtocolError,
    Requests,
    Status,
    TooManyWords,
    encode,
    error_line,
    name_of,
    parse,
    split,
)
from keyleash.store.wire import MAX_ARGUMENTS
from proofs.fuzz.parser import SEEDS, check, pieces, replies_in, requests_in
from support.gateways import request
from support.thorough import thorough

WORDS = st.binary(max_size=40) | st.sampled_from((b"\r\n", b"$1\r\n", b"*1\r\n", b"x" * 1100))
COMMANDS = st.lists(st.lists(WORDS, min_size=1, max_size=12), max_size=6)
CUTS = st.lists(st.integers(0, 5000), max_size=8)
VALUES: Any = st.recursive(
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.binary(max_size=40)
    | st.sampled_from((Status(b"OK"), Status(b""))),
    lambda values: st.lists(values, max_size=4),
    max_leaves=12,
)


@given(COMMANDS, CUTS)
@thorough(200)
def test_commands_are_read_as_they_were_written_wherever_they_are_cut(
    commands: list[list[bytes]], cuts: list[int]
) -> None:
    """Any bytes may be in a word, and a packet may end anywhere."""
    data = b"".join(request(tuple(words)) for words in commands)
    assert requests_in(pieces(data, cuts), True) == ([_read(words) for words in commands], 0)


@given(st.lists(st.lists(WORDS, min_size=8, max_size=24), min_size=1, max_size=3), CUTS,
       st.integers(1, 40))  # fmt: skip
@thorough(200)
def test_many_words_are_read_as_they_were_written_wherever_they_are_cut(
    commands: list[list[bytes]], cuts: list[int], times: int
) -> None:
    """Words of long commands are read together, up to those that are long or break lines."""
    data = b"".join(request(tuple(words) * times) for words in commands)
    assert requests_in(pieces(data, cuts), True) == ([_read(w * times) for w in commands], 0)


@given(st.lists(st.sampled_from((*b"*$:+-0129\r\n aG", 255)), max_size=60).map(bytes))
@thorough(500)
def test_random_bytes_are_read_alike_wherever_they_are_cut(data: bytes) -> None:
    """They are requests, the begin of one, or a protocol error; also as replies."""
    check(data)


@pytest.mark.parametrize("seed", SEEDS)
def test_begin_of_the_fuzz_corpus_is_read(seed: bytes) -> None:
    """`make fuzz-parser` begins with them."""
    check(b"\x00\x05\x11\x20" + seed)


@pytest.mark.parametrize(
    "data",
    [
        b"*+1\r\n",
        b"* 1\r\n",
        b"*\r\n",
        b"*1x\r\n",
        b"*\xb2\r\n",
        b"*" + b"1" * 31,
        b"*%d\r\n" % (MAX_WORDS + 1),
        b"*99999999999999999999\r\n",
        b"x" * ((64 << 10) + 1),
        b"SET a 'b\r\n",
        b"SET a 'b\\'\r\n",
        b'SET a "b"c\r\n',
        b"*1\r\n:1\r\n",
        b"*1\r\n+PING\r\n",
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$99999999999999999999\r\n",
        b"*1\r\n$%d\r\n" % (MAX_REQUEST_BYTES + 1),
        b"*1\r\n$3\r\nPING\r\n",
        b"*1\r\n$4\r\nPING\n\n",
        b"*2\r\n$4\r\nPING\r\n\r\n",
    ],
)
def test_broken_request_is_a_protocol_error(data: bytes) -> None:
    """Quotes without an end, nested arrays and odd numbers are none that is waited for."""
    parser = Requests()
    parser.is_trusted = True
    with pytest.raises(ProtocolError):
        parser.feed(data)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"ping\r\n", ("PING",)),
        (b" \v get  a\t\r\r\n", ("GET", b"a")),
        (rb"""set a "b c\x41\n\q\"" """, ("SET", b"a", b'b cA\nq"')),
        (rb"""set a 'b\'c\n"\\ '""", ("SET", b"a", rb"""b'c\n"\\ """)),
        (b"""set '' x"y z"\n""", ("SET", b"", b"xy z")),
    ],
)
def test_inline_command_is_split_as_servers_split_it(line: bytes, words: object) -> None:
    """With and without quotes, wherever it is cut; of the bound of a server, too."""
    line = line if line.endswith(b"\n") else line + b"\r\n"
    for cuts in ([], [3, 9]):
        parts = pieces(b"\r\n  \n" + line + line, cuts)
        assert requests_in(parts, True) == requests_in(parts, False) == ([words] * 2, 0)


def test_long_inline_command_is_read_in_linear_time() -> None:
    """Quotes and escapes are not tried again; too many words are those of no guard."""
    for word in (b"\\'", b'\\"', b"' ", b" '' "):
        quoted = b"x '" + word * (20_000 // len(word))
        for line in (quoted, quoted + b"'", quoted.replace(b"'", b'"')):
            requests_in([line * 3, b"\r\n"], True)
    assert requests_in([b"DEL" + b" k" * 30_000 + b"\n"], True) == ([TooManyWords([b"DEL"])], 0)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_empty_requests_are_no_commands(size: int) -> None:
    """As on a server, also many, wherever they are cut; the next command is read."""
    data = b"*0\r\n*-10\r\n*-00000000000000000000001\r\n \t\r\n\n" * 500 + b"*1\r\n$4\r\nPING\r\n"
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    assert requests_in(parts, False) == ([("PING",)], 0)


def test_request_before_login_is_bounded() -> None:
    """In its words and its bytes; each command is counted by itself."""
    most = [b"x"] * LOGIN_WORDS
    large = [b"SET", b"x" * (LOGIN_BYTES - 100)]
    accepted = request(tuple(most)) + request(tuple(large)) * 3
    assert requests_in([accepted], False) == ([_read(most), *[_read(large)] * 3], 0)
    for words in ((*most, b"x"), (b"SET", b"x" * LOGIN_BYTES), (b"x" * 9000, b"x" * 9000)):
        assert requests_in([request(words)], False) == (None, 0)
        assert requests_in([request(words)], True) == ([_read(words)], 0)


def test_words_beyond_what_a_guard_takes_are_not_stored() -> None:
    """The name is read, for the denial."""
    count = MAX_ARGUMENTS + 1
    data = request((b"DEL", *[b"key"] * (count - 1)))
    for cuts in ([], [7, 5000]):
        assert requests_in(pieces(data, cuts), True) == ([TooManyWords([b"DEL"])], 0)


@pytest.mark.parametrize(
    "data",
    [b"*%d\r\n" % MAX_WORDS, b"*1\r\n$%d\r\n" % (32 << 20), request((b"SET", b"x" * 30_000))],
)
def test_header_and_request_that_is_read_take_no_memory(data: bytes) -> None:
    """Memory grows with what a request has sent, and ends with it."""
    parsers = [Requests() for _ in range(100)]
    tracemalloc.start()
    try:
        for parser in parsers:
            parser.is_trusted = True
            parser.feed(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@given(st.lists(VALUES, max_size=5), CUTS)
@thorough(200)
def test_replies_are_read_as_they_were_written_wherever_they_are_cut(
    values: list[Any], cuts: list[int]
) -> None:
    """A reply stays its bytes, and these have its value."""
    frames = [_encoded(value) for value in values]
    assert replies_in(pieces(b"".join(frames), cuts)) == frames
    assert [parse(frame) for frame in frames] == values


@given(st.binary(max_size=30).filter(lambda line: b"\r" not in line and b"\n" not in line))
@thorough(100)
def test_error_reply_keeps_its_line(line: bytes) -> None:
    """Also one that is no text."""
    error = parse(b"-ERR %b\r\n" % line)
    assert error_line(error) == b"ERR " + line


@given(st.lists(st.tuples(VALUES, st.integers(1, 3)), min_size=1, max_size=5))
@thorough(200)
def test_batch_is_split_into_the_replies_of_its_commands(runs: list[tuple[Any, int]]) -> None:
    """A run of commands has one reply that all have in common, or an array of them."""
    expected, items = list[tuple[bytes, int]](), list[bytes]()
    for value, times in runs:
        reply = _encoded(value)
        is_array = times > 1 and reply[:1] == b"*"
        items.append(b"*%d\r\n" % times + reply * times if is_array else reply)
        expected += [(reply, 1)] * times if is_array else [(reply, times)]
    frame = b"*%d\r\n" % len(items) + b"".join(items)
    shape = [times for _, times in runs]
    assert split(frame, shape) == expected
    with pytest.raises(ValueError, match="zip"):
        split(frame, [*shape, 1])


def _read(words: Sequence[bytes]) -> tuple[str | bytes, ...]:
    """Return a command as it is read."""
    return name_of(words[0][:MAX_NAME]), *words[1:]


def _encoded(value: Any) -> bytes:
    out: list[bytes] = []
    encode(value, 2, out)
    return b"".join(out)


@pytest.mark.parametrize("reply", [b"$ -14\r\n", b"*1\r\n$\n-3\r\n", b"* -2\r\n"])
def test_a_reply_with_a_negative_length_is_an_error(reply: bytes) -> None:
    """Python's int() takes blanks before the sign, and it would be read for ever."""
    with pytest.raises(ValueError, match="negative"):
        Frames().feed(reply)
