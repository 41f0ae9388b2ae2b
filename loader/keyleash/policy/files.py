"""Read policy files and test files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

from keyleash.errors import OperationError, PolicyError, Problem, Span

MAX_FILE_BYTES = 4 * 1024 * 1024
"""The size of a policy or a file of tests: 1,000 identities may have 4 KiB each."""

ReadText = Callable[[str], tuple[str, str]]
"""Returns the name of a file for messages, and its text."""


def read_text(file: str) -> tuple[str, str]:
    """Return the name of a file, and its text without a byte order mark.

    Raises:
        OperationError (file): The file is missing, or cannot be read.
        PolicyError: It is not UTF-8.
    """
    return file, decoded(file, read_bytes(file))


def read_bytes(file: str, most: int = MAX_FILE_BYTES) -> bytes:
    """Read a regular file of up to *most* bytes.

    Raises:
        OperationError (file): The file is missing, too large, or cannot be read.
    """
    path = Path(file)
    if path.exists() and not (path.is_file() or path.is_dir()):
        # It may never end, or wait for a writer.
        raise OperationError("file", f"cannot read `{file}`: it is not a regular file")
    try:
        with path.open("rb") as opened:
            return bounded(file, opened, most)
    except (OSError, ValueError) as error:
        # A name with a null byte raises ValueError.
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise OperationError("file", f"cannot read `{file}`: {reason}") from None


def bounded(name: str, opened: IO[bytes], most: int = MAX_FILE_BYTES) -> bytes:
    """Return all of an open file; errors as of `read_bytes`."""
    data = opened.read(most + 1)
    if len(data) > most:
        raise OperationError("file", f"cannot read `{name}`: it has more than {most} bytes")
    return data


def decoded(name: str, data: bytes) -> str:
    """Return the text of a file.

    Raises:
        PolicyError: It is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        *before, line = data[: error.start].split(b"\n")
        problem = Problem(
            "not-utf-8",
            f"the file is not UTF-8 text: it has the byte `\\x{data[error.start]:02x}`",
            Span(name, len(before) + 1, len(line.decode("utf-8", "replace")) + 1),
            "save it as UTF-8, or check that it is a policy file",
        )
        raise PolicyError([problem]) from None
