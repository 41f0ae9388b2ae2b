"""The base of results of operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

from keyleash.text import json_object, moment

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
