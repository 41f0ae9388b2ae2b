"""The difference of two policies as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha1
from itertools import groupby

from keyleash.commands import OperationClass
from keyleash.limits import BaseLimit, SubjectKind
from keyleash.policy.diff.changes import IdentityDiff, PolicyChange
from keyleash.policy.diff.permissions import Gain, Reach
from keyleash.policy.model import Breaker, Grant, Idempotency, Pattern, Script
from keyleash.policy.problems import SHOWN_BLOCKS, SHOWN_IDENTITIES, fold, some
from keyleash.policy.quantities import format_duration, format_size
from keyleash.text import counted, printable

SHOWN_EXAMPLES = 4
"""Examples shown per identity; `to_dict` has all."""
NONE = "none"

_FAMILIAR = (
    "GET", "SET", "DEL", "INCR", "LPOP", "EXISTS", "PUBLISH", "SUBSCRIBE", "SCAN", "COPY", "PING"
)  # fmt: skip
_INDENT = "    "
_WHOLE_RULES = ("grant", "deny", "rate", "budget")


def describe_identities(diffs: Sequence[IdentityDiff], full: bool) -> Iterator[str]:
    """Yield the lines about changed identities; *full* as in `PolicyDiff.describe`."""

    def alike(diff: IdentityDiff) -> tuple[str, ...]:
        return (_title(diff, diff.name if full else ""), *_body(diff))

    blocks = [*fold(diffs, alike, 0)]
    is_summary = not full and len(blocks) > SHOWN_BLOCKS
    for block in fold(diffs, _title, 0) if is_summary else blocks:
        yield ""
        yield _title(block[0], some([diff.name for diff in block], SHOWN_IDENTITIES))
        yield from _common_changes(block) if is_summary else _body(block[0])
    if is_summary:
        yield ""
        yield "note: a summary, since many identities change; `--full` shows every change"


def _title(diff: IdentityDiff, names: str = "") -> str:
    """Return the first line about identities that change in the same way."""
    sign = _sign(diff)
    return _marked(f"{sign} {names} ({diff.kind})", diff)


def _common_changes(diffs: Sequence[IdentityDiff]) -> Iterator[str]:
    """Yield a line for each change that several changed identities have in common."""
    changed = (diff for diff in diffs if diff.before is not None and diff.after is not None)
    changes = fold((item for diff in changed for item in diff.changes), lambda x: (*_change(x),), 0)
    common = sorted((group for group in changes if len(group) > 1), key=len, reverse=True)
    for group in common[:SHOWN_BLOCKS]:
        yield from _change(group[0], f" ({len(group)} identities)")
    if common[SHOWN_BLOCKS:]:
        yield f"{_INDENT}and {counted(len(common) - SHOWN_BLOCKS, 'other common change')}"


def _body(diff: IdentityDiff) -> Iterator[str]:
    for change in diff.changes:
        # The title has the kind of a new identity, which shows what it has; of a removed one, the
        # lost rules matter.
        is_shown = (
            change.part in _WHOLE_RULES
            if diff.after is None
            else (diff.before is not None or (change.part != "kind" and change.after is not None))
        )
        if is_shown:
            yield from _change(change, is_new=diff.before is None)
    for label, gains in (("may now", diff.gains), ("may no longer", diff.losses)):
        if gains:
            yield f"{_INDENT}{label}:"
            yield from (f"{_INDENT * 2}{line}" for line in _examples(gains))
    if diff.after is None:
        yield f"{_INDENT}every call is denied"


def _examples(gains: Iterable[Gain]) -> Iterator[str]:
    """Yield the widest gains as lines, and a count of the rest."""
    ordered = sorted(gains, key=rank)
    yield from map(_example, ordered[:SHOWN_EXAMPLES])
    unshown = {name for gain in ordered[SHOWN_EXAMPLES:] for name in gain.commands}
    unshown -= {name for gain in ordered[:SHOWN_EXAMPLES] for name in gain.commands}
    if unshown:
        only = f", {min(unshown)}" if len(unshown) == 1 else ""
        yield f"and {counted(len(unshown), 'more command')}{only}"


def rank(gain: Gain | Reach) -> tuple[int, int]:
    """Return the sort key of examples: calls that people know come first."""
    name = familiar(gain)
    place = _FAMILIAR.index(name) if name in _FAMILIAR else len(_FAMILIAR)
    # Every identity may PING.
    return (len(gain.form.needs) or (9 if name == "PING" else 1), place)


def _example(gain: Gain) -> str:
    """Return one call, and the number of other commands that gain the same."""
    name = familiar(gain)
    if gain.glob is not None:
        arguments = f"MATCH `{printable(gain.glob)}`"
    elif gain.channel is not None:
        arguments = f"`{printable(gain.channel)}`"
    else:
        arguments = " ".join(map(_key, gain.keys))
    call = f"{name} {arguments}".rstrip()
    if _is_set_with_get(name, gain):
        call += " … GET"
    if gain.shown is not None:
        return f"{call} shows {_key(gain.shown)}"
    count = len(gain.commands) - 1
    return f"{call}, and {counted(count, 'other command')}" if count else call


def _key(key: bytes | None) -> str:
    if key is None:
        return "some key"
    return f"`{printable(key)}`" if key else '`""`'


def familiar(gain: Gain | Reach) -> str:
    """Return the command that people know best, if possible one that needs nothing more."""
    familiar = [name for name in _FAMILIAR if name in gain.commands]
    simple = (name for name in familiar if not _is_set_with_get(name, gain))
    return next(simple, (*familiar, *gain.commands)[0])


def _is_set_with_get(name: str, gain: Gain | Reach) -> bool:
    """Return whether the calls are SET … GET: a plain SET reads nothing."""
    return name == "SET" and any(OperationClass.READ in needs for needs in gain.form.needs)


def _change(change: PolicyChange, suffix: str = "", *, is_new: bool = False) -> Iterator[str]:
    """Yield the line for a change, also one from the default of a new identity.

    *suffix* follows its text.
    """
    sign = "+" if is_new else _sign(change)
    if change.part == "order":
        yield f"{_INDENT}{sign} the same rules, written another way{suffix}"
        return
    before, after = (_rule(change, item) for item in (change.before, change.after))
    if change.before is None or is_new:
        text = after
    elif change.after is None and change.part in _WHOLE_RULES:
        text = before
    else:
        arrow = f"\n{_INDENT * 3} → " if change.part == "grant" else " → "
        text = f"{before}{arrow}{after}"
    yield _INDENT + _marked(f"{sign} {change.rule:<8} {text}{suffix}", change)


def _rule(change: PolicyChange, value: object) -> str:
    """Return one side of a change on one line."""
    match value:
        case None:
            return NONE
        case Grant():
            return _grant(value)
        case Pattern():
            return _quoted((value,))
        case BaseLimit():
            return value.describe() + _subject(value)
        case Breaker():
            suspend = format_duration(value.suspend_s)
            return f"{value.threshold}/{value.period}, suspend {suspend}"
        case Idempotency():
            longest = format_size(value.max_reply_bytes)
            return f"{format_duration(value.keep_s)}, replies up to {longest}"
        case bool():
            return "true" if value else "false"
        case tuple():
            return _quoted(value) or NONE
        case _:
            return printable(str(change.setting.written(value) if change.setting else value))


def _grant(grant: Grant) -> str:
    text = ", ".join(grant.allow)
    if grant.keys:
        text += f" on {_quoted(grant.keys)}"
    if grant.channels:
        text += f"; channels {_quoted(grant.channels)}"
    if grant.indexes:
        text += f"; indexes {_quoted(grant.indexes)}"
    if grant.only is not None:
        text += f"; only {', '.join(grant.only)}"
    if grant.except_:
        text += f"; except {', '.join(grant.except_)}"
    if grant.image_bytes is not None:
        text += f"; before-images {format_size(grant.image_bytes) if grant.image_bytes else 'off'}"
    if grant.values.max_bytes is not None:
        text += f"; values up to {format_size(grant.values.max_bytes)}"
    text += "".join(f"; {rule}" for rule in grant.values.describe())
    if grant.scripts:
        text += f"; scripts {', '.join(_scripts(grant.scripts))}"
    return text


def _scripts(scripts: Iterable[Script]) -> Iterator[str]:
    """Yield each name with its digest; that of a bundle is the digest of all its digests."""
    for name, group in groupby(scripts, lambda script: script.name):
        digests = [script.digest for script in group]
        if len(digests) == 1:
            yield f"{name} ({digests[0][:7]})"
        else:
            digest = sha1("".join(digests).encode(), usedforsecurity=False).hexdigest()
            yield f"{name} ({len(digests)} scripts, {digest[:7]})"


def _quoted(patterns: Iterable[Pattern]) -> str:
    return ", ".join(f"`{printable(pattern.source)}`" for pattern in patterns)


def _subject(limit: BaseLimit) -> str:
    match limit.subject.kind:
        case SubjectKind.IDENTITY:
            return ""
        case SubjectKind.TOKEN:
            return " per token"
        case SubjectKind.CAPTURE:
            return f" per {{{limit.subject.capture}}}"


def _sign(change: IdentityDiff | PolicyChange) -> str:
    if change.before is None:
        return "+"
    return "-" if change.after is None else "~"


def _marked(line: str, change: IdentityDiff | PolicyChange) -> str:
    words = [word for word in ("widens", "narrows") if getattr(change, word)]
    mark = f"   [{', '.join(words)}]" if words else ""
    return line + mark
