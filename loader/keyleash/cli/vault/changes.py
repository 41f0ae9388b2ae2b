"""`keyleash vault seal`, `rotate` and `unseal`: which prefixes are in force."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING

import click
from redis.exceptions import ConnectionError, TimeoutError

from keyleash.cli.errors import DeclinedError
from keyleash.cli.fence.nodes import node_option, other_clients, say_unnamed
from keyleash.cli.options import example, json_option, require_consent, yes_option
from keyleash.cli.output import print_json, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.text import counted
from keyleash.cli.vault.parameters import key_patterns
from keyleash.cli.vault.showing import shown_progress

if TYPE_CHECKING:
    from keyleash.vault import ChangeResult, Hooks

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
    from keyleash import vault

    if not adopt:
        say("no --adopt: agents begin with an empty vault; `vault adopt` moves keys in later")
    _require_consent("seal the server?", yes)
    others = other_clients(settings, nodes)
    with _kept_on("seal") as hooks, shown_progress(not settings.json) as report:
        result = vault.seal(
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
    from keyleash import vault

    _require_consent("give every key a new prefix?", yes)
    others = other_clients(settings, nodes)
    with _kept_on("rotate") as hooks, shown_progress(not settings.json) as report:
        result = vault.rotate(
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
    from keyleash import vault

    _require_consent("take every key out of the vault?", yes)
    others = other_clients(settings, nodes)
    with _kept_on("unseal") as hooks, shown_progress(not settings.json) as report:
        result = vault.unseal(
            settings.client, actor=settings.actor, report=report, hooks=hooks, others=others
        )
    _tell(settings, "unsealed", result, len(others))


def _require_consent(question: str, yes: bool) -> None:
    if not yes:
        say(HELD)
    if not require_consent(question, yes):
        raise DeclinedError("nothing was changed")


@contextmanager
def _kept_on(kind: str) -> Iterator[Hooks]:
    """Report what an interruption leaves behind, once the change has begun."""
    from keyleash.vault import Hooks

    begun = Event()
    try:
        yield Hooks(before_begin=begun.set)
    except (KeyboardInterrupt, ConnectionError, TimeoutError):
        if begun.is_set():
            say(f"agents may be suspended: run `keyleash vault {kind}` again to finish")
        raise


def _tell(settings: Settings, done: str, result: ChangeResult, named: int) -> None:
    from keyleash.fence import read_records
    from keyleash.protocol.sealed import server_keyspace

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
        say_unnamed(settings.client, named)
