"""`keyleash rollback`: make an earlier policy the active one again."""

from __future__ import annotations

from collections.abc import Sequence

import click

from keyleash.cli.activation import activate
from keyleash.cli.fence.nodes import node_option, other_clients
from keyleash.cli.kept import find_kept
from keyleash.cli.options import (
    allow_eviction_option,
    allow_removal_option,
    allow_unvalidated_restore_option,
    allow_widening_option,
    example,
    full_option,
    json_option,
    yes_option,
)
from keyleash.cli.progress import progress
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.text import short_digest
from keyleash.errors import NoPolicyError
from keyleash.protocol.active import ActivePolicy, read_active
from keyleash.protocol.history import read_history
from keyleash.protocol.transport import Transport


@click.command(epilog=example("keyleash rollback --to 3f9ac2d81b07"))
@click.option("--to", metavar="DIGEST", help="Which policy, by the first digits of its digest.")
@allow_eviction_option
@allow_unvalidated_restore_option
@node_option
@allow_widening_option
@allow_removal_option
@full_option
@yes_option
@json_option
@pass_settings
def rollback(
    settings: Settings,
    to: str | None,
    allow_eviction: bool,
    allow_unvalidated_restore: bool,
    nodes: Sequence[str],
    allow_widening: bool,
    allow_removal: bool,
    full: bool,
    yes: bool,
) -> None:
    """Make an earlier policy the active one again.

    Without --to it is the one that was active before this one, so a second rollback takes the
    first one back. `keyleash policy history` lists those that are kept, the last 20. It is a
    load like any other: it gets a generation of its own, shows the plan and asks, needs the same
    consent, and counters, tokens and suspensions stay as they are.
    """
    from keyleash.deploy import prepare_policy

    client, keyspace = settings.client, settings.keyspace
    active = read_active(client, keyspace)
    kept = read_history(client, keyspace)
    target = find_kept(kept, to) if to is not None else _previous(active, kept)
    source = f"<policy {short_digest(target.digest)}>"
    with progress("compiling", is_wanted=not settings.json) as report:
        prepared = prepare_policy(
            client,
            target.document,
            file=source,
            keyspace=keyspace,
            allow_eviction=allow_eviction,
            allow_unvalidated_restore=allow_unvalidated_restore,
            report=report,
        )
    activate(
        settings,
        prepared,
        f"of generation {target.generation}",
        # How guards are called is how the server is run, and no part of a policy.
        transport=active.transport if active else Transport.EVALSHA,
        others=other_clients(settings, nodes),
        yes=yes,
        allow_widening=allow_widening,
        allow_removal=allow_removal,
        full=full,
    )


def _previous(active: ActivePolicy | None, kept: Sequence[ActivePolicy]) -> ActivePolicy:
    if active is None:
        raise NoPolicyError("no policy is active", help="load one with `keyleash load FILE`")
    found = next((one for one in kept if one.digest == active.before), None)
    if found is None:
        raise NoPolicyError(
            "the policy that was active before is not kept here",
            help="see `keyleash policy history`, and name one with `--to`",
        )
    return found
