"""Print the outcomes of the demo as they come."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from keyleash.cli.render.table import console
from keyleash.cli.terminal import is_terminal
from keyleash.demo.stage import DemoOutcome

WHO_WIDTH = 16
MIN_WIDTH, MAX_WIDTH = 60, 100
PIPED_WIDTH = 80
MARKS = {True: ("ok", "green"), False: ("DIFFERS", "bold red"), None: ("skipped", "yellow")}


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
        if outcome.ok is False:
            self.line((" " * (WHO_WIDTH + 2) + f"expected: {outcome.expected}", "red"))

    def count(self, outcomes: Sequence[DemoOutcome]) -> None:
        """Print the result of the demo."""
        results = [outcome.ok for outcome in outcomes if outcome.ok is not None]
        if wrong := results.count(False):
            text = f"\n{wrong} of {len(results)} replies differ from the expected ones"
            self.line((text, "bold red"))
        else:
            self.line((f"\nall {len(results)} replies are as expected", "bold green"))

    def line(self, *parts: tuple[str, str]) -> None:
        """Print pairs of text and style on one line."""
        self._console.print(Text.assemble(*parts), soft_wrap=True)
