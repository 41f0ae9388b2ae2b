"""`keyleash demo`: run a self-checking session."""

from __future__ import annotations

import sys

import click

from keyleash.audit.streams import newest
from keyleash.cli.options import example, with_settings
from keyleash.cli.render.audit import print_events
from keyleash.cli.render.demo import DemoPrinter
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import Ended, ended_by_signals, print_json
from keyleash.demo.stage import DemoStage
from keyleash.demo.story import SCENES
from keyleash.servers import EmbeddedServer

EVENTS_SHOWN = 4


@click.command(epilog=example("keyleash demo"))
@with_settings
def demo(settings: Settings) -> None:
    """Run a self-checking demo.

    Starts the embedded Valkey on a free port, loads the example policy, runs calls of several
    agents and checks every reply; exits with 1 if one differs. The last scene is on a cluster of
    three nodes. Leaves nothing behind.
    """
    printer = None if settings.json else DemoPrinter()
    try:
        with ended_by_signals(), EmbeddedServer() as server, DemoStage(server.url) as stage:
            _play(stage, printer)
    except Ended:
        raise KeyboardInterrupt from None
    results = [outcome.ok for outcome in stage.outcomes if outcome.ok is not None]
    differing = results.count(False)
    if printer is None:
        counts = {"ok": not differing, "checked": len(results), "differing": differing}
        print_json({**counts, "steps": stage.outcomes})
    if differing:
        sys.exit(1)


def _play(stage: DemoStage, printer: DemoPrinter | None) -> None:
    if printer:
        stage.listener = printer.outcome
        printer.line((f"started an embedded Valkey on {stage.url}", ""))
    for number, (title, play) in enumerate(SCENES, 1):
        stage.scene = title
        if printer:
            printer.scene(number, title)
        play(stage)
    if printer:
        audit = stage.operator.audit
        printer.line((f"\nthe last {EVENTS_SHOWN} mutations:", ""))
        print_events(newest(audit.events(newest_first=True), EVENTS_SHOWN))
        printer.line(("\ndenied calls:", ""))
        print_events(audit.denials())
        printer.count(stage.outcomes)
