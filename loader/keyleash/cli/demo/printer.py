"""The session as people read it, in 80 columns or more."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.cli.demo.outcome import Outcome
from keyleash.cli.output import console, is_terminal

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

    def outcome(self, outcome: Outcome) -> None:
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

    def count(self, outcomes: Sequence[Outcome]) -> None:
        """Print the last line."""
        wrong = sum(not outcome.ok for outcome in outcomes)
        self._line()
        if wrong:
            said = f"{wrong} of {len(outcomes)} answers differ from what was expected"
            self._line((said, "bold red"))
        else:
            self._line((f"all {len(outcomes)} answers are as expected", "bold green"))

    def _line(self, *parts: tuple[str, str]) -> None:
        from rich.text import Text

        self._console.print(Text.assemble(*parts), soft_wrap=True)
