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
    """See that each value is a pattern of keys, and give them as they are."""
    for value in values:
        key_pattern(context, parameter, value)
    return values


@contextmanager
def shown_progress(is_wanted: bool) -> Iterator[Report]:
    """What is to be told how far a walk is."""
    with progress("keys looked at", is_wanted=is_wanted) as report:
        # Keys that are renamed while they are walked over may be seen twice.
        yield lambda walk: report(walk.seen, max(walk.total, walk.seen))


HELD = "until all keys have moved, every call of every agent is refused as suspended"


@click.command(epilog=example("keyleash vault seal --adopt 'agents:*'"))
@click.option(
    "--adopt",
    metavar="PATTERN",
    multiple=True,
    callback=key_patterns,
    help="Move these keys into the vault; repeat.",
)
@node_option
@yes_option
@json_option
@pass_settings
def seal(settings: Settings, adopt: tuple[str, ...], nodes: Sequence[str], yes: bool) -> None:
    """Put control keys and agents' keys under random prefixes.

    Guards know the prefixes, agents do not. Tokens, trails and what limits have counted are kept.
    Agents are suspended meanwhile, and need no restart. If it is interrupted they stay so:
    run it again, and it goes on where it was.
    """
    if not adopt:
        print_note("no --adopt: agents start with an empty vault; add keys with `vault adopt`")
    _require_consent("seal the server?", yes)
    others = other_clients(settings, nodes)
    with _kept_on("seal") as hooks, shown_progress(not settings.json) as report:
        result = seal_prefixes(
            settings.client,
            adopt=adopt,
            actor=settings.actor,
            report=report,
            hooks=hooks,
            others=others,
        )
    _tell(settings, "sealed", result, len(others))


@click.command(epilog=example("keyleash vault rotate"))
@node_option
@yes_option
@json_option
@pass_settings
def rotate(settings: Settings, nodes: Sequence[str], yes: bool) -> None:
    """Replace the prefixes by new random ones.

    As `vault seal`, for a server that is sealed: when somebody may have learned a prefix.
    """
    _require_consent("give every key a new prefix?", yes)
    others = other_clients(settings, nodes)
    with _kept_on("rotate") as hooks, shown_progress(not settings.json) as report:
        result = rotate_prefixes(
            settings.client, actor=settings.actor, report=report, hooks=hooks, others=others
        )
    _tell(settings, "rotated", result, len(others))


@click.command(epilog=example("keyleash vault unseal"))
@node_option
@yes_option
@json_option
@pass_settings
def unseal(settings: Settings, nodes: Sequence[str], yes: bool) -> None:
    """Give all keys the names that agents have for them.

    The reverse of `vault seal`. Where a key of such a name exists, nothing is begun.
    """
    _require_consent("take every key out of the vault?", yes)
    others = other_clients(settings, nodes)
    with _kept_on("unseal") as hooks, shown_progress(not settings.json) as report:
        result = unseal_prefixes(
            settings.client, actor=settings.actor, report=report, hooks=hooks, others=others
        )
    _tell(settings, "unsealed", result, len(others))


def _require_consent(question: str, yes: bool) -> None:
    if not yes:
        print_note(HELD)
    if not require_consent(question, yes):
        raise OperationError("declined", "nothing was changed")


@contextmanager
def _kept_on(kind: str) -> Iterator[Hooks]:
    """Report what an interruption leaves behind, once the change has begun."""
    begun = Event()
    try:
        yield Hooks(before_begin=begun.set)
    except (KeyboardInterrupt, ConnectionError, TimeoutError):
        if begun.is_set():
            print_note(f"agents may be suspended: run `keyleash vault {kind}` again to finish")
        raise


def _tell(settings: Settings, done: str, result: ChangeResult, named: int) -> None:

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
    moved = f"{counted(result.moved, 'key')}, keyleash's own among them,"
    click.echo(f"{done}: {moved} moved; the policy goes on as generation {result.generation}")
    if read_records(settings.client, server_keyspace(settings.client)):
        say_unlisted_replicas(settings.client, named)


@click.command(epilog=example("keyleash vault adopt 'agents:jobs:{job_id}:state'"))
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True, callback=key_patterns)
@yes_option
@json_option
@pass_settings
def adopt(settings: Settings, patterns: tuple[str, ...], yes: bool) -> None:
    """Move keys into the vault.

    All keys that match a PATTERN, which is as in a policy. From then on agents find them, and
    whoever connects without keyleash does not. Each key moves at once, with its expiry; nothing
    is overwritten. Run it again after an interruption. Suspend agents meanwhile if they must not
    see some of the keys without the others.
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

    The reverse of `vault adopt`: agents do not find them any more.
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
