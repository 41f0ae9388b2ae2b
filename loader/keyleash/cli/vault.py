"""`keyleash vault`: seal a server and adopt keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from redis.exceptions import ConnectionError, TimeoutError

from keyleash.cli.derive import key_pattern
from keyleash.cli.nodes import node_option, note_unlisted_replicas
from keyleash.cli.options import Group, example, json_option, require_consent, yes_option
from keyleash.cli.progress import progress
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.target import show_target
from keyleash.cli.terminal import print_json, print_note
from keyleash.policy.problems import listing
from keyleash.store.prefixes import ChangeKind
from keyleash.text import counted

if TYPE_CHECKING:
    from keyleash.vault.change import ChangeResult

DONE = {ChangeKind.SEAL: "sealed", ChangeKind.ROTATE: "rotated", ChangeKind.UNSEAL: "unsealed"}


def key_patterns(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Check that each value is a key pattern, and return the values."""
    for value in values:
        key_pattern(context, parameter, value)
    return values


def _change(
    settings: Settings,
    kind: ChangeKind,
    question: str,
    nodes: Sequence[str],
    yes: bool,
    **options: Any,
) -> None:
    """Ask for confirmation, change the prefixes and print the result."""
    show_target(settings, yes=yes)
    if not yes:
        print_note("all agents are suspended until all keys have moved")
    require_consent(question, yes)
    has_begun = False
    try:
        with progress("keys scanned", is_wanted=not settings.json) as report:

            def note_begin(done: int, total: int | None) -> None:
                nonlocal has_begun
                has_begun = True
                report(done, total)

            change = getattr(settings.operator.vault, kind.value)
            result: ChangeResult = change(nodes=nodes, progress=note_begin, **options)
    except (KeyboardInterrupt, ConnectionError, TimeoutError):
        if has_begun:
            print_note(
                f"agents may be suspended: run `keyleash vault {kind.value}` again to finish"
            )
        raise
    if settings.json:
        print_json({"server": settings.shown_url, **result.to_dict()})
        return
    moved = f"{counted(result.moved, 'key')} moved, including control keys"
    click.echo(f"{DONE[kind]}: {moved}; policy generation {result.generation}")
    if settings.operator.fence.identities():
        note_unlisted_replicas(settings.operator.server().replicas, len(nodes))


def _move(
    settings: Settings, move: Callable[..., int], where: str, patterns: Sequence[str], yes: bool
) -> None:
    """Ask for confirmation, move keys and print their number."""
    show_target(settings, yes=yes)
    require_consent(
        f"move every key that matches {listing(patterns)} {where}?", yes, "nothing was moved"
    )
    with (
        settings.changing("run it again"),
        progress("keys scanned", is_wanted=not settings.json) as report,
    ):
        moved = move(*patterns, progress=report)
    if settings.json:
        print_json({"server": settings.shown_url, "moved": moved})
    else:
        click.echo(f"{counted(moved, 'key')} moved {where}")


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
    _change(settings, ChangeKind.SEAL, "seal the server?", nodes, yes, adopt=adopt)


@click.command(epilog=example("keyleash vault rotate"))
@node_option
@yes_option
@json_option
@pass_settings
def rotate(settings: Settings, nodes: Sequence[str], yes: bool) -> None:
    """Replace the prefixes by new random ones.

    Use this if a prefix may have become known. Agents are suspended meanwhile.
    """
    _change(settings, ChangeKind.ROTATE, "give every key a new prefix?", nodes, yes)


@click.command(epilog=example("keyleash vault unseal"))
@node_option
@yes_option
@json_option
@pass_settings
def unseal(settings: Settings, nodes: Sequence[str], yes: bool) -> None:
    """Remove the prefixes from all keys.

    The reverse of `vault seal`. If such a key exists already, nothing is changed.
    """
    _change(settings, ChangeKind.UNSEAL, "take every key out of the vault?", nodes, yes)


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
    _move(settings, settings.operator.vault.adopt, "into the vault", patterns, yes)


@click.command(epilog=example("keyleash vault release 'agents:jobs:{job_id}:result'"))
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True, callback=key_patterns)
@yes_option
@json_option
@pass_settings
def release(settings: Settings, patterns: tuple[str, ...], yes: bool) -> None:
    """Move keys out of the vault.

    The reverse of `vault adopt`: agents do not reach them any more.
    """
    _move(settings, settings.operator.vault.release, "out of the vault", patterns, yes)


@click.group(cls=Group, epilog=example("keyleash vault seal --adopt 'agents:*'"))
def vault() -> None:
    """Put agents' keys under a random prefix that only guards know.

    See docs/how-to/seal.md.
    """


for command in (seal, adopt, release, rotate, unseal):
    vault.add_command(command)
