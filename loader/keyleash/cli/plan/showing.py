"""A plan as a person reads it: what is added, what goes, what changes, and what widens access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from keyleash.cli.colours import is_plain
from keyleash.cli.plan.calls import examples
from keyleash.cli.plan.rules import rule_name, rule_text
from keyleash.cli.text import counted, short_digest
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.protocol.transport import Transport

if TYPE_CHECKING:
    from keyleash.deploy import PreparedPolicy, Preview
    from keyleash.policy.diff import Change, IdentityDiff

WIDENS = "widens"
NARROWS = "narrows"
SHOWN_BLOCKS = 50
"""So many different changes of identities are shown; of more, a summary."""
_COLOURS = {"+": "green", "-": "red", "~": "yellow"}
_INDENT = "    "
_WHOLE_RULES = ("grant", "deny", "rate", "budget")


def print_plan(
    server: str,
    source: str,
    prepared: PreparedPolicy,
    preview: Preview,
    *,
    full: bool = False,
    err: bool = False,
) -> None:
    """
    Print a plan: as the result, or beside it.

    Args:
        full: Whether to show every change of every identity. Otherwise identities that change
            alike are shown once, and of more than `SHOWN_BLOCKS` only the names.
    """
    for line in _lines(server, source, prepared, preview, full):
        click.echo(line, err=err)


def _lines(
    server: str, source: str, prepared: PreparedPolicy, preview: Preview, full: bool
) -> list[str]:
    # Marks are words, so that nobody needs the colours.
    return [
        *_head(server, source, prepared, preview),
        *_identities(preview.diff.identities, full),
        *_foot(preview),
    ]


def _head(server: str, source: str, prepared: PreparedPolicy, preview: Preview) -> Iterator[str]:
    active = preview.active
    yield f"server     {server}"
    yield f"policy     {source}, digest {short_digest(prepared.digest)}"
    if active is None:
        yield "active     none"
    else:
        yield f"active     generation {active.generation}, digest {short_digest(active.digest)}"
    if active is not None and active.transport is not preview.transport:
        yield f"transport  {preview.transport}, until now {active.transport}"
    elif preview.transport is not Transport.EVALSHA:
        yield f"transport  {preview.transport}"
    if active is None and not preview.is_first:
        yield "note: a policy was active, and its record is gone; all identities count as new"
    if not preview.is_readable:
        yield "note: the active policy cannot be read by this version; all identities count as new"


class _Title(NamedTuple):
    """What the first line about an identity says besides its name."""

    sign: str
    kind: str
    widens: bool
    narrows: bool


def _identities(diffs: Sequence[IdentityDiff], full: bool) -> Iterator[str]:
    blocks = [(one.name, _title(one), tuple(_body(one))) for one in diffs]
    if full:
        for name, title, body in blocks:
            yield from _block([name], title, body)
        return
    folded: dict[tuple[_Title, tuple[str, ...]], list[str]] = {}
    for name, title, body in blocks:
        folded.setdefault((title, body), []).append(name)
    is_summary = len(folded) > SHOWN_BLOCKS
    if is_summary:
        folded = {}
        for title, some in _by_title(diffs).items():
            folded[title, tuple(_like_changes(some))] = [one.name for one in some]
    for (title, body), names in folded.items():
        yield from _block(names, title, body)
    if is_summary:
        yield ""
        yield "note: a summary, since many identities change; `--full` shows every change"


def _by_title(diffs: Sequence[IdentityDiff]) -> dict[_Title, list[IdentityDiff]]:
    found: dict[_Title, list[IdentityDiff]] = {}
    for one in diffs:
        found.setdefault(_title(one), []).append(one)
    return found


def _like_changes(diffs: Sequence[IdentityDiff]) -> Iterator[str]:
    """Return a line for each change that several changed identities have in common."""
    alike: dict[tuple[str, ...], list[Change]] = {}
    for diff in diffs:
        if diff.before is not None and diff.after is not None:
            for change in diff.changes:
                alike.setdefault(tuple(_change(change)), []).append(change)
    found = sorted((one for one in alike.values() if len(one) > 1), key=len, reverse=True)
    for some in found[:SHOWN_BLOCKS]:
        yield from _change(some[0], f" ({len(some)} identities)")
    if found[SHOWN_BLOCKS:]:
        yield f"{_INDENT}and {counted(len(found) - SHOWN_BLOCKS, 'other like change')}"


def _block(names: Sequence[str], title: _Title, body: Sequence[str]) -> Iterator[str]:
    more = len(names) - SHOWN_IDENTITIES
    shown = ", ".join(names[:SHOWN_IDENTITIES]) + (f" and {more} more" if more > 0 else "")
    yield ""
    head = f"{title.sign} {shown} ({title.kind})"
    yield _marked(head, title.sign, title.widens, title.narrows)
    yield from body


def _title(diff: IdentityDiff) -> _Title:
    return _Title(_sign(diff.before, diff.after), diff.kind, diff.widens, diff.narrows)


def _body(diff: IdentityDiff) -> Iterator[str]:
    for change in diff.changes:
        if _is_worth_a_line(diff, change):
            yield from _change(change)
    for word, gains in (("may now", diff.gains), ("may no longer", diff.losses)):
        said = list(examples(gains))
        if said:
            yield f"{_INDENT}{word}:"
            yield from (f"{_INDENT * 2}{line}" for line in said)
    if diff.after is None:
        yield f"{_INDENT}every call of it is refused from then on"


def _is_worth_a_line(diff: IdentityDiff, change: Change) -> bool:
    """Of an identity that comes, its kind is said; of one that goes, what it had is of interest."""
    if diff.before is None:
        return change.part != "kind"
    return diff.after is not None or change.part in _WHOLE_RULES


def _change(change: Change, who: str = "") -> Iterator[str]:
    """Return the lines for a change; *who* follows what has changed."""
    sign = _sign(change.before, change.after)
    name = rule_name(change)
    if change.part == "order":
        yield f"{_INDENT}{_coloured('~', '~')} the same rules, written another way{who}"
        return
    sides = [rule_text(change, one) for one in (change.before, change.after)]
    if change.before is None:
        said = sides[1]
    elif change.after is None and change.part in _WHOLE_RULES:
        said = sides[0]
    elif change.part == "grant":
        said = f"{sides[0]}\n{_INDENT * 3} → {sides[1]}"
    else:
        said = f"{sides[0]} → {sides[1]}"
    yield _INDENT + _marked(f"{sign} {name:<8} {said}{who}", sign, change.widens, change.narrows)


def _foot(preview: Preview) -> Iterator[str]:
    diff = preview.diff
    yield ""
    if preview.to_mend:
        yield (
            f"{counted(len(preview.to_mend), 'guard')} made anew, by the same rules:"
            f" {listing(preview.to_mend, SHOWN_IDENTITIES)}"
        )
    if preview.lost:
        yield (
            "note: what the limits had counted is gone from the server, and begins at 0:"
            f" {listing(preview.lost, SHOWN_IDENTITIES)}"
        )
    if not diff.identities:
        yield "no identity changes" if not preview.is_empty else "nothing changes"
        return
    new = sum(one.before is None for one in diff.identities)
    removed = sum(one.after is None for one in diff.identities)
    changed = len(diff.identities) - new - removed
    yield f"{new} new, {changed} changed, {removed} removed, {len(diff.unchanged)} unchanged"
    widened = [one.name for one in diff.identities if one.widens]
    if widened:
        yield _bold(f"{WIDENS} access: {listing(widened, SHOWN_IDENTITIES)}")
    else:
        yield "widens access: none"


def _sign(before: object, after: object) -> str:
    if before is None:
        return "+"
    return "-" if after is None else "~"


def _marked(line: str, sign: str, widens: bool, narrows: bool) -> str:
    words = [word for word, holds in ((WIDENS, widens), (NARROWS, narrows)) if holds]
    mark = f"   [{', '.join(words)}]" if words else ""
    styled = _coloured(line[:1], sign) + line[1:]
    return styled + (_bold(mark) if widens else mark)


def _coloured(text: str, sign: str) -> str:
    return text if is_plain() else click.style(text, fg=_COLOURS[sign])


def _bold(text: str) -> str:
    return text if is_plain() else click.style(text, bold=True)
