"""`keyleash status`: what is active, and how much of each limit is used."""

from __future__ import annotations

import click

from keyleash.cli.options import duration_s, example, json_option
from keyleash.cli.output import print_json, say, show
from keyleash.cli.settings import Settings, pass_settings


@click.command(epilog=example("keyleash status --watch"))
@click.option("--watch", is_flag=True, help="Go on showing it, in place, until Ctrl-C or SIGTERM.")
@click.option(
    "--interval",
    "interval_s",
    metavar="DURATION",
    default="2s",
    show_default=True,
    callback=duration_s,
    help="With --watch, how often to look.",
)
@json_option
@pass_settings
def status(settings: Settings, watch: bool, interval_s: int) -> None:
    """Show what is active, who acts, and how much is used.

    A budget counts its open window, a plain rate the calls of the last period. A rate with a
    burst shows how much of the burst is not free again yet. `oldest` is the age of the oldest
    live token, `due` if it is over the policy's `rotate_after`. `audited` and `denied` are the
    lengths of the trails; after a `+`, denials that are counted there without an entry of their
    own. `just now` are the calls that were refused in the last five minutes.

    With --watch where nobody looks on, it prints one after the other; with --json, an object a
    line.
    """
    from keyleash.cli.status.watching import watch_status
    from keyleash.status import read_snapshot

    if watch:
        watch_status(settings, interval_s)
        return
    snapshot = read_snapshot(settings.client)
    if settings.json:
        from keyleash.cli.status.as_json import snapshot_as_json

        print_json(snapshot_as_json(settings, snapshot))
        return
    from keyleash.cli.status.showing import snapshot_parts

    show(*snapshot_parts(settings, snapshot))
    if snapshot.active is None:
        say("no policy is active")
        say("help: load one with `keyleash load FILE`")
