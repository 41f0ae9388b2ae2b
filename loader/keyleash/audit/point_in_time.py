"""The value of a key at a past time: the before-image of the first change after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

from keyleash.audit.read import Query, read_events, stream_owners
from keyleash.audit.undo.history import KeyState, UndoStep, images_of, in_order, read_back, steps_on
from keyleash.audit.undo.trust import Grants, Trust
from keyleash.audit.undo.values import NOTHING, Value, read_images, read_keys
from keyleash.errors import OperationError
from keyleash.store.identities import server_time_ms
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import server_keyspace
from keyleash.store.records import Client
from keyleash.store.server_check import operator_client


@dataclass(frozen=True, slots=True)
class ValueThen:
    """
    The value of a key at a past time.

    Attributes:
        value: The whole value.
        before: The change whose before-image it is; None if it is the present value.
        after: The newest change up to that time; None if none is recorded.
        is_compared: Whether the digest after *after* equals that of the value.
        untrusted: The number of untrusted events, by identity; they are left out.
    """

    value: Value
    before: UndoStep | None
    after: UndoStep | None
    is_compared: bool
    untrusted: Mapping[str, int] = field(default_factory=dict)


def value_as_of(
    client: Client, key: bytes, time_ms: int, *, keyspace: Keyspace | None = None
) -> ValueThen:
    """
    Return the value of *key* at a past time.

    Args:
        client: A redis-py client of an operator.
        key: The key.
        time_ms: Server time, Unix milliseconds; changes in this millisecond count.
        keyspace: Where keys are; read from the server if None.

    Raises:
        OperationError (unknown-value): the value is not known.
        UnvalidatedRestoreError: it is in a before-image that an agent may have forged, and the
            server does not validate payloads.
    """
    client = operator_client(client)
    keyspace = keyspace or server_keyspace(client)
    now_ms = server_time_ms(client)
    if time_ms > now_ms:
        raise OperationError("unknown-value", "that time is in the future, by the server's clock")
    now = read_keys(client, keyspace, [key])[key]
    grants = Grants(client, keyspace)
    trust = Trust(grants, [key])
    history = _history(
        client, keyspace, key, time_ms, KeyState(now.digest, now.expires_ms), now_ms, trust
    )
    later = [step for step in history if step.time_ms > time_ms]
    last = next((step for step in reversed(history) if step.time_ms <= time_ms), None)
    source = later[0] if later else None
    at_ms = source.time_ms if source else now_ms
    state = source.before_state if source else KeyState(now.digest, now.expires_ms)
    same = last.after_state.is_same(state, at_ms) if last else None
    if same is False:
        raise _changed_outside(last, source)
    if source is not None and source.before is None:
        raise _not_recorded(source)
    if same is None:
        _require_complete_streams(client, keyspace, key, time_ms, grants)
    value = _value(client, keyspace, key, source)
    if last is not None and value.is_absent and same:
        _require_not_expired(last, time_ms)
    return ValueThen(value, source, last, bool(same), +trust.untrusted)


def _history(
    client: Client,
    keyspace: Keyspace,
    key: bytes,
    time_ms: int,
    now: KeyState,
    now_ms: int,
    trust: Trust,
) -> list[UndoStep]:
    """Return the last change up to a time and all later ones, oldest first."""
    events = read_events(
        client, keyspace, stream_owners(client, keyspace), Query(key=key), newest_first=True
    )
    found: list[UndoStep] = []
    # Two streams have no order within a millisecond.
    for at_ms, group in groupby(events, key=lambda event: event.time_ms):
        found += steps_on([key], filter(trust.is_trusted, group))[key]
        if at_ms <= time_ms and found and found[-1].time_ms <= time_ms:
            break
    images = read_images(client, keyspace, images_of([found]))
    return in_order(read_back(found, images), now, now_ms)


def _value(client: Client, keyspace: Keyspace, key: bytes, source: UndoStep | None) -> Value:
    image = source.before if source else None
    if image is None:
        value: Value | None = read_keys(client, keyspace, [key], whole=True)[key]
    elif image.content is None:
        return NOTHING
    else:
        identity = source.identity if source else ""
        images = read_images(client, keyspace, [(identity, image.content)], whole=True)
        if images.withheld.images:
            raise images.withheld.error(f"what event {source.event if source else ''} recorded")
        value = images[image.content]
    if value is None:
        event = source.event if source else ""
        raise OperationError(
            "unknown-value", f"this server cannot read its before-image in event {event}"
        )
    if value.is_large:
        raise OperationError("unknown-value", f"its {value.size} bytes are too many to be shown")
    return value if image is None else replace(value, expires_ms=image.expires_ms)


def _require_not_expired(last: UndoStep, time_ms: int) -> None:
    """Raise an error if the key expired: that records no before-image."""
    expires_ms = last.after_state.expires_ms
    if (
        last.after_state.digest != NOTHING.digest
        and expires_ms is not None
        and expires_ms > time_ms
    ):
        raise OperationError(
            "unknown-value",
            f"its value after event {last.event} expired, and has no before-image",
        )


def _not_recorded(source: UndoStep) -> OperationError:
    if source.large:
        why = f"its {source.large} bytes were too large for a before-image"
    elif source.is_masked:
        why = "it is masked, so it has no before-image"
    else:
        why = "no before-image was taken"
    return OperationError(
        "unknown-value",
        f"when event {source.event} changed it, {why}",
        help="see `keyleash audit timeline` for its changes",
    )


def _changed_outside(last: UndoStep | None, source: UndoStep | None) -> OperationError:
    after = last.event if last else "the first"
    until = f"event {source.event}" if source else "now"
    return OperationError(
        "unknown-value",
        f"it was changed outside the guards, or expired in part, between event {after} and {until}",
    )


def _require_complete_streams(
    client: Client, keyspace: Keyspace, key: bytes, time_ms: int, grants: Grants
) -> None:
    """Raise an error if events since a time that may concern the key were trimmed."""
    for name in stream_owners(client, keyspace):
        if not grants.could_change_since(name, key, time_ms):
            continue
        begins_ms = _lost_until_ms(client, keyspace.audit(name))
        if begins_ms is not None and begins_ms > time_ms:
            raise OperationError(
                "unknown-value",
                f"the audit stream of `{name}` was trimmed since then, so its value is not known",
                help="see `retain` in the policy, and the archives of `keyleash audit export`",
            )


def _lost_until_ms(client: Client, stream: str) -> int | None:
    """Return the time up to which entries may be trimmed; None if the stream is complete."""
    if not client.exists(stream):
        return None
    info = client.xinfo_stream(stream)
    if info["entries-added"] <= info["length"]:
        return None
    newest_lost = info["recorded-first-entry-id"] if info["length"] else info["last-generated-id"]
    return int(newest_lost.partition(b"-")[0])
