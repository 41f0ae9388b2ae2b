"""Rows of an archive, as JSON Lines."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from io import BufferedReader
from pathlib import Path

from keyleash.audit.entries import audit_events, number_of
from keyleash.audit.streams import id_order
from keyleash.store.exports import FORMAT
from keyleash.store.streams import AuditStream, StreamKind
from keyleash.text import LATEST_MS, moment, to_json


@dataclass(frozen=True, slots=True)
class ArchiveRow:
    """An entry with all its fields, in their order; names may repeat.

    Attributes:
        chain: Of a row of an archive, the digest of the line before it.
    """

    id: str
    fields: tuple[tuple[bytes, bytes], ...]
    chain: str = field(default="", compare=False)

    @property
    def seq(self) -> int:
        """Return its sequence number; 0 if it has none."""
        return number_of(self.field(b"seq"))

    @property
    def time(self) -> datetime | None:
        """Return its server time in UTC; None if its id is past the calendar."""
        time_ms, _ = id_order(self.id)
        return moment(time_ms) if time_ms <= LATEST_MS else None

    @property
    def file(self) -> str:
        """Return the name of the file of its day."""
        return file_of(id_order(self.id)[0])

    @property
    def size(self) -> int:
        """Return the size of its fields in bytes."""
        return sum(len(name) + len(value) for name, value in self.fields)

    def field(self, name: bytes) -> bytes:
        """Return the first field of that name; empty if there is none."""
        return next((value for item, value in self.fields if item == name), b"")

    def commands(self, stream: AuditStream) -> list[tuple[str, tuple[bytes, ...]]]:
        """Return the commands of an entry of an audit stream, each with its keys."""
        if stream.kind is not StreamKind.AUDIT:
            return []
        try:
            events = audit_events(stream.identity, self.id.encode(), self.fields)
        except ValueError:
            # Not written by a guard. Its fields are archived anyway.
            return []
        return [(event.op, event.keys) for event in events]


class BreakKind(StrEnum):
    """The kind of a break in the sequence numbers."""

    BEGINS = "begins"
    """The stream was trimmed before its first export."""
    GAP = "gap"
    """Numbers are missing."""
    RESTARTED = "restarted"
    """They restart at 1: the identity's state was lost, or expired after it left the policy."""
    BACK = "back"
    """A number repeats: the server lost acknowledged writes, or was restored."""


@dataclass(frozen=True, slots=True)
class SequenceBreak:
    """A break in the sequence numbers.

    Attributes:
        before: The number before it; 0 if there is none.
        seq: The number after it.
        id: The entry with that number.
    """

    kind: BreakKind
    before: int
    seq: int
    id: str

    @property
    def is_loss(self) -> bool:
        """Return whether entries are missing or repeated."""
        return self.kind in {BreakKind.GAP, BreakKind.BACK}

    def __str__(self) -> str:
        missing = f"{self.before + 1} to {self.seq - 1}"
        match self.kind:
            case BreakKind.BEGINS:
                return f"begins at seq {self.seq}: earlier entries had been trimmed"
            case BreakKind.GAP if self.seq == self.before + 2:
                return f"seq {self.before + 1} is missing, before {self.id}"
            case BreakKind.GAP:
                return f"seq {missing} are missing, before {self.id}"
            case BreakKind.RESTARTED:
                return f"seq restarts after {self.before}, at {self.id}"
            case BreakKind.BACK:
                return f"seq goes back from {self.before} to {self.seq}, at {self.id}"


class SequenceCheck:
    """Checks the numbers of one stream; *last* is the previous one, 0 at its beginning."""

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def follow(self, seq: int, entry_id: str) -> SequenceBreak | None:
        """Check the number of the next entry, 0 if it has none; return a break, if it is one."""
        if not seq:
            return None
        before, self.last = self.last, seq
        if seq == before + 1:
            return None
        if not before:
            kind = BreakKind.BEGINS
        elif seq > before:
            kind = BreakKind.GAP
        else:
            kind = BreakKind.RESTARTED if seq == 1 else BreakKind.BACK
        return SequenceBreak(kind, before, seq, entry_id)


def file_of(time_ms: int) -> str:
    """Return the name of the file of the entries of a day, in UTC."""
    return f"{moment(time_ms).date()}.jsonl"


def digest_of(line: bytes) -> str:
    """Return the digest of a line with its end, which the next line has as its `chain`."""
    return hashlib.sha256(line).hexdigest()


def line_of(row: ArchiveRow, stream: AuditStream, chain: str) -> bytes:
    """Return the line of a row; *chain* is the digest of the line before it."""
    record = {
        "format": FORMAT,
        "chain": chain,
        "id": row.id,
        "time": row.time,
        "stream": str(stream.kind),
        "identity": stream.identity or None,
        "seq": row.seq or None,
        "commands": [{"op": op, "keys": keys} for op, keys in row.commands(stream)],
        "fields": row.fields,
    }
    # In ASCII, so that bytes of an agent cannot control the terminal of a reader.
    return json.dumps(record, separators=(",", ":"), default=to_json).encode() + b"\n"


MAX_LINE_BYTES = 256 << 20  # of an event with 500 before-images


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; OSError if it is a device or a pipe, which may never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return path.open("rb")


def bounded_lines(
    path: Path, end: int = sys.maxsize, most: int = MAX_LINE_BYTES
) -> Iterator[bytes]:
    """Yield the lines of a regular file that begin before *end*, and `?` for one over *most*."""
    with open_regular(path) as file:
        while file.tell() < end and (line := file.readline(most)):
            rest = line
            while len(rest) == most and not rest.endswith(b"\n"):
                line, rest = b"?", file.readline(most)
            yield line


def read_row(line: bytes) -> ArchiveRow:
    """Parse a line.

    Raises:
        ValueError: it is not an entry.
    """
    try:
        record = json.loads(line)
        if record["format"] != FORMAT:
            raise ValueError(f"a line has format {record['format']!r}")
        first, *rest = ((_bytes(name), _bytes(value)) for name, value in record["fields"])
        id_order(record["id"])
        return ArchiveRow(record["id"], (first, *rest), record["chain"])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("a line is not an entry") from error


def _bytes(value: str | dict[str, str]) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return base64.b64decode(value["base64"], validate=True)
