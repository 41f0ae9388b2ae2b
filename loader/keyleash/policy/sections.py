"""Read the sections of an identity: token, audit, on_denials, idempotency and the others."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar

from keyleash.limits.rate import RATE_PERIODS_US
from keyleash.policy.model import (
    DEFAULT_MAX_REPLY_BYTES,
    Acceptance,
    AuditRules,
    Breaker,
    ClusterRules,
    Delegation,
    Idempotency,
    TokenRules,
)
from keyleash.policy.pattern_lists import check_repeats, read_patterns
from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.quantities import (
    MAX_DURATION_S,
    MAX_REPLY_BYTES,
    UNITS_S,
    format_duration,
    is_duration,
    parse_count_per_period,
    parse_duration,
    parse_size,
    parse_wait,
)
from keyleash.policy.settings import Setting, SettingKind, settings_of
from keyleash.policy.shapes import OFF
from keyleash.policy.yaml import YamlNode

EXPORTED = "exported"
MAX_RETAIN_S = 3660 * UNITS_S["d"]
MAX_THRESHOLD = 1000
"""The state of an identity stores the time of each denial up to the threshold."""
MAX_SUSPEND_S = 30 * UNITS_S["d"]
MAX_KEEP_S = 30 * UNITS_S["d"]

_DELEGATE = "{depth: 2, children: 20, max_ttl: 1h}"

Section = TypeVar("Section")


def read_section(node: YamlNode | None, base: Section, problems: Problems) -> Section:
    """Return *base* with the settings in the mapping *node*."""
    changes: dict[str, Any] = {}
    for field, setting in settings_of(base).items():
        value_node = node.get(setting.key) if node and not setting.part_of else None
        if value_node is None:
            continue
        if setting.kind is SettingKind.RETENTION:
            changes |= _read_retention(setting, value_node, problems)
        elif (value := _read_value(setting, value_node, problems)) is not None:
            changes[field] = value
    return replace(base, **changes)  # type: ignore[type-var]


def _read_value(setting: Setting, node: YamlNode, problems: Problems) -> Any:
    """Return the value of a setting; None if it has a problem."""
    match setting.kind:
        case SettingKind.FLAG:
            return node.value is True
        case SettingKind.COUNT:
            return _read_count(setting, node, problems)
        case SettingKind.DURATION:
            longest_s = min(setting.bounds[1], MAX_DURATION_S)
            return _read_duration(node, longest_s, setting.because, problems)
        case SettingKind.WAIT:
            return problems.attempt(lambda: parse_wait(node.source, node.span))
        case SettingKind.SIZE:
            return problems.attempt(lambda: parse_size(node.source, node.span, setting.bounds[1]))
        case SettingKind.CHOICE:
            return _read_choice(setting, node, problems)
        case SettingKind.PATTERNS:
            return _read_masks(setting.key, node, problems)
        case SettingKind.IMAGES:
            return read_image_bytes(node, problems)
    raise AssertionError(setting)


def _read_duration(
    node: YamlNode | None, longest_s: int, because: str, problems: Problems
) -> int | None:
    """Return seconds; None without *node*, or if it has a problem."""
    if node is None:
        return None
    return problems.attempt(lambda: parse_duration(node.source, node.span, longest_s, because))


def _read_count(setting: Setting, node: YamlNode, problems: Problems) -> int | None:
    count, (least, greatest) = int(node.source), setting.bounds
    if least <= count <= greatest:
        return count
    problems.add(
        f"{setting.key.replace('_', '-')}-out-of-range",
        f"{quote(node.source)} is not between {least} and {greatest}",
        node.span,
        f"write a number in that range, such as `{setting.key}: {setting.example}`",
    )
    return None


def _read_choice(setting: Setting, node: YamlNode, problems: Problems) -> StrEnum | None:
    choices: list[StrEnum] = [*setting.choices] if setting.choices else []
    chosen = next((choice for choice in choices if choice == node.source), None)
    if chosen is not None:
        return chosen
    which = "one of " if choices[1:] else ""
    problems.add(
        f"unknown-{setting.key}",
        f"unknown `{setting.key}` {quote(node.source)}",
        node.span,
        did_you_mean(node.source, choices, f"write {which}{listing(choices)}"),
    )
    return None


def _read_masks(field: str, node: YamlNode, problems: Problems) -> Any:
    masks = read_patterns(field, node, problems, captures_count=False)
    check_repeats(field, ((None, mask) for mask in masks), problems)
    return masks


def read_image_bytes(node: YamlNode | None, problems: Problems) -> int | None:
    """
    Read `before_images`, of a grant or of `audit`.

    Returns:
        The length of the longest before-image, 0 for none; None without *node*, or if it has a
        problem.
    """
    if node is None:
        return None
    if not isinstance(node.value, dict):
        return 0 if _is_off("before_images", node, "{max_bytes: 64kb}", problems) else None
    size, off = node.get("max_bytes"), "`before_images: off` keeps none"
    if size is None:
        return None
    return problems.attempt(lambda: parse_size(size.source, size.span, instead_of_none=off))


def _is_off(field: str, node: YamlNode, mapping: str, problems: Problems) -> bool:
    """Return whether a field that is a mapping or `off` is off; report other text."""
    if node.source == OFF:
        return True
    problems.add(
        f"bad-{field.replace('_', '-')}",
        f"{quote(node.source)} is neither `off` nor a mapping",
        node.span,
        f"write `{field}: {mapping}`, or `{field}: {OFF}`",
    )
    return False


def _read_retention(setting: Setting, node: YamlNode, problems: Problems) -> dict[str, Any]:
    """Return the fields that `retain` sets; one of them is not None."""
    fields: dict[str, Any] = {"retain": None, "retain_s": None, "hard_max": None}
    match node.value:
        case int():
            fields["retain"] = _read_count(setting, node, problems)
        case str():
            fields["retain_s"] = _read_retain_s(node, problems)
        case _:
            fields["hard_max"] = _read_until_exported(node, problems)
    return fields


def _read_retain_s(node: YamlNode, problems: Problems) -> int | None:
    if is_duration(node.source):
        because = "export events to store them for longer"
        return _read_duration(node, MAX_RETAIN_S, because, problems)
    # A quoted number gets no suggestion of a unit: that number of seconds is short.
    number = node.source.isdecimal() and node.source.isascii()
    problems.add(
        "bad-retain",
        f"{quote(node.source)} is neither a count nor a duration",
        node.span,
        "write a count without quotes and without leading zeros"
        if number
        else "write a number of events, such as `100000`, or a duration, such as `30d`",
    )
    return None


def _read_until_exported(node: YamlNode, problems: Problems) -> int | None:
    until, hard_max = node.get("until"), node.get("hard_max")
    if until is not None and until.source != EXPORTED:
        problems.add(
            "unknown-until",
            f"unknown `until` {quote(until.source)}",
            until.span,
            did_you_mean(until.source, [EXPORTED], f"write `until: {EXPORTED}`"),
        )
    setting = settings_of(AuditRules)["hard_max"]
    return None if hard_max is None else _read_count(setting, hard_max, problems)


def check_token(
    rules: TokenRules, node: YamlNode | None, defaults: YamlNode | None, problems: Problems
) -> TokenRules:
    """
    Report durations that conflict, and add the places of the fields in *node*.

    Args:
        rules: The rules as read from both mappings.
        node: The identity's own `token`; of a conflict, its field gets the error.
        defaults: `token` of the defaults.
        problems: Receives the conflicts.
    """
    own = node.fields if node else {}
    written = {**(defaults.fields if defaults else {}), **own}
    settings = settings_of(rules)
    for fields in (("ttl_s", "max_ttl_s"), ("idle_s", "ttl_s")):
        shorter_s, longer_s = (getattr(rules, field) for field in fields)
        if shorter_s is None or shorter_s <= longer_s:
            continue
        keys = [settings[field].key for field in fields]
        texts = [
            quote(written[key].source if key in written else format_duration(seconds))
            for key, seconds in zip(keys, (shorter_s, longer_s), strict=True)
        ]
        lower, upper = keys
        problems.add(
            f"{lower}-over-{upper}".replace("_", "-"),
            f"`{lower}` {texts[0]} is longer than `{upper}` {texts[1]}",
            next(group[key] for group in (own, written) for key in keys if key in group).span,
            f"shorten `{lower}` or lengthen `{upper}`",
        )
    return replace(rules, spans={key: field.span for key, field in own.items()})


def read_cluster(node: YamlNode | None, base: ClusterRules, problems: Problems) -> ClusterRules:
    """Read `cluster`, with the place of its field."""
    lease = None if node is None else node.get("lease")
    rules = read_section(node, base, problems)
    return rules if lease is None else replace(rules, span=lease.span)


def read_delegation(node: YamlNode | None, base: Delegation, problems: Problems) -> Delegation:
    """Read `delegate`; return *base* without it, and a depth of 0 if it is off."""
    if node is None or isinstance(node.value, dict):
        return read_section(node, base, problems)
    _is_off("delegate", node, _DELEGATE, problems)
    return Delegation()


def check_depth(rules: Delegation, node: YamlNode | None, problems: Problems) -> None:
    """Report rules for child tokens without `depth`, which allow none."""
    if rules.depth == 0 and node and node.fields and node.get("depth") is None:
        problems.add(
            "missing-field",
            "`delegate` has no `depth`, so no token may make a child",
            node.label,
            f"add one, such as `delegate: {_DELEGATE}`, or write `delegate: {OFF}`",
        )


def read_breaker(node: YamlNode | None, base: Breaker | None, problems: Problems) -> Breaker | None:
    """Read `on_denials`; return *base* without it, None if it is off or has problems."""
    if node is None:
        return base
    if not isinstance(node.value, dict):
        _is_off("on_denials", node, "{threshold: 50/minute, suspend: 10m}", problems)
        return None
    threshold = node.get("threshold")
    count = None if threshold is None else _read_threshold(threshold, problems)
    because = "a longer suspension needs an operator"
    suspend_s = _read_duration(node.get("suspend"), MAX_SUSPEND_S, because, problems)
    return None if count is None or suspend_s is None else Breaker(*count, suspend_s)


def _read_threshold(node: YamlNode, problems: Problems) -> tuple[int, str] | None:
    quantity = problems.attempt(
        lambda: parse_count_per_period(node.source, RATE_PERIODS_US.keys(), node.span)
    )
    if quantity is not None and quantity[0] > MAX_THRESHOLD:
        problems.add(
            "threshold-out-of-range",
            f"the threshold {quote(str(quantity[0]))} is over {MAX_THRESHOLD}",
            node.span,
            "write fewer denials, in a shorter period",
        )
    return quantity


def read_idempotency(
    node: YamlNode | None, base: Idempotency | None, problems: Problems
) -> Idempotency | None:
    """Read `idempotency`; return *base* without it, None if it is off or has problems."""
    if node is None:
        return base
    if not isinstance(node.value, dict):
        _is_off("idempotency", node, "{keep: 24h, max_reply: 4kb}", problems)
        return None
    because = "every id takes memory as long"
    keep_s = _read_duration(node.get("keep"), MAX_KEEP_S, because, problems)
    reply: int | None = DEFAULT_MAX_REPLY_BYTES
    if (size := node.get("max_reply")) is not None:
        because = "a longer reply is not stored, but its call is remembered"
        reply = problems.attempt(
            lambda: parse_size(size.source, size.span, MAX_REPLY_BYTES, because=because)
        )
    return None if keep_s is None or reply is None else Idempotency(keep_s, reply, node.label)


def read_acceptances(node: YamlNode | None, problems: Problems) -> tuple[Acceptance, ...]:
    """
    Read an `accept` mapping, in file order.

    Unknown findings are left to lint: a policy stays valid if a rule is removed.
    """
    accepted = []
    for code, reason in node.fields.items() if node else ():
        if not reason.source.strip():
            problems.add(
                "empty-reason",
                f"{quote(code)} is accepted without a reason",
                reason.span,
                "write why the finding is acceptable",
            )
        accepted.append(Acceptance(code, reason.source, reason.label))
    return tuple(accepted)
