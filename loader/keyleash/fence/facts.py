"""What the rules of a fence depend on besides the policy, read from the servers it is for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from keyleash.fence.data import HELPERS
from keyleash.fence.holes import HOLES, LEFT_OUT, LEFT_OUT_UNSEALED
from keyleash.protocol.active import Client, database_of
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.protocol.reply import reading_reply


@dataclass(frozen=True, slots=True)
class Facts:
    """
    Of all servers together.

    Attributes:
        helpers: Commands that guards run besides those they are asked for, in upper case.
        left_out: Those that no user gets, in upper case, and why.
        database: The number of the one that the keys are in.
    """

    helpers: Collection[str]
    left_out: Mapping[str, str]
    database: int = 0


def read_facts(clients: Sequence[Client], keyspace: Keyspace) -> Facts:
    """
    Read them; nothing is changed.

    Args:
        clients: One for each server; the first is connected to the database of the keys.
        keyspace: Where these are.
    """
    clients = [operator_client(one, "clients") for one in clients]
    is_sealed = bool(keyspace.vault)
    left_out = dict(LEFT_OUT) if is_sealed else {**LEFT_OUT, **LEFT_OUT_UNSEALED}
    helpers = set(HELPERS)
    for client in clients:
        left_out.update(_holes(client, is_sealed))
        helpers &= _helpers(client)
    if len(clients) > 1:
        known = [_names(client) for client in clients]
        lacking = {name for one in known for other in known for name in one - other}
        left_out.update(dict.fromkeys(lacking, "one of the servers lacks it"))
    return Facts(frozenset(helpers), left_out, database_of(clients[0]))


def _holes(client: Client, is_sealed: bool) -> dict[str, str]:
    with client.pipeline(transaction=False) as pipe:
        for hole in HOLES:
            # Its name as one word: redis-py knows how to read the reply of that.
            pipe.execute_command("COMMAND GETKEYS", hole.command, *hole.call)
        answers = pipe.execute(raise_on_error=False)
    with reading_reply("COMMAND GETKEYS"):
        return {
            hole.command: hole.why
            for hole, answer in zip(HOLES, answers, strict=True)
            # A server that does not say is not trusted either.
            if isinstance(answer, RedisError)
            or (not is_sealed and tuple(map(_text, answer)) != hole.keys)
        }


def _helpers(client: Client) -> set[str]:
    names = sorted(HELPERS)
    said = client.execute_command("COMMAND INFO", *(name.replace(" ", "|") for name in names))
    with reading_reply("COMMAND INFO"):
        return {name for name, info in zip(names, said, strict=True) if info is not None}


def _names(client: Client) -> set[str]:
    """Of the server's commands, without sub-commands."""
    listed = client.execute_command("COMMAND LIST")
    with reading_reply("COMMAND LIST"):
        return {_text(name).upper() for name in listed}


def _text(reply: bytes | str) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
