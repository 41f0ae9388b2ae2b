"""`keyleash load`: make a policy the active one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from keyleash.cli.documents import read_text
from keyleash.cli.errors import DeclinedError
from keyleash.cli.failures import problem_as_json, warn
from keyleash.cli.fence.nodes import node_option, other_clients
from keyleash.cli.options import example, json_option, require_consent, yes_option
from keyleash.cli.output import print_json, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.standing import active_records, known_identities
from keyleash.cli.text import counted, short_digest
from keyleash.protocol.active import read_active
from keyleash.protocol.transport import Transport

if TYPE_CHECKING:
    from keyleash.deploy import PreparedPolicy


@dataclass(frozen=True)
class Preview:
    """What a load is about to do, by identity.

    Attributes:
        is_active: This very policy is active already, by this very transport.
        transport: How its guards are to be called.
        before: How those of the active policy are; None if there is none.
    """

    is_active: bool
    transport: Transport
    before: Transport | None
    new: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]


@click.command(epilog=example("keyleash load examples/agents.yaml --yes"))
@click.argument("file")
@click.option(
    "--allow-eviction",
    is_flag=True,
    help="Load even where the server may evict keyleash's own keys.",
)
@click.option(
    "--transport",
    type=click.Choice([one.value for one in Transport]),
    default=Transport.EVALSHA.value,
    show_default=True,
    help="How guards are called: as cached scripts, or as functions, which the server keeps.",
)
@node_option
@yes_option
@json_option
@pass_settings
def load(
    settings: Settings,
    file: str,
    allow_eviction: bool,
    transport: str,
    nodes: Sequence[str],
    yes: bool,
) -> None:
    """Make a policy file the active policy.

    FILE becomes active as a whole, or not at all. Shows what will change and asks. What the
    limits have counted is kept, and so are tokens and suspensions. Warns of what has no effect:
    commands that FILE names and the server lacks, before-images of masked keys. Refuses a
    server that may evict keyleash's own keys when its memory is full, unless told otherwise.
    `-` reads standard input, and then needs --yes.

    ACL users that `keyleash fence` made are kept in step, on each --node as well, and those of
    identities that leave the policy are deleted.
    """
    from keyleash.deploy import activate_policy, prepare_policy

    name, text = read_text(file)
    others = other_clients(settings, nodes)
    prepared = prepare_policy(
        settings.client,
        text,
        file=name,
        keyspace=settings.keyspace,
        allow_eviction=allow_eviction,
    )
    if not settings.json:
        warn(prepared.warnings)
    preview = _preview(settings, prepared, Transport(transport))
    if not preview.is_active:
        _show(settings, name, prepared, preview)
        if not require_consent("activate it?", yes):
            raise DeclinedError("nothing was activated")
    result = activate_policy(
        settings.client,
        prepared,
        actor=settings.actor,
        keyspace=settings.keyspace,
        transport=preview.transport,
        others=others,
    )
    if settings.json:
        print_json(
            {
                "server": settings.shown_url,
                "changed": result.changed,
                "generation": result.generation,
                "digest": result.digest,
                "transport": preview.transport,
                "identities": list(result.identities),
                "removed": list(result.removed),
                "warnings": [problem_as_json(warning) for warning in result.warnings],
            }
        )
    elif not result.changed:
        click.echo(f"already active as generation {result.generation}; nothing changed")
    else:
        count = counted(len(result.identities), "identity")
        click.echo(f"activated generation {result.generation}: {count}")
        _say_unfenced(settings, result.identities)


def _say_unfenced(settings: Settings, identities: Sequence[str]) -> None:
    """Where some identities have ACL users, say which have none."""
    from keyleash.fence import read_records

    fenced = read_records(settings.client, settings.keyspace)
    without = [name for name in identities if name not in fenced]
    if fenced and without:
        say(f"note: without an ACL user: {', '.join(without)}; see `keyleash fence plan`")


def _preview(settings: Settings, prepared: PreparedPolicy, transport: Transport) -> Preview:
    client, keyspace = settings.client, settings.keyspace
    names = tuple(guard.identity for guard in prepared.guards)
    active = read_active(client, keyspace)
    records = active_records(client, keyspace, {*known_identities(client, keyspace), *names})
    now = {guard.identity: guard.policy_digest for guard in prepared.guards}
    before = {name: record.policy_digest for name, record in records.items()}
    return Preview(
        is_active=active is not None
        and (active.digest, active.transport) == (prepared.digest, transport),
        transport=transport,
        before=None if active is None else active.transport,
        new=tuple(name for name in names if name not in before),
        changed=tuple(name for name in names if before.get(name, now[name]) != now[name]),
        unchanged=tuple(name for name in names if before.get(name) == now[name]),
        removed=tuple(sorted(name for name in before if name not in now)),
    )


def _show(settings: Settings, file: str, prepared: PreparedPolicy, preview: Preview) -> None:
    say(f"server     {settings.shown_url}")
    say(f"policy     {file}, digest {short_digest(prepared.digest)}")
    if preview.before not in (None, preview.transport):
        say(f"transport  {preview.transport}, until now {preview.before}")
    elif preview.transport is not Transport.EVALSHA:
        say(f"transport  {preview.transport}")
    for label in ("new", "changed", "unchanged", "removed"):
        names = getattr(preview, label)
        if names:
            say(f"{label:<10} {', '.join(names)}")
    if preview.removed:
        say("           every call of a removed identity is refused from then on")
