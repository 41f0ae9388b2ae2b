"""What `load` and `rollback` have in common: show the plan, ask, activate, verify, tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from keyleash.cli.errors import DeclinedError, WideningError
from keyleash.cli.failures import problem_as_json, warn
from keyleash.cli.fence.nodes import say_unnamed
from keyleash.cli.options import require_consent
from keyleash.cli.output import print_json, say
from keyleash.cli.plan.as_json import plan_as_json
from keyleash.cli.plan.showing import print_plan
from keyleash.cli.progress import progress
from keyleash.cli.settings import Settings
from keyleash.cli.text import counted
from keyleash.errors import RemovalError
from keyleash.protocol.active import read_active

if TYPE_CHECKING:
    from keyleash.deploy import LoadResult, PreparedPolicy, Preview
    from keyleash.protocol.active import Client
    from keyleash.protocol.transport import Transport


def activate(
    settings: Settings,
    prepared: PreparedPolicy,
    source: str,
    *,
    transport: Transport,
    others: Sequence[Client] = (),
    yes: bool,
    allow_widening: bool,
    allow_removal: bool,
    full: bool,
) -> None:
    """
    Make a prepared policy the active one, if whoever is asked agrees to what it changes.

    Args:
        settings: Of this run.
        prepared: The policy.
        source: Where it is from, for people.
        transport: How its guards are to be called.
        others: Further servers whose ACL users are kept in step.
        yes: Whether nobody is asked.
        allow_widening: Whether it may widen access without anybody being asked.
        allow_removal: Whether it may remove identities without anybody being asked.
        full: Whether the plan shows every change of every identity.

    Raises:
        DeclinedError: a person said no.
        RemovalError: it removes identities, nobody was to be asked, and that was not allowed.
        WideningError: it widens access, nobody was to be asked, and that was not allowed.
        ActivationConflictError: another policy was activated since the plan was made.
        NotVerifiedError: the server does not have what was activated.
    """
    from keyleash.deploy import (
        activate_policy,
        preview_load,
        summary_of_plan,
        verify_activation,
    )

    client, keyspace = settings.client, settings.keyspace
    if not settings.json:
        warn(prepared.warnings)
    preview = preview_load(client, prepared, keyspace, transport)
    if not preview.is_empty:
        print_plan(settings.shown_url, source, prepared, preview, full=full, err=True)
        if yes and preview.removed and not allow_removal:
            widens = preview.needs_permission and not allow_widening
            raise RemovalError(prepared.file, preview.removed, widens)
        _require_consent(preview, yes=yes, allow_widening=allow_widening)
    try:
        with progress("loading", is_wanted=not settings.json) as report:
            result = activate_policy(
                client,
                prepared,
                actor=settings.actor,
                keyspace=keyspace,
                transport=transport,
                others=others,
                expected=preview.generation,
                plan=summary_of_plan(preview),
                report=report,
                # Without `--yes` a person has agreed to all of the plan.
                allow_removal=allow_removal or not (yes or preview.is_empty),
            )
        verify_activation(client, prepared, keyspace, transport, result.generation)
    except (KeyboardInterrupt, ConnectionError, TimeoutError):
        say(_whether_active(settings, prepared.digest, preview.generation))
        raise
    _tell(settings, prepared, preview, result, len(others))


def _require_consent(preview: Preview, *, yes: bool, allow_widening: bool) -> None:
    widened = [one.name for one in preview.diff.identities if one.widens]
    effects = ["activate it"]
    if preview.removed:
        effects.append(f"remove {counted(len(preview.removed), 'identity')}")
    if preview.needs_permission:
        if yes and not allow_widening:
            names = ", ".join(f"`{name}`" for name in widened[:5])
            more = f" and {len(widened) - 5} more" if widened[5:] else ""
            raise WideningError(
                f"this widens what {names}{more} may do, and nothing was activated",
                help="look at what is marked `widens`; then add `--allow-widening`, or leave out"
                " `--yes` to be asked",
            )
        effects.append(f"widen access of {counted(len(widened), 'identity')}")
    if not require_consent(f"{', and '.join(effects)}?", yes):
        raise DeclinedError("nothing was activated")


def _whether_active(settings: Settings, digest: str, before: int) -> str:
    """What a load that was cut short may have done, as far as the server can still be asked."""
    try:
        active = read_active(settings.client, settings.keyspace)
    except RedisError:
        return "whether it was activated is not known: look at `keyleash status`"
    if active is None or active.generation == before:
        return "nothing was activated"
    if active.digest != digest:
        return f"another policy is active as generation {active.generation}"
    said = f"it is active as generation {active.generation}, and was not read back"
    return f"{said}: look at `keyleash doctor`"


def _tell(
    settings: Settings,
    prepared: PreparedPolicy,
    preview: Preview,
    result: LoadResult,
    named: int,
) -> None:
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
                "verified": True,
                "plan": plan_as_json(prepared, preview),
                "warnings": [problem_as_json(warning) for warning in result.warnings],
            }
        )
    elif not result.changed:
        click.echo(f"already active as generation {result.generation}; nothing changed")
    else:
        count = counted(len(result.identities), "identity")
        click.echo(f"activated generation {result.generation}: {count}")
        say("read back: records, states and scripts are as they were activated")
        _say_of_users(settings, result.identities, named)


def _say_of_users(settings: Settings, identities: Sequence[str], named: int) -> None:
    """Where some identities have ACL users, say which have none, and of replicas not named."""
    from keyleash.fence import read_records

    fenced = read_records(settings.client, settings.keyspace)
    without = [name for name in identities if name not in fenced]
    if fenced and without:
        say(f"note: without an ACL user: {', '.join(without)}; see `keyleash fence plan`")
    if fenced:
        say_unnamed(settings.client, named)
