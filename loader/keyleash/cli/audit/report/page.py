"""A report as one page of HTML: no script, nothing to load, every value escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from keyleash.audit.undo import described
from keyleash.cli.audit.report import words
from keyleash.cli.audit.report.chart import HEIGHT, LEFT, RIGHT, draw
from keyleash.cli.text import clock_time, distance, iso_time, short_digest
from keyleash.cli.undo.reasons import label, reason, what_happens
from keyleash.cli.values import short_value, shown_folded

if TYPE_CHECKING:
    from keyleash.audit.report import TokenUse
    from keyleash.audit.stats import Tally
    from keyleash.audit.undo import KeyPlan
    from keyleash.cli.audit.report.content import Report

MAX_ROWS = 50
"""Of each table that can become long."""
MAX_PLANNED = 50


def render(report: Report) -> str:
    """The page."""
    activity = report.activity
    tallies = activity.stats.identities.values()
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            activity=activity,
            standing=report.standing,
            chart=draw(activity.operations, activity.refused),
            operations=sum(tally.events for tally in tallies),
            failed=sum(tally.failed for tally in tallies),
            refused=sum(tally.refused for tally in tallies),
            planned=_planned(report),
            tokens=_tokens(report),
        )
    )


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        # The second line of defence: also where the template takes a word as it is.
        finalize=words.safe,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        before=words.before_words,
        after=words.after_words,
        number=words.number,
        shown=words.shown,
        shown_folded=shown_folded,
        clock=clock_time,
        iso=iso_time,
        ranked=_ranked,
        digest=short_digest,
    )
    made.globals.update(
        counted=words.amount,
        described=described,
        distance=distance,
        now_words=words.now_words,
        label=label,
        reason=reason,
        short_value=short_value,
        what_happens=what_happens,
        HEIGHT=HEIGHT,
        LEFT=LEFT,
        RIGHT=RIGHT,
        MAX_ROWS=MAX_ROWS,
        MAX_PLANNED=MAX_PLANNED,
    )
    return made


def _ranked(tallies: dict[str, Tally]) -> list[tuple[str, Tally]]:
    """The rows of a table of tallies, the largest first."""
    return sorted(tallies.items(), key=lambda row: (-row[1].total, row[0]))


def _planned(report: Report) -> list[KeyPlan]:
    """The keys of the plan, those that are in the way first."""
    if report.plan is None:
        return []
    return sorted(report.plan.keys, key=lambda one: not one.is_blocked)


def _tokens(report: Report) -> list[TokenUse]:
    """Those that were used most first."""
    tallies = report.activity.tokens

    def uses(one: TokenUse) -> int:
        tally = tallies.get((one.identity, one.id))
        return tally.total if tally else 0

    return sorted(report.standing.tokens, key=lambda one: -uses(one))
