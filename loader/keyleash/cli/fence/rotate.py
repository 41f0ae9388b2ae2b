"""`keyleash fence rotate`: new passwords, without a moment in which none is valid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from keyleash.cli.errors import UsageError
from keyleash.cli.fence.hashes import read_hashes
from keyleash.cli.fence.nodes import named_clients, node_option
from keyleash.cli.file_names import FILE
from keyleash.cli.identity_names import IDENTITY
from keyleash.cli.options import example, json_option
from keyleash.cli.output import print_json, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.text import counted

if TYPE_CHECKING:
    from keyleash.fence import Minted


@click.command(epilog=example("keyleash fence rotate agent-runner"))
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
@click.option("--finish", is_flag=True, help="End the rotation: drop the older password.")
@click.option(
    "--hashes",
    metavar="FILE",
    type=FILE,
    help="Take the new passwords from here: lines `identity sha256`, `-` for standard input.",
)
@node_option
@json_option
@pass_settings
def rotate(
    settings: Settings,
    identities: Sequence[str],
    finish: bool,
    hashes: str | None,
    nodes: Sequence[str],
) -> None:
    """Give users a second password each, all of them if none is named, and print it, this once.

    Both are valid until --finish. Connections that are open stay so.
    """
    from keyleash.cli.fence.showing import print_passwords
    from keyleash.fence import (
        ForeignUserError,
        Node,
        NotFencedError,
        RotationUnfinishedError,
        add_passwords,
        drop_old_passwords,
        mint,
        read_records,
    )

    if finish and hashes is not None:
        raise UsageError("`--finish` takes no hashes", help="rotate first, finish later")
    servers = [Node(name, client) for name, client in named_clients(settings, nodes)]
    records = read_records(settings.client, settings.keyspace)
    named = list(dict.fromkeys(identities)) or sorted(records)
    if not named:
        raise NotFencedError(
            "no identity has an ACL user", help="make them with `keyleash fence apply --mint`"
        )
    if finish:
        with settings.changing("look at `keyleash fence plan`"):
            dropped = drop_old_passwords(
                servers, settings.keyspace, records, named, actor=settings.actor
            )
        _tell_finished(settings, dropped)
        return
    given = read_hashes(hashes, named)
    minted = [] if hashes is not None else [mint(name) for name in named]
    try:
        with settings.changing("look at `keyleash fence plan`"):
            add_passwords(
                servers,
                settings.keyspace,
                records,
                given or {one.identity: one.sha256 for one in minted},
                actor=settings.actor,
            )
    except (ForeignUserError, NotFencedError, RotationUnfinishedError):
        raise
    except Exception:
        # Some server may have them already, and nobody else knows them.
        print_passwords(minted)
        raise
    _tell_added(settings, minted, len(given) or len(minted))


def _tell_added(settings: Settings, minted: Sequence[Minted], count: int) -> None:
    from keyleash.cli.fence.showing import passwords_as_json, print_passwords

    if settings.json:
        print_json({"passwords": passwords_as_json(minted), "added": count})
        return
    print_passwords(minted)
    say(
        f"{counted(count, 'password')} added; the older one of each stays valid until"
        " `keyleash fence rotate --finish`"
    )


def _tell_finished(settings: Settings, dropped: Sequence[str]) -> None:
    if settings.json:
        print_json({"finished": list(dropped)})
    elif dropped:
        click.echo(f"the older password is dropped: {', '.join(dropped)}")
    else:
        click.echo("nobody had an older password")
