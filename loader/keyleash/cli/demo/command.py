"""The `demo` command itself."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from keyleash.cli.options import example, json_option
from keyleash.cli.output import print_json
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.signals import Ended, ended_by_signals

if TYPE_CHECKING:
    from keyleash.cli.demo.outcome import Outcome
    from keyleash.cli.demo.printer import Printer
    from keyleash.cli.demo.stage import Stage

EVENTS_SHOWN = 4


@click.command(epilog=example("keyleash demo"))
@json_option
@pass_settings
def demo(settings: Settings) -> None:
    """Watch agents at work, and what stops them.

    Starts the embedded Valkey on a free port, loads the example policy, and checks every
    answer: exit code 1 if one differs. Nothing else is touched, and nothing is left.
    """
    from keyleash.server import EmbeddedServer

    try:
        with ended_by_signals(), EmbeddedServer() as server:
            outcomes = _run_as_json(server.url) if settings.json else _run(server.url)
    except Ended:
        raise KeyboardInterrupt from None
    if not all(outcome.ok for outcome in outcomes):
        sys.exit(1)


def _run(url: str) -> list[Outcome]:
    from keyleash.cli.demo.printer import Printer
    from keyleash.cli.demo.stage import Stage
    from keyleash.cli.demo.story import SCENES

    printer = Printer()
    printer.text(f"a Valkey of the demo's own listens on {url}; it ends with the demo")
    stage = Stage(url, printer.outcome)
    try:
        for number, scene in enumerate(SCENES, 1):
            printer.scene(number, scene.title)
            scene.play(stage)
        _print_trails(stage, printer)
    finally:
        stage.close()
    printer.count(stage.outcomes)
    return stage.outcomes


def _run_as_json(url: str) -> list[Outcome]:
    from keyleash.cli.demo.stage import Stage
    from keyleash.cli.demo.story import SCENES

    stage = Stage(url, lambda _: None)
    try:
        for scene in SCENES:
            scene.play(stage)
    finally:
        stage.close()
    differing = sum(not outcome.ok for outcome in stage.outcomes)
    steps = [asdict(outcome) for outcome in stage.outcomes]
    print_json({"ok": not differing, "checked": len(steps), "differing": differing, "steps": steps})
    return stage.outcomes


def _print_trails(stage: Stage, printer: Printer) -> None:
    from keyleash.audit import newest, read_denials, read_events
    from keyleash.cli.audit.tables import print_trail
    from keyleash.cli.standing import known_identities

    client, keyspace = stage.operator, stage.keyspace
    names = known_identities(client, keyspace)
    printer.text()
    printer.text(f"the last {EVENTS_SHOWN} mutations:")
    events = read_events(client, keyspace, names, newest_first=True)
    print_trail(newest(events, EVENTS_SHOWN))
    printer.text()
    printer.text("what was refused:")
    print_trail(read_denials(client, keyspace, names))
