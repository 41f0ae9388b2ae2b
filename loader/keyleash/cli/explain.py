"""`keyleash explain` and `keyleash can-i`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keyleash.cli.failures import FAILED, USAGE
from keyleash.cli.options import FILE, IDENTITY, example, with_settings
from keyleash.cli.render.explain import listing_lines
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_note, read_policy
from keyleash.errors import CrossSlotError, OperationError, UsageError
from keyleash.evaluate.decision_text import denial_text

if TYPE_CHECKING:
    from keyleash.operator.abilities import Abilities
    from keyleash.operator.decisions import Explanation

F = TypeVar("F", bound=Callable[..., Any])


def _question(function: F) -> F:
    """Add the parameters of both commands."""
    for decorate in reversed(_PARAMETERS):
        function = decorate(function)
    return function


_PARAMETERS: tuple[Callable[[Any], Any], ...] = (
    click.argument("identity", type=IDENTITY),
    click.argument("words", metavar="COMMAND [ARGS]...", nargs=-1),
    click.option(
        "--policy",
        "file",
        metavar="FILE",
        type=FILE,
        help="Use this policy file with unused limits instead of a server; `-` reads "
        "standard input.  [default: the active policy and its present limits]",
    ),
    click.option(
        "--token-id",
        metavar="ID",
        help="The id of the calling token, as in `token list`.  [default: an unused token]",
    ),
    with_settings,
)


@click.command(
    epilog=example("keyleash explain agent-runner --policy agents.yaml -- GET agents:jobs:7:state")
)
@_question
def explain(settings: Settings, words: tuple[str, ...], **context: Any) -> int:
    """Explain the guard's decision on COMMAND of IDENTITY, step by step.

    Uses the active policy and its present limits, or a FILE without a server. Nothing is run or
    charged. Put options before the `--`. Exits with 0 if the call is allowed, 1 if it is denied,
    and another code if it could not be evaluated.
    """
    _require_command(words)
    found = _explain(settings, words, **context)
    if settings.json:
        print_json(found)
    else:
        click.echo(str(found))
    return 0 if found.allowed else FAILED


@click.command(
    "can-i",
    epilog=example("keyleash can-i agent-runner -- SET agents:jobs:7:state done")
    + "\n         keyleash can-i --list agent-runner",
)
@click.option(
    "--list", "lists", is_flag=True, help="List what the identity may do; without COMMAND."
)
@_question
def can_i(settings: Settings, words: tuple[str, ...], lists: bool, **context: Any) -> int:
    """Check whether IDENTITY may run COMMAND.

    Prints `yes`, or `no` and the denial, with a help on standard error. As with `explain`, nothing
    is run; exits with 0 for yes, 1 for no, and another code if it could not be evaluated. --list
    shows the grants of IDENTITY with the commands that each allows, its denied keys and its limits;
    it exits with 1 if every call is denied at present.
    """
    if lists:
        if words:
            raise UsageError("`--list` takes no command", help="omit one of them")
        return _list(settings, **context)
    _require_command(words, ", or list all that it may do: `--list`")
    found = _explain(settings, words, **context)
    if settings.json:
        result = found.to_dict()
        print_json({name: result[name] for name in ("allowed", "code", "details")})
    elif found.allowed:
        click.echo("yes")
    else:
        click.echo(f"no {denial_text(found.decision)}")
        print_note(f"help: {found.help}")
    return 0 if found.allowed else FAILED


def _require_command(words: tuple[str, ...], alternative: str = "") -> None:
    if not words:
        raise UsageError(
            "no command is given", help=f"add it after the identity: `-- GET KEY`{alternative}"
        )


def _list(settings: Settings, *, identity: str, file: str | None, token_id: str | None) -> int:
    with _evaluating(settings):
        found: Abilities = (
            settings.operator.abilities(identity, token_id=token_id)
            if file is None
            else read_policy(file).abilities(identity)
        )
    if settings.json:
        print_json(found)
    else:
        click.echo("\n".join(listing_lines(found)))
    return 0 if found.stopped is None else FAILED


def _explain(
    settings: Settings,
    words: tuple[str, ...],
    *,
    identity: str,
    file: str | None,
    token_id: str | None,
) -> Explanation:
    with _evaluating(settings):
        if file is None:
            return settings.operator.explain(identity, *words, token_id=token_id)
        return read_policy(file).explain(identity, *words)


@contextmanager
def _evaluating(settings: Settings) -> Iterator[None]:
    # 1 is the exit code of a denial.
    settings.failed = USAGE
    try:
        yield
    except CrossSlotError:
        # It is a "no": no node runs the call.
        settings.failed = FAILED
        raise
    except OperationError as error:
        if error.code == "no-policy":
            error.help = f"{error.help}, or use `--policy FILE`, which needs no active policy"
        raise
