"""Audit rules: an identity's own fields over the document's defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from keyleash.policy.model import AuditRules, Values
from keyleash.policy.pattern_lists import check_repeats, read_patterns
from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.quantities import is_duration, parse_duration, parse_size
from keyleash.policy.yaml import YamlNode

MAX_EVENTS = 10**9
MAX_RETAIN_DAYS = 3660
OFF = "off"
EXPORTED = "exported"

Changes = dict[str, Any]
"""Fields of `AuditRules` with what the document says of them."""


def read_audit_rules(node: YamlNode | None, base: AuditRules, problems: Problems) -> AuditRules:
    """What the `audit` mapping *node* makes of *base*, field by field; reports what is wrong."""
    changes: Changes = {}
    for field, read in _READERS.items():
        below = node.get(field) if node else None
        if below is not None:
            changes |= read(below, problems)
    return replace(base, **changes)


def read_image_bytes(node: YamlNode | None, problems: Problems) -> int | None:
    """
    Read `before_images`, of a grant or of `audit`.

    Returns:
        Up to how many bytes of a key are kept, 0 for none; None if nothing, or nothing
        that can be read, is said of it.
    """
    if node is None:
        return None
    if not isinstance(node.value, dict):
        return _read_off(node, problems)
    size = node.get("max_bytes")
    if size is None:
        return None
    return problems.attempt(lambda: parse_size(size.source, size.span))


def _read_off(node: YamlNode, problems: Problems) -> int | None:
    if node.source == OFF:
        return 0
    problems.add(
        "bad-before-images",
        f"{quote(node.source)} is neither `off` nor a mapping",
        node.span,
        f"write `before_images: {{max_bytes: 64kb}}`, or `before_images: {OFF}`",
    )
    return None


def _read_retain(node: YamlNode, problems: Problems) -> Changes:
    """`retain` is one field, however it is written: none of its forms leaves another in force."""
    changes: Changes = {"retain": None, "retain_s": None, "hard_max": None}
    match node.value:
        case int():
            help = "write how many events to keep, such as `retain: 100000`"
            changes["retain"] = _read_count("retain", node, help, problems)
        case str():
            changes["retain_s"] = _read_retain_s(node, problems)
        case _:
            changes["hard_max"] = _read_until_exported(node, problems)
    return changes


def _read_retain_s(node: YamlNode, problems: Problems) -> int | None:
    if is_duration(node.source):
        because = "what is to be kept for longer is better exported"
        return problems.attempt(
            lambda: parse_duration(node.source, node.span, MAX_RETAIN_DAYS, because)
        )
    # A unit is not suggested for a number in quotes: so many seconds are soon over.
    number = node.source.isdecimal() and node.source.isascii()
    problems.add(
        "bad-retain",
        f"{quote(node.source)} is neither a count nor a duration",
        node.span,
        "write a count without quotes and without zeros in front"
        if number
        else "write how many events to keep, such as `100000`, or for how long, such as `30d`",
    )
    return None


def _read_until_exported(node: YamlNode, problems: Problems) -> int | None:
    until, hard_max = node.get("until"), node.get("hard_max")
    if until is not None and until.source != EXPORTED:
        problems.add(
            "unknown-until",
            f"{quote(until.source)} is nothing to keep events until",
            until.span,
            did_you_mean(until.source, [EXPORTED], f"write `until: {EXPORTED}`"),
        )
    help = "write how many events may wait for their export, such as `hard_max: 1000000`"
    return None if hard_max is None else _read_count("hard-max", hard_max, help, problems)


def _read_count(field: str, node: YamlNode, help: str, problems: Problems) -> int:
    count = int(node.source)
    if not 1 <= count <= MAX_EVENTS:
        problems.add(
            f"{field}-out-of-range",
            f"{quote(node.source)} is not between 1 and {MAX_EVENTS}",
            node.span,
            help,
        )
    return count


def _read_reads(node: YamlNode, _problems: Problems) -> Changes:
    return {"reads": node.value is True}


def _read_values(node: YamlNode, problems: Problems) -> Changes:
    known = [*Values]
    if node.source not in known:
        problems.add(
            "unknown-values",
            f"{quote(node.source)} is no way to record values",
            node.span,
            did_you_mean(node.source, known, f"write one of {listing(known)}"),
        )
        return {}
    return {"values": Values(node.source)}


def _read_mask_keys(node: YamlNode, problems: Problems) -> Changes:
    # An empty list is how an identity lifts the masks of the defaults.
    masks = read_patterns("mask_keys", node, problems, captures_count=False, may_be_empty=True)
    check_repeats("mask_keys", ((None, mask) for mask in masks), problems)
    return {"mask_keys": masks}


def _read_before_images(node: YamlNode, problems: Problems) -> Changes:
    return {"image_bytes": read_image_bytes(node, problems) or 0}


_READERS: dict[str, Callable[[YamlNode, Problems], Changes]] = {
    "retain": _read_retain,
    "reads": _read_reads,
    "values": _read_values,
    "mask_keys": _read_mask_keys,
    "before_images": _read_before_images,
}
