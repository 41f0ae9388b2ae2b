"""The calls of one token: tools in, results of its guard out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, Tool
from redis.exceptions import RedisError, ResponseError

import keyleash.asyncio
from keyleash.client.blocking import timeout_of
from keyleash.client.command_words import Role, role_of
from keyleash.client.correlation import CorrelationSource, new_correlation
from keyleash.client.once import maybe_once
from keyleash.client.tokens import AsyncTokenSource
from keyleash.client.unsupported import refused
from keyleash.commands import CommandSpec, CommandTable
from keyleash.errors import KeyleashError, LeashError
from keyleash.mcp.forms import class_of, form_of, is_usable, object_of, tool_name, word_of
from keyleash.mcp.results import denied, failure, result, text_of
from keyleash.mcp.tools import BY_WORDS, DELEGATION, Access, batch_schema, by_words, script_schema
from keyleash.store.failures import is_unanswered, printable_reason
from keyleash.text import without_tokens

MAX_ARGUMENTS = 4 * 1024 * 1024
MAX_CONNECTIONS = 16
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Holder:
    """The client of a token, and its tools.

    Args:
        url: The server.
        token: The token, or a callable that returns it.
        by_class: Whether its tools are classes of operations.
        timeout_s: The longest wait for a connection and for each reply.

    Attributes:
        calls: The number of calls that run.
        listed: The tools that were listed last; None before.

    Raises:
        TokenUnknownError: the token is malformed.
    """

    def __init__(
        self, url: str, token: AsyncTokenSource, *, by_class: bool, timeout_s: float
    ) -> None:
        self.client = keyleash.asyncio.Redis.from_url(
            url,
            token=token,
            max_connections=MAX_CONNECTIONS,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        )
        self.calls = 0
        self.listed: list[Tool] | None = None
        self._session = self.client._session
        self._by_class = by_class
        self._correlation = new_correlation()
        self._access: Access | None = None
        self._named: tuple[CommandTable | None, Mapping[str, CommandSpec]] = None, {}

    @property
    def generation(self) -> int:
        """The activation of the policy that the last call met; 0 before."""
        return self._session.guard.generation if self._session.guard is not None else 0

    async def close(self) -> None:
        """Close its connections."""
        await self.client.aclose()

    async def access(self) -> Access:
        """Return what the token may do now; errors as of `whoami`."""
        me = await self.client.whoami()
        guard, table = self._session.guard, self._session.table
        delegates = guard is not None and guard.delegates
        self._access = Access(me.grants, me.deny, table, delegates, self._by_class)
        return self._access

    async def tools(self) -> list[Tool]:
        """Return the tools of the token; none if its calls are all denied."""
        try:
            return (await self.access()).tools()
        except LeashError:
            return []

    async def call(
        self, name: str, arguments: Mapping[str, Any], meta: Mapping[str, Any], session: str | None
    ) -> CallToolResult:
        """Make the call of a tool; return its result, or the denial.

        Args:
            name: A tool, listed or not.
            arguments: As the client sent them.
            meta: `_meta` of the request.
            session: The correlation id of the session, if it is not that of the holder.

        Raises:
            MCPError: there is no such tool, or the arguments do not fit.
        """
        trace = _TRACE.fullmatch(str(meta.get("traceparent", "")))
        correlation: CorrelationSource = trace[1] if trace else session or self._correlation
        self.calls += 1
        names: Sequence[str] = ()
        try:
            with keyleash.correlation(correlation), maybe_once(meta.get("idempotencyKey")):
                names, run = self._prepared(name, arguments)
                return result(await run)
        except LeashError as denial:
            return denied(denial, await self._instead(denial, names))
        except KeyleashError as error:
            return failure(error.code, without_tokens(error.message))
        except ResponseError as error:
            return failure("REDIS", without_tokens(str(error)))
        except RedisError as error:
            ran = "the call may have run" if is_unanswered(error) else "nothing ran"
            return failure("UNAVAILABLE", f"no reply, {ran}: {printable_reason(error)}")
        except (ValueError, TypeError) as error:
            raise invalid(without_tokens(str(error))) from None
        finally:
            self.calls -= 1

    async def _instead(self, denial: LeashError, names: Sequence[str]) -> Sequence[str]:
        """Return the patterns on which a denied command is allowed."""
        try:
            access = self._access or await self.access()
        except (KeyleashError, RedisError):
            return ()
        command = denial.details.get("command")
        return access.patterns([command] if command else names)

    def _prepared(self, name: str, arguments: Mapping[str, Any]) -> tuple[Sequence[str], Any]:
        """Return the commands of a call, and the coroutine that makes it.

        Raises:
            MCPError, ValueError: there is no such tool, or the arguments do not fit.
            CommandRefusedError: no tool runs the command.
        """
        given = {key: value for key, value in arguments.items() if value is not None}
        if len(text_of(given)) > MAX_ARGUMENTS:
            raise invalid(f"the arguments are longer than {MAX_ARGUMENTS} bytes")
        access = self._access
        if name == "whoami":
            check(given, object_of({}))
            return (), self._whoami()
        if name == "delegate":
            check(given, object_of(DELEGATION))
            return (), self.client.delegate(**given)
        if name == "batch":
            check(given, batch_schema())
            commands = [self._by_words(words, "") for words in given["commands"]]
            return [str(words[0]) for words in commands], self._batch(commands)
        if name in BY_WORDS:
            check(given, by_words())
            words = self._by_words(given["command"], name)
            return [str(words[0])], self.client.execute_command(*words)
        if access is not None and name in access.scripts:
            check(given, script_schema())
            keys, rest = (given.get(field, ()) for field in ("keys", "arguments"))
            several = [*map(word_of, keys), *map(word_of, rest)]
            digest = access.scripts[name][0]
            return (), self.client.evalsha(digest, len(keys), *several)
        spec = self._commands().get(name)
        if spec is None:
            raise invalid(f"there is no tool `{without_tokens(name[:64])}`")
        form = form_of(spec)
        check(given, form.schema)
        return [spec.name], self.client.execute_command(*form.call(given))

    def _commands(self) -> Mapping[str, CommandSpec]:
        """Return the commands by the names of their tools, listed or not."""
        table = self._session.table
        if self._named[0] is not table:
            usable = filter(is_usable, table)
            self._named = table, {tool_name(spec.name): spec for spec in usable}
        return self._named[1]

    def _by_words(self, given: Sequence[Any], tool: str) -> list[bytes | str]:
        """Return the words of a command for a tool that runs those of a class; "" runs all.

        Raises:
            ValueError: it has no name, or another tool runs it.
            CommandRefusedError: no tool runs it.
        """
        name = given[0]
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise ValueError("the first word must be the name of a command")
        words: list[bytes | str] = [*map(word_of, given)]
        spec = self._session.table.find(
            [item if isinstance(item, bytes) else item.encode() for item in words[:2]]
        )
        if role_of(name) not in (None, Role.KEYS, Role.BLOCKING) or timeout_of(words) is not None:
            raise refused(
                name.upper(),
                "tools run no command of connections, subscriptions and scripts, and none that waits",
                "use the tools that are listed",
            )
        cls = class_of(spec)
        if tool and cls != tool:
            raise ValueError(f"`{name}` is a command for the tool `{cls}`")
        # redis-py names a sub-command with its container.
        size = 1 if spec is None else spec.name.count(" ") + 1
        return [name.upper() if spec is None else spec.name, *words[size:]]

    async def _batch(self, commands: Sequence[Sequence[bytes | str]]) -> list[Any]:
        async with self.client.pipeline(transaction=True) as pipe:
            for words in commands:
                pipe.execute_command(*words)
            results: list[Any] = await pipe.execute(raise_on_error=False)
            return results

    async def _whoami(self) -> dict[str, Any]:
        return (await self.client.whoami()).to_dict()


def check(given: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise MCPError, without the arguments, if they do not fit a schema."""
    error: Any = best_match(Draft202012Validator(schema).iter_errors(given))
    if error is None:
        return
    if error.validator == "required":
        lacks = [name for name in error.validator_value if name not in error.instance]
        raise invalid(f"arguments are missing: {', '.join(lacks)}")
    if error.validator == "additionalProperties":
        raise invalid(f"there are arguments besides {', '.join(error.schema['properties'])}")
    place = ".".join(map(str, list(error.absolute_path)[:2]))
    raise invalid(f"`{place}` does not fit {error.validator}: {text_of(error.validator_value)}")


def invalid(message: str) -> MCPError:
    return MCPError(INVALID_PARAMS, message)
