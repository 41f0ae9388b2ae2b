"""`keyleash exec`: run one command with a token."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import click
from redis.exceptions import ResponseError

import keyleash
from keyleash.cli.options import example, json_option, require_token, token_option
from keyleash.cli.settings import Settings, connection_pool, pass_settings
from keyleash.cli.terminal import is_terminal, print_json
from keyleash.errors import NotReplicatedError
from keyleash.store.wire import reading_reply
from keyleash.text import json_bytes


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
    """Run a command as the holder of a token.

    The guard of the token's identity judges COMMAND. On a terminal the reply looks as in
    redis-cli; piped, it is the bare value.
    """
    short: NotReplicatedError | None = None
    try:
        reply = _reply(settings, require_token(token_file), correlation, words)
    except NotReplicatedError as error:
        # It was done, so its reply is of interest; but there is one JSON document at most.
        if settings.json:
            raise
        reply, short = error.reply, error
    if settings.json:
        print_json(as_json(reply))
    elif is_terminal():
        click.echo(formatted(reply))
    else:
        click.echo(raw(reply))
    if short is not None:
        raise short


def _reply(settings: Settings, token: str, correlation: str | None, words: tuple[str, ...]) -> Any:

    client = keyleash.Redis(
        connection_pool=connection_pool(settings.url, settings.timeout_s), token=token
    )
    # The reply as the server gave it, and not as redis-py likes to make it.
    client.response_callbacks.clear()
    name, *arguments = words
    given_id = keyleash.correlation(correlation) if correlation is not None else nullcontext()
    with client, given_id, reading_reply("the call of the guard"):
        return client.execute_command(
            os.fsencode(name).decode("utf-8", "replace"), *map(os.fsencode, arguments)
        )


_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 7: "\\a", 8: "\\b"}


def formatted(reply: Any) -> str:
    """For a terminal: types are shown, strings quoted, whatever is not ASCII escaped."""
    return "\n".join(_lines(reply))


def raw(reply: Any) -> bytes:
    """For a pipe: values alone, one a line, as redis-cli gives them to another program."""
    match reply:
        case None:
            return b""
        case bytes():
            return reply
        case list():
            return b"\n".join(raw(item) for item in reply)
        case _:
            return str(reply).encode("utf-8", "surrogateescape")


def as_json(reply: Any) -> Any:
    """As a JSON value; bytes that are not UTF-8 become `{"base64": …}`."""
    match reply:
        case bytes():
            return json_bytes(reply)
        case list():
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
            # RESP tells a status from a string; redis-py does not.
            return [reply.decode()]
        case bytes():
            return [_quoted(reply)]
        case list():
            return _numbered(reply)
        case ResponseError():
            return [f"(error) {reply}"]
        case _:
            return [str(reply)]


def _numbered(items: list[Any]) -> list[str]:
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
    return f'"{"".join(_ESCAPES.get(byte) or _visible(byte) for byte in data)}"'


def _visible(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
