"""Streams page by page: as raw words, each page so small that the server is soon free again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyleash.audit.entry import Pairs
from keyleash.protocol.active import Client

Words = list[bytes]
"""An entry's fields as they lie in the stream: names and values in turn; names may repeat."""

RawEntry = tuple[bytes, Words]
"""An entry's id, and its words."""

FIRST_PAGE = 50
MAX_PAGE = 250
"""Entries per XRANGE: the server answers nobody else meanwhile.

What the next page takes is guessed by the last one; where small entries are followed by ones with
images of 64 KiB, so many of these are read at once.
"""
PAGE_BYTES = 1_000_000
"""What a page should not be much larger than: entries with before-images can be."""
_SAMPLED = 10


def read_pages(
    client: Client,
    stream: str,
    since_ms: int | None = None,
    until_ms: int | None = None,
    *,
    newest_first: bool = False,
) -> Iterator[list[RawEntry]]:
    """Read a stream, or what it has of a time, bounds included.

    Pages begin small, since those who ask for the newest entries seldom want many.
    """
    begin = b"-" if since_ms is None else b"%d-0" % since_ms
    end = b"+" if until_ms is None else b"%d" % until_ms
    # By a name that redis-py does not know: it would make a dict of the fields, whose names repeat.
    command = b"XREVRANGE" if newest_first else b"XRANGE"
    count = FIRST_PAGE
    while True:
        bounds = (end, begin) if newest_first else (begin, end)
        page = client.execute_command(command, stream, *bounds, "COUNT", count)
        if page:
            yield page
        if len(page) < count:
            return
        after = b"(" + page[-1][0]
        begin, end = (begin, after) if newest_first else (after, end)
        count = next_count(page)


def next_count(page: Sequence[RawEntry]) -> int:
    """How many entries the page behind *page* may have."""
    sampled = page[::_SAMPLED]
    each = sum(len(word) for _, words in sampled for word in words) / len(sampled)
    return max(1, min(MAX_PAGE, int(PAGE_BYTES / (each + 1))))


def pairs_of(words: Words) -> Pairs:
    """Names and values, in order."""
    return list(zip(words[::2], words[1::2], strict=True))


def place_of_last_ms(entries: Sequence[RawEntry]) -> int:
    """Where the entries of the last millisecond begin."""
    last = entries[-1][0].partition(b"-")[0] + b"-"
    place = len(entries) - 1
    while place and entries[place - 1][0].startswith(last):
        place -= 1
    return place
