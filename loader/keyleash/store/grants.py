"""The grants of an identity, as its guard record publishes them to the holders of its tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from keyleash.commands import OperationClass
from keyleash.errors import PolicyError
from keyleash.policy.canonical import plain
from keyleash.policy.keysets import covers, overlaps
from keyleash.policy.lua.parser import Sandboxed
from keyleash.policy.model import (
    AnySuffix,
    Capture,
    Grant,
    Identity,
    KeyState,
    Literal,
    Pattern,
    Script,
    TtlRule,
    ValueRules,
    capture_in,
    filter_text,
    filtered_index,
)
from keyleash.policy.patterns import bound_pattern, parse_pattern
from keyleash.store.restrictions import Restrictions
from keyleash.text import printable

_NO_TEXT = Sandboxed("", frozenset(), None, (), (), only_reads=False)


class PublishedGrants(NamedTuple):
    """The grants and denied keys of an identity, or of a token of it.

    Attributes:
        grants: The texts of their scripts are empty.
        deny: The keys that are denied whatever the grants allow.
    """

    grants: tuple[Grant, ...]
    deny: tuple[Pattern, ...]

    def narrowed(self, restrictions: Restrictions | None) -> PublishedGrants:
        """Return what a token with *restrictions* may do of it.

        A pattern that their `keys` cover in part remains whole: a call needs both.
        """
        if restrictions is None:
            return self
        narrowed = (_narrowed(grant, restrictions) for grant in self.grants)
        return self._replace(grants=tuple(filter(None, narrowed)))

    def to_dict(self) -> dict[str, Any]:
        """Return it as an object for JSON, in the form of a policy file."""
        return {
            "grants": [_packed(grant) for grant in self.grants],
            "deny": [pattern.source for pattern in self.deny],
        }


def pack_grants(identity: Identity) -> str:
    """Return the field `grants` of a guard record, as JSON; empty if the policy hides them."""
    if not identity.token.publish_grants:
        return ""
    published = PublishedGrants(identity.grants, identity.denied_keys)
    return json.dumps(published.to_dict(), separators=(",", ":"))


def _packed(grant: Grant) -> dict[str, Any]:
    members: Any = plain(replace(grant, image_bytes=None, indexes=()))
    if not grant.keys:
        del members["keys"]
    if grant.indexes:
        members["indexes"] = [
            {"name": _name_of(index), "where": dict(index.where)} if index.where else index.source
            for index in grant.indexes
        ]
    return dict(members)


def _name_of(index: Pattern) -> str:
    return index.source.removesuffix(filter_text(index.where))


@lru_cache(maxsize=64)
def unpack_grants(text: str) -> PublishedGrants | None:
    """Return the grants in the field `grants` of a guard record; None if it is empty.

    Raises:
        ValueError: It is malformed.
    """
    if not text:
        return None
    try:
        stored = json.loads(text)
        return PublishedGrants(tuple(map(_grant, stored["grants"])), _patterns(stored["deny"]))
    except (KeyError, TypeError, PolicyError) as error:
        raise ValueError("the grants of a guard record are malformed") from error


def _grant(stored: dict[str, Any]) -> Grant:
    rules = dict(stored.get("values", {}))
    if "ttl" in rules:
        rules["ttl"] = TtlRule(**rules["ttl"])
    if "only" in rules:
        rules["only"] = KeyState(rules["only"])
    return Grant(
        allow=tuple(map(OperationClass, stored["allow"])),
        keys=_patterns(stored.get("keys", ())),
        only=tuple(stored["only"]) if "only" in stored else None,
        except_=tuple(stored.get("except", ())),
        channels=_patterns(stored.get("channels", ())),
        indexes=tuple(map(_index, stored.get("indexes", ()))),
        values=ValueRules(**rules),
        scripts=tuple(Script(text=_NO_TEXT, **script) for script in stored.get("scripts", ())),
    )


def _patterns(sources: Sequence[str]) -> tuple[Pattern, ...]:
    return tuple(map(parse_pattern, sources))


def _index(stored: str | dict[str, Any]) -> Pattern:
    if isinstance(stored, str):
        return parse_pattern(stored)
    return filtered_index(parse_pattern(stored["name"]), stored["where"])


def _narrowed(grant: Grant, restrictions: Restrictions) -> Grant | None:
    """Return the part of a grant that a token has; None if that is nothing.

    Without any class some commands are left, such as TOUCH, for which any grant is enough.
    """
    allow = tuple(cls for cls in grant.allow if cls in restrictions.allow)
    keys = tuple(_bound(grant.keys, restrictions))
    if restrictions.keys is not None:
        keys = tuple(part for key in keys for part in _within(key, restrictions.keys))
    channels = tuple(_bound(grant.channels, restrictions)) if allow else ()
    if (grant.keys or grant.channels) and not (keys or channels):
        return None
    indexes = tuple(_bound(grant.indexes, restrictions))
    return replace(grant, allow=allow, keys=keys, channels=channels, indexes=indexes)


def _bound(patterns: Sequence[Pattern], restrictions: Restrictions) -> Iterator[Pattern]:
    """Yield the patterns that have all bound captures, with their values."""
    bind = restrictions.bind
    for pattern in patterns if bind else ():
        bound = bound_pattern(pattern, bind)
        if bound is not None:
            bound = replace(bound, source="".join(map(_source, bound.parts)))
            values = {name: printable(value) for name, value in bind.items()}
            where = {name: values.get(capture_in(value), value) for name, value in pattern.where}
            yield filtered_index(bound, where) if where else bound
    if not bind:
        yield from patterns


def _source(part: Literal | Capture | AnySuffix) -> str:
    match part:
        case Literal(text):
            return printable(text).replace("{", "{{").replace("}", "}}")
        case Capture(name):
            return f"{{{name}}}"
    return "*"


def _within(pattern: Pattern, keys: Sequence[Pattern]) -> Iterator[Pattern]:
    """Yield the parts of a pattern that lie within keys, or the pattern if a part has no name."""
    for key in keys:
        if covers(pattern, key):
            yield key
        elif covers(key, pattern) or overlaps(key, pattern):
            yield pattern
            return
