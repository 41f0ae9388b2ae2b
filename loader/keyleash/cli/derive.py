"""Arguments and options of operations, and commands that are made of an operation.

A command that only prints a result is a `command` of the operation; one that does more has
`options_of` it, and calls the method of `settings.operator`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from types import UnionType
from typing import Any, TypeVar, get_args

import click

from keyleash.cli.nodes import show_nodes, wait_option
from keyleash.cli.options import (
    DIRECTORY,
    FILE,
    IDENTITY,
    TOKEN_ID,
    Name,
    as_duration,
    json_option,
    moment,
    pairs,
    read_duration,
    reading,
    yes_option,
)
from keyleash.cli.options import example as example_of
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json
from keyleash.commands import OperationClass
from keyleash.errors import ReplyCode
from keyleash.operations import Operation, Parameter, Reading
from keyleash.policy.patterns import parse_pattern
from keyleash.results import Change
from keyleash.store.identities import require_active
from keyleash.store.store import Store
from keyleash.text import without_tokens

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def _limits(store: Store) -> Iterable[str]:
    # Imported here: most commands, and help, need no policy.
    from keyleash.policy.parse import active_policy  # noqa: PLC0415

    policy = active_policy(require_active(store).document)
    return dict.fromkeys(limit.name for item in policy.identities for limit in item.limits)


def _grace(value: str) -> timedelta:
    return timedelta(0) if re.fullmatch("0+[wdhms]?", value) else read_duration(value)


def _words(values: tuple[str, ...]) -> list[str]:
    """Read an option such as `read,write`, which may be repeated."""
    return [word for value in values for word in value.split(",")]


def _key_pattern(value: str) -> str:
    try:
        parse_pattern(value)
    except UnicodeEncodeError:
        raise ValueError("a pattern must be UTF-8") from None
    return value


def _caller(value: str) -> str:
    if without_tokens(value) != value:
        raise ValueError("that is a token; give its id, see `keyleash token list`")
    return value


class _Code(click.Choice):  # type: ignore[type-arg]
    """A reply code in any case. With `case_sensitive=False`, click lists them in lower case."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the code in upper case."""
        return super().convert(value.upper(), param, ctx)


_PAIRS = {"multiple": True, "callback": reading(pairs)}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "binding": {"metavar": "CAPTURE=VALUE", **_PAIRS},
    "caller": {"metavar": "ID", "callback": reading(_caller)},
    "cap": {"metavar": "COUNTER=LIMIT", **_PAIRS},
    "classes": {
        "metavar": "CLASS,…",
        "type": Name(list(OperationClass)),
        "multiple": True,
        "callback": reading(_words),
    },
    "code": {"metavar": "CODE", "type": _Code([str(code) for code in ReplyCode])},
    "command": {"metavar": "COMMAND"},
    "count": {"type": click.IntRange(1)},
    "directory": {"metavar": "DIR", "type": DIRECTORY},
    "duration": {"metavar": "DURATION", "callback": as_duration},
    "file": {"metavar": "FILE", "type": FILE},
    "grace": {"metavar": "DURATION", "callback": reading(_grace)},
    "id": {"metavar": "ID"},
    "identity": {"metavar": "NAME", "type": IDENTITY, "place": "IDENTITY"},
    "ids": {"metavar": "ID", "multiple": True},
    "keys": {"metavar": "KEY", "multiple": True},
    "labels": {"metavar": "NAME=VALUE", **_PAIRS},
    "limit": {"metavar": "NAME", "type": Name(_limits)},
    "moment": {"metavar": "TIME", "callback": moment},
    "pattern": {"metavar": "PATTERN", "callback": reading(_key_pattern)},
    "segments": {"type": click.IntRange(1, 16)},
    "token_id": {"type": TOKEN_ID, "place": "ID"},
}
"""The arguments of click for a kind of parameters; `place` is its name as an argument."""


def command(
    operation: Operation[..., T],
    *,
    example: str,
    advice: str = "",
    confirm: Callable[..., None] | None = None,
    waits: bool = False,
    options: str = "",
) -> Callable[[Callable[[Settings, T], int | None]], click.Command]:
    """Make the command of an operation; the decorated function prints its result as text.

    The docstring of that function is the help, and what it returns the exit code. It is not called
    with `--json`.

    Args:
        operation: The operation.
        example: The example in the help.
        advice: For a change: how to find out whether it took effect, if the connection is lost.
        confirm: Called with the settings, `yes` and the arguments before the operation.
        waits: Whether the command has `--wait`, for the nodes of a cluster.
        options: The parameters in the order of the help, if it is another than the operation's.
    """

    def make(show: Callable[[Settings, T], int | None]) -> click.Command:
        def run(
            settings: Settings, /, wait: bool | None = None, yes: bool = False, **given: Any
        ) -> int:
            if confirm is not None:
                confirm(settings, yes=yes, **given)
            with settings.changing(advice.format(**given)) if advice else nullcontext():
                result = _call(operation, settings, given)
            if settings.json:
                settings.print_change(result) if advice else print_json(result)
            code = 0 if settings.json else show(settings, result) or 0
            if isinstance(result, Change):
                return show_nodes(settings, result, wait=wait) or code
            return code

        function: Any = json_option(pass_settings(run))
        if confirm is not None:
            function = yes_option(function)
        if waits:
            function = wait_option(function)
        name = operation.command.rpartition(" ")[2]
        help_ = inspect.cleandoc(show.__doc__ or "")
        make_command = click.command(name, epilog=example_of(example), help=help_)
        return make_command(options_of(operation, options)(function))

    return make


def _call(operation: Operation[..., T], settings: Settings, given: Mapping[str, Any]) -> T:
    """Return the result of an operation for the arguments of a command line."""
    by_place: list[Any] = []
    named: dict[str, Any] = {}
    for name, item in operation.parameters.items():
        if item.is_many:
            by_place += given[name]
        elif item.is_by_place:
            by_place.append(given[name])
        elif given[name] not in (None, (), [], {}):
            named[name] = given[name]
    # The runner of an operator is that of its nouns.
    return operation.__get__(settings.operator, type(settings.operator))(*by_place, **named)


def options_of(
    operation: Operation[..., Any] | Reading[..., Any], names: str = ""
) -> Callable[[F], F]:
    """Add the arguments and options of an operation to a function that becomes a command.

    Args:
        operation: The operation.
        names: The parameters in the order of the help; all of them if empty.
    """
    found = operation.parameters
    items = [found[name] for name in names.split() or found]

    def add(function: F) -> F:
        for item in reversed(items):
            _add(function, item)
        return function

    return add


def _add(function: Any, item: Parameter) -> None:
    param = item.param
    shared = dict(KINDS.get(param.kind, {}))
    place = shared.pop("place", item.name.upper())
    shared |= {"required": item.is_required, "callback": _reader(item, shared.get("callback"))}
    if item.is_by_place and not param.flag:
        place = place if item.is_required else f"[{place}]"
        shared |= {"metavar": f"{place}..." if item.is_many else place}
        click.argument(item.name, nargs=-1 if item.is_many else 1, **shared)(function)
        return
    flag = param.flag or f"--{item.name.replace('_', '-')}"
    if item.type is bool:
        shared["is_flag"] = True
    elif not param.kind:
        shared["type"] = _type_of(item)
    if not isinstance(item.default, bool) and isinstance(item.default, str | int) and item.default:
        shared["default"] = item.default
    click.option(flag, item.name, help=param.help, **shared)(function)


def _type_of(item: Parameter) -> type:
    """Return what the command line reads for a parameter without a kind."""
    types = get_args(item.type) if isinstance(item.type, UnionType) else (item.type,)
    for kind in (str, int, float):
        if kind in types:
            return kind
    raise TypeError(f"`{item.name}` needs a kind of `KINDS`, since its type is not read from text")


def _reader(item: Parameter, read: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return the callback that reads an argument, and checks it if it is given."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if read is not None:
            value = read(context, parameter, value)
        if item.param.check is not None and value is not None:
            for each in value if item.is_many else (value,):
                item.param.check(item.name, each)
        return value

    return callback
