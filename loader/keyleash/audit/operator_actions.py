"""Operator actions: the control stream; docs/reference/audit-events.md documents it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from keyleash.audit.read import EVERYTHING, Query, RawEntry, pairs_of, read_pages
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client
from keyleash.store.server_check import operator_client


@dataclass(frozen=True, slots=True)
class ControlEvent:
    """Something that an operator did.

    Attributes:
        event: What: `activate`, `issue`, `revoke`, `freeze`, `thaw`, `reset-limits`, `undo`,
            `export`, `seal`, `rotate`, `unseal`, `fence`, `fence-rotate`, `fence-remove`.
        details: What belongs to it, by the names of docs/reference/audit-events.md.
    """

    id: str
    time_ms: int
    event: str
    actor: str
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def identities(self) -> frozenset[str]:
        """Whom it is about."""
        named = {self.details["identity"]} if "identity" in self.details else set()
        return frozenset(named | set(_listed(self.details.get("identities", ""))))


@dataclass(frozen=True, slots=True)
class PolicyUse:
    """
    A policy that was in force.

    Attributes:
        from_ms: Since when, Unix milliseconds.
        until_ms: Until when; None if it still is.
        rules: The digest of each identity's rules, as its events name it.
    """

    generation: int
    digest: str
    actor: str
    from_ms: int
    until_ms: int | None
    rules: Mapping[str, str]


def read_activations(client: Client, keyspace: Keyspace) -> list[PolicyUse]:
    """Read when which policy was activated, the oldest first; when it ended is not filled in."""
    events = read_control(client, keyspace)
    return [policy_use(event) for event in events if event.event == "activate"]


def policy_use(event: ControlEvent) -> PolicyUse:
    """Read an `activate` event."""
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
    """Let each of *uses*, the oldest first, end where the next one begins."""
    ended = [replace(item, until_ms=later.from_ms) for item, later in pairwise(uses)]
    return ended + uses[-1:]


def read_control(
    client: Client,
    keyspace: Keyspace,
    identities: Iterable[str] | None = None,
    query: Query = EVERYTHING,
    *,
    newest_first: bool = False,
) -> Iterator[ControlEvent]:
    """Read what operators did, by time.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        identities: Only what is about one of them; None for all.
        query: Of it count the token and the time.
        newest_first: Read backwards.
    """
    client = operator_client(client)
    accepts = control_filter(identities, query)
    bounds = (query.since_ms, query.until_ms)
    for page in read_pages(client, keyspace.control, *bounds, newest_first=newest_first):
        yield from filter(accepts, map(control_event, page))


def control_filter(
    identities: Iterable[str] | None, query: Query
) -> Callable[[ControlEvent], bool]:
    """Make the test of `read_control`, but for the time."""
    wanted = None if identities is None else frozenset(identities)

    def accepts(event: ControlEvent) -> bool:
        is_token = query.token is None or event.details.get("token") == query.token
        return is_token and (wanted is None or bool(wanted & event.identities))

    return accepts


def control_event(entry: RawEntry) -> ControlEvent:
    """Read an entry of the control stream."""
    entry_id, words = entry
    fields = {_text(name): _text(value) for name, value in pairs_of(words)}
    return ControlEvent(
        id=entry_id.decode(),
        time_ms=int(entry_id.partition(b"-")[0]),
        event=fields.pop("event", ""),
        actor=fields.pop("actor", ""),
        details=fields,
    )


def _rules(text: str) -> dict[str, str]:
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return {str(name): str(rule) for name, rule in said.items()} if isinstance(said, dict) else {}


def _listed(text: str) -> list[str]:
    """Names of identities: JSON, or words with commas between them."""
    try:
        return list(json.loads(text))
    except (ValueError, TypeError):
        return [name for name in text.split(",") if name]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
