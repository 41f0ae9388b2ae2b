"""`keyleash explain` and `keyleash can-i`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keyleash.cli.failures import FAILED, USAGE
from keyleash.cli.options import (
    FILE,
    IDENTITY,
    example,
    json_option,
)
from keyleash.cli.render.explain import (
    denial_text,
    denied_now,
    listing_json,
    listing_lines,
    step_lines,
)
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, read_text
from keyleash.errors import OperationError, UsageError
from keyleash.operator.decisions import (
    DecisionContext,
    Explanation,
    context_of_document,
    context_of_server,
    decision_json,
)
from keyleash.text import clock_time, printable, short_digest, without_tokens

if TYPE_CHECKING:
    from keyleash.evaluate import Decision


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
    json_option,
    pass_settings,
)


@click.command(
    epilog=example("keyleash explain agent-runner --policy agents.yaml -- GET agents:jobs:7:state"),
)
@_question
def explain(
    settings: Settings,
    identity: str,
    words: tuple[str, ...],
    file: str | None,
    token_id: str | None,
) -> int:
    """Explain the guard's decision on COMMAND of IDENTITY, step by step.

    Uses the active policy and its present limits, or a FILE without a server. Nothing is run or
    charged. Put options before the `--`. Exits with 0 if the call is allowed, 1 if it is denied,
    and another code if it could not be evaluated.
    """
    _require_command(words)
    context = _context(settings, identity, words, file, token_id)
    decision = context.decision(words)
    if settings.json:
        print_json(Explanation(context, words, decision))
    else:
        _show(context, words, decision)
    return 0 if decision.allowed else FAILED


@click.command(
    "can-i",
    epilog=example("keyleash can-i agent-runner -- SET agents:jobs:7:state done")
    + "\n         keyleash can-i --list agent-runner",
)
@click.option(
    "--list",
    "lists",
    is_flag=True,
    help="List what the identity may do; without COMMAND.",
)
@_question
def can_i(
    settings: Settings,
    identity: str,
    words: tuple[str, ...],
    file: str | None,
    token_id: str | None,
    lists: bool,
) -> int:
    """Check whether IDENTITY may run COMMAND.

    Prints `yes`, or `no` and the code of the denial. As with `explain`, nothing is run; exits with
    0 for yes, 1 for no, and another code if it could not be evaluated. --list shows the grants of
    IDENTITY with the commands that each allows, its denied keys and its limits; it exits with 1 if
    every call is denied at present.
    """
    if lists:
        if words:
            raise UsageError("`--list` takes no command", help="omit one of them")
        return _list(settings, _context(settings, identity, words, file, token_id))
    _require_command(words, ", or list all that it may do: `--list`")
    decision = _context(settings, identity, words, file, token_id).decision(words)
    if settings.json:
        result = decision_json(decision, ())
        print_json({name: result[name] for name in ("allowed", "code", "details")})
    elif decision.allowed:
        click.echo("yes")
    else:
        click.echo(f"no {denial_text(decision)}")
    return 0 if decision.allowed else FAILED


def _require_command(words: tuple[str, ...], alternative: str = "") -> None:
    if not words:
        raise UsageError(
            "no command is given",
            help=f"add it after the identity: `-- GET KEY`{alternative}",
        )


def _list(settings: Settings, context: DecisionContext) -> int:

    stopped = denied_now(context)
    if settings.json:
        print_json(listing_json(context))
    else:
        for line in listing_lines(context):
            click.echo(line)
        if stopped is not None:
            click.echo(f"stopped   every call is denied: {denial_text(stopped)}")
    return 0 if stopped is None else FAILED


def _context(
    settings: Settings,
    identity: str,
    words: tuple[str, ...],
    file: str | None,
    token_id: str | None,
) -> DecisionContext:
    # 1 is the exit code of a denial.
    settings.failed = USAGE
    if file is not None:
        shown, document = read_text(file)
        return context_of_document(document, identity, shown)
    try:
        return context_of_server(settings.store, identity, words, token_id)
    except OperationError as error:
        if error.code == "no-policy":
            error.help = f"{error.help}, or use `--policy FILE`, which needs no active policy"
        raise


def _show(context: DecisionContext, words: tuple[str, ...], decision: Decision) -> None:

    at = clock_time(context.now_us // 1000)
    counted = f"limits as of {at}" if context.is_live else "limits unused"
    click.echo(f"policy    {context.file}, digest {short_digest(context.digest)}, {counted}")
    call = without_tokens(" ".join(printable(word) for word in words))
    click.echo(f"call      {context.identity.name}: {call}")
    for line in step_lines(decision, context.lines):
        click.echo(without_tokens(line))
    click.echo("allowed" if decision.allowed else f"denied    {denial_text(decision)}")
