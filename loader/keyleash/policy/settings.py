"""Declarations of policy fields: type, help, bounds and effect on access.

The schema, schema errors, JSON Schema, reader, canonical form, diff and plan of a declared field
follow from its declaration.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import Enum, StrEnum, auto
from functools import cache, partial
from typing import Any

from keyleash.policy.quantities import format_duration, format_size


class SettingKind(Enum):
    """The type of a policy field in the file."""

    FLAG = auto()
    COUNT = auto()
    DURATION = auto()
    WAIT = auto()
    CHOICE = auto()
    PATTERNS = auto()
    SIZE = auto()
    RETENTION = auto()
    IMAGES = auto()


@dataclass(frozen=True, slots=True)
class Setting:
    """
    The declaration of a policy field.

    Attributes:
        kind: Its type, which decides how it is read and shown.
        key: Its name in the file; by default that of the field without its unit.
        example: A valid value in the syntax of the file.
        help: One sentence for editors.
        bounds: The least and the greatest `COUNT`, bytes of a `SIZE` or seconds of a `DURATION`.
        because: The reason for the longest `DURATION`, for the help.
        choices: The values of a `CHOICE`.
        otherwise: What applies without the field, if the default is None.
        widens: Whether a greater value, or none, allows more calls.
        narrows: Whether a smaller value denies calls, without the converse.
        part_of: The key that sets the field, if it has no key of its own.
    """

    kind: SettingKind
    key: str = ""
    example: str = ""
    help: str = ""
    bounds: tuple[int, int] = (0, 2**53)
    because: str = "a token that outlives that is a password"
    choices: type[StrEnum] | None = None
    otherwise: Any = None
    widens: bool = False
    narrows: bool = False
    part_of: str = ""

    def written(self, value: Any) -> Any:
        """Return a value as the file has it, of JSON types."""
        match self.kind:
            case SettingKind.DURATION:
                return format_duration(value)
            case SettingKind.WAIT:
                return f"{value}ms"
            case SettingKind.SIZE:
                return format_size(value)
            case SettingKind.IMAGES:
                return format_size(value) if value else "off"
            case SettingKind.PATTERNS:
                return [pattern.source for pattern in value]
        return value


def _setting(
    kind: SettingKind, default: Any, example: str = "", help: str = "", **declaration: Any
) -> Any:
    """Return a dataclass field with a `Setting`, whose other attributes are in *declaration*."""
    declared = Setting(kind, example=example, help=help, **declaration)
    return field(default=default, metadata={"setting": declared})


flag = partial(_setting, SettingKind.FLAG)
count = partial(_setting, SettingKind.COUNT)
duration = partial(_setting, SettingKind.DURATION)
wait = partial(_setting, SettingKind.WAIT)
choice = partial(_setting, SettingKind.CHOICE)
patterns = partial(_setting, SettingKind.PATTERNS)
size = partial(_setting, SettingKind.SIZE)
retention = partial(_setting, SettingKind.RETENTION)
images = partial(_setting, SettingKind.IMAGES)


def settings_of(section: Any) -> dict[str, Setting]:
    """Return the declarations of a dataclass or an instance, by the name of the field."""
    return _settings_of(section if isinstance(section, type) else type(section))


@cache
def _settings_of(section: Any) -> dict[str, Setting]:
    return {
        item.name: replace(
            declared, key=declared.key or item.name.removesuffix("_s").removesuffix("_ms")
        )
        for item in fields(section)
        if (declared := item.metadata.get("setting"))
    }
