"""Collect the problems of a document, and format user input in messages."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import TypeVar

from keyleash.errors import PolicyError, Problem, Span

T = TypeVar("T")
SHOWN_CHARS = 60
SHOWN_IDENTITIES = 10
FEW = 3
"""Similar items that are shown one by one; more are folded into one."""
SHOWN_BLOCKS = 50
"""Different items that are shown; more are summarized."""


class Problems:
    """The problems found so far, without duplicates."""

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}

    def add(self, code: str, message: str, span: Span, help: str) -> None:
        """Add a problem."""
        self._found[Problem(code, message, span, help)] = None

    def attempt(self, read: Callable[[], T]) -> T | None:
        """Call *read*; if it raises `PolicyError`, add its problems and return None."""
        try:
            return read()
        except PolicyError as error:
            self._found.update(dict.fromkeys(error.problems))
            return None

    def any_between(self, start: Span, end: Span) -> bool:
        """Return whether a problem is at or after *start* and before *end*."""
        first, last = place(start), place(end)
        return any(first <= place(problem.span) < last for problem in self._found)

    @property
    def in_order(self) -> tuple[Problem, ...]:
        """All problems, in file order."""
        return in_order(self._found)

    def require_none(self) -> None:
        """
        Raise an error if a problem was found.

        Raises:
            PolicyError: All problems, in file order.
        """
        if self._found:
            raise self.error()

    def error(self, last: PolicyError | None = None) -> PolicyError:
        """Return all problems as one error, with those of *last*, which ended the parsing."""
        problems = dict.fromkeys((*self._found, *(last.problems if last else ())))
        return PolicyError(in_order(problems))


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return problems of one file, in file order."""
    return tuple(sorted(problems, key=lambda problem: place(problem.span)))


def place(span: Span) -> tuple[int, int]:
    """Return the sort key of file order."""
    return span.line, span.column


def fail(code: str, message: str, span: Span, help: str) -> PolicyError:
    """Return a `PolicyError` with one problem."""
    return PolicyError([Problem(code, message, span, help)])


def quote(text: str) -> str:
    """Return user input in backticks, escaped and shortened."""
    shown = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
    visible = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown
    )
    return f"`{visible}`"


def listing(words: Iterable[str], most: int | None = None) -> str:
    """Return words in backticks with commas: the first *most*, and a count of the others."""
    return some([f"`{word}`" for word in words], most)


def some(texts: Sequence[str], most: int | None = None) -> str:
    """Return texts with commas: the first *most*, and a count of the others."""
    shown = ", ".join(texts[:most])
    return shown if most is None or len(texts) <= most else f"{shown} and {len(texts) - most} more"


def fold(items: Iterable[T], key: Callable[[T], Hashable], few: int = FEW) -> Iterator[list[T]]:
    """Yield groups of *items* with the same *key*, or each alone in a group of up to *few*."""
    groups: dict[Hashable, list[T]] = {}
    keyed = [(item, key(item)) for item in items]
    for item, of in keyed:
        groups.setdefault(of, []).append(item)
    for item, of in keyed:
        if len(groups[of]) <= few:
            yield [item]
        elif groups[of][0] is item:
            yield groups[of]


def did_you_mean(word: str, choices: Iterable[str], otherwise: str) -> str:
    """
    Return the help for an unknown word.

    Args:
        choices: The valid words; case is ignored.
        otherwise: The help if none of them is similar.
    """
    # difflib is quadratic in the length, and no known word is this long.
    if len(word) > SHOWN_CHARS:
        return otherwise
    folded = {item.casefold(): item for item in choices}
    close = get_close_matches(word.casefold(), folded, n=1)
    return f"did you mean `{folded[close[0]]}`?" if close else otherwise


def which_identity(name: str, identities: Iterable[str], have: str = "it has") -> str:
    """Return the help for an unknown identity: a similar name, or the first known ones."""
    names = list(identities)
    return did_you_mean(name, names, f"{have} {listing(names, SHOWN_IDENTITIES)}")
