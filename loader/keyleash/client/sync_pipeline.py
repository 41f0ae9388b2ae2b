"""Redis-py's pipeline, sent as batches of the guard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import redis.client
from redis.exceptions import ResponseError

from keyleash.client.batching import Queued, pipelined
from keyleash.client.hand import InHand
from keyleash.client.queueing import Queueing
from keyleash.client.waiting import Waiting
from keyleash.errors import LeashError, NotReplicatedError

if TYPE_CHECKING:
    from keyleash.client.sync import Redis


class Pipeline(Queueing, redis.client.Pipeline):
    """Made by `keyleash.Redis.pipeline`; it queues as redis-py's does."""

    def __init__(self, client: Redis, transaction: bool, shard_hint: Any = None) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client
        self._atomic = transaction

    # A pipeline's own looks for WATCH, which never comes here.
    parse_response = redis.Redis.parse_response

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """Another pipeline of the same client."""
        return self._client.pipeline(transaction, shard_hint)

    def __enter__(self) -> Self:
        return self

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what was queued; one result for each command, in order."""
        commands: list[Queued] = self.command_stack
        try:
            if not commands:
                return []
            results = self._results(commands, self._atomic or self.explicit_transaction)
            if raise_on_error:
                self.raise_first_error(commands, results)
            return results
        finally:
            self.reset()

    def _results(self, commands: list[Queued], atomic: bool) -> list[Any]:
        client = self._client
        flow = pipelined(commands, atomic, Waiting(client._wait_s), client.get_encoder)
        try:
            answers = client._run(flow)
        except LeashError as refused:
            self._name_refused(refused, commands)
            raise
        except NotReplicatedError as short:
            raise short.about(self._parsed(short.reply, commands)) from short.__cause__
        return self._parsed(answers, commands)

    def _parsed(self, answers: list[Any], commands: list[Queued]) -> list[Any]:
        return [self._result(*one) for one in zip(answers, commands, strict=True)]

    def _result(self, answer: InHand | Exception, queued: Queued) -> Any:
        if isinstance(answer, Exception):
            return answer
        words, options = queued
        try:
            response = self.parse_response(answer, words[0], **options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            return error
        return self._client._session.finished(words[0], response)


class Batch(Pipeline):
    """Made by `keyleash.Redis.batch`: a `with` block whose commands all run, or none.

    Attributes:
        results: What `execute` returned, or leaving the block would have.
    """

    def __init__(self, client: Redis) -> None:
        super().__init__(client, transaction=True)
        self.results: list[Any] = []

    def __enter__(self) -> Self:
        self.results = []
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        try:
            if exc_type is None and self.command_stack:
                self.execute()
        finally:
            self.reset()

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what was queued; one result for each command, in order."""
        commands: list[Queued] = self.command_stack
        self.results = []
        try:
            self.results = super().execute(raise_on_error=False)
        except NotReplicatedError as short:
            self.results = short.reply
            raise
        if raise_on_error:
            self.raise_first_error(commands, self.results)
        return self.results
