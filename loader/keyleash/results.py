"""The base of results of operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar

from keyleash.text import clock_time, json_object, moment

T = TypeVar("T")

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the amount of finished work and the total; None if the total is not known."""


class Result:
    """A result of an operator's call; subclasses are frozen dataclasses."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it: only values that `json.dumps` accepts."""
        return json_object(self)


class Instant(Generic[T]):
    """A field of Unix time as an aware `datetime`: `expires_at` shows `expires_ms`.

    T is `datetime`, or `datetime | None` if the field may be None.

    Args:
        field: The name of the field, if it is not that of the attribute with `_ms` for `_at`;
            a name in `_us` holds microseconds.
    """

    def __init__(self, field: str = "") -> None:
        self._field = field

    def __set_name__(self, owner: type, name: str) -> None:
        self._field = self._field or f"{name.removesuffix('_at')}_ms"

    def __get__(self, result: Any, owner: type | None = None) -> T:
        if result is None:
            raise AttributeError(f"`{self._field}` of a class")
        held = getattr(result, self._field)
        if held is not None and self._field.endswith("_us"):
            held //= 1000
        return None if held is None else moment(held)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class NodeEffect(Result):
    """The effect of a change at one node of a cluster.

    Attributes:
        node: The node: host and port.
        latest_us: When the change takes effect at the latest, by the clock of the home, Unix µs;
            None if it is effective now.
        reason: Why the node was not reached; empty if it was.
        unreplicated: Why a failover of the node may undo the change; empty if a replica has it, or
            the node has no replica.
        latest_at: `latest_us` as a `datetime`.
    """

    node: str
    latest_us: int | None = None
    reason: str = ""
    unreplicated: str = ""
    latest_at = Instant[datetime | None]("latest_us")

    def to_dict(self) -> dict[str, Any]:
        names = ("node", "reached=is_reached", "effective_at_latest=latest_us", "reason")
        return json_object(self, *names, "unreplicated")

    @property
    def is_reached(self) -> bool:
        """Return whether the node was reached."""
        return not self.reason

    def __str__(self) -> str:
        if self.latest_us is None:
            note = f"; {self.unreplicated}" if self.unreplicated else ""
            return f"not reached: {self.reason}" if self.reason else f"effective now{note}"
        at = clock_time(self.latest_us // 1000)
        return f"effective at the latest at {at}; not reached: {self.reason}"


@dataclass(frozen=True, slots=True)
class Change(Result):
    """The result of a change that takes effect at the nodes of a cluster.

    Attributes:
        nodes: The nodes that the change concerns, and when it is effective there; None on one
            server without replicas, where that is now.
    """

    nodes: tuple[NodeEffect, ...] | None = field(default=None, kw_only=True, repr=False)

    @property
    def not_reached(self) -> tuple[NodeEffect, ...]:
        """The nodes that were not reached."""
        return tuple(node for node in self.nodes or () if node.reason)

    @property
    def not_replicated(self) -> tuple[NodeEffect, ...]:
        """The nodes that have replicas, of which none is known to have the change."""
        return tuple(node for node in self.nodes or () if node.unreplicated)

    @property
    def latest_us(self) -> int | None:
        """When the change is effective at all nodes, Unix µs; None if it is now."""
        return max((node.latest_us for node in self.not_reached if node.latest_us), default=None)

    def with_nodes(self, shown: dict[str, Any]) -> dict[str, Any]:
        """Return a JSON object with the nodes of a cluster."""
        return shown if self.nodes is None else {**shown, **json_object(self, "nodes")}
