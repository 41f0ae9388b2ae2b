"""`keyleash demo`: run a self-checking session."""

from __future__ import annotations

import sys
from collections.abc import Sequence

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
from keyleash.store.store import Store

EVENTS_SHOWN = 4


@click.command(epilog=example("keyleash demo"))
@json_option
@pass_settings
def demo(settings: Settings) -> None:
    """Run a self-checking demo.

    Starts the embedded Valkey on a free port, loads the example policy, runs calls of several
    agents and checks every reply; exits with 1 if one differs. Leaves nothing behind.
    """
    printer = None if settings.json else Printer()
    try:
        with ended_by_signals(), EmbeddedServer() as server:
            outcomes = _run(server.url, printer)
    except Ended:
        raise KeyboardInterrupt from None
    differing = sum(not outcome.ok for outcome in outcomes)
    if printer is None:
        counts = {"ok": not differing, "checked": len(outcomes), "differing": differing}
        print_json({**counts, "steps": outcomes})
    if differing:
        sys.exit(1)


def _run(url: str, printer: Printer | None) -> Sequence[DemoOutcome]:
    stage = DemoStage(url, printer.outcome if printer else lambda _: None)
    try:
        if printer:
            printer.text(f"started an embedded Valkey on {url}")
        for number, (title, play) in enumerate(SCENES, 1):
            stage.scene = title
            if printer:
                printer.scene(number, title)
            play(stage)
        if printer:
            _print_audit_log(stage, printer)
            printer.count(stage.outcomes)
    finally:
        stage.close()
    return stage.outcomes


def _print_audit_log(stage: DemoStage, printer: Printer) -> None:
    client, keyspace = stage.operator, stage.keyspace
    names = known_identities(Store(client, keyspace))
    printer.text(f"\nthe last {EVENTS_SHOWN} mutations:")
    events = read_events(Store(client, keyspace), names, newest_first=True)
    print_events(newest(events, EVENTS_SHOWN))
    printer.text("\ndenied calls:")
    print_events(read_denials(Store(client, keyspace), names))


WHO_WIDTH = 16
MIN_WIDTH, MAX_WIDTH = 60, 100
PIPED_WIDTH = 80
OK, DIFFERS = "ok", "DIFFERS"


class Printer:
    """Prints each outcome at once: the call, then its reply and the result of the check."""

    def __init__(self) -> None:
        self._console = console()
        width = self._console.width if is_terminal() else PIPED_WIDTH
        self._width = max(MIN_WIDTH, min(width, MAX_WIDTH)) - 1

    def scene(self, number: int, title: str) -> None:
        """Print the title of a scene."""
        self._line()
        self._line((f"{number:>2}  {title}", "bold"))

    def outcome(self, outcome: DemoOutcome) -> None:
        """Print a line of the session."""
        self._line((f"{outcome.who:>{WHO_WIDTH}}  ", "cyan"), (outcome.call, ""))
        mark = (OK, "green") if outcome.ok else (DIFFERS, "bold red")
        shown = " " * (WHO_WIDTH + 2) + outcome.answer
        gap = " " * max(2, self._width - len(shown) - len(mark[0]))
        self._line((shown, "dim" if outcome.ok else ""), (gap, ""), mark)
        if not outcome.ok:
            self._line((" " * (WHO_WIDTH + 2) + f"expected: {outcome.expected}", "red"))

    def text(self, text: str) -> None:
        """Print a line of text."""
        self._line((text, ""))

    def count(self, outcomes: Sequence[DemoOutcome]) -> None:
        """Print the result of the demo."""
        wrong = sum(not outcome.ok for outcome in outcomes)
        self._line()
        if wrong:
            text = f"{wrong} of {len(outcomes)} replies differ from the expected ones"
            self._line((text, "bold red"))
        else:
            self._line((f"all {len(outcomes)} replies are as expected", "bold green"))

    def _line(self, *parts: tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts), soft_wrap=True)
