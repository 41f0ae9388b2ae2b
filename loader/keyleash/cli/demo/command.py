"""`keyleash demo`: run a self-checking session."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.text import Text

from keyleash.audit import newest, read_denials, read_events
from keyleash.cli.demo.stage import DemoOutcome, DemoStage
from keyleash.cli.demo.story import SCENES
from keyleash.cli.options import example, json_option
from keyleash.cli.render.audit import print_events
from keyleash.cli.render.table import console
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import Ended, ended_by_signals, is_terminal, print_json
from keyleash.servers import EmbeddedServer
from keyleash.store.identities import known_identities

if TYPE_CHECKING:
    from keyleash.cli.demo.stage import DemoStage


if TYPE_CHECKING:
    pass

EVENTS_SHOWN = 4


@click.command(epilog=example("keyleash demo"))
@json_option
@pass_settings
def demo(settings: Settings) -> None:
    """Run a self-checking demo.

    Starts the embedded Valkey on a free port, loads the example policy, runs calls of several
    agents and checks every reply; exits with 1 if one differs. Leaves nothing behind.
    """
    try:
        with ended_by_signals(), EmbeddedServer() as server:
            outcomes = _run_as_json(server.url) if settings.json else _run(server.url)
    except Ended:
        raise KeyboardInterrupt from None
    if not all(outcome.ok for outcome in outcomes):
        sys.exit(1)


def _run(url: str) -> list[DemoOutcome]:

    printer = Printer()
    printer.text(f"started an embedded Valkey on {url}")
    stage = DemoStage(url, printer.outcome)
    try:
        for number, scene in enumerate(SCENES, 1):
            printer.scene(number, scene.title)
            scene.play(stage)
        _print_trails(stage, printer)
    finally:
        stage.close()
    printer.count(stage.outcomes)
    return stage.outcomes


def _run_as_json(url: str) -> list[DemoOutcome]:

    stage = DemoStage(url, lambda _: None)
    try:
        for scene in SCENES:
            scene.play(stage)
    finally:
        stage.close()
    differing = sum(not outcome.ok for outcome in stage.outcomes)
    steps = [asdict(outcome) for outcome in stage.outcomes]
    print_json({"ok": not differing, "checked": len(steps), "differing": differing, "steps": steps})
    return stage.outcomes


def _print_trails(stage: DemoStage, printer: Printer) -> None:

    client, keyspace = stage.operator, stage.keyspace
    names = known_identities(client, keyspace)
    printer.text()
    printer.text(f"the last {EVENTS_SHOWN} mutations:")
    events = read_events(client, keyspace, names, newest_first=True)
    print_events(newest(events, EVENTS_SHOWN))
    printer.text()
    printer.text("denied calls:")
    print_events(read_denials(client, keyspace, names))


WHO_WIDTH = 16
MIN_WIDTH, MAX_WIDTH = 60, 100
PIPED_WIDTH = 80
OK, DIFFERS = "ok", "DIFFERS"


class Printer:
    """Prints each outcome when it happens: the call, then its answer and the verdict."""

    def __init__(self) -> None:
        self._console = console()
        width = self._console.width if is_terminal() else PIPED_WIDTH
        self._width = max(MIN_WIDTH, min(width, MAX_WIDTH)) - 1

    def scene(self, number: int, title: str) -> None:
        """Open a scene."""
        self._line()
        self._line((f"{number:>2}  {title}", "bold"))

    def outcome(self, outcome: DemoOutcome) -> None:
        """Print one line of the session."""
        self._line((f"{outcome.who:>{WHO_WIDTH}}  ", "cyan"), (outcome.call, ""))
        mark = (OK, "green") if outcome.ok else (DIFFERS, "bold red")
        shown = " " * (WHO_WIDTH + 2) + outcome.answer
        gap = " " * max(2, self._width - len(shown) - len(mark[0]))
        self._line((shown, "dim" if outcome.ok else ""), (gap, ""), mark)
        if not outcome.ok:
            self._line((" " * (WHO_WIDTH + 2) + f"expected: {outcome.expected}", "red"))

    def text(self, text: str = "") -> None:
        """Print a line of prose."""
        self._line((text, ""))

    def count(self, outcomes: Sequence[DemoOutcome]) -> None:
        """Print the last line."""
        wrong = sum(not outcome.ok for outcome in outcomes)
        self._line()
        if wrong:
            said = f"{wrong} of {len(outcomes)} replies differ from the expected ones"
            self._line((said, "bold red"))
        else:
            self._line((f"all {len(outcomes)} replies are as expected", "bold green"))

    def _line(self, *parts: tuple[str, str]) -> None:

        self._console.print(Text.assemble(*parts), soft_wrap=True)
