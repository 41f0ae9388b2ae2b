"""Render a plan as text and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from keyleash.cli.terminal import is_plain
from keyleash.commands import OperationClass
from keyleash.limits.rate import RATE_PERIODS_US
from keyleash.policy import Breaker, Budget, Grant, Pattern, Rate, SubjectKind
from keyleash.policy.canonical import plain
from keyleash.policy.diff import Gain, PolicyChange
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.policy.quantities import format_duration
from keyleash.policy.settings import SettingKind
from keyleash.store.wire import Transport
from keyleash.text import counted, json_bytes, printable, short_digest

if TYPE_CHECKING:
    from keyleash.operator import PreparedPolicy, Preview
    from keyleash.policy.diff import IdentityDiff


SHOWN = 4
"""So many examples are shown of an identity; `--json` has all."""

_FAMILIAR = ("GET", "SET", "DEL", "INCR", "LPOP", "EXISTS", "PUBLISH", "SCAN", "COPY", "PING")


def examples(gains: Iterable[Gain]) -> Iterator[str]:
    """The most telling ones, and how many others there are."""
    ordered = sorted(gains, key=_rank)
    yield from map(example, ordered[:SHOWN])
    others = {name for gain in ordered[SHOWN:] for name in gain.commands}
    others -= {name for gain in ordered[:SHOWN] for name in gain.commands}
    if others:
        yield f"and calls of {_commands(len(others), others)}"


def example(gain: Gain) -> str:
    """One call, and how many commands are allowed alike."""
    name = _familiar(gain)
    said = f"{name} {_arguments(gain)}".rstrip()
    if _is_set_with_get(name, gain):
        said += " … GET"
    if gain.shown is not None:
        return f"{said} shows {_key(gain.shown)}"
    alike = len(gain.commands) - 1
    return said + (f", and {_commands(alike, gain.commands)} alike" if alike else "")


def _arguments(gain: Gain) -> str:
    if gain.glob is not None:
        return f"MATCH `{printable(gain.glob)}`"
    if gain.channel is not None:
        return f"`{printable(gain.channel)}`"
    return " ".join(map(_key, gain.keys))


def _key(key: bytes | None) -> str:
    if key is None:
        return "some key"
    return f"`{printable(key)}`" if key else '`""`'


def _familiar(gain: Gain) -> str:
    known = [name for name in _FAMILIAR if name in gain.commands]
    plain = (name for name in known if not _is_set_with_get(name, gain))
    return next(plain, (*known, *gain.commands)[0])


def _is_set_with_get(name: str, gain: Gain) -> bool:
    """Whether the calls are SET … GET: a plain SET reads nothing, and may be allowed as before."""
    return name == "SET" and any(OperationClass.READ in needs for needs in gain.form.needs)


def _rank(gain: Gain) -> tuple[int, int]:
    name = _familiar(gain)
    place = _FAMILIAR.index(name) if name in _FAMILIAR else len(_FAMILIAR)
    # What every identity may do tells least.
    return (len(gain.form.needs) or (9 if name == "PING" else 1), place)


def _commands(count: int, names: Iterable[str]) -> str:
    listed = sorted(names)
    if count == 1 and len(listed) == 1:
        return f"one other command, {listed[0]}"
    return "one other command" if count == 1 else f"{count} other commands"


NOTHING = "none"
_PERIODS = {period_us: period for period, period_us in RATE_PERIODS_US.items()}


def rule_name(change: PolicyChange) -> str:
    """What a change is about: `grant`, `rate.writes`, `token.ttl`."""
    name = change.setting.key if change.setting else change.name
    return f"{change.part}.{name}" if name else str(change.part)


def rule_text(change: PolicyChange, value: object) -> str:
    """One side of a change on one line; `none` if there is nothing."""
    match value:
        case None:
            return NOTHING
        case Grant():
            return _grant(value)
        case Pattern():
            return _quoted((value,))
        case Rate():
            burst = "" if value.burst is None else f", burst {value.burst}"
            return f"{value.limit}/{_PERIODS[value.period_us]}{burst}{_subject(value)}"
        case Budget():
            zone = "" if value.timezone == "UTC" else f" {value.timezone}"
            return f"{value.limit}/{value.period}{zone}{_subject(value)}"
        case Breaker():
            suspend = format_duration(value.suspend_s)
            return f"{value.threshold}/{value.period}, suspend {suspend}"
        case bool():
            return "true" if value else "false"
        case int():
            return _number(change, value)
        case tuple():
            return _quoted(value) or NOTHING
        case _:
            return printable(str(value))


def _grant(grant: Grant) -> str:
    said = ", ".join(grant.allow)
    if grant.keys:
        said += f" on {_quoted(grant.keys)}"
    if grant.channels:
        said += f"; channels {_quoted(grant.channels)}"
    if grant.only is not None:
        said += f"; only {', '.join(grant.only)}"
    if grant.except_:
        said += f"; except {', '.join(grant.except_)}"
    if grant.image_bytes is not None:
        said += f"; before-images {_images(grant.image_bytes)}"
    if grant.value_bytes is not None:
        said += f"; values {_images(grant.value_bytes)}"
    return said


def _quoted(patterns: Iterable[Pattern]) -> str:
    return ", ".join(f"`{printable(pattern.source)}`" for pattern in patterns)


def _subject(limit: Rate | Budget) -> str:
    match limit.subject.kind:
        case SubjectKind.IDENTITY:
            return ""
        case SubjectKind.TOKEN:
            return " per token"
        case SubjectKind.CAPTURE:
            return f" per {{{limit.subject.capture}}}"


def _number(change: PolicyChange, value: int) -> str:
    match change.setting and change.setting.kind:
        case SettingKind.DURATION:
            return format_duration(value)
        case SettingKind.WAIT:
            return f"{value}ms"
        case SettingKind.IMAGES | SettingKind.SIZE:
            return _images(value)
    return str(value)


def _images(size: int) -> str:
    return f"up to {size} bytes" if size else "off"


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
    blocks = [(diff.name, _title(diff), tuple(_body(diff))) for diff in diffs]
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
            folded[title, tuple(_like_changes(some))] = [item.name for item in some]
    for (title, body), names in folded.items():
        yield from _block(names, title, body)
    if is_summary:
        yield ""
        yield "note: a summary, since many identities change; `--full` shows every change"


def _by_title(diffs: Sequence[IdentityDiff]) -> dict[_Title, list[IdentityDiff]]:
    found: dict[_Title, list[IdentityDiff]] = {}
    for diff in diffs:
        found.setdefault(_title(diff), []).append(diff)
    return found


def _like_changes(diffs: Sequence[IdentityDiff]) -> Iterator[str]:
    """Return a line for each change that several changed identities have in common."""
    alike: dict[tuple[str, ...], list[PolicyChange]] = {}
    for diff in diffs:
        if diff.before is not None and diff.after is not None:
            for change in diff.changes:
                alike.setdefault(tuple(_change(change)), []).append(change)
    found = sorted((item for item in alike.values() if len(item) > 1), key=len, reverse=True)
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
        yield f"{_INDENT}every call is denied"


def _is_worth_a_line(diff: IdentityDiff, change: PolicyChange) -> bool:
    """Of an identity that comes, its kind is said; of one that goes, what it had is of interest."""
    if diff.before is None:
        return change.part != "kind"
    return diff.after is not None or change.part in _WHOLE_RULES


def _change(change: PolicyChange, who: str = "") -> Iterator[str]:
    """Return the lines for a change; *who* follows what has changed."""
    sign = _sign(change.before, change.after)
    name = rule_name(change)
    if change.part == "order":
        yield f"{_INDENT}{_coloured('~', '~')} the same rules, written another way{who}"
        return
    sides = [rule_text(change, item) for item in (change.before, change.after)]
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
    if preview.to_recompile:
        yield (
            f"{counted(len(preview.to_recompile), 'guard')} regenerated with the same rules:"
            f" {listing(preview.to_recompile, SHOWN_IDENTITIES)}"
        )
    if preview.lost:
        yield (
            "note: what the limits had counted is gone from the server, and begins at 0:"
            f" {listing(preview.lost, SHOWN_IDENTITIES)}"
        )
    if not diff.identities:
        yield "no identity changes" if not preview.is_empty else "nothing changes"
        return
    new = sum(identity.before is None for identity in diff.identities)
    removed = sum(identity.after is None for identity in diff.identities)
    changed = len(diff.identities) - new - removed
    yield f"{new} new, {changed} changed, {removed} removed, {len(diff.unchanged)} unchanged"
    widened = [identity.name for identity in diff.identities if identity.widens]
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


def plan_as_json(prepared: PreparedPolicy, preview: Preview) -> dict[str, Any]:
    """The plan, without the server and the file."""
    active = preview.active
    return {
        "digest": prepared.digest,
        "transport": preview.transport,
        "active": active
        and {
            "generation": active.generation,
            "digest": active.digest,
            "transport": active.transport,
            "readable": preview.is_readable,
        },
        "changes": not preview.is_empty,
        "widens": preview.diff.widens,
        "needs_allow_widening": preview.needs_permission,
        "identities": [_identity(identity) for identity in preview.diff.identities],
        "unchanged": list(preview.diff.unchanged),
        "made_anew": list(preview.to_recompile),
        "counters_lost": list(preview.lost),
    }


def _identity(diff: IdentityDiff) -> dict[str, Any]:
    return {
        "name": diff.name,
        "kind": diff.kind,
        "action": _action(diff.before, diff.after),
        "widens": diff.widens,
        "narrows": diff.narrows,
        "changes": [_change_as_json(change) for change in diff.changes],
        "gains": [_gain(gain) for gain in diff.gains],
        "losses": [_gain(loss) for loss in diff.losses],
    }


def _change_as_json(change: PolicyChange) -> dict[str, Any]:
    is_order = change.part == "order"
    return {
        "rule": rule_name(change),
        "action": _action(change.before, change.after),
        "before": None if is_order else plain(change.before),
        "after": None if is_order else plain(change.after),
        "widens": change.widens,
        "narrows": change.narrows,
    }


def _gain(gain: Gain) -> dict[str, Any]:
    """Commands and one call of theirs; a key of which only the existence is likely is null."""
    said: dict[str, Any] = {"commands": list(gain.commands)}
    if gain.form.needs:
        said["keys"] = [
            {"needs": list(needs), "key": None if key is None else json_bytes(key)}
            for needs, key in zip(gain.form.needs, gain.keys, strict=True)
        ]
    for name in ("channel", "glob", "shown"):
        value = getattr(gain, name)
        if value is not None:
            said[name] = json_bytes(value)
    return said


def _action(before: object, after: object) -> str:
    if before is None:
        return "add"
    return "remove" if after is None else "change"
