"""What the guarded pipelines have in common, sync and async."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from redis.exceptions import ResponseError

from keyleash.client.batching import Queued
from keyleash.client.unscoped import Unscoped, watching
from keyleash.errors import LeashError


class Queueing(Unscoped):
    """Mixed in before redis-py's Pipeline: nothing is sent but by `execute`."""

    def immediate_execute_command(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: redis-py sends WATCH this way, and what is called after it."""
        raise watching()

    def load_scripts(self) -> NoReturn:
        """Refuse: redis-py loads this way what `register_script` made."""
        raise watching()

    def raise_first_error(self, commands: Sequence[Queued], response: Iterable[Any]) -> None:
        """Raise the first exception among the results, and say which command it is of."""
        for number, result in enumerate(response, start=1):
            if isinstance(result, ResponseError):
                self._annotate(result, number, commands)
                raise result
            if isinstance(result, Exception):
                raise result

    def _name_refused(self, refused: LeashError, commands: Sequence[Queued]) -> None:
        """Say of which command the refusal of a whole batch is."""
        item = refused.details.get("item")
        if item is not None:
            self._annotate(refused, int(item), commands)

    def _annotate(self, error: Exception, number: int, commands: Sequence[Queued]) -> None:
        pipeline: Any = self
        pipeline.annotate_exception(error, number, commands[number - 1][0])
