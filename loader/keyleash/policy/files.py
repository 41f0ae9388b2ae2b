"""Read policy files and test files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from keyleash.errors import OperationError, PolicyError, Problem, Span

ReadText = Callable[[str], tuple[str, str]]
"""Returns the name of a file for messages, and its text."""


def read_text(file: str) -> tuple[str, str]:
    """Return the name of a file, and its text without a byte order mark.

    Raises:
        OperationError (file): The file is missing, or cannot be read.
        PolicyError: It is not UTF-8.
    """
    return file, decoded(file, read_bytes(file))


def read_bytes(file: str) -> bytes:
    """Read a file.

    Raises:
        OperationError (file): The file is missing, or cannot be read.
    """
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:
        # A name with a null byte raises ValueError.
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise OperationError("file", f"cannot read `{file}`: {reason}") from None


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
