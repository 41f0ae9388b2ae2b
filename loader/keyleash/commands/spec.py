"""The rows of the command table, as plain data.

The words are those of Redis's `server.h` and of the COMMAND reply:
https://redis.io/docs/latest/develop/reference/key-specs/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar


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


class Waits(StrEnum):
    """What a blocking command waits for.

    `any_key`: one of its keys to exist. `first_key`: its first key to exist. `block`: entries
    in a stream, if the option BLOCK stands in the call.
    """

    ANY_KEY = "any_key"
    FIRST_KEY = "first_key"
    BLOCK = "block"


Needs = tuple[OperationClass, ...]
"""The classes that a call needs on a key, in the order of `OperationClass`; empty means that
any grant on the key will do."""


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys at counted places of a call.

    Attributes:
        first: Index of the first key; the command's name is index 0.
        last: Index of the last key; -1 is the last argument, -2 the one before it.
        step: Distance from one key to the next.
        needs: Of each of these keys.
    """

    kind: ClassVar[str] = "range"
    first: int
    last: int
    step: int
    needs: Needs


@dataclass(frozen=True, slots=True)
class NumberedKeys:
    """Keys whose number is an argument (`numkeys` of ZUNION).

    Attributes:
        count_at: Index of their number.
        first: Index of the first key.
        step: Distance from one key to the next.
        needs: Of each of these keys.
    """

    kind: ClassVar[str] = "numbered"
    count_at: int
    first: int
    step: int
    needs: Needs


@dataclass(frozen=True, slots=True)
class OptionKey:
    """The key behind an option word (SORT … STORE); of several, the server takes the last.

    Attributes:
        words: The option words, in upper case.
        start: Index of the first argument that may be one.
        needs: Of that key.
    """

    kind: ClassVar[str] = "option"
    words: tuple[str, ...]
    start: int
    needs: Needs


@dataclass(frozen=True, slots=True)
class StreamKeys:
    """The first half of what follows STREAMS, which options precede (XREAD).

    Attributes:
        options: The options before STREAMS, and how many arguments each has. What stands
            behind an unknown one cannot be known, so it refuses the call.
        needs: Of each of these keys.
    """

    kind: ClassVar[str] = "streams"
    options: tuple[tuple[str, int], ...]
    needs: Needs


KeySearch = KeyRange | NumberedKeys | OptionKey | StreamKeys


@dataclass(frozen=True, slots=True)
class Variant:
    """What a call needs instead if its arguments say so (SET … GET).

    Attributes:
        option: An option word that stands anywhere behind key and value; None stands for a
            call all of whose operations are GET or OVERFLOW (BITFIELD).
        needs: Of each of its keys.
    """

    option: str | None
    needs: Needs


class Cost(StrEnum):
    """How the time that a command takes grows.

    `arguments`: with the number of its own arguments. `reply`: with what it returns. `value`:
    with the size of a key. `product`: with the product of the sizes of two keys, or with the size
    of one and the number of keys.
    """

    CONSTANT = "O(1)"
    LOGARITHMIC = "O(log n)"
    ARGUMENTS = "O(arguments)"
    REPLY = "O(n) of the reply"
    VALUE = "O(n) of the value"
    PRODUCT = "O(n·m)"


class Join(StrEnum):
    """How the sizes of several keys become one number of elements.

    `least` and `most` are the smallest and the largest size times the number of keys.
    """

    SUM = "sum"
    LEAST = "least"
    MOST = "most"
    PRODUCT = "product"


class Bound(StrEnum):
    """How the arguments of a call bound the number of elements that it handles.

    `none`: by nothing. `whole`: by nothing, and the bytes of the elements count too. `keys`: by
    the number of keys. `words`: by the number of arguments. `range`: by two positions, scores or
    members. `index`: by one position. `count`: by a number; one below zero allows repetitions.
    `option`: by the number behind an option word. `any`: by COUNT, if ANY follows. `scan`: by
    COUNT, and each element is compared with MATCH. `entries`, `streams`: by COUNT and the ids of
    a stream. `groups`: by what a stream's groups hold. `full`: by the option FULL. `reduce`: by
    the dimensions of a vector. `repeats`: by the number of arguments, and by what those that
    occur again name. `bytes`: by the length of an argument.
    """

    NONE = "none"
    WHOLE = "whole"
    KEYS = "keys"
    RANGE = "range"
    INDEX = "index"
    ANY = "any"
    COUNT = "count"
    OPTION = "option"
    SCAN = "scan"
    WORDS = "words"
    ENTRIES = "entries"
    STREAMS = "streams"
    GROUPS = "groups"
    FULL = "full"
    REDUCE = "reduce"
    REPEATS = "repeats"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Work:
    """How a guard estimates the work of a call before it runs.

    Attributes:
        weight: Units of work for one element; a unit is about 0.1 µs of a server's time.
        size: The command that returns the number of elements of a key in O(1); `ANY` stands for
            the one of the key's type. None: arguments alone decide.
        join: How the sizes of several keys are combined.
        first, last: Which of the call's keys are measured, from 1; 0 is the last one.
        bound: How arguments bound the number of elements.
        place: Where they stand, in places of the command.
        default: The number of elements without that option; of `words`, `repeats` and `keys`, how
            many there may be before the work is estimated at all.
    """

    weight: float
    size: str | None
    join: Join = Join.SUM
    first: int = 1
    last: int = 1
    bound: Bound = Bound.NONE
    place: int = 0
    default: int = 0


class Lengthening(StrEnum):
    """Where a call says how long a string becomes.

    `argument`: the string is an argument. `pairs`: it follows its key. `append`: an argument is
    added to it. `range`: an offset and a string. `bit`: an offset in bits. `fields`: the
    operations of BITFIELD. `longest`: the longest of its keys. `copy`: its first key.
    """

    ARGUMENT = "argument"
    PAIRS = "pairs"
    APPEND = "append"
    RANGE = "range"
    BIT = "bit"
    FIELDS = "fields"
    LONGEST = "longest"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Lengthens:
    """That a command may give a string a length.

    Attributes:
        how: Where the call says it.
        place: Of the argument, in places of the command.
    """

    how: Lengthening
    place: int


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One command.

    Attributes:
        name: In upper case; a sub-command's name follows its container's after a space.
        arity: As COMMAND gives it: exact if positive, a minimum if negative; counts the name,
            and for a sub-command both names.
        flags: COMMAND's command flags, lower case, sorted.
        categories: ACL categories with their `@`, sorted.
        keys: Where the keys stand: one search, or two of which the first finds one key;
            empty if `refused`, or for a command without keys that passes.
        variant: What some calls need instead; None for most commands.
        refused_if: Option words with which a guard refuses the call (COPY … DB).
        channel: Index of the channel that it publishes to; None for all others.
        scans: Whether it lists keys by a glob.
        waits: How it blocks, if it does; a guard answers at once and clients poll.
        named_only: Whether a grant gives it only if `only` names it, category or class aside:
            a command of a module, or one of `facts.NAMED_ONLY`.
        cost: How the time that it takes grows; None for a module's command.
        work: How its work is estimated; None if its arguments bound it.
        lengthens: Where it says how long a string becomes; None if it gives none a length.
        refused: Why a guard refuses the command whatever the policy says; None if it does not.
        servers: Labels of the servers that have it, such as `redis 8.0.2`.
        needs: Every class that some key of each call needs, in the order of `OperationClass`.
            What the key of an option needs is not in it: most calls have none.
    """

    name: str
    arity: int
    flags: tuple[str, ...]
    categories: tuple[str, ...]
    keys: tuple[KeySearch, ...] = ()
    variant: Variant | None = None
    refused_if: tuple[str, ...] = ()
    channel: int | None = None
    scans: bool = False
    waits: Waits | None = None
    named_only: bool = False
    cost: Cost | None = None
    work: Work | None = None
    lengthens: Lengthens | None = None
    refused: str | None = None
    servers: tuple[str, ...] = ()
    needs: Needs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        needed = {
            cls for keys in self.keys if not isinstance(keys, OptionKey) for cls in keys.needs
        }
        if self.channel is not None:
            needed.add(OperationClass.PUBLISH)
        if self.scans:
            needed.add(OperationClass.SCAN)
        object.__setattr__(self, "needs", tuple(cls for cls in OperationClass if cls in needed))

    def __hash__(self) -> int:
        # Two rows of one name seldom meet, and hashing the rest of a row takes long.
        return hash(self.name)

    @property
    def mutates(self) -> bool:
        """Whether others may see what a call did, by its key flags or COMMAND's `write` flag."""
        if "readonly" in self.flags:
            # A module's key specs may be made up, and then say that every key is written.
            return False
        marks = (OperationClass.WRITE, OperationClass.DELETE, OperationClass.PUBLISH)
        return "write" in self.flags or not set(marks).isdisjoint(self.needs)

    @property
    def walk(self) -> tuple[int, int, int] | None:
        """First place, last place and step of one walk over all keys, if they stand so.

        Joined ranges follow each other without a gap and with one step. A command without
        keys has an empty walk. None if the arguments must be read to find the keys.
        """
        if not self.keys:
            return 1, 0, 1
        head, tail = self.keys[0], self.keys[-1]
        if isinstance(head, KeyRange) and isinstance(tail, KeyRange):
            return head.first, tail.last, head.step
        return None

    @property
    def options_start(self) -> int:
        """Index of the first argument behind the key or keys at counted places."""
        return max((keys.last for keys in self.keys if isinstance(keys, KeyRange)), default=0) + 1

    @property
    def key_slice(self) -> slice | None:
        """The slice of a call's arguments that holds its keys, in order; None as for `walk`."""
        if self.walk is None:
            return None
        first, last, step = self.walk
        return slice(first, None if last == -1 else last + 1, step)


@dataclass(frozen=True, slots=True)
class CommandTable:
    """All commands by name, and the servers whose COMMAND replies they were merged from.

    Attributes:
        servers: Labels of the servers, such as `redis 8.0.2`.
        commands: Every command that some server has, by its name in upper case.
        containers: Names of the commands that have sub-commands.
        key_slices: For a client's hot path: `argv[key_slices[name]]` are the keys of a
            call, where that is all there is to it.
    """

    servers: tuple[str, ...]
    commands: Mapping[str, CommandSpec]
    containers: frozenset[str] = field(init=False, repr=False, compare=False)
    key_slices: Mapping[str, slice] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        containers = frozenset(name.partition(" ")[0] for name in self.commands if " " in name)
        slices = {spec.name: spec.key_slice for spec in self if spec.refused is None}
        plain = {name: place for name, place in slices.items() if place and " " not in name}
        object.__setattr__(self, "containers", containers)
        object.__setattr__(self, "key_slices", MappingProxyType(plain))

    def __hash__(self) -> int:
        # Of the same servers there are few tables, and a table is hashed for every identity.
        return hash(self.servers)

    def __iter__(self) -> Iterator[CommandSpec]:
        return iter(self.commands.values())

    def get(self, name: str) -> CommandSpec | None:
        """The row of a command named in upper case, or None."""
        return self.commands.get(name)

    def find(self, words: Sequence[bytes]) -> CommandSpec | None:
        """The row of a call, its name in any case; of a container the sub-command's row."""
        name = words[0].decode("latin-1").upper()
        if name in self.containers and len(words) > 1:
            name = f"{name} {words[1].decode('latin-1').upper()}"
        return self.commands.get(name)

    def extended(self, commands: Mapping[str, CommandSpec]) -> CommandTable:
        """This table with more commands; one that it already has is replaced."""
        return CommandTable(self.servers, MappingProxyType({**self.commands, **commands}))

    @property
    def categories(self) -> frozenset[str]:
        """Every ACL category that some command is in, with its `@`."""
        return frozenset(category for spec in self for category in spec.categories)
