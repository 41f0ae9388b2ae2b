"""Pipelines over the nodes of a cluster, for asyncio; `cluster_pipeline` is generated from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from redis.client import NEVER_DECODE
from redis.exceptions import ClusterDownError, ResponseError, TryAgainError, WatchError

from keyleash.client import aio
from keyleash.client._redis_py import BufferedReply, UnreplicatedReply, agathered, copy_error
from keyleash.client.actions import Words
from keyleash.client.aio_node import AsyncNodePool
from keyleash.client.batches import chunks
from keyleash.client.caller import id_of, to_repeat
from keyleash.client.calls import Call, RateWait
from keyleash.client.command_words import Role, role_of
from keyleash.client.once import CallId, Ids, current_block, maybe_once
from keyleash.client.routing import (
    HOME_SLOT,
    is_answer,
    is_redirect,
    is_unanswered,
    one_slot,
    retry_pauses,
)
from keyleash.client.unsupported import subscription_in_pipeline, transaction_in_pipeline
from keyleash.errors import RateLimitedError
from keyleash.store.wire import BatchMode


class AsyncSpread:
    """The commands of a pipeline, spread over the nodes of a cluster.

    Args:
        commands: The commands, of which none depends on another.

    Attributes:
        replies: The reply to each; None if there is none yet.
    """

    def __init__(self, cluster: Any, commands: Sequence[Words]) -> None:
        self._cluster = cluster
        self._commands = commands
        self._waiting = RateWait(cluster.wait_s)
        self.replies: list[Any] = [None] * len(commands)

    async def run(self) -> list[BufferedReply]:
        """Make the calls: those of a slot in order, and plain ones in batches."""
        await self._cluster.initialize()  # asyncio only
        await self._learn()
        batch: list[int] = []
        for place, words in enumerate(self._commands):
            if role_of(words[0]) in (None, Role.BLOCKING):
                batch.append(place)
                continue
            await self._run_batch(batch)
            batch = []
            try:
                reply = await self._run_alone(words)
            except ResponseError as error:
                reply = error
            self.replies[place] = BufferedReply(reply)
        await self._run_batch(batch)
        return self.replies

    async def _learn(self) -> None:
        """Fetch the record of the guard if it is lacking and calls may have ids."""
        if current_block() is None or not self._cluster.session.lacks_guard:
            return

        async def attempt(node: Any, _: bool) -> None:
            async with AsyncNodePool(self._cluster, node) as connection:
                await connection.learn()

        await self._cluster.routed(HOME_SLOT, attempt)

    async def _run_alone(self, words: Words) -> Any:
        if role_of(words[0]) is Role.SUBSCRIPTION:
            raise subscription_in_pipeline(str(words[0]))
        if role_of(words[0]) is Role.TRANSACTION:
            raise transaction_in_pipeline(str(words[0]))

        async def attempt(node: Any, is_asking: bool) -> Any:
            async with AsyncNodePool(self._cluster, node, is_asking) as connection:
                return await connection.run(words)

        return await self._cluster.routed(self._slot_of(words), attempt)

    def _slot_of(self, words: Words) -> int:
        slot: int | None = self._cluster.slot_of(words)
        return HOME_SLOT if slot is None else slot

    async def _run_batch(self, places: Sequence[int]) -> None:
        """Make the calls of each slot one after the other, those of all slots together."""
        slots: dict[int, list[int]] = {}
        for place in places:
            slots.setdefault(self._slot_of(self._commands[place]), []).append(place)
        # At once, so that ids depend neither on nodes nor on what comes first.
        queues = [
            [(self._call(chunk), chunk) for chunk in chunks(self._commands, some)]
            for some in slots.values()
        ]
        while queues:
            await self._run_within_rates(dict(queue[0] for queue in queues))
            for queue in queues:
                _, done = queue.pop(0)
                error = self._ended(done)
                if error is not None:
                    # As on one connection, where later commands are not sent.
                    for place in chain.from_iterable(rest for _, rest in queue):
                        self.replies[place] = BufferedReply(copy_error(error))
                    queue.clear()
            queues = [queue for queue in queues if queue]

    def _ended(self, places: Sequence[int]) -> Exception | None:
        """Return the error of a call that is lost, or that no node serves."""
        errors = [self.replies[place].error for place in places]
        is_over = all(error is not None and is_unanswered(error) for error in errors)
        return errors[0] if is_over else None

    async def _run_within_rates(self, calls: dict[Call, Sequence[int]]) -> None:
        """Make calls; repeat what a rate denies, as long as it may wait."""
        while calls:
            await self._run_calls(calls)
            denials: list[RateLimitedError] = []
            rests: dict[Call, Sequence[int]] = {}
            for call, places in calls.items():
                errors = [self.replies[place].error for place in places]
                limited = [error for error in errors if isinstance(error, RateLimitedError)]
                if limited:
                    denials += limited
                    again = to_repeat(self._cluster.session, call, errors)
                    rests[call.rest(again)] = [places[at] for at in again]
            try:
                if denials:
                    await self._cluster.sleep(self._waiting.pause(denials).seconds)
            except RateLimitedError:
                return
            calls = rests

    async def _run_calls(self, calls: Mapping[Call, Sequence[int]]) -> None:
        """Send the calls of a node in one packet; repeat what did not run."""
        # Nodes of redis-py 7 cannot be keys of a dictionary.
        packets: dict[str, tuple[Any, dict[Call, Sequence[int]]]] = {}
        failures: dict[str, tuple[Any, Exception]] = {}
        for call, places in calls.items():
            node, name = None, ""
            try:
                node = self._cluster.node_of(self._slot_of(call.commands[0]))
                name = node.name
            except ClusterDownError as error:
                failures[name] = node, error
            packets.setdefault(name, (node, {}))[1][call] = places
        run: Any = self._run_packet
        served = [packet for name, packet in packets.items() if name]
        await agathered(run(node, calls, failures) for node, calls in served)
        # All together wait as long as one call may; lost nodes, which use that up, are the last.
        pauses = retry_pauses()
        for name in sorted(packets, key=failures.__contains__):
            await self._repeat(*packets[name], failures.get(name), pauses)

    def _call(self, places: Sequence[int], once: CallId | None = None) -> Call:
        commands = [self._commands[place] for place in places]
        call = Call(commands, BatchMode.EACH if len(commands) > 1 else None)
        block = current_block()
        if once is None and block is not None:
            once = id_of(self._cluster.session, call, block, Ids())
        call.once = once
        return call

    async def _run_packet(
        self,
        node: Any,
        calls: Mapping[Call, Sequence[int]],
        failures: dict[str, tuple[Any, Exception]],
    ) -> None:
        try:
            await self._exchange(node, False, calls)
        except Exception as error:
            if not is_answer(error):
                raise
            failures[node.name] = node, error

    async def _repeat(
        self, node: Any, calls: Mapping[Call, Sequence[int]], failed: Any, pauses: Iterator[float]
    ) -> None:
        """Make the commands of a packet that did not run again, one by one.

        A batch with an idempotency id is made again as it was, also if it may have run.
        """
        final = redirect = None
        lost = lost_with_id = failed
        # The others end like the first.
        for call, places in calls.items():
            if call.once:
                if await self._repeat_with_id(call.once, places, node, lost_with_id, pauses):
                    # One pause is enough for all.
                    lost_with_id = None
                continue
            for place in places:
                reply = self.replies[place]
                if reply is not None:
                    if is_redirect(reply.error) and type(reply.error) is not type(redirect):
                        redirect = await self._run_again([place], (node, reply.error), pauses)
                elif final is None:
                    final, lost = await self._run_again([place], lost, pauses), None
                else:
                    self.replies[place] = BufferedReply(copy_error(final))

    async def _repeat_with_id(
        self, once: CallId, places: Sequence[int], node: Any, failed: Any, pauses: Iterator[float]
    ) -> bool:
        """Make a call with an id again if it is lost or did not run; return whether it is lost."""
        is_lost = self.replies[places[0]] is None
        error = None if is_lost else self._redirect(places)
        if is_lost or error is not None:
            await self._run_again(places, failed if is_lost else (node, error), pauses, once)
        return is_lost

    def _redirect(self, places: Sequence[int]) -> Exception | None:
        """Return the first error of a call that did not run, so that all its replies are errors."""
        errors: list[Exception] = [self.replies[place].error for place in places]
        return errors[0] if all(map(is_redirect, errors)) else None

    async def _run_again(
        self,
        places: Sequence[int],
        failed: Any,
        pauses: Iterator[float],
        once: CallId | None = None,
    ) -> Exception | None:
        """Make a call again; return the error that it ends with, if no reply has it."""

        async def attempt(node: Any, is_asking: bool) -> None:
            await self._exchange(node, is_asking, {self._call(places, once): places})
            error = self._redirect(places)
            if error is not None:
                raise error

        slot = self._slot_of(self._commands[places[0]])
        if failed is not None and not getattr(failed[1], "has_run", False):
            nodes = self._cluster.nodes_manager.slots_cache.get(slot)
            if failed[0] and nodes and nodes[0].name != failed[0].name:
                # Another call has waited for the node that has taken over.
                failed = None
        try:
            await self._cluster.routed(slot, attempt, failed, once=once, pauses=pauses)
        except Exception as final:
            if not is_answer(final):
                raise
            for place in places:
                self.replies[place] = BufferedReply(copy_error(final))
            return final
        return None

    async def _exchange(
        self, node: Any, is_asking: bool, calls: Mapping[Call, Sequence[int]]
    ) -> None:
        def deliver(call: Call, replies: Sequence[Any]) -> None:
            for place, reply in zip(calls[call], replies, strict=True):
                self.replies[place] = reply

        async with AsyncNodePool(self._cluster, node, is_asking) as connection:
            await connection.exchange([*calls], deliver)


class ClusterPipeline(aio.Pipeline):
    """Made by `keyleash.asyncio.RedisCluster.pipeline`."""

    def __init__(self, cluster: Any, transaction: bool) -> None:
        pool: Any = None
        super().__init__(pool, cluster.response_callbacks, transaction, None)
        self._cluster = cluster
        self._is_atomic = transaction
        self._watched: list[int | None] = []

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queue a command, or run it at once while keys are watched."""
        options.pop("target_nodes", None)
        above: Any = super()
        return above.execute_command(*args, **options)

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """Run WATCH, or another command while keys are watched, on the node of their slot.

        Raises:
            CrossSlotError: its keys, or those that are watched, are in several slots.
        """
        slots = [*self._watched, *self._cluster.slots_of(args)]
        slot = one_slot(slots)
        run: Any = partial(super().immediate_execute_command, *args, **options)
        if self.watching:
            return await self._unmoved(run)

        async def attempt(node: Any, is_asking: bool) -> Any:
            if is_asking:
                raise TryAgainError("keys of a moving slot cannot be watched")
            pool: Any = AsyncNodePool(self._cluster, node)
            self.connection_pool = pool
            try:
                return await run()
            except BaseException:
                await self._release()
                raise

        reply = await self._cluster.routed(slot, attempt)
        self._watched = slots
        return reply

    async def _release(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            await self.connection_pool.release(connection)

    async def _unmoved(self, run: Any) -> Any:
        """Run a command on the node where keys are watched; if they move, the watch is lost."""
        try:
            return await run()
        except ResponseError as error:
            if not is_redirect(error):
                raise
            await self.reset()  # type: ignore[no-untyped-call]
            raise WatchError("the watched keys have moved to another node") from error

    async def reset(self) -> None:  # type: ignore[override]
        """Forget the queued commands, and end the watch."""
        self._watched = []
        await super().reset()  # type: ignore[no-untyped-call]

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the queued commands; return one result for each, in order.

        Raises:
            CrossSlotError: the keys of a transaction are in several slots; nothing was sent.
        """
        # Around all attempts, so that they have the same ids.
        once, self.once = self.once, None
        try:
            with maybe_once(once):
                return await self._execute(raise_on_error)
        finally:
            self.once = once

    async def _execute(self, raise_on_error: bool) -> list[Any]:
        commands: Any = self.command_stack
        execute: Any = partial(super().execute, raise_on_error)
        if not (self._is_atomic or self.explicit_transaction or self.watching):
            return await self._execute_each(commands, raise_on_error)
        try:
            slots = [slot for words, _ in commands for slot in self._cluster.slots_of(words)]
            slot = one_slot([*self._watched, *slots])
            if self.watching or not commands:
                results: list[Any] = await self._unmoved(execute)
                return results

            async def attempt(node: Any, is_asking: bool) -> Any:
                self.command_stack = [*commands]
                pool: Any = AsyncNodePool(self._cluster, node, is_asking)
                self.connection_pool = pool
                return await execute()

            results = await self._cluster.routed(slot, attempt)
        finally:
            await self.reset()
        return results

    async def _execute_each(self, commands: Any, raise_on_error: bool) -> list[Any]:
        try:
            replies = await AsyncSpread(self._cluster, [words for words, _ in commands]).run()
        finally:
            await self.reset()
        values = [
            reply.error or reply.read_response(NEVER_DECODE in options)
            for reply, (_, options) in zip(replies, commands, strict=True)
        ]
        results = await self._called_back(commands, values, BatchMode.EACH)
        for reply in replies:
            if isinstance(reply, UnreplicatedReply):
                raise reply.short.about(results)
        if raise_on_error:
            self.raise_first_error(commands, results)  # type: ignore[no-untyped-call]
            for item in results:
                # That method raises no lost connections.
                if isinstance(item, Exception):
                    raise item
        return results


class ClusterBatch(aio.Batch, ClusterPipeline):  # type: ignore[misc]
    """Made by `keyleash.asyncio.RedisCluster.batch`: all commands run, or none, in one slot."""
