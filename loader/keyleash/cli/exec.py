"""`keyleash exec`: run one command with a token."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import click
from redis.exceptions import ClusterCrossSlotError, RedisClusterException, ResponseError

import keyleash
from keyleash.cli.options import (
    example,
    json_option,
    refuse_typed_token,
    require_token,
    token_option,
)
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import is_terminal
from keyleash.client.actions import Words
from keyleash.client.command_words import Role, role_of
from keyleash.errors import (
    ClusterError,
    CrossSlotError,
    KeyleashError,
    NotReplicatedError,
    OperationError,
    UsageError,
)
from keyleash.store.connect import cluster_options, connection_pool
from keyleash.store.failures import server_failure
from keyleash.store.token import reject_tokens
from keyleash.store.wire import reading_reply
from keyleash.text import printable

HELP_OF_LASTING: dict[Role | None, str] = {
    Role.TRANSACTION: "use `pipeline()`, `transaction()` or `batch()` of the Python client",
    Role.SUBSCRIPTION: "use `pubsub()` of the Python client",
}
"""What to use instead of commands that only affect later commands of their connection."""


@click.command(
    "exec",
    context_settings={"allow_interspersed_args": False},
    epilog=example("keyleash exec --token token-file GET agents:jobs:42:state"),
)
@token_option
@click.option("--correlation", metavar="ID", help="The correlation id of the audit event.")
@json_option
@click.argument("words", metavar="COMMAND [ARGS]...", nargs=-1, required=True)
@pass_settings
def exec_(
    settings: Settings, token_file: str | None, correlation: str | None, words: tuple[str, ...]
) -> None:
    """Run a command with a token.

    COMMAND is called through the guard of the token's identity. On a terminal the reply is
    formatted as by redis-cli; otherwise it is the bare value, one element a line. A missing value
    and the empty string are then both an empty line; --json distinguishes them. On a cluster the
    command runs at the node that has its key.
    """
    refuse_typed_token(words[0])
    _refuse_lasting(words[0])
    reject_tokens(**{"--correlation": correlation})
    try:
        _print(settings, _call(settings, require_token(token_file), correlation, words))
    except NotReplicatedError as error:
        # The call ran, so its reply is printed too, except in JSON, which is one document.
        if not settings.json:
            _print(settings, error.reply)
        raise
    except ResponseError as error:
        options = {option for item in exec_.params for option in item.opts}
        if isinstance(error, KeyleashError) or options.isdisjoint(words[1:]):
            raise
        failure = server_failure(error, settings.shown_url)
        raise OperationError(
            failure.code,
            failure.message,
            help="options of `keyleash exec` go before COMMAND",
            exit_code=failure.exit_code,
        ) from error


def _refuse_lasting(name: str) -> None:
    """Reject a command that only affects later commands of its connection."""
    help = HELP_OF_LASTING.get(role_of(name))
    if help is not None:
        word = printable(name.split(maxsplit=1)[0].upper())
        raise UsageError(
            f"`{word}` has no effect here: `keyleash exec` runs one command and disconnects",
            help=help,
        )


def _print(settings: Settings, reply: Any) -> None:
    text = formatted if is_terminal() else raw
    settings.show(as_json(reply), lambda: click.echo(text(reply)))


def _call(settings: Settings, token: str, correlation: str | None, words: tuple[str, ...]) -> Any:
    given_id = keyleash.correlation(correlation) if correlation is not None else nullcontext()
    name, *arguments = words
    call: Words = (os.fsencode(name).decode("utf-8", "replace"), *map(os.fsencode, arguments))
    with given_id:
        return as_agent(settings, token, lambda agent: _reply(agent, call))


def as_agent(settings: Settings, token: str, use: Callable[[Any], Any]) -> Any:
    """Return what *use* makes of a client with a token, of one server or of a cluster."""
    pool = connection_pool(settings.chosen_url(), settings.timeout_s)
    with reading_reply("the call of the guard"):
        try:
            with keyleash.Redis(connection_pool=pool, token=token) as agent:
                return use(agent)
        except ClusterError:
            # Nothing ran.
            with _cluster(cluster_options(pool), token) as agent:
                try:
                    return use(agent)
                except ClusterCrossSlotError as error:
                    raise CrossSlotError from error


def _reply(agent: Any, call: Words) -> Any:
    """Return the server's reply, without redis-py's conversion."""
    agent.response_callbacks.clear()
    return agent.execute_command(*call)


def _cluster(options: dict[str, Any], token: str) -> Any:
    try:
        return keyleash.RedisCluster(token=token, **options)
    except RedisClusterException as error:
        raise OperationError(
            "cluster-incomplete",
            f"cannot read the slots of the cluster: {printable(str(error))}",
            help="see `CLUSTER SLOTS` and `CLUSTER INFO`",
        ) from error


_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 7: "\\a", 8: "\\b"}


def formatted(reply: Any) -> str:
    """Return a reply for a terminal: with types, strings quoted, only ASCII."""
    return "\n".join(_lines(reply))


def raw(reply: Any) -> bytes:
    """Return a reply for a pipe, as redis-cli does: the bare values, one per line."""
    match reply:
        case None:
            return b""
        case bytes():
            return reply
        case list() | tuple():
            return b"\n".join(raw(item) for item in reply)
        case dict():
            return raw([*reply.items()])
        case _:
            return str(reply).encode("utf-8", "surrogateescape")


def as_json(reply: Any) -> Any:
    """Return a reply for `print_json`: an error in it as an object."""
    match reply:
        case list() | tuple():
            return [as_json(item) for item in reply]
        case ResponseError():
            return {"error": str(reply)}
        case _:
            return reply


def _lines(reply: Any) -> list[str]:
    match reply:
        case None:
            return ["(nil)"]
        case int():
            return [f"(integer) {reply}"]
        case bytes(b"OK" | b"PONG" | b"QUEUED"):
            # redis-py does not distinguish a status from a string.
            return [reply.decode()]
        case bytes():
            return [_quoted(reply)]
        case list() | tuple():
            return _numbered(reply)
        case dict():
            return _numbered([*reply.items()])
        case ResponseError():
            return [f"(error) {reply}"]
        case _:
            return [str(reply)]


def _numbered(items: Sequence[Any]) -> list[str]:
    if not items:
        return ["(empty array)"]
    width = len(str(len(items)))
    lines = []
    for number, item in enumerate(items, 1):
        first, *rest = _lines(item)
        lines.append(f"{number:>{width}}) {first}")
        lines.extend(" " * (width + 2) + line for line in rest)
    return lines


def _quoted(data: bytes) -> str:
    return f'"{"".join(map(_escaped, data))}"'


def _escaped(byte: int) -> str:
    return _ESCAPES.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}")
