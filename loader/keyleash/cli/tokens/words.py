"""What the commands about tokens have in common: a new token, an id, a token as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.errors import UsageError
from keyleash.cli.options import duration_s
from keyleash.cli.output import print_json, say
from keyleash.cli.settings import Settings
from keyleash.cli.standing import server_time_ms
from keyleash.cli.text import clock_time, distance, iso_time, span, without_tokens
from keyleash.protocol.token import TOKEN_START

if TYPE_CHECKING:
    from keyleash.tokens import IssuedToken, TokenInfo

ttl_option = click.option(
    "--ttl",
    metavar="DURATION",
    callback=duration_s,
    help="How long it lives, such as `90m`.  [default: the policy's `ttl`]",
)


def require_note(note: str) -> None:
    """Refuse a note that is too long, before anything is issued."""
    from keyleash.tokens.issue import MAX_NOTE

    if len(note) > MAX_NOTE:
        raise UsageError(f"a note has at most {MAX_NOTE} characters, this one {len(note)}")


def require_no_secret(text: str | None) -> None:
    """Refuse a token where its id is wanted; it is not repeated."""
    if text is not None and text.startswith(TOKEN_START):
        raise UsageError("that is a token, not the id of one", help="see `keyleash token list`")


def print_issued(
    settings: Settings, issued: IssuedToken, more: Mapping[str, Any] | None = None
) -> None:
    """Print a new token, this once: alone on standard output, its facts on standard error."""
    # The token first: whatever fails from here on, it is not lost.
    if settings.json:
        print_json(
            {
                "token": issued.token,
                "id": issued.id,
                "identity": issued.identity,
                "expires_at": iso_time(issued.expires_ms),
                **(more or {}),
            }
        )
    else:
        click.echo(issued.token)
    life = span(round((issued.expires_ms - server_time_ms(settings.client)) / 1000))
    if issued.capped:
        say(f"note: shortened to {life}, the policy's `max_ttl`")
    if not settings.json:
        at = clock_time(issued.expires_ms)
        say(f"token {issued.id} of `{issued.identity}` expires in {life}, at {at}")


def due_word(info: TokenInfo, now_ms: int) -> str:
    """When it ought to be rotated."""
    if info.replaced_by:
        return f"to {info.replaced_by}"
    if info.due_ms is None:
        return ""
    return f"DUE {distance(info.due_ms, now_ms)}" if info.is_due(now_ms) else _in_time(info, now_ms)


def _in_time(info: TokenInfo, now_ms: int) -> str:
    # Whatever is not live any more need not be rotated.
    due_ms = info.due_ms
    return "" if due_ms is None or due_ms <= now_ms else distance(due_ms, now_ms)


def used_word(info: TokenInfo, now_ms: int) -> str:
    """When it was last used."""
    return "never" if info.used_ms is None else distance(min(info.used_ms, now_ms), now_ms)


def token_json(info: TokenInfo, now_ms: int) -> dict[str, Any]:
    """A token as JSON."""
    return {
        "id": info.id,
        "identity": info.identity,
        "state": str(info.state),
        "issued_at": iso_time(info.issued_ms),
        "expires_at": iso_time(info.expires_ms),
        "last_used_at": None if info.used_ms is None else iso_time(info.used_ms),
        "rotate_at": None if info.due_ms is None else iso_time(info.due_ms),
        "stale": info.is_due(now_ms),
        "replaced_by": info.replaced_by or None,
        "by": info.by,
        "note": without_tokens(info.note),
    }
