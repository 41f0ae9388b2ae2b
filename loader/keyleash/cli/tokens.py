"""`keyleash token`: issue, list and revoke tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from keyleash.cli.errors import DeclinedError, UsageError
from keyleash.cli.options import duration_s, example, json_option, require_consent, yes_option
from keyleash.cli.output import Column, print_json, print_table, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.standing import require_known, server_time_ms
from keyleash.cli.text import clock_time, counted, distance, iso_time, printable, span
from keyleash.protocol.token import TOKEN_START

if TYPE_CHECKING:
    from keyleash.tokens import TokenInfo


@click.group(epilog=example("keyleash token issue agent-runner --ttl 2h"))
def token() -> None:
    """Issue, list and revoke tokens."""


@token.command(epilog=example("TOKEN=$(keyleash token issue agent-runner --ttl 2h)"))
@click.argument("identity")
@click.option(
    "--ttl",
    metavar="DURATION",
    callback=duration_s,
    help="How long it lives, such as `90m`.  [default: the policy's `ttl`]",
)
@click.option("--note", default="", help="What it is for, as `token list` shows it; no secret.")
@json_option
@pass_settings
def issue(settings: Settings, identity: str, ttl: int | None, note: str) -> None:
    """Issue a token for IDENTITY and print it, this once.

    The token alone goes to standard output; its id and expiry go to standard error. Redis
    keeps only a hash, so a token that is lost cannot be shown again: revoke it by its id.
    """
    from keyleash.tokens import issue_token
    from keyleash.tokens.issue import MAX_NOTE

    if len(note) > MAX_NOTE:
        raise UsageError(f"a note has at most {MAX_NOTE} characters, this one {len(note)}")
    issued = issue_token(
        settings.client,
        identity,
        ttl_s=ttl,
        note=note,
        actor=settings.actor,
        keyspace=settings.keyspace,
    )
    # The token first: whatever fails from here on, it is not lost.
    if settings.json:
        print_json(
            {
                "token": issued.token,
                "id": issued.id,
                "identity": issued.identity,
                "expires_at": iso_time(issued.expires_ms),
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


@token.command("list", epilog=example("keyleash token list agent-runner"))
@click.argument("identity", required=False)
@json_option
@pass_settings
def list_(settings: Settings, identity: str | None) -> None:
    """List the tokens of IDENTITY, or of all, newest first.

    A token is listed until a week after it expired. The tokens themselves are not known.
    """
    from keyleash.tokens import list_tokens

    require_known(settings.client, settings.keyspace, identity)
    found = list_tokens(settings.client, identity, keyspace=settings.keyspace)
    if settings.json:
        print_json({"tokens": [_as_json(info) for info in found]})
    elif found:
        now_ms = server_time_ms(settings.client)
        print_table(
            [
                Column("id"),
                Column("identity", fold=True),
                Column("state"),
                Column("expires"),
                Column("issued"),
                Column("by", fold=True),
                Column("note", fold=True),
            ],
            (
                [
                    info.id,
                    info.identity,
                    info.state,
                    distance(info.expires_ms, now_ms),
                    clock_time(info.issued_ms),
                    printable(info.by),
                    printable(info.note),
                ]
                for info in found
            ),
        )
    else:
        say("no tokens")


@token.command(epilog=example("keyleash token revoke --identity agent-runner"))
@click.argument("token_id", metavar="[ID]", required=False)
@click.option("--identity", metavar="NAME", help="Every token of this identity.")
@click.option("--all", "everything", is_flag=True, help="Every token there is; asks first.")
@yes_option
@json_option
@pass_settings
def revoke(
    settings: Settings, token_id: str | None, identity: str | None, everything: bool, yes: bool
) -> None:
    """Revoke tokens, from the very next call on.

    Give the ID of one, or name an identity, or say --all.
    """
    from keyleash.tokens import revoke_tokens

    if (token_id is not None) + (identity is not None) + everything != 1:
        raise UsageError(
            "there is not one thing to revoke", help="give a token id, `--identity NAME` or `--all`"
        )
    if token_id is not None and token_id.startswith(TOKEN_START):
        raise UsageError("that is a token, not the id of one", help="see `keyleash token list`")
    if token_id is None:
        require_known(settings.client, settings.keyspace, identity)
    if everything and not _may_revoke_all(settings, yes):
        raise DeclinedError("nothing was revoked")
    revoked = revoke_tokens(
        settings.client,
        token_id=token_id,
        identity=identity,
        actor=settings.actor,
        keyspace=settings.keyspace,
    )
    if settings.json:
        print_json({"revoked": [{"id": id_, "identity": name} for name, id_ in revoked]})
    elif revoked:
        rows = [(id_, name) for name, id_ in revoked]
        print_table([Column("revoked"), Column("identity", fold=True)], rows)
        say(f"{counted(len(revoked), 'token')} revoked")
    elif token_id is not None:
        click.echo(f"`{token_id}` was revoked already")
    else:
        click.echo("there was no token left to revoke")


def _may_revoke_all(settings: Settings, yes: bool) -> bool:
    if not yes:
        say("every agent stops until it gets a new token")
    return require_consent(f"revoke every token on {settings.shown_url}?", yes)


def _as_json(info: TokenInfo) -> dict[str, str]:
    return {
        "id": info.id,
        "identity": info.identity,
        "state": str(info.state),
        "issued_at": iso_time(info.issued_ms),
        "expires_at": iso_time(info.expires_ms),
        "by": info.by,
        "note": info.note,
    }
