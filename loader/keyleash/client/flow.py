"""Flows: what a call does, written once, and run with or without `await`.

A flow is a generator. It yields what it wants done, and is sent what came of it, or thrown
the error; what it returns is the outcome. `drive` runs one for the sync client, `adrive`
for the async one. The way of a plain command that succeeds is no flow, since it must be
cheap.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeAlias

from redis.client import NEVER_DECODE

from keyleash.protocol.request import Argument, BatchMode

Flow: TypeAlias = Generator[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Plain:
    """Run one of keyleash's own commands, past the guard, on the connection at hand."""

    words: tuple[str, ...]


class Retry(Enum):
    """Make the call again that the connection at hand was taken for."""

    AGAIN = auto()


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep, with no connection in hand."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Command:
    """Send one command through its guard.

    Attributes:
        poll: Whether a null reply is to be raised as `NothingYet`.
    """

    words: tuple[Argument, ...]
    options: dict[str, Any] = field(default_factory=dict)
    poll: bool = False


@dataclass(frozen=True, slots=True)
class BatchCall:
    """Send commands in one call of the batch script.

    Attributes:
        commands: Each as redis-py queues it: its words, and options for its parser.
    """

    mode: BatchMode
    commands: Sequence[tuple[tuple[Argument, ...], dict[str, Any]]]

    @property
    def words(self) -> list[tuple[Argument, ...]]:
        """The commands without their options."""
        return [words for words, _ in self.commands]

    @property
    def undecoded(self) -> bool:
        """Whether some command's reply must not be decoded, so that none may be yet."""
        return any(NEVER_DECODE in options for _, options in self.commands)


class NothingYet(Exception):  # noqa: N818 - an answer, and no error that anybody sees
    """A poll of a blocking command found nothing."""


def drive(flow: Flow, perform: Callable[[Any], Any]) -> Any:
    """Run *flow* to its end; *perform* does what it asks for."""
    try:
        asked = next(flow)
        while True:
            try:
                outcome = perform(asked)
            except Exception as error:
                asked = flow.throw(error)
            else:
                asked = flow.send(outcome)
    except StopIteration as end:
        return end.value


async def adrive(flow: Flow, perform: Callable[[Any], Awaitable[Any]]) -> Any:
    """The async twin of `drive`."""
    try:
        asked = next(flow)
        while True:
            try:
                outcome = await perform(asked)
            except Exception as error:
                asked = flow.throw(error)
            else:
                asked = flow.send(outcome)
    except StopIteration as end:
        return end.value
