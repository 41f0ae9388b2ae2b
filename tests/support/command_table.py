"""The table of commands, tests/commands.txt: for each command the cells that test suites read."""

from __future__ import annotations

import functools
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from keyleash.commands import load_table

TABLE = Path(__file__).resolve().parents[1] / "commands.txt"
KINDS = frozenset(
    ["any", "doc", "str", "hll", "list", "set", "hash", "zset", "geo", "stream", "vset"]
)


class Piece(NamedTuple):
    """A part of a form: a word, or an option with its own parts."""

    word: str
    option: tuple[Piece, ...] = ()


class CommandRow(NamedTuple):
    """The row of a command; the head of the table explains its cells."""

    name: str
    form: tuple[Piece, ...]
    cost: str
    calls: tuple[str, ...]


@functools.cache
def command_rows() -> Mapping[str, CommandRow]:
    """Return the rows of the table by the name of their command."""
    _, _, text = TABLE.read_text(encoding="utf-8").partition("\n\n")
    lines = re.sub(r"\n +", " | ", text).splitlines()
    return {row.name: row for row in map(_row, lines)}


def _row(line: str) -> CommandRow:
    text, *cells = line.split(" | ")
    words = text.split()
    named = 2 if words[0] in load_table().containers else 1
    form = " ".join(words[named:]).replace("[", "[ ").replace("]", " ]").split()
    cost, calls = "".join(cells[:1]), tuple(cells[1:])
    return CommandRow(" ".join(words[:named]), _pieces(iter(form)), cost, calls)


def _pieces(words: Iterator[str]) -> tuple[Piece, ...]:
    pieces = []
    for word in words:
        if word == "]":
            break
        pieces.append(Piece("", _pieces(words)) if word == "[" else Piece(word))
    return tuple(pieces)


def words_of(text: str) -> tuple[bytes, ...]:
    """Return the words of a text as in a shell, with escapes such as \\x00."""
    words = shlex.split(text)
    return tuple(word.encode().decode("unicode_escape").encode("latin-1") for word in words)


class FormDraws(ABC):
    """Random calls by the forms of the table.

    Args:
        meanings: What a suite draws for words in small letters: one word of a call, or several.
    """

    def __init__(self, source: Random, meanings: Mapping[str, Callable[[Any], Any]]) -> None:
        self.random = source
        self._meanings = meanings

    @abstractmethod
    def key(self, kind: str) -> Any:
        """Return a key for a word that is a type of keys."""

    @abstractmethod
    def several(self, word: str) -> list[list[Any]]:
        """Return what is drawn for a word that may stand several times."""

    def takes_option(self) -> bool:
        """Return whether an option is used."""
        return self.random.randrange(2) == 0

    def fill(self, form: tuple[Piece, ...], argv: list[Any], options: list[list[Any]]) -> None:
        """Add drawn arguments to a call, and the first words of each option to *options*."""
        for piece in form:
            if piece.option:
                if self.takes_option():
                    start = len(argv)
                    self.fill(piece.option, argv, options)
                    options.append(argv[start : start + 3])
                continue
            word = self.random.choice(piece.word.split("|"))
            if word.startswith("count:"):
                several = self.several(word.removeprefix("count:"))
                argv += [str(len(several)), *chain(*several)]
            elif word.endswith("+"):
                argv += chain(*self.several(word[:-1]))
            else:
                argv += self.drawn(word)

    def drawn(self, word: str) -> list[Any]:
        """Return what is drawn for a word of a form."""
        if word in KINDS:
            return [self.key(word)]
        drawn = self._meanings[word](self) if word in self._meanings else word
        return drawn if isinstance(drawn, list) else [drawn]
