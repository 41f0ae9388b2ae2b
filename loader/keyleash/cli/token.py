"""`keyleash token`: issue, list, rotate and revoke tokens."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click
from redis.exceptions import NoPermissionError

from keyleash.audit.stats import count_revoked_denials, count_token_calls, recent_calls
from keyleash.cli.failures import FAILED
from keyleash.cli.options import (
    IDENTITY,
    Group,
    duration_s,
    example,
    json_option,
    require_consent,
    yes_option,
)
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.errors import OperationError, UsageError
from keyleash.operator.tokens import MAX_NOTE, issue_token, list_tokens, require_token, rotate_token
from keyleash.operator.tokens import revoke as revoke_now
from keyleash.policy.problems import listing
from keyleash.store.identities import active_records, require_known
from keyleash.store.token import TOKEN_START
from keyleash.text import (
    clock_time,
    counted,
    distance,
    iso_time,
    json_object,
    printable,
    span,
    without_tokens,
)

if TYPE_CHECKING:
    from keyleash.operator.tokens import IssuedToken, Revocation, TokenInfo

T = TypeVar("T")

ttl_option = click.option(
    "--ttl",
    metavar="DURATION",
    callback=duration_s,
    help="Lifetime, such as `90m`.  [default: the policy's `ttl`]",
)


def _require_note(note: str) -> None:
    if len(note) > MAX_NOTE:
        raise UsageError(f"a note has at most {MAX_NOTE} characters, this one {len(note)}")


def _require_no_secret(text: str | None) -> None:
    if text is not None and text.startswith(TOKEN_START):
        raise UsageError("this is a token, not a token id", help="see `keyleash token list`")


def _print_issued(settings: Settings, issued: IssuedToken, **more: Any) -> None:
    """Print a new token on standard output, and its id and expiry on standard error."""
    # The token first, so that no later error loses it.
    if settings.json:
        print_json({**json_object(issued, "token", "id", "identity", "expires_ms"), **more})
    else:
        click.echo(issued.token)
    life = span(round((issued.expires_ms - settings.store.now_ms()) / 1000))
    if issued.capped:
        print_note(f"note: shortened to {life}, the policy's `max_ttl`")
    if not settings.json:
        at = clock_time(issued.expires_ms)
        print_note(f"token {issued.id} of `{issued.identity}` expires in {life}, at {at}")


def _rotation(info: TokenInfo, now_ms: int) -> str:
    if info.replaced_by:
        return f"to {info.replaced_by}"
    if info.due_ms is None:
        return ""
    if info.is_due(now_ms):
        return f"DUE {distance(info.due_ms, now_ms)}"
    # A token that is no longer live needs no rotation.
    return "" if info.due_ms <= now_ms else distance(info.due_ms, now_ms)


def _last_use(info: TokenInfo, now_ms: int, shown: Callable[[int, int], str]) -> str:
    return "never" if info.used_ms is None else shown(min(info.used_ms, now_ms), now_ms)


def token_json(info: TokenInfo, now_ms: int) -> dict[str, Any]:
    """Return a token as JSON."""
    return {
        **json_object(info, "id", "identity", "state", "issued_ms", "expires_ms"),
        **json_object(info, "last_used_at=used_ms", "rotate_at=due_ms"),
        "stale": info.is_due(now_ms),
        "replaced_by": info.replaced_by or None,
        "by": info.by,
        "note": without_tokens(info.note),
    }


@click.command(epilog=example("TOKEN=$(keyleash token issue agent-runner --ttl 2h)"))
@click.argument("identity", type=IDENTITY)
@ttl_option
@click.option("--note", default="", help="Purpose, shown by `token list`; must not hold a secret.")
@json_option
@pass_settings
def issue(settings: Settings, identity: str, ttl: int | None, note: str) -> None:
    """Issue a token for IDENTITY and print it once.

    The token alone goes to standard output; its id and expiry go to standard error. Redis
    stores only a hash, so a lost token cannot be shown again: revoke it by its id.
    """
    _require_note(note)
    store = settings.store
    with settings.changing(f"look at `keyleash token list {identity}`"):
        issued = issue_token(store, identity, ttl_s=ttl, note=note)
    _print_issued(settings, issued)


@click.command("list", epilog=example("keyleash token list --stale || keyleash token rotate …"))
@click.argument("identity", type=IDENTITY, required=False)
@click.option(
    "--stale",
    is_flag=True,
    help="Only tokens older than the policy's `rotate_after`; exit 1 if there are any.",
)
@json_option
@pass_settings
def list_(settings: Settings, identity: str | None, stale: bool) -> int:
    """List the tokens of IDENTITY, or of all, newest first.

    A token is listed until a week after it expired. The tokens themselves are not stored.
    `rotate` is the time until the policy's `rotate_after`, or the id of the new token.
    """
    require_known(settings.store, identity)
    found = list_tokens(settings.store, identity)
    now_ms = settings.store.now_ms()
    due = [info for info in found if info.is_due(now_ms)]
    if stale:
        found = due
    if settings.json:
        print_json({"tokens": [token_json(info, now_ms) for info in found]})
    elif found:
        print_table(
            [
                Column("id"),
                Column("identity", fold=True),
                Column("state"),
                Column("age"),
                Column("rotate"),
                Column("expires"),
                Column("used"),
                Column("by", fold=True),
                Column("note", fold=True),
            ],
            (
                [
                    info.id,
                    info.identity,
                    info.state,
                    span((now_ms - info.issued_ms) // 1000),
                    _rotation(info, now_ms),
                    distance(info.expires_ms, now_ms),
                    _last_use(info, now_ms, distance),
                    printable(info.by),
                    without_tokens(printable(info.note)),
                ]
                for info in found
            ),
        )
    if stale and due:
        print_note(f"{counted(len(due), 'token')} to rotate: `keyleash token rotate ID`")
        return FAILED
    if not found and not settings.json:
        print_note("no token is due" if stale else "no tokens")
    return 0


BEFORE_MS = 60_000
AT_MOST = 10_000
"""Maximum number of events read per audit stream, so that a revocation does not wait."""


@click.command(epilog=example("keyleash token revoke --identity agent-runner --wait 5s"))
@click.argument("token_id", metavar="[ID]", required=False)
@click.option("--identity", metavar="NAME", type=IDENTITY, help="Every token of this identity.")
@click.option("--all", "everything", is_flag=True, help="Every token; asks for confirmation.")
@click.option(
    "--wait",
    "wait_s",
    metavar="DURATION",
    callback=duration_s,
    help="Wait for this time, then print the number of calls denied meanwhile.",
)
@yes_option
@json_option
@pass_settings
def revoke(
    settings: Settings,
    token_id: str | None,
    identity: str | None,
    everything: bool,
    wait_s: int | None,
    yes: bool,
) -> int:
    """Revoke tokens, effective on the next call.

    Specify a token ID, an identity or --all. Prints the number of calls that each token made in
    the minute before, from the audit log. --wait, or later `token show ID`, prints the number of
    calls denied since.
    """
    if (token_id is not None) + (identity is not None) + everything != 1:
        raise UsageError("specify exactly one of ID, `--identity` and `--all`")
    _require_no_secret(token_id)
    if token_id is None:
        require_known(settings.store, identity)
    if everything:
        if not yes:
            print_note("every agent is denied until it gets a new token")
        if not require_consent(f"revoke every token on {settings.shown_url}?", yes):
            raise OperationError("declined", "nothing was revoked")
    store = settings.store
    with settings.changing("look at `keyleash token list`"):
        done = revoke_now(store, token_id=token_id, identity=identity)
    if settings.json or done.tokens:
        _report(settings, done, wait_s)
    elif done.unreadable:
        print_note("nothing was revoked")
    elif token_id is not None:
        click.echo(f"`{token_id}` was already revoked")
    else:
        click.echo("no live token to revoke")
    if done.unreadable:
        _warn(done)
        return FAILED
    return 0


def _warn(done: Revocation) -> None:
    names = sorted(set(done.unreadable))
    count = counted(len(done.unreadable), "token")
    print_note(f"error: {count} of {listing(names)} not revoked: the record is corrupt")
    print_note(f"help: suspend the identity: `keyleash freeze {' '.join(names)} --reason TEXT`")


def _report(settings: Settings, done: Revocation, wait_s: int | None) -> None:
    bound_ms = done.bound_us // 1000
    where = (settings.store, sorted({name for name, _ in done.tokens}))
    if not settings.json:
        # Before the counts, which take time.
        count = counted(len(done.tokens), "token")
        print_note(f"{count} revoked, effective {iso_time(bound_ms)}")
    before, more = _if_permitted(
        lambda: recent_calls(*where, (bound_ms - BEFORE_MS, bound_ms), AT_MOST)
    ) or (None, ())
    if not settings.json:
        print_table(
            [
                Column("revoked"),
                Column("identity", fold=True),
                Column("calls in the minute before", "right"),
            ],
            [
                (id_, name, _shown_count(before, id_) + (" or more" if name in more else ""))
                for name, id_ in done.tokens
            ],
        )
    denials = None
    if wait_s is not None:
        time.sleep(wait_s)
        denials = _if_permitted(lambda: count_revoked_denials(*where, bound_ms))
    if settings.json:
        revoked = [
            {
                "id": id_,
                "identity": name,
                "recorded_in_the_minute_before": None if before is None else before[id_],
                **({} if denials is None else {"denied_since": denials[id_]}),
            }
            for name, id_ in done.tokens
        ]
        document = {**json_object(done, "bound_us"), "revoked": revoked}
        print_json({**document, "unreadable": done.unreadable})
    elif denials is not None and wait_s is not None:
        count = counted(sum(denials[id_] for _, id_ in done.tokens), "call")
        print_note(f"{count} denied in the {span(wait_s)} since")


def _if_permitted(read: Callable[[], T]) -> T | None:
    """Return what *read* returns; None if the user may not read audit streams.

    The tokens are revoked by then, which must not look like a failure.
    """
    try:
        return read()
    except NoPermissionError:
        return None


def _shown_count(counts: Mapping[str, int] | None, token_id: str) -> str:
    return "unknown" if counts is None else str(counts[token_id])


def _grace_s(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is not None and re.fullmatch("0+[wdhms]?", value):
        return 0
    return duration_s(context, parameter, value)


@click.command(epilog=example("TOKEN=$(keyleash token rotate agent-runner --grace 10m)"))
@click.argument("which", metavar="IDENTITY|ID", type=IDENTITY)
@click.option(
    "--grace",
    metavar="DURATION",
    callback=_grace_s,
    default="10m",
    show_default=True,
    help="Time for which replaced tokens stay valid; `0` for none.",
)
@ttl_option
@click.option("--note", help="As for `token issue`.  [default: that of the token ID]")
@json_option
@pass_settings
def rotate(settings: Settings, which: str, grace: int, ttl: int | None, note: str | None) -> None:
    """Replace every live token of IDENTITY, or the token ID, by a new one.

    Prints the new token once, as `token issue` does. Replaced tokens expire after the grace, or at
    their own expiry if that is earlier. Limits of the identity are not reset; a limit `per: token`
    starts at 0.
    """
    _require_no_secret(which)
    _require_note(note or "")
    # An identity has precedence over a token id of the same text.
    is_identity = "-" in which or bool(active_records(settings.store, [which]))
    with settings.changing("look at `keyleash token list`"):
        done = rotate_token(
            settings.store,
            identity=which if is_identity else None,
            token_id=None if is_identity else which,
            grace_s=grace,
            ttl_s=ttl,
            note=note,
        )
    replaced = [{"id": id_, "expires_at": iso_time(ends)} for id_, ends in done.replaced]
    _print_issued(settings, done.issued, replaced=replaced)
    if settings.json:
        return
    now_ms = settings.store.now_ms()
    for id_, ends_ms in done.replaced:
        # Without grace this time is past.
        left = round((ends_ms - now_ms) / 1000)
        when = f"in {span(left)}" if left > 0 else "now"
        print_note(f"it replaces {id_}, which expires {when}, at {clock_time(ends_ms)}")
    if not done.replaced:
        print_note("there was no live token to replace")


@click.command(epilog=example("keyleash token show 7k2mq9xw4tbn"))
@click.argument("token_id", metavar="ID")
@json_option
@pass_settings
def show(settings: Settings, token_id: str) -> None:
    """Show the state, lifetime and use of the token ID.

    `last used` is exact to a minute, or to a second if the policy has an idle timeout. `uses` is
    the number of its calls in the audit log, which has reads only if the policy records them.
    `denied` is the number of calls denied since its revocation.
    """
    _require_no_secret(token_id)
    store = settings.store
    info = require_token(store, token_id)
    uses = count_token_calls(store, info.identity, token_id)
    denied = count_revoked_denials(store, [info.identity])[token_id]
    now_ms = store.now_ms()
    if settings.json:
        counts = {"recorded_uses": uses, "denied_as_revoked": denied}
        print_json({**token_json(info, now_ms), **counts})
        return

    def moment(time_ms: int, now_ms: int = now_ms) -> str:
        return f"{clock_time(time_ms)} ({distance(time_ms, now_ms)})"

    rows = [
        ("token", info.id),
        ("identity", info.identity),
        ("state", str(info.state)),
        ("issued", f"{moment(info.issued_ms)} by {printable(info.by)}"),
        ("note", without_tokens(printable(info.note))),
        ("expires", moment(info.expires_ms)),
        ("rotated to", info.replaced_by),
        ("rotate", "" if info.due_ms is None else moment(info.due_ms)),
        ("last used", _last_use(info, now_ms, moment)),
        ("uses", f"{uses} recorded"),
        ("denied", f"{denied} since it was revoked" if denied else ""),
    ]
    for name, text in rows:
        if text:
            click.echo(f"{name:<12}{text}")


@click.group(cls=Group, epilog=example("keyleash token issue agent-runner --ttl 2h"))
def token() -> None:
    """Issue, rotate, list, show and revoke tokens."""


for command in (issue, rotate, list_, show, revoke):
    token.add_command(command)
