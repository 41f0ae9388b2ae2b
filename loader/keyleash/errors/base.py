"""The base of all errors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from keyleash.text import with_links


@dataclass(frozen=True, slots=True)
class Span:
    """A location in a policy file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class KeyleashError(Exception):
    """The base of all errors of keyleash.

    Attributes:
        code: Stable, machine-readable kind of error.
        exit_code: Exit code of the CLI (of sysexits.h where it has one).
        help: What to do, or None.
        span: Location in the policy file, or None.
    """

    code: str = "error"
    exit_code: int = 1
    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        error = super().__new__(cls, *args)
        error._arguments = (args, options)
        return error

    def __init__(self, message: str, *, help: str | None = None, span: Span | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.help = help and with_links(help)
        self.span = span

    def __str__(self) -> str:
        # Not `message`: redis-py adds the command to the text of an error in a pipeline.
        text = super().__str__()
        return f"{text}\nhelp: {self.help}" if self.help else text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, {shown(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is copied and unpickled from its message.
        args, options = self._arguments
        return partial(type(self), *args, **options), (), self.__dict__


def shown(error: Any) -> str:
    """Return the code of an error and, if it has them, its key and identity."""
    values = {name: getattr(error, name, None) for name in ("code", "key", "identity")}
    return ", ".join(f"{name}={str(value)!r}" for name, value in values.items() if value)
