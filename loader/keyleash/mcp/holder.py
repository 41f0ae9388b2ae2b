"""The calls of one token: tools in, results of its guard out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from mcp_types import CallToolResult, Tool
from redis.exceptions import RedisError

import keyleash.asyncio
from keyleash.client.blocking import timeout_of
from keyleash.client.command_words import Role, role_of
from keyleash.client.correlation import new_correlation
from keyleash.client.once import maybe_once
from keyleash.client.tokens import AsyncTokenSource
from keyleash.client.unsupported import refused
from keyleash.commands import CommandSpec, CommandTable
from keyleash.errors import LeashError
from keyleash.mcp.forms import class_of, form_of, is_usable, tool_name, word_of
from keyleash.mcp.results import denied, invalid, outcome, text_of
from keyleash.mcp.tools import BY_WORDS, OF_SCRIPT, SCHEMAS, Access
from keyleash.text import without_tokens

MAX_ARGUMENTS = 4 * 1024 * 1024
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
            url, token=token, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
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

    async def tools(self) -> list[Tool]:
        """Return the tools of the token; none if all its calls are denied."""
        try:
            return (await self._read_access()).tools()
        except LeashError:
            return []

    async def _read_access(self) -> Access:
        me = await self.client.whoami()
        guard, table = self._session.guard, self._session.table
        delegates = guard is not None and guard.delegates
        self._access = Access(me.grants, me.deny, table, delegates, self._by_class)
        return self._access

    async def call(
        self, name: str, given: Mapping[str, Any], meta: Mapping[str, Any], session: str | None
    ) -> CallToolResult:
        """Make the call of a tool; return its result, or the denial.

        Args:
            name: A tool, listed or not.
            given: The arguments.
            meta: `_meta` of the request.
            session: The correlation id of the session, if it is not that of the holder.

        Raises:
            MCPError: there is no such tool, or the arguments do not fit.
        """
        trace = _TRACE.fullmatch(str(meta.get("traceparent", "")))
        correlation = trace[1] if trace else session or self._correlation
        given = {key: value for key, value in given.items() if value is not None}
        if len(text_of(given)) > MAX_ARGUMENTS:
            raise invalid(f"the arguments are longer than {MAX_ARGUMENTS} bytes")
        names: list[str] = []
        self.calls += 1
        try:
            with keyleash.correlation(correlation), maybe_once(meta.get("idempotencyKey")):
                return await outcome(self._run(name, given, names))
        except LeashError as denial:
            command = denial.details.get("command")
            return denied(denial, await self._instead([command] if command else names))
        except (ValueError, TypeError) as error:
            raise invalid(str(error)) from None
        finally:
            self.calls -= 1

    async def _instead(self, names: Sequence[str]) -> Sequence[str]:
        """Return the patterns on which commands are allowed."""
        try:
            return (self._access or await self._read_access()).patterns(names)
        except (LeashError, RedisError):
            return ()

    async def _run(self, name: str, given: Mapping[str, Any], names: list[str]) -> Any:
        """Return the reply to a call; *names* receives its commands."""
        client, access = self.client, self._access
        if name in SCHEMAS:
            check(given, SCHEMAS[name])
        if name == "whoami":
            return (await client.whoami()).to_dict()
        if name == "delegate":
            return (await client.delegate(**given)).to_dict()
        if name == "batch" or name in BY_WORDS:
            several = given["commands"] if name == "batch" else [given["command"]]
            commands = [self._by_words(words, name) for words in several]
            names += [str(words[0]) for words in commands]
            if name != "batch":
                return await client.execute_command(*commands[0])
            async with client.pipeline(transaction=True) as pipe:
                for words in commands:
                    pipe.execute_command(*words)
                return await pipe.execute(raise_on_error=False)
        if access is not None and name in access.scripts:
            check(given, OF_SCRIPT)
            keys, rest = ([*map(word_of, given.get(key, ()))] for key in ("keys", "arguments"))
            return await client.evalsha(access.scripts[name][0], len(keys), *keys, *rest)
        spec = self._commands().get(name)
        if spec is None:
            raise invalid(f"there is no tool `{name[:64]}`")
        form = form_of(spec)
        check(given, form.schema)
        names.append(spec.name)
        return await client.execute_command(*form.call(given))

    def _commands(self) -> Mapping[str, CommandSpec]:
        """Return the commands by the names of their tools, listed or not."""
        table = self._session.table
        if self._named[0] is not table:
            self._named = table, {tool_name(spec.name): spec for spec in filter(is_usable, table)}
        return self._named[1]

    def _by_words(self, given: Sequence[Any], tool: str) -> list[bytes | str]:
        """Return the words of a command, if it is one for a tool."""
        name, words = given[0], [*map(word_of, given)]
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise invalid("the first word must be the name of a command")
        if role_of(name) not in (None, Role.KEYS, Role.BLOCKING) or timeout_of(tuple(words)):
            raise refused(
                name.upper(),
                "tools run nothing that waits, and nothing about connections, channels and scripts",
                "use the tools that are listed",
            )
        spec = self._session.table.find(words[:2])
        if tool not in ("batch", class_of(spec)):
            raise invalid(f"`{name}` is a command for the tool `{class_of(spec)}`")
        # redis-py names a sub-command with its container.
        full_name = name.upper() if spec is None else spec.name
        return [full_name, *words[full_name.count(" ") + 1 :]]


def check(given: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Check arguments.

    Raises:
        MCPError: they do not fit the schema; it does not repeat them.
    """
    error: Any = best_match(Draft202012Validator(schema).iter_errors(given))
    if error is None:
        return
    if error.validator == "required":
        lacks = [name for name in error.validator_value if name not in error.instance]
        raise invalid(f"arguments are missing: {', '.join(lacks)}")
    if error.validator == "additionalProperties":
        raise invalid(f"there are arguments besides {', '.join(error.schema['properties'])}")
    place = without_tokens(".".join(map(str, error.absolute_path))[:64])
    raise invalid(f"`{place}` does not fit {error.validator}: {text_of(error.validator_value)}")
