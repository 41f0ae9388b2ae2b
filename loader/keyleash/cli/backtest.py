"""`keyleash backtest` and `keyleash unused`: recorded calls, and the policy that they need."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyleash.addons.learn.backtest import Backtest
from keyleash.addons.learn.calls import Coverage, NotUnderstood
from keyleash.api import Operator, Policy
from keyleash.cli.derive import options_of
from keyleash.cli.options import FILE, all_option, example, reading, with_settings
from keyleash.cli.progress import progress
from keyleash.cli.render.table import Column, fitting, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_note, read_policy, screen_rows, write_output
from keyleash.errors.operations import FAILED
from keyleash.policy.problems import FEW, SHOWN_BLOCKS, SHOWN_IDENTITIES, fold, some
from keyleash.policy.scripts import MARK
from keyleash.text import clock_time, counted, printable, without_tokens

if TYPE_CHECKING:
    from keyleash.addons.learn.unused import Unused, UnusedRule

_LOG = "since until archive monitor"
UNDECIDED = 3
"""The exit code for calls that are undecided."""


def _percent(text: str) -> float:
    if not re.fullmatch(r"(100|[0-9]{1,2}(\.[0-9]+)?)%", text):
        raise ValueError("write a share from 0% to 100%")
    return float(text[:-1])


allow_undecided_option = click.option(
    "--allow-undecided",
    metavar="PERCENT",
    default="0%",
    callback=reading(_percent),
    help="The share of calls that may be undecided; exits with 3 if it is higher.",
)


@click.command(epilog=example("keyleash backtest agents.yaml --since 7d"))
@click.argument("file", type=FILE)
@options_of(Operator.backtest, _LOG)
@allow_undecided_option
@all_option
@with_settings
def backtest(
    settings: Settings, file: str, allow_undecided: float, every: bool, **options: Any
) -> int:
    """Show which recorded calls a policy file would allow or deny otherwise.

    Decides every call of the audit log, of an archive or of a capture by FILE, and replays its
    limits by the times of the calls. A call is undecided where the log does not say enough, such as
    the arguments that a rule for values needs. Exits with 1 if a call that was allowed is denied,
    and with 3 if a call is undecided, or there is none. `-` reads standard input.
    """
    found = run_backtest(settings, read_policy(file), options)
    lines = backtest_lines(found, "" if every else "--all")
    settings.show(found, lambda: click.echo("\n".join(lines)))
    return gate(found, allow_undecided)


def gate(found: Backtest, allowed: float, empty: int = UNDECIDED) -> int:
    """Return the exit code, *empty* without calls; up to *allowed* percent may be undecided."""
    if not any(found.outcomes.values()):
        print_note(f"{'error' if empty else 'warning'}: no call was recorded, nothing was decided")
        command = "keyleash learn --capture 15m -o FILE"
        print_note(
            f"help: run agents first, or record a server by `{command}` for `--monitor FILE`"
        )
        return empty
    if not found.denies and found.undecided > allowed:
        print_note(f"error: {found.undecided:.3g} % of the calls are undecided")
        print_note("help: record what decides them, or accept this share with `--allow-undecided`")
        return UNDECIDED
    return FAILED if found.denies else 0


def run_backtest(settings: Settings, policy: Policy, options: dict[str, Any]) -> Backtest:
    """Return the outcome of recorded calls, with progress."""
    with progress("reading", is_wanted=not settings.json) as report:
        found = _operator(settings, options).backtest(policy, **options, progress=report)
    _warn_of_log(found.coverage, found.not_understood)
    if any(found.outcomes.values()) and options.get("monitor") is None:
        print_note("note: polls without a result are not recorded, so they are not decided")
    return found


def backtest_lines(found: Backtest, option: str) -> Iterator[str]:
    """Return the outcomes of recorded calls and the limits that they hit; *option* shows all."""
    most = max(len(found.rows), len(found.hits))
    if option:
        most = fitting(SHOWN_IDENTITIES, lambda count: _lines(found, option, count), besides=6)
    return _lines(found, option, most)


def _lines(found: Backtest, option: str, most: int) -> Iterator[str]:
    counts = (f"{count:,} {key.replace('_to_', '→')}" for key, count in found.outcomes.items())
    starts = [item.since_ms for item in found.coverage if item.since_ms is not None]
    since = f" since {clock_time(min(starts))}" if starts else ""
    yield f"calls of {found.source}{since}: {', '.join(counts)}"
    if found.already_failing:
        of_active = "denied or undecided by the active policy, too"
        yield f"unchanged: {counted(found.already_failing, 'call')} {of_active}"
    for row in found.rows[:most]:
        yield ""
        title = f"{row.outcome.replace('_to_', '→')}  {row.identity}: {printable(row.rule)}"
        times = _times(row.first_ms, row.last_ms)
        yield without_tokens(f"{title}: {counted(row.calls, 'call')}, {times}")
        yield from (f"    {line}" for line in row.examples)
    for hit in found.hits[:most]:
        yield ""
        yield (
            f"limit       {hit.identity}: {hit.limit}, {hit.allows}: denies"
            f" {counted(hit.calls, 'call')}, {_times(hit.first_ms, hit.last_ms)};"
            f" {hit.worst} of them in the period from {clock_time(hit.worst_ms)}"
        )
    if left := len(found.rows[most:]) + len(found.hits[most:]):
        yield f"\nand {left} more: `{option}` shows each"


@click.command(epilog=example("keyleash unused --since 30d -o narrowed.yaml"))
@click.argument("file", type=FILE, required=False)
@options_of(Operator.unused, _LOG)
@click.option("-o", "--output", metavar="FILE", type=FILE, help="Write the policy without them.")
@all_option
@with_settings
def unused(
    settings: Settings, file: str | None, output: str | None, every: bool, **options: Any
) -> None:
    """List what a policy allows and no recorded call needed.

    Compares the active policy, or FILE, with the audit log, an archive or a capture: identities,
    patterns, classes and scripts without a call, limits that were never used above half, and tokens
    that were never used. What only reads is undecided while reads are not recorded. --output writes
    the policy without unused identities, patterns, classes and scripts, and keeps its comments;
    nothing is loaded.
    """
    policy = None if file is None else read_policy(file)
    with progress("reading", is_wanted=not settings.json) as report:
        found = _operator(settings, options).unused(policy, **options, progress=report)
    _warn_of_log(found.coverage, found.not_understood)
    if output is not None:
        # Only a server trusts the texts of scripts in a document.
        lines = found.document.splitlines(keepends=True)
        text = "".join(line for line in lines if not line.startswith(MARK))
        write_output(Path(output), text.encode(), 0o600, is_new=True)
    if settings.json:
        print_json(found)
        return
    columns = [Column(name) for name in ("identity", "kind", "rule", "grant", "since", "verdict")]
    rows = sorted(_rows(found, every), key=lambda row: row[-1].startswith("undecided"))
    most = len(rows) if every else screen_rows(SHOWN_BLOCKS)
    print_table(columns, rows[:most])
    if len(rows) > most:
        print_note(f"and {counted(len(rows) - most, 'more row')}: `--all` shows each")
    if any(rule.undecided.startswith("only since") for rule in found.rules):
        print_note("warning: the log, or some rules, are younger than the time that is asked for")
    if output is not None:
        click.echo(found.diff.describe() or "nothing is removed: the file equals the policy")
        is_removed = len(found.diff.after.identities) < len(found.diff.before.identities)
        flag = f", `keyleash load {output} --allow-removal`" * is_removed
        print_note(f"wrote {output}; next: `keyleash plan {output}`{flag}")


def _rows(found: Unused, every: bool) -> Iterator[Sequence[str]]:
    for rule, *others in fold(found.rules, _by_token if every else _by_verdict):
        verdict = f"undecided: {rule.undecided}" if rule.undecided else "unused"
        verdict = "never above half" if rule.kind == "limit" and not rule.undecided else verdict
        since = clock_time(rule.since_ms) if rule.since_ms else "-"
        shown = some([printable(item.rule) for item in (rule, *others)], 1)
        shown += " (`--json` has all)" * bool(others)
        names = some([*dict.fromkeys(item.identity for item in (rule, *others))], 1)
        kinds = ", ".join(dict.fromkeys(item.kind for item in (rule, *others)))
        yield names, kinds, shown, str(rule.grant or "-"), since, verdict


def _by_token(rule: UnusedRule) -> Hashable:
    return (rule.identity, rule.undecided) if rule.kind == "token" else rule


def _by_verdict(rule: UnusedRule) -> Hashable:
    return rule.undecided or _by_token(rule)


def _operator(settings: Settings, options: dict[str, Any]) -> Operator:
    is_offline = options.get("archive") or options.get("monitor")
    return settings.unconnected() if is_offline else settings.operator


def _times(first_ms: int, last_ms: int) -> str:
    return f"from {clock_time(first_ms)} to {clock_time(last_ms)}"


def _warn_of_log(coverage: Sequence[Coverage], left_out: NotUnderstood) -> None:
    """Warn of what a log does not say."""
    holes = [(item.identity, hole) for item in coverage for hole in item.holes]
    groups = fold(holes, lambda hole: hole[1], 0)
    lines = [f"{some([x for x, _ in of], SHOWN_IDENTITIES)}: {of[0][1]}" for of in groups]
    if left := lines[SHOWN_IDENTITIES:]:
        lines = [*lines[:SHOWN_IDENTITIES], f"and {len(left)} more: `--json` has all"]
    unread = [item.identity for item in coverage if item.calls and item.reads_since_ms is None]
    lines += [f"reads of {some(unread, FEW)} are not recorded"] if unread else []
    if left_out.count:
        lines.append(f"{counted(left_out.count, 'line')} left out: {'; '.join(left_out.examples)}")
    for line in lines:
        print_note(f"warning: {without_tokens(printable(line))}")
