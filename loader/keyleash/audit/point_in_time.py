"""The value of a key at a past time: the before-image of the first change after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Annotated, Any

from keyleash.audit.entries import time_of
from keyleash.audit.inspect import resolve_key
from keyleash.audit.read import Query, read_events
from keyleash.audit.streams import stream_owners
from keyleash.audit.undo.grants import Grants
from keyleash.audit.undo.history import UndoStep, images_of, in_order, read_back, steps_on
from keyleash.audit.undo.key_values import NOTHING, Value, read_images, read_keys
from keyleash.audit.undo.selection import dropped_index, read_drops
from keyleash.errors import OperationError
from keyleash.operations import operation
from keyleash.operations.types import Param
from keyleash.policy.patterns import exactly
from keyleash.policy.quantities import Moment, time_ms_of
from keyleash.results import Instant, Result
from keyleash.store.store import Store
from keyleash.store.streams import audit_streams, stream_extent
from keyleash.text import clock_time, counted, json_object, printable


@dataclass(frozen=True, slots=True)
class ValueThen(Result):
    """The value of a key at a past time.

    Attributes:
        key: The key.
        time_ms: The time, server time, Unix milliseconds.
        value: The whole value.
        before: The change whose before-image it is; None if it is the present value.
        after: The newest change up to that time; None if none is recorded.
        is_compared: Whether the digest after *after* equals that of the value.
    """

    key: bytes
    time_ms: int
    value: Value
    before: UndoStep | None
    after: UndoStep | None
    is_compared: bool

    time = Instant[datetime]("time_ms")

    def __str__(self) -> str:
        """Return type, size and expiry of the value, and the events around the time."""
        value = self.value
        length = counted(value.length, "byte" if value.kind == "string" else "element")
        if value.noun == "JSON":
            length = counted(sum(map(len, value.elements)), "byte")
        found = "did not exist" if value.is_absent else f"a {value.noun} of {length}"
        expires = "" if value.expires_ms is None else f", to expire {clock_time(value.expires_ms)}"
        until = f"until event {self.before.event}" if self.before else "as it is now"
        since = f"since event {self.after.event}" if self.after else "no earlier change is recorded"
        around = f"{until}, {since}"
        if value.is_absent and self.before and not self.after:
            around = f"the first recorded change is event {self.before.event}"
        key, time = printable(self.key), clock_time(self.time_ms)
        return f"`{key}` at {time}: {found}{expires}; {around}"

    def to_dict(self) -> dict[str, Any]:
        return {
            **json_object(self, "key", "time_ms"),
            **self.value.to_dict(whole=True),
            "since": self.after.event if self.after else None,
            "until": self.before.event if self.before else None,
            **json_object(self, "compared=is_compared"),
        }


Time = Annotated[Moment, Param("moment")]


@operation("audit as-of")
def value_at(store: Store, key: str | bytes, time: Time) -> ValueThen:
    """Return the value of *key* at a past time, from before-images.

    Args:
        key: The key; text may also be escaped as in the output of `keyleash`.
        time: The time, in the forms of `events`; changes in this millisecond count.

    Raises:
        OperationError (unknown-value): it is not recorded.
    """
    now_ms = store.now_ms()
    time_ms = time_ms_of("time", time, now_ms)
    key = resolve_key(store, key)
    if time_ms > now_ms:
        raise _unknown("that time is in the future, by the server's clock")
    now = read_keys(store, [key])[key].state
    grants = Grants(store)
    steps = _steps(store, key, time_ms)
    history = in_order(steps, now, now_ms)
    source = next((step for step in history if step.time_ms > time_ms), None)
    last = next((step for step in reversed(history) if step.time_ms <= time_ms), None)
    state, at_ms = (source.before_state, source.time_ms) if source else (now, now_ms)
    is_same = last.after_state.is_same(state, at_ms) if last else None
    if is_same is False:
        after = last.event if last else "the first"
        until = f"event {source.event}" if source else "now"
        for drop in read_drops(store, last.time_ms) if last and not source else ():
            raise _unknown(f"it was perhaps deleted with {dropped_index(drop)}")
        raise _unknown(
            f"it was changed outside the guards, or expired in part,"
            f" between event {after} and {until}"
        )
    if is_same is None and (source is None or source.before is not None):
        _require_complete_streams(store, key, time_ms, grants)
    value = _value(store, key, source)
    if last is not None and value.is_absent and is_same:
        was = last.after_state
        if was.digest != NOTHING.digest and (was.expires_ms or 0) > time_ms:
            # Expiry records no before-image.
            raise _unknown(f"its value after event {last.event} expired, and has no before-image")
    return ValueThen(key, time_ms, value, source, last, bool(is_same))


def _steps(store: Store, key: bytes, time_ms: int) -> list[UndoStep]:
    """Return the last change up to a time and all later ones, in no order."""
    events = read_events(
        store, stream_owners(store), Query(pattern=exactly(key)), newest_first=True
    )
    found: list[UndoStep] = []
    # Two streams have no order within a millisecond.
    for at_ms, group in groupby(events, key=lambda event: event.time_ms):
        found += steps_on([key], group)[key]
        if at_ms <= time_ms and found and found[-1].time_ms <= time_ms:
            break
    return read_back(found, read_images(store, images_of([found])))


def _value(store: Store, key: bytes, source: UndoStep | None) -> Value:
    """Return the value of the before-image of *source*, or the present value."""
    if source is None:
        return _shown(read_keys(store, [key], whole=True)[key])
    image = source.before
    if image is None:
        reason = "no before-image was taken"
        if source.large:
            reason = f"its {source.large} bytes were too large for a before-image"
        elif source.is_masked:
            reason = "it is masked, so it has no before-image"
        raise _unknown(
            f"when event {source.event} changed it, {reason}",
            help="see `keyleash audit timeline` for its changes",
        )
    if image.content is None:
        return NOTHING
    images = read_images(store, [image.content], whole=True)
    value = images[image.content]
    if value is None:
        raise _unknown(f"this server cannot read its before-image in event {source.event}")
    return replace(_shown(value), expires_ms=image.expires_ms)


def _shown(value: Value) -> Value:
    if value.is_large:
        raise _unknown(f"its {value.size} bytes are too many to be shown")
    return value


def _require_complete_streams(store: Store, key: bytes, time_ms: int, grants: Grants) -> None:
    """Raise an error if events since a time that may concern the key were trimmed."""
    for name in stream_owners(store):
        if not grants.could_change_since(name, key, time_ms):
            continue
        if any(lost_until_ms > time_ms for lost_until_ms in _losses(store, name)):
            raise _unknown(
                f"the audit stream of `{name}` was trimmed since then, so its value is not known",
                help="see `retain` in the policy, and the archives of `keyleash audit export`",
            )


def _losses(store: Store, name: str) -> Iterator[int]:
    """Yield the times up to which entries may be trimmed; none if all streams are complete."""
    for stream in audit_streams(store, [name]):
        extent = stream_extent(store, stream)
        if extent is not None and extent.added > extent.length:
            yield time_of(extent.first_id)


def _unknown(message: str, help: str | None = None) -> OperationError:
    return OperationError("unknown-value", message, help=help)
