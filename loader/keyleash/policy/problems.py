"""Collecting what is wrong with a document, and the words in which it is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TypeVar

from keyleash.errors import PolicyError, Problem, Span

T = TypeVar("T")
SHOWN_CHARS = 60
SHOWN_IDENTITIES = 10


class Problems:
    """The problems found so far; the same one found twice counts once."""

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}

    def add(self, code: str, message: str, span: Span, help: str) -> None:
        """Note one problem."""
        self._found[Problem(code, message, span, help)] = None

    def attempt(self, read: Callable[[], T]) -> T | None:
        """Call *read*; if it raises `PolicyError`, note its problems and return None."""
        try:
            return read()
        except PolicyError as error:
            self._found.update(dict.fromkeys(error.problems))
            return None

    def any_between(self, start: Span, end: Span) -> bool:
        """Whether a problem lies at or after *start* and before *end*."""
        first, last = place(start), place(end)
        return any(first <= place(problem.span) < last for problem in self._found)

    @property
    def in_order(self) -> tuple[Problem, ...]:
        """All problems, in file order."""
        return in_order(self._found)

    def require_none(self) -> None:
        """
        Do nothing if no problem was found.

        Raises:
            PolicyError: With every problem, in file order.
        """
        if self._found:
            raise self.error()

    def error(self, last: PolicyError | None = None) -> PolicyError:
        """All problems as one error, with those of *last*, which stopped the reading."""
        found = dict.fromkeys((*self._found, *(last.problems if last else ())))
        return PolicyError(in_order(found))


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems of one file, by where they are."""
    return tuple(sorted(problems, key=lambda problem: place(problem.span)))


def place(span: Span) -> tuple[int, int]:
    """By which problems are put in file order."""
    return span.line, span.column


def fail(code: str, message: str, span: Span, help: str) -> PolicyError:
    """A `PolicyError` of one problem, to be raised by a reader of one value."""
    return PolicyError([Problem(code, message, span, help)])


def quote(text: str) -> str:
    """User input in backticks, on one line and not too long."""
    shown = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
    visible = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown
    )
    return f"`{visible}`"


def listing(words: Iterable[str], most: int | None = None) -> str:
    """Words in backticks, separated by commas; of more than *most* the first, and how many more."""
    some = list(words)
    shown = ", ".join(f"`{word}`" for word in some[:most])
    return shown if most is None or len(some) <= most else f"{shown} and {len(some) - most} more"


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """
    The help for an unknown word.

    Args:
        word: What was written.
        known: What could have been meant; case does not count.
        otherwise: The help if nothing is close.
    """
    # difflib is quadratic in the length, and no known word is this long.
    if len(word) > SHOWN_CHARS:
        return otherwise
    folded = {item.casefold(): item for item in known}
    close = get_close_matches(word.casefold(), folded, n=1)
    return f"did you mean `{folded[close[0]]}`?" if close else otherwise


def which_identity(name: str, known: Iterable[str], have: str = "it has") -> str:
    """The help for an unknown identity: which was meant, or the first of those that there are."""
    names = list(known)
    return did_you_mean(name, names, f"{have} {listing(names, SHOWN_IDENTITIES)}")
