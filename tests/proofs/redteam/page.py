"""Write docs/explanation/threat-model.md from the attempts of the red team.

PYTHONPATH=tests python -m proofs.redteam.page docs/explanation/threat-model.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from proofs.redteam.attempt import Attempt, Outcome, Tier
from proofs.redteam.attempts import ATTEMPTS

SECTIONS = (
    "Data, without the guard",
    "Guards and tokens",
    "The server that all agents use",
    "Replies and error texts",
    "Counters, tokens and audit streams",
    "Code",
    "Watching others, and messages",
    "Commands of operators",
    "The gateway itself",
)
WORDS = {
    Outcome.ACL: "stopped",
    Outcome.GUARD: "guard",
    Outcome.NOTHING: "harmless",
    Outcome.GRANTED: "granted",
    Outcome.POSSIBLE: "**possible**",
}


def page() -> str:
    """Return the page."""
    return "\n".join([_text("before.md"), *_sections(), _text("after.md")])


def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text()


def _sections() -> Iterator[str]:
    in_order = sorted(ATTEMPTS, key=lambda item: SECTIONS.index(item.section))
    for section, grouped in groupby(in_order, key=lambda item: item.section):
        attempts = [*grouped]
        tiers = [tier for tier in Tier if any(tier in item.expected for item in attempts)]
        rows = [_row(attempt, tiers) for attempt in attempts]
        head = [f"| | {' | '.join(tiers)} |", "|---|" + "---|" * len(tiers)]
        yield "\n".join([f"## {section}", "", *head, *rows, ""])


def _row(attempt: Attempt, tiers: Sequence[Tier]) -> str:
    does = attempt.does[0].upper() + attempt.does[1:]
    expected = attempt.expected
    outcomes = [WORDS[expected[tier]] if tier in expected else "–" for tier in tiers]
    return f"| {does} | {' | '.join(outcomes)} |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
