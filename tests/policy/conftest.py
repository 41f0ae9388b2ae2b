"""A small command table, so that these tests do not move with the shipped one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keyleash.commands import CommandSpec, CommandTable, OperationClass
from keyleash.commands.spec import KeyRange
from keyleash.policy import Policy, parse_policy

Parse = Callable[[str], Policy]

CONTAINER = "name its sub-command"


def _spec(name: str, *categories: str, refused: str | None = None) -> CommandSpec:
    keys = () if refused else (KeyRange(1, 1, 1, (OperationClass.READ,)),)
    return CommandSpec(name, -2, (), categories, keys=keys, refused=refused)


@pytest.fixture(scope="session")
def commands() -> CommandTable:
    """Some commands that pass, some that are refused, and containers with a row or without."""
    specs = (
        _spec("GET", "@read", "@string"),
        _spec("SET", "@string", "@write"),
        _spec("HGET", "@hash", "@read"),
        _spec("XGROUP CREATE", "@stream", "@write"),
        _spec("XINFO", "@stream", refused=CONTAINER),
        _spec("XINFO HELP", "@stream", refused="it has no key"),
        _spec("XINFO STREAM", "@read", "@stream"),
        _spec("SLOWLOG", refused=CONTAINER),
        _spec("SLOWLOG GET", "@dangerous", refused="it administers the server"),
        _spec("CONFIG GET", "@dangerous", refused="it administers the server"),
        _spec("FLUSHALL", "@dangerous", refused="it has no key"),
    )
    return CommandTable(("redis 8.0.2",), {spec.name: spec for spec in specs})


@pytest.fixture(scope="session")
def parse(commands: CommandTable) -> Parse:
    """`parse_policy` for a file called `p.yaml`, with the small command table."""
    return lambda text: parse_policy(text, file="p.yaml", commands=commands)
