"""`keyleash demo`: run a self-checking session."""

from __future__ import annotations

import sys
from itertools import islice

import click
from rich.text import Text

from keyleash.addons.demo.stage import DemoOutcome, DemoStage
from keyleash.addons.demo.story import SCENES
from keyleash.addons.servers import EmbeddedServer
from keyleash.cli.options import example, with_settings
from keyleash.cli.render.audit import print_events
from keyleash.cli.render.table import console
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import Ended, ended_by_signals, is_terminal, print_json

EVENTS_SHOWN = 4


@click.command(epilog=example("keyleash demo"))
@with_settings
def demo(settings: Settings) -> None:
    """Run a self-checking demo.

    Starts the embedded Valkey on a free port, loads the example policy, runs calls of several
    agents and checks every reply; exits with 1 if one differs. Leaves nothing behind.
    """
    printer = None if settings.json else DemoPrinter()
    try:
        with ended_by_signals(), EmbeddedServer() as server, DemoStage(server.url) as stage:
            _play(stage, printer)
    except Ended:
        raise KeyboardInterrupt from None
    results = [outcome.ok for outcome in stage.outcomes]
    differing = results.count(False)
    if printer is None:
        counts = {"ok": not differing, "checked": len(results), "differing": differing}
        print_json({**counts, "steps": stage.outcomes})
    elif differing:
        text = f"\n{differing} of {len(results)} replies differ from the expected ones"
        printer.line((text, "bold red"))
    else:
        printer.line((f"\nall {len(results)} replies are as expected", "bold green"))
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
        print_events([*islice(audit.events(newest_first=True), EVENTS_SHOWN)][::-1])
        printer.line(("\ndenied calls:", ""))
        print_events(audit.denials())


WHO_WIDTH = 16
MIN_WIDTH, MAX_WIDTH = 60, 100
PIPED_WIDTH = 80
MARKS = {True: ("ok", "green"), False: ("DIFFERS", "bold red")}


class DemoPrinter:
    """Prints each outcome at once: the call, then its reply and the result of the check."""

    def __init__(self) -> None:
        self._console = console()
        width = self._console.width if is_terminal() else PIPED_WIDTH
        self._width = max(MIN_WIDTH, min(width, MAX_WIDTH)) - 1

    def scene(self, number: int, title: str) -> None:
        """Print the title of a scene."""
        self.line((f"\n{number:>2}  {title}", "bold"))

    def outcome(self, outcome: DemoOutcome) -> None:
        """Print a line of the session."""
        self.line((f"{outcome.who:>{WHO_WIDTH}}  ", "cyan"), (outcome.call, ""))
        mark = MARKS[outcome.ok]
        shown = " " * (WHO_WIDTH + 2) + outcome.answer
        gap = " " * max(2, self._width - len(shown) - len(mark[0]))
        self.line((shown, "dim" if outcome.ok else ""), (gap, ""), mark)
        if not outcome.ok:
            self.line((" " * (WHO_WIDTH + 2) + f"expected: {outcome.expected}", "red"))

    def line(self, *parts: tuple[str, str]) -> None:
        """Print pairs of text and style on one line."""
        self._console.print(Text.assemble(*parts), soft_wrap=True)
