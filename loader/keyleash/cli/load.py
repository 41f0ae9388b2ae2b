"""`keyleash load`: make a policy the active one."""

from __future__ import annotations

from collections.abc import Sequence

import click

from keyleash.cli.activation import activate
from keyleash.cli.documents import read_text
from keyleash.cli.fence.nodes import node_option, other_clients
from keyleash.cli.file_names import FILE
from keyleash.cli.options import (
    allow_eviction_option,
    allow_removal_option,
    allow_unvalidated_restore_option,
    allow_widening_option,
    example,
    full_option,
    json_option,
    transport_option,
    yes_option,
)
from keyleash.cli.progress import progress
from keyleash.cli.settings import Settings, pass_settings
from keyleash.protocol.transport import Transport


@click.command(epilog=example("keyleash load examples/agents.yaml --yes"))
@click.argument("file", type=FILE)
@allow_eviction_option
@allow_unvalidated_restore_option
@transport_option
@node_option
@allow_widening_option
@allow_removal_option
@full_option
@yes_option
@json_option
@pass_settings
def load(
    settings: Settings,
    file: str,
    allow_eviction: bool,
    allow_unvalidated_restore: bool,
    transport: str,
    nodes: Sequence[str],
    allow_widening: bool,
    allow_removal: bool,
    full: bool,
    yes: bool,
) -> None:
    """Make a policy file the active policy.

    FILE becomes active as a whole, or not at all. Shows the plan, as `keyleash plan` does, and
    asks; with --yes it asks nobody. Then what widens access needs --allow-widening, unless no
    policy is active yet, and what removes identities needs --allow-removal. What the limits
    have counted is kept, and so are tokens and suspensions. Afterwards what the server has is
    read back and compared. Warns of what has no effect: commands that FILE names and the server
    lacks, before-images of masked keys. Refuses a server that may evict keyleash's own keys
    when its memory is full, and one that does not validate payloads if FILE allows RESTORE; an
    option allows each. `-` reads standard input, and then needs --yes.

    ACL users that `keyleash fence` made are kept in step, on each --node as well, and those of
    identities that leave the policy are deleted.
    """
    from keyleash.deploy import prepare_policy

    name, text = read_text(file)
    others = other_clients(settings, nodes)
    with progress("compiling", is_wanted=not settings.json) as report:
        prepared = prepare_policy(
            settings.client,
            text,
            file=name,
            keyspace=settings.keyspace,
            allow_eviction=allow_eviction,
            allow_unvalidated_restore=allow_unvalidated_restore,
            report=report,
        )
    activate(
        settings,
        prepared,
        name,
        transport=Transport(transport),
        others=others,
        yes=yes,
        allow_widening=allow_widening,
        allow_removal=allow_removal,
        full=full,
    )
