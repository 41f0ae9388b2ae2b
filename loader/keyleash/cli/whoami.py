"""`keyleash whoami`: the identity, grants and limits of a token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.authenticate import require_live, require_record
from keyleash.cli.options import example, json_option, require_token, token_option
from keyleash.cli.render.explain import grant_json
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json
from keyleash.errors import NotActiveError, ReplyCode
from keyleash.evaluate.evaluate import is_suspended, suspended
from keyleash.evaluate.trace import refused
from keyleash.operator.decisions import identity_counts, read_subject
from keyleash.policy import SubjectKind
from keyleash.status.identities import document_policy
from keyleash.store.records import read_active
from keyleash.store.token import use_noted_us
from keyleash.text import clock_time, distance, json_object, printable, span, without_tokens

if TYPE_CHECKING:
    from keyleash.evaluate import Decision, ModelState
    from keyleash.policy import Grant, Identity, Limit
    from keyleash.store.token import TokenRecord


@dataclass(frozen=True)
class LimitLeft:
    """
    The rest of a limit.

    Attributes:
        left: Calls that would pass now; None if each captured segment has its own count.
        resets_ms: When nothing of it is used any more; None if nothing is used.
    """

    limit: Limit
    left: int | None = None
    resets_ms: int | None = None


@dataclass(frozen=True)
class Holder:
    """
    The identity and the limits of a token.

    Attributes:
        issued_ms: None if it is not recorded.
        stopped: The denial of every call, if any.
    """

    identity: Identity
    token: TokenRecord
    issued_ms: int | None
    now_ms: int
    stopped: Decision | None
    limits: list[LimitLeft]

    @property
    def expires_ms(self) -> int:
        """When the token expires."""
        return self.token.expires_us // 1000

    @property
    def idle_ends_ms(self) -> int | None:
        """When the token expires if it is not used before; None if it has no idle time."""
        idle_s = self.identity.token.idle_s
        if idle_s is None:
            return None
        return (self.token.used_us + use_noted_us(idle_s)) // 1000 + idle_s * 1000

    @property
    def suspended_until_ms(self) -> int | None:
        """When the suspension ends by itself, if it does."""
        until = None if self.stopped is None else self.stopped.details.get("until_ms")
        return None if until is None else int(until)


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
    active = read_active(settings.store)
    identity = active and document_policy(active.document).identity(name)
    if not identity:
        raise NotActiveError
    require_live(identity, record, now_us)
    state = identity_counts(settings.store, identity)
    known = settings.client.hget(settings.keyspace.tokens(name), record.id)
    return Holder(
        identity=identity,
        token=record,
        issued_ms=None if known is None else int(json.loads(known)["issued_ms"]),
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
        return LimitLeft(limit)
    if limit.subject.kind is SubjectKind.TOKEN:
        subject = token_id.encode()
        read_subject(settings.store, identity, limit, subject, state, now_us)
    count = state.count(limit, subject, now_us)
    resets_us = count.resets_us(now_us)
    return LimitLeft(
        limit, count.left(now_us), None if resets_us is None else -(-resets_us // 1000)
    )


def _show(found: Holder) -> None:
    age = ""
    if found.issued_ms is not None:
        age = f", {span((found.now_ms - found.issued_ms) // 1000)} old"
    expires = f"{distance(found.expires_ms, found.now_ms)}, at {clock_time(found.expires_ms)}"
    click.echo(f"identity  {found.identity.name} ({found.identity.kind})")
    click.echo(f"token     {found.token.id}{age}")
    click.echo(f"expires   {expires}")
    idle_ms = found.idle_ends_ms
    if idle_ms is not None and idle_ms < found.expires_ms:
        click.echo(f"          {distance(idle_ms, found.now_ms)} if it is not used before")
    if found.stopped is not None:
        click.echo(f"stopped   every call is denied: {_stop_text(found, found.stopped)}")
    _show_rules("may", [_grant_line(grant) for grant in found.identity.grants])
    _show_rules(
        "may not", [" ".join(key.source for key in deny.keys) for deny in found.identity.deny]
    )
    if found.limits:
        click.echo()
        columns = [Column("limit"), Column("left", "right"), Column("allows", fold=True)]
        rows = (_limit_row(limit, found.now_ms) for limit in found.limits)
        print_table([*columns, Column("resets")], rows)


def _stop_text(found: Holder, stopped: Decision) -> str:
    """Return the code and, of a suspension, its end and reason."""
    text, until = str(stopped.code), found.suspended_until_ms
    if until is not None:
        text += f" until {clock_time(until)} ({distance(until, found.now_ms)})"
    reason = stopped.details.get("reason")
    return text if reason is None else f"{text}: {without_tokens(printable(reason))}"


def _show_rules(label: str, rules: list[str]) -> None:
    for number, rule in enumerate(rules):
        click.echo(f"{'' if number else label:<10}{rule}")


def _grant_line(grant: Grant) -> str:
    narrowed = f", only {', '.join(grant.only)}" if grant.only is not None else ""
    narrowed += f", except {', '.join(grant.except_)}" if grant.except_ else ""
    keys = [key.source for key in grant.keys]
    channels = [f"channel {channel.source}" for channel in grant.channels]
    return f"{', '.join(grant.allow)}: {' '.join([*keys, *channels])}{narrowed}"


def _limit_row(item: LimitLeft, now_ms: int) -> list[str]:
    limit = item.limit
    each = f", each {{{limit.subject.capture}}} apart" if limit.subject.capture else ""
    return [
        limit.name,
        "?" if item.left is None else str(item.left),
        limit.describe() + each,
        "" if item.resets_ms is None else distance(item.resets_ms, now_ms),
    ]


def _as_json(found: Holder) -> dict[str, Any]:
    stopped, suspension = found.stopped, None
    if stopped is not None and stopped.code is ReplyCode.SUSPENDED:
        suspension = {
            "reason": stopped.details.get("reason", ""),
            **json_object(found, "until=suspended_until_ms"),
        }
    return {
        **json_object(found.identity, "identity=name", "kind"),
        "token_id": found.token.id,
        **json_object(found, "issued_ms", "expires_ms", "idle_ends_ms"),
        "stopped": None if stopped is None else stopped.code,
        "suspension": suspension,
        "grants": [grant_json(grant) for grant in found.identity.grants],
        "deny": [[pattern.source for pattern in item.keys] for item in found.identity.deny],
        "limits": [
            {
                "name": item.limit.name,
                "allows": item.limit.describe(),
                "per": item.limit.subject.kind,
                "of": item.limit.at_once,
                **json_object(item, "left", "resets_ms"),
            }
            for item in found.limits
        ],
    }
