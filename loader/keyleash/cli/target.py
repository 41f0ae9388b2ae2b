"""The server that a command is about to change."""

from __future__ import annotations

from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_note
from keyleash.errors import UsageError
from keyleash.operator.server import ServerSummary
from keyleash.text import counted

NOT_NAMED = (
    "neither `--url` nor KEYLEASH_URL is set, and no mark of `keyleash serve` is on the server"
)


def describe_target(settings: Settings, summary: ServerSummary | None = None) -> str:
    """Return the address, product, version and number of keys of the server, and its database.

    Of a cluster, the number of nodes and the home take the place of the database.
    """
    summary = summary or settings.operator.server()
    release = f"{summary.release}, " if summary.version else ""
    keys = "" if summary.keys is None else f", {counted(summary.keys, 'key')}"
    what = f"database {summary.database}"
    if summary.nodes:
        home = f", home {summary.home}" if summary.home else ""
        what = f"cluster of {counted(summary.nodes, 'node')}{home}"
    return f"{settings.shown_url} ({release}{what}{keys})"


def require_target(settings: Settings, *, yes: bool) -> tuple[str, ServerSummary]:
    """Return the description and summary of the server that a command is about to change.

    With *yes* the server must be named by `--url` or KEYLEASH_URL, or started by `keyleash serve`.
    A command that asks for confirmation prints a note in place of the error.
    """
    summary = settings.operator.server()
    text = describe_target(settings, summary)
    if not (settings.is_url_given or summary.is_from_serve):
        if yes:
            raise UsageError(
                f"`--yes` needs a named server: {NOT_NAMED} at {text}",
                help=f"if it is the right one, write `keyleash --url {settings.url} …`",
            )
        print_note(f"note: {NOT_NAMED}")
    return text, summary
