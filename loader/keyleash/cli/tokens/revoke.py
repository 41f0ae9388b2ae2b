"""`keyleash token revoke`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from keyleash.cli.errors import DeclinedError, UsageError
from keyleash.cli.failures import FAILED
from keyleash.cli.identity_names import IDENTITY
from keyleash.cli.options import duration_s, example, json_option, require_consent, yes_option
from keyleash.cli.output import Column, print_json, print_table, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.standing import require_known
from keyleash.cli.text import counted, iso_time, span
from keyleash.cli.tokens.words import require_no_secret
from keyleash.policy.problems import listing

if TYPE_CHECKING:
    from collections import Counter

    from keyleash.tokens import Revocation

BEFORE_MS = 60_000
AT_MOST = 10_000
"""So many events of a trail are looked at: whoever revokes does not want to wait."""


@click.command(epilog=example("keyleash token revoke --identity agent-runner --wait 5s"))
@click.argument("token_id", metavar="[ID]", required=False)
@click.option("--identity", metavar="NAME", type=IDENTITY, help="Every token of this identity.")
@click.option("--all", "everything", is_flag=True, help="Every token there is; asks first.")
@click.option(
    "--wait",
    "wait_s",
    metavar="DURATION",
    callback=duration_s,
    help="Wait so long, then say how many calls were refused meanwhile.",
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
    """Revoke tokens, from the very next call on.

    Give the ID of one, or name an identity, or say --all. Of each token it says how many calls
    the audit trail has of the minute before: what was cut. How many are refused since, --wait
    says, or later `token show ID`.
    """
    from keyleash.tokens import revoke as revoke_now

    if (token_id is not None) + (identity is not None) + everything != 1:
        raise UsageError(
            "there is not one thing to revoke", help="give a token id, `--identity NAME` or `--all`"
        )
    require_no_secret(token_id)
    if token_id is None:
        require_known(settings.client, settings.keyspace, identity)
    if everything and not _may_revoke_all(settings, yes):
        raise DeclinedError("nothing was revoked")
    client, keyspace, actor = settings.client, settings.keyspace, settings.actor
    with settings.changing("look at `keyleash token list`"):
        done = revoke_now(
            client, token_id=token_id, identity=identity, actor=actor, keyspace=keyspace
        )
    if settings.json:
        _print_json(settings, done, wait_s)
    elif done.tokens:
        _print(settings, done, wait_s)
    elif done.unreadable:
        say("nothing was revoked")
    elif token_id is not None:
        click.echo(f"`{token_id}` was revoked already")
    else:
        click.echo("there was no token left to revoke")
    if done.unreadable:
        _warn(done)
        return FAILED
    return 0


def _may_revoke_all(settings: Settings, yes: bool) -> bool:
    if not yes:
        say("every agent stops until it gets a new token")
    return require_consent(f"revoke every token on {settings.shown_url}?", yes)


def _warn(done: Revocation) -> None:
    names = sorted(set(done.unreadable))
    count = counted(len(done.unreadable), "token")
    say(f"error: {count} of {listing(names)} not revoked: what is recorded of it cannot be read")
    say(f"help: stop whoever may hold one: `keyleash freeze {' '.join(names)} --reason TEXT`")


def _print(settings: Settings, done: Revocation, wait_s: int | None) -> None:
    # First what whoever is in a hurry waits for.
    bound_ms = done.bound_us // 1000
    count = counted(len(done.tokens), "token")
    say(f"{count} revoked: binds whatever starts after {iso_time(bound_ms)}")
    before, more = _calls_before(settings, done)
    print_table(
        [
            Column("revoked"),
            Column("identity", fold=True),
            Column("recorded in the minute before", "right"),
        ],
        [
            (id_, name, f"{before[id_]} or more" if name in more else str(before[id_]))
            for name, id_ in done.tokens
        ],
    )
    if wait_s is not None:
        refused = _refused_since(settings, done, wait_s)
        cut = counted(sum(refused[id_] for _, id_ in done.tokens), "call")
        say(f"{cut} refused in the {span(wait_s)} since")


def _print_json(settings: Settings, done: Revocation, wait_s: int | None) -> None:
    before, _more = _calls_before(settings, done)
    refused = None if wait_s is None else _refused_since(settings, done, wait_s)
    print_json(
        {
            "bound_at": iso_time(done.bound_us // 1000),
            "revoked": [
                {
                    "id": id_,
                    "identity": name,
                    "recorded_in_the_minute_before": before[id_],
                    **({} if refused is None else {"refused_since": refused[id_]}),
                }
                for name, id_ in done.tokens
            ],
            "unreadable": list(done.unreadable),
        }
    )


def _calls_before(settings: Settings, done: Revocation) -> tuple[Counter[str], frozenset[str]]:
    from keyleash.audit.token_use import recent_calls

    bound_ms = done.bound_us // 1000
    stretch = (bound_ms - BEFORE_MS, bound_ms)
    return recent_calls(settings.client, settings.keyspace, _names(done), stretch, AT_MOST)


def _refused_since(settings: Settings, done: Revocation, wait_s: int) -> Counter[str]:
    from keyleash.audit.token_use import refused_as_revoked

    time.sleep(wait_s)
    since_ms = done.bound_us // 1000
    return refused_as_revoked(settings.client, settings.keyspace, _names(done), since_ms)


def _names(done: Revocation) -> list[str]:
    return sorted({name for name, _ in done.tokens})
