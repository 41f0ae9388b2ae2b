"""What strangers wrote, and what keys held, as a page may show it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from markupsafe import Markup

from keyleash.cli.text import counted, printable
from keyleash.cli.values import UNVALIDATED, short_value

if TYPE_CHECKING:
    from keyleash.audit.report import BeforeAndAfter, KeyLife

LIMIT = 160
"""So many characters of a key or correlation id are shown: both can be as long as their writer
likes."""
# Whatever stands behind the name, since a value is cut before it comes here, perhaps in a token.
_TOKEN = re.compile(r"(kl_[a-z0-9-]{1,64})_[a-z0-9_-]+", re.IGNORECASE)


def safe(value: object) -> object:
    """Whatever is put into the page: on one line, and without the secret of a token."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _TOKEN.sub(r"\1_…", printable(value))


def shown(value: str | bytes, limit: int = LIMIT) -> str:
    """A key or another word of a stranger, shortened in the middle."""
    text = _TOKEN.sub(r"\1_…", printable(value))
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def number(count: int) -> str:
    """A count, readable when it is large."""
    return f"{count:,}"


def amount(count: int, noun: str) -> str:
    """`1 token`, `2,000 tokens`."""
    return counted(count, noun).replace(str(count), number(count), 1)


def before_words(one: BeforeAndAfter) -> str:
    """What a key held before the range."""
    if one.before is not None:
        return short_value(one.before, one.life.first.time_ms)
    return f"not restored: {UNVALIDATED}" if one.is_withheld else _why_unknown(one.life)


def after_words(one: BeforeAndAfter) -> str:
    """What the last event of the range left."""
    last = one.life.last
    if one.after is not None:
        return short_value(one.after, last.time_ms)
    match last.became.digest:
        case None if one.life.is_masked:
            return "masked"
        case None:
            return "not recorded"
        case "large":
            return "too large to be compared"
        case digest:
            return f"not kept (SHA-1 {digest[:12]}…)"


def now_words(one: BeforeAndAfter, now_ms: int) -> str:
    """What it holds now."""
    if one.now is None:
        return "not known"
    has_expired = one.now.is_absent and one.life.last.became.digest not in {None, "absent"}
    if one.is_unchanged:
        return "expired since" if has_expired else "as it was left"
    return short_value(one.now, now_ms)


def _why_unknown(life: KeyLife) -> str:
    if life.first.large:
        return f"too large to be kept: {amount(life.first.large, 'byte')}"
    if life.is_dropped:
        return "left out: too much for this page"
    if life.first.before is not None:
        return "cannot be read by this server"
    return "masked" if life.first.is_masked else "not recorded"
