"""Problems as GitHub shows them in a pull request, beside the lines that they are about."""

from __future__ import annotations

from typing import Literal

from keyleash.cli.text import printable, without_tokens
from keyleash.errors import Problem

_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = {**_DATA, ":": "%3A", ",": "%2C"}
"""What workflow commands want escaped: in the text, and in the values before it."""


def annotation(level: Literal["warning", "error"], problem: Problem) -> str:
    """
    One workflow command, to be printed on standard output as a line of its own.

    Args:
        level: How it is shown; neither makes a job fail, an exit code does.
        problem: Its file is named as it was given, so relative to the repository if the
            command ran at its root.
    """
    place = {
        "file": printable(problem.span.file),
        "line": str(problem.span.line),
        "col": str(problem.span.column),
        "title": problem.code,
    }
    properties = ",".join(f"{name}={_escaped(value, _PROPERTY)}" for name, value in place.items())
    text = without_tokens(f"{problem.message}\nhelp: {problem.help}")
    return f"::{level} {properties}::{_escaped(text, _DATA)}"


def _escaped(text: str, escapes: dict[str, str]) -> str:
    return "".join(escapes.get(char, char) for char in text)
