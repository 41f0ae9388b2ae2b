"""Commands of several tasks that make up one call, and where their answers go."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from keyleash.client.batching import Queued, chunks
from keyleash.client.correlation import new_correlation
from keyleash.client.hand import InHand, Unreplicated
from keyleash.client.session import Session
from keyleash.errors import NotReplicatedError

Answer: TypeAlias = "asyncio.Future[InHand | None]"
"""What a command was answered; None tells it to go alone."""

Raised = TypeVar("Raised", bound=BaseException)


def another(error: Raised) -> Raised:
    """A copy, since each task raises one of its own; the error itself if it cannot be copied."""
    try:
        twin = copy.copy(error)
        # A class with a signature of its own may be made anew of the wrong arguments.
        return twin if type(twin) is type(error) and str(twin) == str(error) else error
    except Exception:
        return error


@dataclass(slots=True)
class Together:
    """Commands of one correlation id, and where their answers go.

    Attributes:
        is_one: Whether it is a plain guard call, of one command, and not a batch.
        was_sent: Whether anything of it may have reached the server.
        answered: The answers themselves, once they are there.
    """

    correlation: str | None
    commands: list[Queued] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    is_one: bool = False
    was_sent: bool = False
    answered: Sequence[InHand | Exception] = ()

    def calls(self) -> Iterator[Together]:
        """What is still wanted, parted by what one call may carry."""
        wanted = [index for index, answer in enumerate(self.answers) if not answer.done()]
        for chunk in chunks(self.commands, wanted):
            yield Together(
                new_correlation() if self.correlation is None else self.correlation,
                [self.commands[index] for index in chunk],
                [self.answers[index] for index in chunk],
                len(chunk) == 1,
            )

    def halves(self) -> list[Together]:
        """Two calls instead of this one, which has four commands at least."""
        middle = len(self.commands) // 2
        return [
            Together(self.correlation, self.commands[part], self.answers[part])
            for part in (slice(middle), slice(middle, None))
        ]

    def is_wanted(self) -> bool:
        """Leave out the commands whose tasks were cancelled; whether there are others."""
        wanted = [index for index, answer in enumerate(self.answers) if not answer.done()]
        if len(wanted) < len(self.answers):
            self.commands = [self.commands[index] for index in wanted]
            self.answers = [self.answers[index] for index in wanted]
        return bool(wanted)

    def tell(self) -> None:
        """Tell each command its answer, if there is one, but those whose task was cancelled."""
        for future, answer in zip(self.answers, self.answered, strict=False):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def mark(self, short: NotReplicatedError, session: Session) -> None:
        """Have each command that may have written say that replicas lack it."""
        self.answered = [
            Unreplicated(answer, short)
            if isinstance(answer, InHand) and session.may_write(words)
            else answer
            # Of a call of which nothing ran there is no answer.
            for answer, (words, _) in zip(self.answered, self.commands, strict=False)
        ]

    def fail(self, error: BaseException) -> None:
        """Tell all that have no answer yet."""
        for future in self.answers:
            if isinstance(error, asyncio.CancelledError):
                future.cancel()
            elif not future.done():
                future.set_exception(another(error))

    def part(self) -> None:
        """Tell each command to go alone."""
        for future in self.answers:
            if not future.done():
                future.set_result(None)

    def parted(self, encoder: Any) -> Iterator[Together]:
        """Let each command that cannot be encoded go alone; the others, if there are any."""
        rest = Together(self.correlation)
        for queued, future in zip(self.commands, self.answers, strict=True):
            try:
                for word in (self.correlation, *queued[0]):
                    encoder.encode(word)
            except Exception:
                Together(None, [queued], [future]).part()
            else:
                rest.commands.append(queued)
                rest.answers.append(future)
        if rest.commands:
            rest.is_one = len(rest.commands) == 1
            yield rest
