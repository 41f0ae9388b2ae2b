"""Declarations of policy fields: what the file says of them, and what they mean for access.

A field of the model that has a declaration needs no other code in this package: its shape,
schema errors, JSON Schema, reader, canonical form, diff and text in a plan follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum, auto
from typing import Any


class SettingKind(Enum):
    """The type of a policy field in the file."""

    FLAG = auto()
    COUNT = auto()
    DURATION = auto()
    WAIT = auto()
    SIZE = auto()
    CHOICE = auto()
    PATTERNS = auto()
    RETENTION = auto()
    IMAGES = auto()


@dataclass(frozen=True, slots=True)
class Setting:
    """
    The declaration of a policy field.

    Attributes:
        kind: Its type, which decides how it is read and shown.
        key: Its name in the file.
        example: A valid value, as the file has it.
        help: One sentence for editors and error messages.
        bounds: The least and the greatest `COUNT`.
        choices: The values of a `CHOICE`.
        widens: Whether a greater value, or none, allows more calls.
        part_of: The key whose value writes the field, if it has no key of its own.
    """

    kind: SettingKind
    key: str
    example: str = ""
    help: str = ""
    bounds: tuple[int, int] = (0, 2**53)
    choices: type[StrEnum] | None = None
    widens: bool = False
    part_of: str = ""


def setting(default: Any, kind: SettingKind, key: str, **declaration: Any) -> Any:
    """Return a dataclass field with a `Setting`; see there for *declaration*."""
    return field(default=default, metadata={"setting": Setting(kind, key, **declaration)})


def settings_of(section: Any) -> dict[str, Setting]:
    """Return the declarations of a dataclass or an instance, by field of the model."""
    return {
        item.name: item.metadata["setting"]
        for item in fields(section)
        if "setting" in item.metadata
    }
