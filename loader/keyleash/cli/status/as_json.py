"""A snapshot as JSON."""

from __future__ import annotations

from typing import Any

from keyleash.cli.settings import Settings
from keyleash.cli.text import iso_time
from keyleash.deploy.suspension import Suspension
from keyleash.protocol.active import ActivePolicy
from keyleash.status import IdentityStatus, LimitUse, Snapshot
from keyleash.status.refusals import RECENT_S


def snapshot_as_json(settings: Settings, snapshot: Snapshot) -> dict[str, Any]:
    """All that is shown of a server."""
    return {
        "server": settings.shown_url,
        "at": iso_time(snapshot.now_ms),
        "sealed": snapshot.is_sealed,
        "policy": None if snapshot.active is None else _policy(snapshot.active),
        "refusals_s": RECENT_S,
        "identities": [_identity(one) for one in snapshot.identities],
    }


def _policy(active: ActivePolicy) -> dict[str, Any]:
    return {
        "digest": active.digest,
        "generation": active.generation,
        "transport": active.transport,
        "activated_at": iso_time(active.activated_ms),
        "by": active.actor,
    }


def _identity(one: IdentityStatus) -> dict[str, Any]:
    oldest, suspension = one.tokens.oldest, one.suspension
    return {
        "name": one.name,
        "kind": one.kind,
        "tier": one.tier,
        "active": one.active,
        "suspended": one.suspended,
        "suspension": None if suspension is None else _suspension(suspension),
        "live_tokens": one.tokens.live,
        "tokens_due": one.tokens.due,
        "oldest_token": None
        if oldest is None
        else {"id": oldest.id, "issued_at": iso_time(oldest.issued_ms), "due": oldest.is_due},
        "events": one.events,
        "audit_length": one.audit_length,
        "denied_length": one.denied_length,
        "denials_folded": one.folded,
        "refusals": [
            {"code": code, "count": of_code.count, "last_at": iso_time(of_code.last_ms)}
            for code, of_code in sorted(one.refusals.items())
        ],
        "limits": [_limit(use) for use in one.limits],
    }


def _suspension(suspension: Suspension) -> dict[str, Any]:
    since_ms, until_ms = suspension.since_ms, suspension.until_ms
    return {
        "reason": suspension.reason,
        "by": suspension.by,
        "since": None if since_ms is None else iso_time(since_ms),
        "until": None if until_ms is None else iso_time(until_ms),
    }


def _limit(use: LimitUse) -> dict[str, Any]:
    return {
        "name": use.name,
        "kind": str(use.kind),
        "allows": use.allows,
        "used": use.used,
        "of": use.of,
        "per": use.per,
        "resets_at": None if use.resets_ms is None else iso_time(use.resets_ms),
    }
