"""The server that a command is about to change."""

from __future__ import annotations

from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_note
from keyleash.errors import UsageError
from keyleash.operator import ServerSummary, summarize_server
from keyleash.text import counted

NOT_NAMED = "neither `--url` nor KEYLEASH_URL is set, and `keyleash serve` did not start the server"


def describe_target(settings: Settings) -> str:
    """Return the address, product, version, database and number of keys of the server."""
    return _description(settings, summarize_server(settings.client))


def require_target(settings: Settings, *, yes: bool) -> str:
    """
    Return the description of the server that a command is about to change.

    The server must be named by `--url` or KEYLEASH_URL, or started by `keyleash serve`. A command
    that asks for confirmation prints a note in place of the error.

    Raises:
        UsageError: *yes*, and the server only answers at the default address.
    """
    return _accepted(settings, summarize_server(settings.client), yes=yes)


def show_target(settings: Settings, *, yes: bool) -> None:
    """
    Print the server that a command is about to change, and its active policy.

    Raises:
        UsageError: See `require_target`.
    """
    summary = summarize_server(settings.client)
    active = {0: "none", None: "unreadable"}.get(
        summary.generation, f"generation {summary.generation}"
    )
    print_note(f"server     {_accepted(settings, summary, yes=yes)}\nactive     {active}")


def _accepted(settings: Settings, summary: ServerSummary, *, yes: bool) -> str:
    text = _description(settings, summary)
    if not (settings.is_url_given or summary.is_from_serve):
        if yes:
            raise UsageError(
                f"`--yes` needs a named server: {NOT_NAMED} at {text}",
                help=f"if it is the right one, write `keyleash --url {settings.url} …`",
            )
        print_note(f"note: {NOT_NAMED}")
    return text


def _description(settings: Settings, summary: ServerSummary) -> str:
    release = f"{summary.release}, " if summary.version else ""
    keys = "" if summary.keys is None else f", {counted(summary.keys, 'key')}"
    return f"{settings.shown_url} ({release}database {summary.database}{keys})"
