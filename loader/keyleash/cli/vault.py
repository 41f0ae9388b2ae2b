"""`keyleash vault`: seal a server and adopt keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING

import click
from redis.exceptions import ConnectionError, TimeoutError

from keyleash.cli.audit_selection import key_pattern
from keyleash.cli.fence_state import node_option, other_clients, say_unlisted_replicas
from keyleash.cli.load import progress
from keyleash.cli.options import Group, example, json_option, require_consent, yes_option
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.errors import OperationError
from keyleash.fence import read_records
from keyleash.store.prefixes import server_keyspace
from keyleash.text import counted
from keyleash.vault import Hooks, adopt_keys, release_keys
from keyleash.vault import rotate as rotate_prefixes
from keyleash.vault import seal as seal_prefixes
from keyleash.vault import unseal as unseal_prefixes

if TYPE_CHECKING:
    from keyleash.vault import ChangeResult, Hooks
    from keyleash.vault.names import Report


def key_patterns(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Check that each value is a key pattern, and return the values."""
    for value in values:
        key_pattern(context, parameter, value)
    return values


@contextmanager
def shown_progress(is_wanted: bool) -> Iterator[Report]:
    """Show the progress of a walk."""
    with progress("keys looked at", is_wanted=is_wanted) as report:
        # Keys that are renamed during the walk may count twice.
        yield lambda walk: report(walk.seen, max(walk.total, walk.seen))


HELD = "all agents are suspended until all keys have moved"


@click.command(epilog=example("keyleash vault seal --adopt 'agents:*'"))
@click.option(
    "--adopt",
    metavar="PATTERN",
    multiple=True,
    callback=key_patterns,
    help="Move these keys into the vault; repeatable.",
)
@node_option
@yes_option
@json_option
@pass_settings
def seal(settings: Settings, adopt: tuple[str, ...], nodes: Sequence[str], yes: bool) -> None:
    """Put control keys and agents' keys under random prefixes.

    Guards know the prefixes, agents do not. Tokens, audit streams and limit counts remain. Agents
    are suspended meanwhile, and need no restart. If it is interrupted they stay suspended: run it
    again to continue.
    """
    if not adopt:
        print_note("no --adopt: the vault starts empty; `vault adopt` moves keys in later")
    _require_consent("seal the server?", yes)
    others = other_clients(settings, nodes)
    with _reporting_interruption("seal") as hooks, shown_progress(not settings.json) as report:
        result = seal_prefixes(
            settings.client,
            adopt=adopt,
            actor=settings.actor,
            report=report,
            hooks=hooks,
            others=others,
        )
    _print_result(settings, "sealed", result, len(others))


@click.command(epilog=example("keyleash vault rotate"))
@node_option
@yes_option
@json_option
@pass_settings
def rotate(settings: Settings, nodes: Sequence[str], yes: bool) -> None:
    """Replace the prefixes by new random ones.

    Use this if a prefix may have become known. Agents are suspended meanwhile.
    """
    _require_consent("give every key a new prefix?", yes)
    others = other_clients(settings, nodes)
    with _reporting_interruption("rotate") as hooks, shown_progress(not settings.json) as report:
        result = rotate_prefixes(
            settings.client, actor=settings.actor, report=report, hooks=hooks, others=others
        )
    _print_result(settings, "rotated", result, len(others))


@click.command(epilog=example("keyleash vault unseal"))
@node_option
@yes_option
@json_option
@pass_settings
def unseal(settings: Settings, nodes: Sequence[str], yes: bool) -> None:
    """Remove the prefixes from all keys.

    The reverse of `vault seal`. If such a key exists already, nothing is changed.
    """
    _require_consent("take every key out of the vault?", yes)
    others = other_clients(settings, nodes)
    with _reporting_interruption("unseal") as hooks, shown_progress(not settings.json) as report:
        result = unseal_prefixes(
            settings.client, actor=settings.actor, report=report, hooks=hooks, others=others
        )
    _print_result(settings, "unsealed", result, len(others))


def _require_consent(question: str, yes: bool) -> None:
    if not yes:
        print_note(HELD)
    if not require_consent(question, yes):
        raise OperationError("declined", "nothing was changed")


@contextmanager
def _reporting_interruption(kind: str) -> Iterator[Hooks]:
    """Report that an interruption may leave agents suspended."""
    begun = Event()
    try:
        yield Hooks(before_begin=begun.set)
    except (KeyboardInterrupt, ConnectionError, TimeoutError):
        if begun.is_set():
            print_note(f"agents may be suspended: run `keyleash vault {kind}` again to finish")
        raise


def _print_result(settings: Settings, done: str, result: ChangeResult, named: int) -> None:

    if settings.json:
        print_json(
            {
                "server": settings.shown_url,
                "moved": result.moved,
                "generation": result.generation,
                "resumed": result.resumed,
            }
        )
        return
    moved = f"{counted(result.moved, 'key')} moved, including control keys"
    click.echo(f"{done}: {moved}; policy generation {result.generation}")
    if read_records(settings.client, server_keyspace(settings.client)):
        say_unlisted_replicas(settings.client, named)


@click.command(epilog=example("keyleash vault adopt 'agents:jobs:{job_id}:state'"))
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True, callback=key_patterns)
@yes_option
@json_option
@pass_settings
def adopt(settings: Settings, patterns: tuple[str, ...], yes: bool) -> None:
    """Move keys into the vault.

    Moves all keys that match a PATTERN, as in policies. Only agents reach them from then on. Each
    key moves atomically, with its expiry; nothing is overwritten. Run it again after an
    interruption. Suspend agents meanwhile if they must not see only a part of the keys.
    """
    _require_adoption_consent("into the vault", patterns, yes)
    client = settings.client
    with settings.changing("run it again"), shown_progress(not settings.json) as report:
        moved = adopt_keys(client, patterns, report)
    _report_adoption(settings, moved.count, "into the vault")


@click.command(epilog=example("keyleash vault release 'agents:jobs:{job_id}:result'"))
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True, callback=key_patterns)
@yes_option
@json_option
@pass_settings
def release(settings: Settings, patterns: tuple[str, ...], yes: bool) -> None:
    """Move keys out of the vault.

    The reverse of `vault adopt`: agents do not reach them any more.
    """
    _require_adoption_consent("out of the vault", patterns, yes)
    client = settings.client
    with settings.changing("run it again"), shown_progress(not settings.json) as report:
        moved = release_keys(client, patterns, report)
    _report_adoption(settings, moved.count, "out of the vault")


def _require_adoption_consent(where: str, patterns: tuple[str, ...], yes: bool) -> None:
    named = ", ".join(f"`{pattern}`" for pattern in patterns)
    if not require_consent(f"move every key that matches {named} {where}?", yes):
        raise OperationError("declined", "nothing was moved")


def _report_adoption(settings: Settings, count: int, where: str) -> None:
    if settings.json:
        print_json({"server": settings.shown_url, "moved": count})
    else:
        click.echo(f"{counted(count, 'key')} moved {where}")


@click.group(cls=Group, epilog=example("keyleash vault seal --adopt 'agents:*'"))
def vault() -> None:
    """Keep agents' keys under a random prefix that only guards know.

    See docs/how-to/seal.md. Not for Redis Cluster.
    """


for command in (seal, adopt, release, rotate, unseal):
    vault.add_command(command)
