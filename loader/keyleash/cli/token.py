"""`keyleash token`: issue, list, renew, rotate, show and revoke tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
from redis.exceptions import RedisError

from keyleash.audit.token_use import TokenUse, token_use
from keyleash.cli.derive import command, options_of
from keyleash.cli.nodes import show_nodes, wait_option
from keyleash.cli.options import (
    IDENTITY_OR_TOKEN_ID,
    Group,
    all_option,
    example,
    require_consent,
    with_settings,
    yes_option,
)
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_note, screen_rows
from keyleash.errors import KeyleashError, OperationError, UsageError
from keyleash.errors.operations import FAILED
from keyleash.operator.tokens.issue import IssuedToken, issue_token
from keyleash.operator.tokens.list import TokenInfo, TokenTree, list_tokens, token_tree
from keyleash.operator.tokens.renew import renew_token
from keyleash.operator.tokens.revoke import Revocation, RevokedToken
from keyleash.operator.tokens.revoke import revoke as revoke_tokens
from keyleash.operator.tokens.rotate import Rotation, rotate_token
from keyleash.policy.problems import SHOWN_BLOCKS, fold, listing, some
from keyleash.store.token import TOKEN_START
from keyleash.text import clock_time, counted, distance, iso_time, printable, span, without_tokens

if TYPE_CHECKING:
    from keyleash.client.renewal import Renewal

_MS = timedelta(milliseconds=1)


def _print_issued(settings: Settings, done: IssuedToken | Rotation, issued: IssuedToken) -> None:
    """Print the only copy of a new token, or its document *done*; revoke it if that fails."""
    try:
        settings.print_change(done) if settings.json else click.echo(issued.token)
    except OSError as error:
        help_ = f"it could not be revoked: run `keyleash token revoke {issued.id}`"
        with contextlib.suppress(KeyleashError, RedisError):
            if settings.operator.tokens.revoke(issued.id).tokens:
                help_ = "it was revoked"
        if replaced := getattr(done, "replaced", ()):
            ends = clock_time(max(item.expires_ms for item in replaced))
            help_ += (
                f"; those that it replaces end at {ends} at the latest: run"
                f" `keyleash token rotate` again before that, or `token issue {issued.identity}`"
            )
        raise OperationError(
            "not-printed",
            f"the token `{issued.id}` could not be printed: {(error.strerror or '').lower()}",
            help=help_,
        ) from error


def _note_issued(
    settings: Settings,
    issued: IssuedToken | Renewal,
    now_ms: int,
    why: str = ", the policy's `max_ttl`",
) -> None:
    life = span(round((issued.expires_ms - now_ms) / 1000))
    if issued.capped:
        print_note(f"note: shortened to {life}{why}")
    if not settings.json:
        at = clock_time(issued.expires_ms)
        print_note(f"token {issued.id} of `{issued.identity}` expires in {life}, at {at}")


@click.command(epilog=example("TOKEN=$(keyleash token issue agent-runner --ttl 2h)"))
@options_of(issue_token, "identity ttl note bind allow keys budget meta")
@with_settings
def issue(settings: Settings, /, identity: str, **options: Any) -> None:
    """Issue a token for IDENTITY and print it once.

    The token alone goes to standard output; its id and expiry go to standard error. Redis
    stores only a hash, so a lost token cannot be shown again: revoke it by its id.

    --bind, --allow, --keys and --budget restrict the token further than its identity. They need
    `token: {bound: true}` in the policy.
    """
    given = {name: value for name, value in options.items() if value}
    with settings.changing(f"look at `keyleash token list {identity}`"):
        issued = settings.operator.tokens.issue(identity, **given)
    # The token first, so that no later error loses it.
    _print_issued(settings, issued, issued)
    _note_issued(settings, issued, settings.now_ms())


@click.command("list", epilog=example("keyleash token list --stale || keyleash token rotate …"))
@options_of(list_tokens, "identity")
@click.option(
    "--stale",
    is_flag=True,
    help="Only tokens older than the policy's `rotate_after`; exit 1 if there are any.",
)
@click.option("--live", is_flag=True, help="Only tokens that are live.")
@all_option
@options_of(list_tokens, "meta")
@with_settings
def list_(
    settings: Settings,
    /,
    identity: str | None,
    stale: bool,
    live: bool,
    every: bool,
    **options: Any,
) -> int:
    """List the tokens of IDENTITY, or of all, newest first; of too many, those that are due.

    A token is listed until a week after it expired. The tokens themselves are not stored.
    `rotate` is the time until the policy's `rotate_after`, or the token that replaced it. `by` is
    who issued it: an operator, or the id of the token that delegated a child. `restricted` has the
    restrictions of bound tokens, and `meta` the labels.
    """
    found = settings.operator.tokens.list(identity, **options)
    found = [info for info in found if info.is_live or not live]
    due = [info for info in found if info.is_stale]
    if stale:
        found = due
    most = screen_rows(SHOWN_BLOCKS)
    is_cut = not every and len(found) > most
    if settings.json:
        print_json({"tokens": found})
    elif found:
        worst = sorted(found, key=lambda info: not info.is_stale) if is_cut else found
        _print_tokens(worst[: most if is_cut else None])
        if is_cut:
            print_note(f"shown: {most} of {len(found)} tokens; `--all` shows each")
    if stale and due:
        print_note(f"{counted(len(due), 'token')} to rotate: `keyleash token rotate ID`")
        return FAILED
    if not found and not settings.json:
        print_note("no token is due" if stale else "no tokens")
    return 0


def _print_tokens(found: list[TokenInfo]) -> None:
    names = ["id", "identity", "state", "age", "rotate", "expires", "used", "by", "note"]
    extra = {"restricted": _restricted, "meta": _labels}
    # Most tokens have neither.
    extra = {name: text for name, text in extra.items() if any(map(text, found))}
    rows = (
        [
            info.id,
            info.identity,
            info.state,
            span((info.read_ms - info.issued_ms) // 1000),
            _rotation(info),
            "-" if info.state == "revoked" else distance(info.expires_ms, info.read_ms),
            _last_use(info, distance),
            printable(info.by),
            without_tokens(printable(info.note)),
            *(text(info) for text in extra.values()),
        ]
        for info in found
    )
    print_table(columns(*names, *extra, fold={"identity", "by", "note", *extra}), rows)


def _restricted(info: TokenInfo) -> str:
    if info.restrictions is None:
        return ""
    # The parent of a child is in another column.
    texts = [text for name, text in info.restrictions.lines() if name not in ("child of", "cap")]
    caps = ", ".join(cap.short for cap in info.restrictions.caps)
    return "; ".join([*texts, caps] if caps else texts)


def _labels(info: TokenInfo) -> str:
    return " ".join(f"{name}={printable(value)}" for name, value in info.meta.items())


def _rotation(info: TokenInfo) -> str:
    if info.replaced_by:
        return f"replaced by {info.replaced_by}"
    if info.due_ms is None:
        return ""
    if info.is_stale:
        return f"DUE {distance(info.due_ms, info.read_ms)}"
    # A token that is no longer live needs no rotation.
    return "" if info.due_ms <= info.read_ms else distance(info.due_ms, info.read_ms)


def _last_use(info: TokenInfo, shown: Callable[[int, int], str]) -> str:
    used_ms, now_ms = info.used_ms, info.read_ms
    return "never" if used_ms is None else shown(min(used_ms, now_ms), now_ms)


@click.command(epilog=example("keyleash token revoke --identity agent-runner"))
@options_of(revoke_tokens)
@wait_option
@yes_option
@with_settings
def revoke(settings: Settings, /, token_id: str | None, wait: bool, yes: bool, **group: Any) -> int:
    """Revoke tokens, effective on the next call.

    Specify a token ID (or a token, whose id is then printed), an identity, labels or --all. Prints
    the number of calls of each token that the audit log has of the minute before: no reads, unless
    the policy records them. Later, `token show ID` prints the number of calls denied since.
    """
    if token_id is not None and TOKEN_START in token_id:
        token_id = settings.operator.tokens.id_of(token_id)
        print_note(f"note: the id of this token is `{token_id}`; arguments are visible: use ids")
    has_group = group["identity"] is not None or bool(group["meta"])
    if (token_id is not None) + has_group + group["all"] != 1:
        raise UsageError("specify exactly one of ID, `--all`, and `--identity` or `--meta` or both")
    if group["all"]:
        settings.operator.identities()
        if not yes:
            print_note("every agent is denied until it gets a new token")
        require_consent(f"revoke every token on {settings.shown_url}?", yes, "nothing was revoked")
    with settings.changing("look at `keyleash token list`"):
        done = settings.operator.tokens.revoke(token_id, **group)
    if settings.json or done.tokens:
        _report(settings, done)
    elif done.unreadable:
        print_note("nothing was revoked")
    else:
        click.echo(f"`{token_id}` was already revoked" if token_id else "no live token to revoke")
    if done.unreadable:
        names = sorted(set(done.unreadable))
        count = counted(len(done.unreadable), "token")
        print_note(f"error: {count} of {listing(names)} not revoked: the record is corrupt")
        print_note(f"help: suspend the identity: `keyleash freeze {' '.join(names)} --reason TEXT`")
    code = show_nodes(settings, done, wait=wait)
    return FAILED if done.unreadable else code


def _report(settings: Settings, done: Revocation) -> None:
    if not settings.json:
        # Before the counts, which take time.
        count = counted(len(done.tokens), "token")
        where = "at reached nodes " if done.not_reached else ""
        print_note(f"{count} revoked, effective {where}{iso_time(done.effective_us // 1000)}")
    if not done.not_reached:
        # Else the audit streams of some nodes cannot be read.
        done = settings.operator.tokens.with_calls_before(done)
    if settings.json:
        settings.print_change(done)
    elif done.not_reached:
        print_note("calls were not counted, since a node was not reached")
    else:
        count = "recorded calls in the minute before"
        few = 0 if len(done.tokens) > SHOWN_BLOCKS else SHOWN_BLOCKS
        rows = (
            [some([item.id for item in items], 1), items[0].identity, _calls_before(items)]
            for items in fold(done.tokens, lambda item: item.identity, few)
        )
        print_table(columns("revoked", "identity", count, right={count}, fold={"identity"}), rows)


def _calls_before(items: Sequence[RevokedToken]) -> str:
    counts = [item.calls_before for item in items if item.calls_before is not None]
    is_partial = len(counts) < len(items) or any(item.is_partial for item in items)
    return f"{sum(counts)}{' or more' if is_partial else ''}" if counts else "unknown"


@click.command(epilog=example("TOKEN=$(keyleash token rotate agent-runner --grace 10m)"))
@click.argument("which", metavar="IDENTITY|ID", type=IDENTITY_OR_TOKEN_ID)
@options_of(rotate_token, "grace ttl note")
@wait_option
@with_settings
def rotate(settings: Settings, /, which: str, wait: bool, **options: Any) -> int:
    """Replace every live token of IDENTITY, or the token ID, by a new one.

    Prints the new token once, as `token issue` does. Replaced tokens expire after the grace, or at
    their own expiry if that is earlier. Bound tokens of IDENTITY stay valid; their number is
    printed. If all live ones are bound, nothing is issued. Limits of the identity are not reset; a
    limit `per: token` starts at 0.
    """
    with settings.changing("look at `keyleash token list`"):
        done = settings.operator.tokens.rotate(which, **options)
    _print_issued(settings, done, done.issued)
    now_ms = settings.now_ms()
    _note_issued(settings, done.issued, now_ms)
    if not settings.json:
        _show_replaced(done, now_ms)
    again = "keep this token: running it again issues another"
    return show_nodes(settings, done, wait=wait, again=again)


def _show_replaced(done: Rotation, now_ms: int) -> None:
    for item in done.replaced:
        # Without grace this time is past.
        left = round((item.expires_ms - now_ms) / 1000)
        when = f"in {span(left)}" if left > 0 else "now"
        print_note(f"it replaces {item.id}, which expires {when}, at {clock_time(item.expires_ms)}")
    if not done.replaced:
        print_note("there was no live token to replace")
    if done.bound:
        name, verb = done.issued.identity, "stays" if done.bound == 1 else "stay"
        print_note(
            f"note: {counted(done.bound, 'bound token')} of `{name}` {verb} valid, each for its own"
            f" job: see `keyleash token list {name}`, and revoke those that may have leaked"
        )


@click.command(epilog=example("keyleash token renew 7k2mq9xw4tbn --ttl 10m"))
@options_of(renew_token)
@with_settings
def renew(settings: Settings, token_id: str, ttl: timedelta | None) -> None:
    """Let the token ID live longer, up to the policy's `max_ttl` after its issue.

    The token itself does not change. A renewal never shortens a life, and does not affect an idle
    timeout. Revoked, expired and replaced tokens are not renewed, nor are children that a token
    made.
    """
    with settings.changing(f"look at `keyleash token show {token_id}`"):
        done = settings.operator.tokens.renew(token_id, ttl=ttl)
    if settings.json:
        settings.print_change(done)
    now_ms = settings.now_ms()
    if ttl is not None and not done.capped and done.expires_ms - now_ms > ttl / _MS:
        print_note("note: unchanged: it lives longer already")
    _note_issued(settings, done, now_ms, ": the policy's `max_ttl` counts from the issue")


@command(token_tree, example="keyleash token tree 7k2mq9xw4tbn")
def tree(_settings: Settings, found: TokenTree) -> None:
    """Show the token ID and all tokens that were delegated from it.

    A child is revoked if one of its ancestors is over or rotated.
    """
    extra = {"restricted": _restricted, "meta": _labels}
    names = ("token", "state", "expires", "used", *extra)
    rows = (
        [
            "  " * depth + info.id,
            # It is live for its grace, but its children are over.
            "rotated" if info.is_live and info.replaced_by else info.state,
            distance(info.expires_ms, info.read_ms),
            _last_use(info, distance),
            *(text(info) for text in extra.values()),
        ]
        for depth, info in found.lines()
    )
    print_table(columns(*names, fold=extra), rows)


@command(token_use, example="keyleash token show 7k2mq9xw4tbn")
def show(_settings: Settings, use: TokenUse) -> None:
    """Show the state, lifetime and use of the token ID.

    `last used` is exact to a minute, or to a second if the policy has an idle timeout. `uses` is
    the number of its calls in the audit log, which has reads only if the policy records them.
    `renewable` is the time until which `token renew` may renew it.
    `denied` is the number of calls denied since its revocation.
    """
    info, denied = use.token, use.denied_as_revoked

    def moment(time_ms: int, now_ms: int = info.read_ms) -> str:
        return f"{clock_time(time_ms)} ({distance(time_ms, now_ms)})"

    by = "by a policy that does not allow it" if info.is_live else "since it was revoked"
    rows = [
        ("token", info.id),
        ("identity", info.identity),
        ("state", str(info.state)),
        ("issued", f"{moment(info.issued_ms)} by {printable(info.by)}"),
        ("note", without_tokens(printable(info.note))),
        ("meta", _labels(info)),
        *(info.restrictions.lines(info.read_ms * 1000) if info.restrictions else ()),
        ("expires", moment(info.expires_ms)),
        ("renewable", "" if info.latest_ms is None else f"until {moment(info.latest_ms)}"),
        ("rotated to", info.replaced_by),
        ("rotate", "" if info.due_ms is None else moment(info.due_ms)),
        ("last used", _last_use(info, moment)),
        ("uses", f"{use.recorded_uses} recorded"),
        ("denied", f"{denied} {by}" if denied else ""),
    ]
    for name, text in rows:
        if text:
            click.echo(f"{name:<12}{text}")


@click.group(cls=Group, epilog=example("keyleash token issue agent-runner --ttl 2h"))
def token() -> None:
    """Issue, renew, rotate, list, show and revoke tokens."""


for item in (issue, renew, rotate, list_, show, tree, revoke):
    token.add_command(item)
