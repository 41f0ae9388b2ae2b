"""`keyleash whoami`: what a token is good for, as its holder may ask."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.authenticate import require_live, require_record
from keyleash.cli.context import identity_counts, read_subject
from keyleash.cli.options import example, json_option, require_token, token_option
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json
from keyleash.errors import NotActiveError, ReplyCode
from keyleash.evaluate.evaluate import is_suspended, suspended
from keyleash.evaluate.trace import refused
from keyleash.policy import SubjectKind, parse_policy
from keyleash.store.records import read_active
from keyleash.store.token import use_noted_us, without_tokens
from keyleash.text import clock_time, distance, iso_time, printable, span

if TYPE_CHECKING:
    from keyleash.evaluate import Decision, ModelState
    from keyleash.policy import Grant, Identity, Limit
    from keyleash.store.token import TokenRecord


@dataclass(frozen=True)
class LimitLeft:
    """
    One limit of the holder.

    Attributes:
        left: Calls that would pass now; None where each captured segment has its own count.
        resets_ms: When all of it is free again; None if it is.
    """

    limit: Limit
    left: int | None
    resets_ms: int | None


@dataclass(frozen=True)
class Holder:
    """
    Who holds a token.

    Attributes:
        issued_ms: None if nobody kept it.
        stopped: With what every call is refused, or None.
    """

    identity: Identity
    token: TokenRecord
    issued_ms: int | None
    now_ms: int
    stopped: Decision | None
    limits: list[LimitLeft]


@click.command(epilog=example("keyleash whoami --token token-file"))
@token_option
@json_option
@pass_settings
def whoami(settings: Settings, token_file: str | None) -> None:
    """Show the identity, expiry, grants and remaining limits of a token.

    Nothing is changed or charged. The user of the URL must be allowed to run GET,
    HGET, HGETALL and TIME on keyleash's own keys: one that holds an agent to its guard may not.
    """
    found = _holder(settings, require_token(token_file))
    if settings.json:
        print_json(_as_json(found))
    else:
        _show(found)


def _holder(settings: Settings, token: str) -> Holder:

    name, record, now_us = require_record(settings, token)
    identity = _identity(settings, name)
    require_live(identity, record, now_us)
    state = identity_counts(settings, identity)
    return Holder(
        identity=identity,
        token=record,
        issued_ms=_issued_ms(settings, name, record.id),
        now_ms=now_us // 1000,
        stopped=_stopped(state, now_us),
        limits=[
            _left(settings, identity, limit, state, record.id, now_us) for limit in identity.limits
        ],
    )


def _stopped(state: ModelState, now_us: int) -> Decision | None:

    if state.refuses is not None:
        return refused(state.refuses)
    return suspended(state) if is_suspended(state, now_us) else None


def _identity(settings: Settings, name: str) -> Identity:

    active = read_active(settings.client, settings.keyspace)
    if active is not None:
        policy = parse_policy(active.document, file="<active policy>", commands=None)
        found = policy.identity(name)
        if found is not None:
            return found
    raise NotActiveError


def _issued_ms(settings: Settings, name: str, token_id: str) -> int | None:

    known = settings.client.hget(settings.keyspace.tokens(name), token_id)
    return None if known is None else int(json.loads(known)["issued_ms"])


def _left(
    settings: Settings,
    identity: Identity,
    limit: Limit,
    state: ModelState,
    token_id: str,
    now_us: int,
) -> LimitLeft:

    subject = b""
    if limit.subject.kind is SubjectKind.CAPTURE:
        return LimitLeft(limit, None, None)
    if limit.subject.kind is SubjectKind.TOKEN:
        subject = token_id.encode()
        read_subject(settings, identity, limit, subject, state, now_us)
    count = state.count(limit, subject, now_us)
    resets_us = count.resets_us(now_us)
    return LimitLeft(
        limit, count.left(now_us), None if resets_us is None else -(-resets_us // 1000)
    )


def _show(found: Holder) -> None:
    age = ""
    if found.issued_ms is not None:
        age = f", {span((found.now_ms - found.issued_ms) // 1000)} old"
    expires_ms = found.token.expires_us // 1000
    click.echo(f"identity  {found.identity.name} ({found.identity.kind})")
    click.echo(f"token     {found.token.id}{age}")
    click.echo(f"expires   {distance(expires_ms, found.now_ms)}, at {clock_time(expires_ms)}")
    idle_ms = _idle_ends_ms(found)
    if idle_ms is not None and idle_ms < expires_ms:
        click.echo(f"          {distance(idle_ms, found.now_ms)} if it is not used before")
    if found.stopped is not None:
        click.echo(f"stopped   every call is denied: {_stop_line(found.stopped, found.now_ms)}")
    _show_rules("may", [_grant_line(grant) for grant in found.identity.grants])
    _show_rules("may not", _denies(found))
    if found.limits:
        click.echo()
        columns = [Column("limit"), Column("left", "right"), Column("allows", fold=True)]
        print_table(
            [*columns, Column("resets")], [_limit_row(limit, found) for limit in found.limits]
        )


def _stop_line(stopped: Decision, now_ms: int) -> str:
    """The code, and of a suspension until when and why."""
    said, until = str(stopped.code), _until_ms(stopped)
    if until is not None:
        said += f" until {clock_time(until)} ({distance(until, now_ms)})"
    reason = stopped.details.get("reason")
    return said if reason is None else f"{said}: {without_tokens(printable(reason))}"


def _until_ms(stopped: Decision) -> int | None:
    until = stopped.details.get("until_ms")
    return None if until is None else int(until)


def _show_rules(label: str, rules: list[str]) -> None:
    for number, rule in enumerate(rules):
        click.echo(f"{'' if number else label:<10}{rule}")


def _idle_ends_ms(found: Holder) -> int | None:

    idle_s = found.identity.token.idle_s
    if idle_s is None:
        return None
    return (found.token.used_us + use_noted_us(idle_s)) // 1000 + idle_s * 1000


def _grant_line(grant: Grant) -> str:
    narrowed = f", only {', '.join(grant.only)}" if grant.only is not None else ""
    narrowed += f", except {', '.join(grant.except_)}" if grant.except_ else ""
    return f"{', '.join(grant.allow)}: {' '.join(_patterns(grant))}{narrowed}"


def _patterns(grant: Grant) -> list[str]:
    channels = [f"channel {channel.source}" for channel in grant.channels]
    return [*(key.source for key in grant.keys), *channels]


def _denies(found: Holder) -> list[str]:
    return [" ".join(key.source for key in deny.keys) for deny in found.identity.deny]


def _limit_row(limit_left: LimitLeft, found: Holder) -> list[str]:

    limit = limit_left.limit
    each = f", each {{{limit.subject.capture}}} apart" if limit.subject.capture else ""
    resets = "" if limit_left.resets_ms is None else distance(limit_left.resets_ms, found.now_ms)
    return [
        limit.name,
        "?" if limit_left.left is None else str(limit_left.left),
        limit.describe() + each,
        resets,
    ]


def _suspension(stopped: Decision) -> dict[str, str | None]:
    until = _until_ms(stopped)
    return {
        "reason": stopped.details.get("reason", ""),
        "until": None if until is None else iso_time(until),
    }


def _as_json(found: Holder) -> dict[str, Any]:

    stopped = found.stopped
    return {
        "identity": found.identity.name,
        "kind": str(found.identity.kind),
        "token_id": found.token.id,
        "issued_at": None if found.issued_ms is None else iso_time(found.issued_ms),
        "expires_at": iso_time(found.token.expires_us // 1000),
        "stopped": None if stopped is None else str(stopped.code),
        "suspension": _suspension(stopped)
        if stopped is not None and stopped.code is ReplyCode.SUSPENDED
        else None,
        "grants": [
            {
                "allow": list(map(str, grant.allow)),
                "keys": [pattern.source for pattern in grant.keys],
                "channels": [pattern.source for pattern in grant.channels],
                "only": None if grant.only is None else list(grant.only),
                "except": list(grant.except_),
            }
            for grant in found.identity.grants
        ],
        "deny": [[pattern.source for pattern in item.keys] for item in found.identity.deny],
        "limits": [
            {
                "name": limit.limit.name,
                "allows": limit.limit.describe(),
                "per": str(limit.limit.subject.kind),
                "left": limit.left,
                "of": limit.limit.at_once,
                "resets_at": None if limit.resets_ms is None else iso_time(limit.resets_ms),
            }
            for limit in found.limits
        ],
        "idle_ends_at": _iso_or_none(_idle_ends_ms(found)),
    }


def _iso_or_none(time_ms: int | None) -> str | None:
    return None if time_ms is None else iso_time(time_ms)
