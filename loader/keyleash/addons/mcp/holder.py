"""The calls of one token: tools in, results of its guard out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, cast

from jsonschema import Draft202012Validator
from mcp_types import CallToolResult, Tool
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import ResponseError

from keyleash.addons.mcp.forms import class_of, form_of, word_of
from keyleash.addons.mcp.results import denied, no_tool, result, text_of
from keyleash.addons.mcp.tools import OF_SCRIPT, SCHEMAS, Access
from keyleash.client.aio import pool
from keyleash.client.asyncio import Redis, RedisCluster
from keyleash.client.blocking import timeout_of
from keyleash.client.caller import LOST
from keyleash.client.command_words import Role, described, role_of
from keyleash.client.correlation import correlation, new_correlation
from keyleash.client.once import current_block, maybe_once
from keyleash.client.session import Session
from keyleash.client.tokens import AsyncTokenSource
from keyleash.client.unsupported import refused
from keyleash.client.whoami import WhoAmI
from keyleash.commands.refusals import with_reason
from keyleash.errors import ClusterError, CommandRefusedError, KeyleashError, LeashError
from keyleash.store.wire import MAX_ARGUMENTS as MAX_WORDS
from keyleash.store.wire import MAX_BATCH_COMMANDS
from keyleash.text import without_tokens

MAX_ARGUMENTS = 4 * 1024 * 1024
MAX_ITEMS = 2 * MAX_WORDS + MAX_BATCH_COMMANDS
"""The values in the arguments of a call; an object of base64 is two."""
MAX_CONNECTIONS = 16
"""Further calls of a token wait."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Holder:
    """The client of a token, and its tools.

    Attributes:
        calls: The number of calls that run.
        root: The issued token from which it was delegated, or itself; empty before a call, and the
            identity alone while that is suspended.
    """

    root = ""

    def __init__(
        self, url: str, token: AsyncTokenSource, *, by_class: bool, delegate: bool, timeout_s: float
    ) -> None:
        options: dict[str, Any] = {"max_connections": MAX_CONNECTIONS, "socket_timeout": timeout_s}
        options["socket_connect_timeout"] = timeout_s
        self._of_cluster = partial(RedisCluster.from_url, url, token=token, **options)
        options |= {"pool_class": BlockingConnectionPool, "timeout": timeout_s}
        self.client: Any = Redis.from_pool(pool(url, token, **options))
        self.calls = 0
        self._by_class = by_class
        self._others = SCHEMAS.keys() - ({"delegate"} if not delegate else ())
        self._correlation = new_correlation()
        self._access: Access | None = None

    @property
    def generation(self) -> int:
        """The activation of the policy that the last call met; 0 before."""
        return self._session.guard.generation if self._session.guard else 0

    @property
    def _session(self) -> Session:
        return cast(Session, getattr(self.client, "session", None) or self.client._session)

    async def whoami(self) -> WhoAmI:
        """Return what the guard reports of the token; errors as of `keyleash.Redis.whoami`."""
        client = self.client
        self.calls += 1
        try:
            found: WhoAmI = await client.whoami()
        except ClusterError:
            # Of calls at the same time, the first makes the client of the cluster.
            if client is self.client:
                self.client = self._of_cluster()
                await client.aclose()
            found = await self.client.whoami()
        finally:
            self.calls -= 1
        chain = found.restrictions.chain if found.restrictions else ()
        id_ = chain[0].id if chain else found.token_id
        self.root = f"{found.identity}:{id_}"
        return found

    async def close(self) -> None:
        """Close its connections."""
        await self.client.aclose()

    async def tools(self) -> list[Tool]:
        """Return the tools of the token; none if all its calls are denied."""
        try:
            return (await self._read_access()).tools()
        except LeashError:
            return []

    async def _read_access(self) -> Access:
        me, session = await self.whoami(), self._session
        delegates = (
            "delegate" in self._others and session.guard is not None and session.guard.delegates
        )
        found = me.grants, me.deny, session.table, delegates, self._by_class, self.generation
        self._access = Access(*found)
        return self._access

    async def call(
        self, name: str, given: Mapping[str, Any], meta: Mapping[str, Any], session: str | None
    ) -> CallToolResult:
        """Make the call of a tool, listed or not; return its result, or the denial.

        *meta* is `_meta` of the request, and *session* the correlation id if there is no other.

        Raises:
            MCPError, ValueError, TypeError: there is no such tool, or the arguments do not fit.
        """
        trace = _TRACE.fullmatch(str(meta.get("traceparent", "")))
        id_ = trace[1] if trace else session or self._correlation
        given = {
            # JSON does not tell 1.0 from 1.
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in given.items()
            if value is not None
        }
        if len(text_of(given)) > MAX_ARGUMENTS:
            raise ValueError(f"the arguments are longer than {MAX_ARGUMENTS} bytes")
        names: list[str] = []
        self.calls += 1
        try:
            with correlation(id_), maybe_once(meta.get("idempotencyKey")):
                try:
                    return result(await self._run(name, given, names))
                except ResponseError as error:
                    if not isinstance(error, KeyleashError):
                        # The client may have judged it alone, also with a token that has ended.
                        with suppress(*LOST):
                            await self.whoami()
                    raise
        except LeashError as denial:
            command = denial.details.get("command")
            return denied(denial, self._access, [command] if command else names)
        finally:
            self.calls -= 1

    async def _run(self, name: str, given: Mapping[str, Any], names: list[str]) -> Any:
        """Return the reply to a call; *names* receives its commands."""
        access = self._access
        if access is None or access.generation != self.generation:
            access = await self._read_access()
        client, spec, is_script = self.client, access.by_tool.get(name), name in access.scripts
        if not (spec or is_script or name in self._others):
            raise no_tool(name)
        form = form_of(spec) if spec else None
        check(given, form.schema if form else OF_SCRIPT if is_script else SCHEMAS[name])
        if name == "whoami":
            return (await self.whoami()).to_dict()
        if name == "delegate":
            if current_block() is not None:
                raise ValueError("`delegate` takes no `idempotencyKey`: each call makes a token")
            made = await client.delegate(**given)
            return {"token": made.token, **made.to_dict()}
        if is_script:
            keys, rest = ([*map(word_of, given.get(key, ()))] for key in ("keys", "arguments"))
            return await client.evalsha(access.scripts[name][0], len(keys), *keys, *rest)
        if form:
            commands = [form.call(given)]
        else:
            several = given["commands"] if name == "batch" else [given["command"]]
            commands = [self._by_words(words, name, access) for words in several]
        names += [str(words[0]) for words in commands]
        for _, *words in commands:
            # It would be written as it is.
            if words and (capture := access.templates.get(words[0])):
                raise ValueError(f"the key is a pattern: replace `{{{capture}}}` by a value")
        if name != "batch":
            return _page(names[0], await client.execute_command(*commands[0]))
        async with client.pipeline(transaction=True) as pipe:
            for words in commands:
                pipe.execute_command(*words)
            return [*map(_page, names, await pipe.execute(raise_on_error=False))]

    def _by_words(self, given: Sequence[Any], tool: str, access: Access) -> list[bytes | str]:
        """Return the words of a command, if it is one for a tool."""
        name, words = given[0], [*map(word_of, given)]
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise ValueError("the first word must be the name of a command")
        waits = timeout_of(tuple(words)) is not None
        if waits or role_of(name) not in (None, Role.KEYS, Role.BLOCKING):
            reason = "no tool runs commands that wait, subscribe, run scripts or name no key"
            instead = "use the listed tools, or report that you cannot do this"
            if waits:
                instead = "use a form that does not wait, LPOP for BLPOP or no BLOCK, and repeat it"
            raise refused(name.upper(), reason, instead)
        spec = self._session.table.find(words[:2])
        if spec is None:
            raise ValueError(f"`{name}` is no command that keyleash knows")
        if tool not in ("batch", class_of(spec)):
            if access.grants is None or spec.name in access.commands:
                raise ValueError(f"`{name}` is a command for the tool `{class_of(spec)}`")
            denial = CommandRefusedError(with_reason(access.table, {"command": spec.name}))
            raise described(denial, tuple(words), None, access.table)
        if not spec.takes(len(words)):
            shown = spec.name.lower().replace(" ", "|")
            raise ResponseError(f"wrong number of arguments for '{shown}' command")
        # redis-py names a sub-command with its container.
        return [spec.name, *words[spec.name.count(" ") + 1 :]]


def _page(name: str, reply: Any) -> Any:
    """Return a reply; of SCAN and the like with the cursor as text, as tools take it."""
    is_page = name.endswith("SCAN") and isinstance(reply, list | tuple)
    return [str(reply[0]), *reply[1:]] if is_page else reply


def _items(value: Any) -> Iterator[Any]:
    yield value
    for item in value.values() if isinstance(value, dict) else value:
        yield from _items(item) if isinstance(item, dict | list) else (item,)


def check(given: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise ValueError if arguments do not fit the schema; it does not repeat them."""
    # To look at each item of more would hold up the other clients.
    if sum(1 for _ in islice(_items(given), MAX_ITEMS + 2)) > MAX_ITEMS + 1:
        raise ValueError(f"there are more than {MAX_WORDS} arguments")
    error: Any = next(Draft202012Validator(schema).iter_errors(given), None)
    if error is None:
        return
    if error.validator == "required":
        raise ValueError(error.message)
    if error.validator == "additionalProperties":
        names = [*error.schema["properties"]]
        wrong = without_tokens(next(name for name in error.instance if name not in names))[:64]
        raise ValueError(f"`{wrong}` is no argument; there are: {', '.join(names) or 'none'}")
    place = without_tokens(".".join(map(str, error.absolute_path))[:64])
    raise ValueError(f"`{place}` does not fit {error.validator}: {text_of(error.validator_value)}")
