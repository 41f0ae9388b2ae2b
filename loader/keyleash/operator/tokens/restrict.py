"""Read and check the restrictions and labels of a new token."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from keyleash.commands import CHANNEL_CLASSES, OperationClass
from keyleash.errors import OperationError, PolicyError, Span
from keyleash.limits import Budget, Counter, Period
from keyleash.limits.budget import MAX_BUDGET, BudgetCount
from keyleash.limits.caps import CAP_COUNTERS, Cap
from keyleash.policy import Identity, Pattern, overlaps, parse_pattern
from keyleash.policy.clusters import cap_counters
from keyleash.policy.patterns import bound_pattern
from keyleash.policy.problems import did_you_mean, listing, quote
from keyleash.policy.quantities import parse_amount, parse_count_per_period, parse_size_per_period
from keyleash.store.restrictions import (
    MAX_ITEMS,
    MAX_LABEL_BYTES,
    MAX_LABEL_NAME,
    MAX_TEXT_BYTES,
    Restrictions,
)
from keyleash.store.token import bound_text, reject_tokens

_NOWHERE = Span("", 1, 1)
_LABEL_NAME = re.compile(r"[a-z][a-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Scope:
    """The restrictions of a new token as callers give them; None restricts nothing.

    Attributes:
        bind: The values of captures of the identity's patterns.
        allow: The operation classes.
        keys: Keys, or prefixes of keys with `*`.
        budget: The most calls or bytes by counter: `200` or `10mb` for the token's life, `50/hour`
            or `1mb/hour`.
    """

    bind: Mapping[str, str | int | bytes] = field(default_factory=dict)
    allow: Collection[str] | None = None
    keys: Collection[str] | None = None
    budget: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Return whether it restricts nothing."""
        return not (self.bind or self.budget) and self.allow is None and self.keys is None


def restrict(identity: Identity, scope: Scope, *, is_cluster: bool = False) -> Restrictions | None:
    """Return the restrictions of a token of *identity*; None if there are none.

    Args:
        identity: Of the active policy.
        scope: The restrictions as given.
        is_cluster: Whether the token is for a cluster, which cannot count all bytes.

    Raises:
        OperationError (not-bound): The policy does not let tokens of the identity be bound.
        OperationError (bad-restriction): A restriction is malformed, or leaves nothing that the
            identity may do; the message names it.
        SecretInTextError: A restriction contains a token.
    """
    if scope.is_empty:
        return None
    for name, value in scope.bind.items():
        reject_tokens(bind=f"{name}={bound_text(value)}")
    for name, most in scope.budget.items():
        reject_tokens(budget=f"{name}={most}")
    for text in scope.keys or ():
        reject_tokens(keys=text)
    for text in scope.allow or ():
        reject_tokens(allow=text)
    if not identity.token.bound:
        raise OperationError(
            "not-bound",
            f"the policy does not let tokens of `{identity.name}` be bound",
            help="add `token: {bound: true}` to the identity, and load the policy; `keyleash policy"
            " show` prints the active one",
            span=identity.span,
        )
    bind = dict(_bindings(identity, scope.bind))
    allow = _classes(scope.allow)
    keys = None if scope.keys is None else tuple(_keys(scope.keys))
    _require_some(identity, bind, allow, keys or ())
    counts = tuple(map(_cap, scope.budget, scope.budget.values()))
    known = cap_counters(identity, is_cluster=is_cluster)
    for count in counts:
        if count.limit.counter not in known:
            raise OperationError(
                "bad-restriction",
                f"a cluster cannot count `{count.limit.counter}` for a token of `{identity.name}`",
                help=f"leave it out, or limit calls by `{count.limit.counter.calls}`; of bytes a"
                " cluster counts only `bytes_written`, and not of an identity with scripts",
                span=identity.span,
            )
    restrictions = Restrictions(bind, allow, keys, counts)
    try:
        restrictions.pack()
    except ValueError as error:
        _fail(str(error), "use fewer or shorter keys and values")
    return restrictions


def _fail(message: str, help: str) -> NoReturn:
    raise OperationError("bad-restriction", message, help=help)


def _bindings(
    identity: Identity, bind: Mapping[str, str | int | bytes]
) -> Iterable[tuple[str, bytes]]:
    _require_few("bindings", bind)
    known = {
        name
        for grant in identity.grants
        for pattern in (*grant.keys, *grant.channels, *grant.indexes)
        for name in pattern.captures
    }
    for name, given in bind.items():
        value = bound_text(given)
        bare = name.strip("{}")
        if name not in known and bare in known:
            _fail(f"{quote(name)} is not the name of a capture", f"write `{bare}=…`")
        if name not in known:
            names = sorted(known)
            help = (
                f"its captures are {listing(names)}" if names else "its patterns have no captures"
            )
            _fail(
                f"no pattern of `{identity.name}` has the capture {quote(f'{{{bare}}}')}",
                did_you_mean(bare, names, help),
            )
        if not value or ":" in value:
            _fail(
                f"{quote(value)} cannot be the value of `{name}`",
                "a captured segment has at least one character, and no `:`",
            )
        packed = _encoded(value)
        if len(packed) > MAX_TEXT_BYTES:
            _fail(f"the value of `{name}` is over {MAX_TEXT_BYTES} bytes", "use a shorter one")
        yield name, packed


def _encoded(value: str, errors: str = "surrogateescape") -> bytes:
    try:
        return value.encode("utf-8", errors)
    except UnicodeEncodeError:
        _fail(f"{quote(value)} cannot be encoded", "use valid text")


def _require_few(noun: str, items: Collection[object]) -> None:
    if len(items) > MAX_ITEMS:
        _fail(f"a token has at most {MAX_ITEMS} {noun}, not {len(items)}", "use fewer")


def _classes(allow: Collection[str] | None) -> tuple[OperationClass, ...]:
    if allow is None:
        return tuple(OperationClass)
    known = [str(cls) for cls in OperationClass]
    for name in allow:
        if name not in known:
            help = f"the operation classes are {listing(known)}"
            if name.split() and set(name.split()) <= set(known):
                help = f"separate the classes with commas: `{','.join(name.split())}`"
            else:
                help = did_you_mean(name, known, help)
            _fail(f"unknown operation class {quote(name)}", help)
    if not allow:
        _fail("`allow` has no operation class", f"the operation classes are {listing(known)}")
    return tuple(cls for cls in OperationClass if cls in allow)


_BRACES = "write a brace of the key twice, as in `jobs:{{42}}:*`"


def _keys(keys: Collection[str]) -> Iterable[Pattern]:
    _require_few("keys", keys)
    if not keys:
        _fail("`keys` has no key", "leave it out, or name a key or a prefix with `*`")
    for key in keys:
        _encoded(key, "strict")
        try:
            pattern = parse_pattern(key, _NOWHERE)
        except PolicyError as error:
            problem = error.problems[0]
            is_name = problem.code == "bad-capture-name"
            _fail(problem.message, _BRACES if is_name else problem.help)
        if pattern.captures:
            name = pattern.captures[0]
            _fail(
                f"{quote(key)} has the capture {quote(f'{{{name}}}')}",
                f"bind the capture `{name}`; or {_BRACES}",
            )
        yield pattern


def _require_some(
    identity: Identity,
    bind: Mapping[str, bytes],
    allow: Collection[OperationClass],
    keys: Collection[Pattern],
) -> None:
    """Require that each class and each key has a pattern with all bindings."""
    bound = [
        (cls, pattern)
        for grant in identity.grants
        for cls in grant.allow
        for item in (grant.channels if cls in CHANNEL_CLASSES else (*grant.keys, *grant.indexes))
        if (pattern := bound_pattern(item, bind)) is not None
    ]
    where = f" with the bindings of {listing(bind)}" if bind else ""
    if not bound:
        _fail(
            f"no pattern of `{identity.name}` has all of the captures {listing(bind)}",
            "bind captures of the same pattern",
        )
    given = {cls for cls, _ in bound}
    for cls in allow if len(allow) < len(OperationClass) else ():
        if cls not in given:
            _fail(
                f"no grant of `{identity.name}` allows `{cls}`{where}",
                f"these are allowed: {listing(item for item in OperationClass if item in given)}",
            )
    for key in keys:
        if not any(
            overlaps(key, pattern)
            for cls, pattern in bound
            if cls in allow and cls not in CHANNEL_CLASSES
        ):
            _fail(
                f"no grant of `{identity.name}` has the key {quote(key.source)}{where}",
                f"use a key of a pattern with {listing(f'{{{name}}}' for name in bind)}, or leave"
                " out the binding or this key"
                if bind
                else f"see the grants: `keyleash can-i --list {identity.name}`",
            )


def _cap(name: str, given: str | int) -> BudgetCount:
    known = list(map(str, CAP_COUNTERS))
    if name not in known:
        help = f"the counters are {listing(known)}"
        _fail(f"unknown counter {quote(name)}", did_you_mean(name, known, help))
    text = str(given)
    cap = Cap.of(Counter(name))
    is_bytes = cap.counter.is_bytes
    example = f"{name}={'10mb' if is_bytes else '200'}"
    if not is_bytes and text.isascii() and text.isdecimal():
        cap = replace(cap, limit=int(text[:20]))
    elif is_bytes and "/" not in text and parse_amount(text) is not None:
        cap = replace(cap, limit=parse_amount(text) or 0)
    else:
        parse = parse_size_per_period if is_bytes else parse_count_per_period
        try:
            limit, period = parse(text, Budget.PERIODS, _NOWHERE)
        except PolicyError as error:
            problem = error.problems[0]
            _fail(
                f"the budget of `{name}`: {problem.message}",
                f"write `{example}`, or `{name}={'1mb' if is_bytes else '50'}/hour`; periods:"
                f" {listing(Budget.PERIODS)}",
            )
        cap = replace(cap, limit=limit, period=Period(period), is_for_life=False)
    if not 1 <= cap.limit <= MAX_BUDGET:
        _fail(
            f"the budget of `{name}` is not between 1 and {MAX_BUDGET}",
            f"write an amount such as `{example}`",
        )
    return cap.new_count()


def checked_labels(labels: Mapping[str, str]) -> str:
    """Return labels as JSON; empty if there are none.

    Raises:
        OperationError (bad-label): There are too many, or one is malformed.
        SecretInTextError: A label contains a token.
    """
    if len(labels) > MAX_ITEMS:
        raise _bad_label(f"a token has at most {MAX_ITEMS} labels, not {len(labels)}")
    for name, value in labels.items():
        reject_tokens(meta=f"{name} {value}")
        if len(name) > MAX_LABEL_NAME or not _LABEL_NAME.fullmatch(name):
            raise _bad_label(f"{quote(name)} is not a name of a label")
        if not value or not value.isprintable() or len(value.encode()) > MAX_LABEL_BYTES:
            raise _bad_label(f"{quote(value)} is not a value of the label `{name}`")
    return json.dumps(dict(labels), ensure_ascii=False) if labels else ""


def _bad_label(message: str) -> OperationError:
    return OperationError(
        "bad-label",
        message,
        help=f"a name has up to {MAX_LABEL_NAME} lower-case letters, digits and `_.-`, "
        f"a value up to {MAX_LABEL_BYTES} printable bytes",
    )


def labels_json(labels: Any) -> dict[str, str]:
    """Return the labels in the entry of a token; those that are no texts are left out."""
    found = labels if isinstance(labels, dict) else {}
    return {name: value for name, value in found.items() if isinstance(value, str)}
