"""`keyleash explain` and `keyleash can-i`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.failures import USAGE
from keyleash.cli.options import FILE, IDENTITY, all_of, example, with_settings
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_note, read_policy
from keyleash.commands import OperationClass
from keyleash.commands.work import DEFAULT_ELEMENT_BYTES, DEFAULT_VALUE_BYTES
from keyleash.errors import CrossSlotError, OperationError, UsageError
from keyleash.errors.operations import FAILED
from keyleash.evaluate.decision_text import denial_text
from keyleash.limits import SubjectKind
from keyleash.policy import Grant
from keyleash.policy.model import ValueRules
from keyleash.policy.problems import some
from keyleash.text import printable, size

if TYPE_CHECKING:
    from keyleash.operator.abilities import Abilities
    from keyleash.operator.decisions import Explanation

_question = all_of(
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
"""The parameters of both commands."""


@click.command(
    epilog=example("keyleash explain agent-runner --policy agents.yaml -- GET agents:jobs:7:state")
)
@_question
def explain(settings: Settings, words: tuple[str, ...], **context: Any) -> int:
    """Explain the guard's decision on COMMAND of IDENTITY, step by step.

    Uses the active policy and its present limits, and asks the guard of IDENTITY; or a FILE
    without a server, which does not tell what keys hold. Nothing is run or charged. Put options
    before the `--`. Exits with 0 if the call is allowed, 1 if it is denied, and another code if it
    could not be evaluated.
    """
    _require_command(words)
    found = _explain(settings, words, **context)
    settings.show(found, lambda: click.echo(str(found)))
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
        if found.decision.is_open:
            print_note("note: sizes, work and values were not checked; only a guard can do that")
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
    settings.show(found, lambda: click.echo("\n".join(listing_lines(found))))
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


NAMED = 12
"""Maximum number of commands listed by name; `--json` lists all."""


def listing_lines(found: Abilities) -> Iterator[str]:
    """Yield lines of topic and content: grants with commands, denied keys, limits."""
    identity, commands = found.context.identity, found.commands
    yield _line("identity", f"{identity.name} ({identity.kind})")
    for grant, names in zip(identity.grants, commands.by_grant, strict=True):
        yield _line("grant", ", ".join(grant.allow))
        yield from (_line("", line) for line in _grant_lines(grant, names))
    if len(identity.grants) > 1 and any(grant.values != ValueRules() for grant in identity.grants):
        yield _line("values", "the smallest bound of all grants that match a key applies;")
        yield _line("", "the default applies only if none of them has a bound")
    if commands.together:
        yield _line("together", f"by several grants: {_commands(commands.together)}")
    for pattern in identity.denied_keys:
        yield _line("denied", printable(pattern.source))
    for limit in identity.limits:
        per = "" if limit.subject.kind is SubjectKind.IDENTITY else f", per {limit.subject}"
        yield _line("limit", f"{limit.name}: {limit.describe()}{per}")
    yield _line("limit", f"work: {identity.work}, strings: {identity.strings} a call or batch")
    yield _line("limit", f"key_bytes: {size(identity.key_bytes)}")
    if any(grant.indexes for grant in identity.grants):
        yield _line("limit", f"search: {identity.search_ms} ms a search")
    if found.stopped is not None:
        yield _line("stopped", f"every call is denied: {denial_text(found.stopped)}")


def _line(topic: str, text: str) -> str:
    return f"{topic:<10}{text}"


def _grant_lines(grant: Grant, names: Sequence[str]) -> Iterator[str]:
    for topic in ("keys", "channels", "indexes"):
        if patterns := getattr(grant, topic):
            yield f"{topic:<10}{' '.join(printable(pattern.source) for pattern in patterns)}"
    for topic, narrowed in (("only", grant.only or ()), ("except", grant.except_)):
        if narrowed:
            yield f"{topic:<10}{', '.join(map(printable, narrowed))}"
    if grant.values.max_bytes is not None:
        text = f"strings and elements of up to {size(grant.values.max_bytes)}"
        yield f"{'values':<10}{text}"
    elif OperationClass.WRITE in grant.allow:
        strings, elements = size(DEFAULT_VALUE_BYTES), size(DEFAULT_ELEMENT_BYTES)
        yield f"{'values':<10}strings of up to {strings}, elements of {elements} by default"
    for rule in grant.values.describe():
        yield f"{'values':<10}{rule}"
    if grant.scripts:
        yield f"{'scripts':<10}{', '.join(dict.fromkeys(item.name for item in grant.scripts))}"
    yield f"{'commands':<10}{_commands(names)}"


def _commands(names: Sequence[str]) -> str:
    return some(names, NAMED) or "none"
