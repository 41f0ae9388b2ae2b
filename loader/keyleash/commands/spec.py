"""The rows of the command table, as plain data.

The words are those of Redis's `server.h` and of the COMMAND reply:
https://redis.io/docs/latest/develop/reference/key-specs/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class OperationClass(StrEnum):
    """What a grant allows, derived per key from the key-spec flags.

    `read` is ACCESS, `write` is INSERT or UPDATE, `delete` is DELETE; `scan` lists keys and
    `publish` sends to channels, which have no flags.
    """

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    SCAN = "scan"
    PUBLISH = "publish"


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys at fixed places of a call.

    Attributes:
        first: Index of the first key; the command's name is index 0.
        last: Index of the last key; -1 is the last argument, -2 the one before it.
        step: Distance from one key to the next.
        needs: The classes each of these keys needs, in the order of `OperationClass`;
            empty means that any grant on the key will do.
    """

    first: int
    last: int
    step: int
    needs: tuple[OperationClass, ...]


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One command.

    Attributes:
        name: In upper case; a sub-command's name follows its container's after a space.
        arity: As COMMAND gives it: exact if positive, a minimum if negative; counts the name.
        flags: COMMAND's command flags, lower case, sorted.
        categories: ACL categories with their `@`, sorted.
        ranges: Where the keys stand, in argument order; empty if `refused`, or for the
            few keyless commands that pass.
        reads_if: An option word that, standing anywhere after the key's value, makes the
            call need `read` on its keys as well (SET … GET); None for all others.
        refused_if: An option word with which a guard refuses the call (COPY … DB).
        refused: Why a guard refuses the command whatever the policy says; None if it does not.
        servers: Labels of the servers that have it, such as `redis 8.0.2`.
    """

    name: str
    arity: int
    flags: tuple[str, ...]
    categories: tuple[str, ...]
    ranges: tuple[KeyRange, ...]
    reads_if: str | None
    refused_if: str | None
    refused: str | None
    servers: tuple[str, ...]

    @property
    def needs(self) -> tuple[OperationClass, ...]:
        """Every class some key of the command needs, in the order of `OperationClass`."""
        needed = {cls for keys in self.ranges for cls in keys.needs}
        return tuple(cls for cls in OperationClass if cls in needed)

    @property
    def walk(self) -> tuple[int, int, int]:
        """First place, last place and step of one walk over all keys; (1, 0, 1) if keyless.

        Ranges follow each other without a gap and with one step, so one walk meets
        every key: the first one under the first range, all others under the last.
        """
        if not self.ranges:
            return 1, 0, 1
        return self.ranges[0].first, self.ranges[-1].last, self.ranges[0].step

    @property
    def mutates(self) -> bool:
        """Whether the call may change data, by its key flags or by COMMAND's `write` flag."""
        needs = self.needs
        return (
            OperationClass.WRITE in needs or OperationClass.DELETE in needs or "write" in self.flags
        )

    @property
    def key_slice(self) -> slice:
        """The slice of a call's arguments that holds its keys, in order."""
        first, last, step = self.walk
        return slice(first, None if last == -1 else last + 1, step)


@dataclass(frozen=True, slots=True)
class CommandTable:
    """All commands by name, and the servers whose COMMAND replies they were merged from.

    Attributes:
        servers: Labels of the servers, such as `redis 8.0.2`.
        commands: Every command that some server has, by its name in upper case.
        key_slices: For a client's hot path: `argv[key_slices[name]]` are the keys of a
            call. Commands that a guard refuses are not in it.
    """

    servers: tuple[str, ...]
    commands: Mapping[str, CommandSpec]
    key_slices: Mapping[str, slice] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        slices = {spec.name: spec.key_slice for spec in self if spec.refused is None}
        object.__setattr__(self, "key_slices", MappingProxyType(slices))

    def __iter__(self) -> Iterator[CommandSpec]:
        return iter(self.commands.values())

    def get(self, name: str) -> CommandSpec | None:
        """The row of a command named in upper case, or None."""
        return self.commands.get(name)

    @property
    def categories(self) -> frozenset[str]:
        """Every ACL category that some command is in, with its `@`."""
        return frozenset(category for spec in self for category in spec.categories)
