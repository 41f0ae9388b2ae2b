"""Operator actions: the control stream; docs/reference/audit-events.md documents it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import Any, ClassVar

from keyleash.audit.entries import text_of, time_of
from keyleash.audit.read import EVERYTHING, Query
from keyleash.results import Instant, Result
from keyleash.store.store import Store
from keyleash.store.streams import RawEntry, control_stream, pairs_of, read_pages
from keyleash.text import json_object


@dataclass(frozen=True, slots=True)
class ControlEvent(Result):
    """An operator action.

    Attributes:
        event: The action: `activate`, `issue`, `revoke`, `freeze`, `thaw`, `reset-limits`, `undo`,
            `export`.
        details: Its further fields; docs/reference/audit-events.md lists them.
    """

    kind: ClassVar[str] = "control"
    id: str
    time_ms: int
    event: str
    actor: str
    details: Mapping[str, str] = field(default_factory=dict)

    time = Instant[datetime]("time_ms")

    @property
    def identities(self) -> frozenset[str]:
        """Return the identities that it concerns."""
        named = {self.details["identity"]} if "identity" in self.details else set()
        return frozenset(named | set(_listed(self.details.get("identities", ""))))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **json_object(self)}


@dataclass(frozen=True, slots=True)
class PolicyUse:
    """A period in which a policy was active.

    Attributes:
        from_ms: Its start, Unix milliseconds.
        until_ms: Its end; None if the policy is still active.
        rules: The digest of each identity's rules, as its events name it.
    """

    generation: int
    digest: str
    actor: str
    from_ms: int
    until_ms: int | None
    rules: Mapping[str, str]


def read_activations(store: Store) -> list[PolicyUse]:
    """Return the recorded activations, the oldest first, without `until_ms`."""
    events = read_control(store)
    return [policy_use(event) for event in events if event.event == "activate"]


def policy_use(event: ControlEvent) -> PolicyUse:
    """Parse an `activate` event."""
    generation = event.details.get("generation", "")
    return PolicyUse(
        generation=int(generation) if generation.isdigit() else 0,
        digest=event.details.get("digest", ""),
        actor=event.actor,
        from_ms=event.time_ms,
        until_ms=None,
        rules=_rules(event.details.get("identities", "")),
    )


def in_sequence(uses: list[PolicyUse]) -> list[PolicyUse]:
    """Return *uses*, the oldest first, each ending where the next one begins."""
    ended = [replace(item, until_ms=later.from_ms) for item, later in pairwise(uses)]
    return ended + uses[-1:]


def read_control(
    store: Store,
    identities: Iterable[str] | None = None,
    query: Query = EVERYTHING,
    *,
    newest_first: bool = False,
) -> Iterator[ControlEvent]:
    """Read operator actions, by time; only those that concern one of *identities*, unless None.

    Of the query, tokens and time range apply.
    """
    accepts = control_filter(identities, query)
    bounds = (query.since_ms, query.until_ms)
    for page in read_pages(store, control_stream(store), *bounds, newest_first=newest_first):
        yield from filter(accepts, map(control_event, page))


def control_filter(
    identities: Iterable[str] | None, query: Query
) -> Callable[[ControlEvent], bool]:
    """Return the predicate of `read_control`, without the time range."""
    wanted = None if identities is None else frozenset(identities)

    def accepts(event: ControlEvent) -> bool:
        is_token = query.has_token(event.details.get("token", ""))
        return is_token and (wanted is None or bool(wanted & event.identities))

    return accepts


def control_event(entry: RawEntry) -> ControlEvent:
    """Parse an entry of the control stream."""
    entry_id, words = entry
    fields = {text_of(name): text_of(value) for name, value in pairs_of(words)}
    return ControlEvent(
        id=entry_id.decode(),
        time_ms=time_of(entry_id),
        event=fields.pop("event", ""),
        actor=fields.pop("actor", ""),
        details=fields,
    )


def _rules(text: str) -> dict[str, str]:
    try:
        rules = json.loads(text)
    except ValueError:
        return {}
    return {str(name): str(rule) for name, rule in rules.items()} if isinstance(rules, dict) else {}


def _listed(text: str) -> list[str]:
    """Parse names of identities: JSON, or separated by commas."""
    try:
        return list(json.loads(text))
    except (ValueError, TypeError):
        return [name for name in text.split(",") if name]
