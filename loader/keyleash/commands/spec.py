"""The rows of the command table, as plain data.

The terms are those of Redis's `server.h` and of the COMMAND reply:
https://redis.io/docs/latest/develop/reference/key-specs/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar


class OperationClass(StrEnum):
    """A class of operations that a grant allows, derived per key from the key-spec flags.

    `read` is ACCESS, `write` is INSERT or UPDATE, `delete` is DELETE; `scan` lists keys, `publish`
    sends to channels and `subscribe` receives from them, which have no flags.
    """

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    SCAN = "scan"
    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"


CHANNEL_CLASSES = frozenset({OperationClass.PUBLISH, OperationClass.SUBSCRIBE})
"""The classes of channels; all others are classes of keys."""
CHANGING = frozenset({OperationClass.WRITE, OperationClass.DELETE})
"""The classes whose commands change keys."""
DATA_CLASSES = CHANGING | {OperationClass.READ}
"""The classes whose commands are about a key, and not about its name alone."""


class Subscribes(StrEnum):
    """The kind of subscription that a command makes."""

    CHANNEL = "channel"
    PATTERN = "pattern"


class Waits(StrEnum):
    """The condition on which a blocking command returns."""

    ANY_KEY = "any_key"  # one of its keys exists
    FIRST_KEY = "first_key"  # its first key exists
    BLOCK = "block"  # a stream has entries, if the call has the option BLOCK


Needs = tuple[OperationClass, ...]
"""The classes that a call needs on a key, in the order of `OperationClass`; empty means that
any grant on the key is enough."""


# Places count the arguments of a call: its name is place 0, the last argument -1. `step` is the
# distance from one key to the next; each of the keys needs `needs`.


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys from place `first` to place `last`."""

    kind: ClassVar[str] = "range"
    first: int
    last: int
    step: int
    needs: Needs


@dataclass(frozen=True, slots=True)
class NumberedKeys:
    """Keys from place `first` on, whose number is the argument at `count_at` (ZUNION)."""

    kind: ClassVar[str] = "numbered"
    count_at: int
    first: int
    step: int
    needs: Needs


@dataclass(frozen=True, slots=True)
class OptionKey:
    """The key after an option word (SORT … STORE); of several, the server takes the last.

    Attributes:
        words: The option words, in upper case.
        start: Place of the first argument that may be one.
        skipped: Words of options whose argument is not one of `words` (SORT … BY).
    """

    kind: ClassVar[str] = "option"
    words: tuple[str, ...]
    start: int
    needs: Needs
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamKeys:
    """The first half of the arguments after STREAMS (XREAD).

    Attributes:
        options: The options before STREAMS with their numbers of arguments. An unknown option
            refuses the call, since it may have any number.
    """

    kind: ClassVar[str] = "streams"
    options: tuple[tuple[str, int], ...]
    needs: Needs


KeySearch = KeyRange | NumberedKeys | OptionKey | StreamKeys


@dataclass(frozen=True, slots=True)
class Variant:
    """The needs of some calls of a command, by their arguments (SET … GET).

    Attributes:
        option: An option word anywhere after key and value; None selects the calls whose
            operations are all GET or OVERFLOW (BITFIELD).
        needs: Of each of their keys.
    """

    option: str | None
    needs: Needs


# The values of `Join`, `Bound` and `Lengthening` are their letters in the Lua sources.


class Size(StrEnum):
    """The command that returns the number of elements of a key; its letter in a plan."""

    STRLEN = "B"
    LLEN = "L"
    SCARD = "S"
    ZCARD = "Z"
    HLEN = "H"
    XLEN = "X"
    VCARD = "V"
    ANY = "A"  # that of the key's type
    NONE = "-"  # arguments alone decide


class Join(StrEnum):
    """The way to combine the sizes of several keys into a number of elements."""

    SUM = "s"
    LEAST = "l"  # the smallest size times the number of keys
    MOST = "m"  # the largest size times the number of keys
    PRODUCT = "p"


class Bound(StrEnum):
    """The arguments of a call that bound the number of elements that it handles."""

    NONE = "-"
    WHOLE = "w"  # none, and the bytes of the elements count too
    KEY_COUNT = "k"  # the number of keys
    RANGE = "r"  # two positions, scores or members
    INDEX = "i"  # a position
    ANY = "n"  # COUNT, if ANY follows
    COUNT = "c"  # a number; a negative one allows repetitions
    OPTION = "o"  # the number after an option word
    SCAN = "s"  # COUNT; each element is compared with MATCH
    WORDS = "a"  # the number of arguments
    ENTRIES = "e"  # COUNT and the ids of a stream
    STREAMS = "x"  # the same of several streams
    GROUPS = "g"  # the sizes of a stream's groups
    FULL = "f"  # the option FULL
    REDUCE = "d"  # the dimensions of a vector
    REPEATS = "h"  # the number of arguments, and the elements that repeated ones name
    BYTES = "y"  # the length of an argument
    PATTERNS = "t"  # none, and the keys that patterns name count too
    SKETCH = "b"  # numbers that make a size, by the letters in `work.SKETCHES`
    SAMPLES = "m"  # COUNT and the samples of a time series, or the bytes of merged sketches
    PATHS = "j"  # JSON paths, and the bytes of new values


@dataclass(frozen=True, slots=True)
class Work:
    """The parameters of the estimate of a call's work, which a guard makes before it runs.

    Attributes:
        weight: Units of work for one element; a unit is about 0.1 µs of a server's time.
        size: The command that returns the number of elements of a key in O(1); `ANY` selects
            the one of the key's type. None: arguments alone decide.
        join: Combines the sizes of several keys.
        first, last: The first and last key that are measured, from 1; 0 is the call's last key.
        bound: The arguments that bound the number of elements.
        place: The place of these arguments.
        default: The number of elements without that option; for `WORDS`, `REPEATS` and
            `KEY_COUNT` the number up to which the work is not estimated. For `PATHS`, the number of
            arguments up to which there is one path; `weight` is then for a byte of what a path
            selects that selects one value, and `Join.PRODUCT` says that it writes new values.
    """

    weight: float
    size: str | None
    strings: int = 0
    join: Join = Join.SUM
    first: int = 1
    last: int = 1
    bound: Bound = Bound.NONE
    place: int = 0
    default: int = 0


class Lengthening(StrEnum):
    """The arguments of a call that give the new length of a string."""

    ARGUMENT = "v"  # the string is an argument
    PAIRS = "p"  # the string follows its key
    APPEND = "a"  # an argument is added to it
    RANGE = "r"  # an offset and a string
    BIT = "b"  # an offset in bits
    FIELDS = "f"  # the operations of BITFIELD
    LONGEST = "l"  # the longest of its keys
    COPY = "c"  # its first key
    ELEMENTS = "e"  # the longest of the arguments
    ENTRY = "x"  # all arguments together
    NAMES = "n"  # the longest of the arguments, which are names of groups and consumers


ELEMENTS = (Lengthening.ELEMENTS, Lengthening.ENTRY)
"""Those that a call without long arguments need not be checked for."""


@dataclass(frozen=True, slots=True)
class Lengthens:
    """The parameters of the check of a string's new length: the arguments and their place."""

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
        keys: The searches for keys: one, or two of which the first finds one key; empty if
            `refused`, or for an allowed command without keys.
        variant: The needs of some calls; None for most commands.
        refused_if: Option words with which a guard refuses the call (COPY … DB).
        patterns: Option words before a pattern of keys that elements complete (SORT … BY w_*).
        channel: Place of the channel or of the pattern of channels; None for all others.
        subscribes: The kind of subscription that it makes, if any. A guard only checks and records
            it: the client then sends it, since a script cannot.
        counts: Whether it counts the subscribers of its channels, which follow to the end.
        scans: Whether it lists keys by a glob.
        index: The class that a call needs on its search index, the first argument, if it has one.
        waits: The condition on which it returns, if it blocks; a guard replies at once and
            clients poll.
        named_only: Whether a grant gives it only if `only` names it: a command of a module, or
            one of `facts.NAMED_ONLY`.
        work: The estimate of its work; None if its arguments bound it.
        lengthens: The check of a string's new length; None if it lengthens none.
        refused: The reason why a guard refuses the command under any policy, if it does.
        servers: Labels of the servers that have it, such as `redis 8.0.2`.
        needs: Every class that some key of each call needs, in the order of `OperationClass`,
            without those of an option's key, which most calls do not have.
    """

    name: str
    arity: int
    flags: tuple[str, ...]
    categories: tuple[str, ...]
    keys: tuple[KeySearch, ...] = ()
    variant: Variant | None = None
    refused_if: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    channel: int | None = None
    subscribes: Subscribes | None = None
    counts: bool = False
    scans: bool = False
    index: OperationClass | None = None
    waits: Waits | None = None
    named_only: bool = False
    work: Work | None = None
    lengthens: Lengthens | None = None
    refused: str | None = None
    servers: tuple[str, ...] = ()
    needs: Needs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        needed = {
            cls for keys in self.keys if not isinstance(keys, OptionKey) for cls in keys.needs
        }
        if self.channel_class is not None:
            needed.add(self.channel_class)
        if self.index is not None:
            needed.add(self.index)
        if self.scans:
            needed.add(OperationClass.SCAN)
        object.__setattr__(self, "needs", tuple(cls for cls in OperationClass if cls in needed))

    def __hash__(self) -> int:
        # Rows rarely share a name, and hashing the rest of a row takes long.
        return hash(self.name)

    @property
    def possible_needs(self) -> frozenset[OperationClass]:
        """Every class that some call needs, with those of options and variants."""
        optional = {cls for keys in self.keys for cls in keys.needs}
        return frozenset(self.needs) | optional | {*(self.variant.needs if self.variant else ())}

    def takes(self, count: int) -> bool:
        """Return whether a call may have *count* words, with those of its name."""
        return count == self.arity if self.arity > 0 else count >= -self.arity

    @property
    def channel_class(self) -> OperationClass | None:
        """The class that a call needs on its channel, if it has one."""
        if self.channel is None:
            return None
        listens = self.subscribes or self.counts
        return OperationClass.SUBSCRIBE if listens else OperationClass.PUBLISH

    @property
    def mutates(self) -> bool:
        """Return whether a call changes anything, by its key flags or COMMAND's `write` flag.

        A subscription counts as a change: it delivers messages long after the call.
        """
        if "readonly" in self.flags or self.counts:
            # The server invents key specs of a module, and they then write every key.
            return False
        marks = (OperationClass.WRITE, OperationClass.DELETE, *CHANNEL_CLASSES)
        return "write" in self.flags or not set(marks).isdisjoint(self.needs)

    @property
    def walk(self) -> tuple[int, int, int] | None:
        """First place, last place and step of one walk over all keys.

        It is empty for a command without keys; None if the arguments must be read to find them.
        """
        if not self.keys:
            return 1, 0, 1
        head, tail = self.keys[0], self.keys[-1]
        if isinstance(head, KeyRange) and isinstance(tail, KeyRange):
            return head.first, tail.last, head.step
        return None

    @property
    def options_start(self) -> int:
        """Place of the first argument after the keys of ranges."""
        return max((keys.last for keys in self.keys if isinstance(keys, KeyRange)), default=0) + 1

    @property
    def key_slice(self) -> slice | None:
        """The slice of a call's arguments that is its keys, in order; None as for `walk`."""
        if self.walk is None:
            return None
        first, last, step = self.walk
        return slice(first, None if last == -1 else last + 1, step)


@dataclass(frozen=True, slots=True)
class CommandTable:
    """All commands by name, and the servers whose COMMAND replies they were merged from.

    Attributes:
        commands: Every command that some server has, by its name in upper case.
        containers: Names of the commands that have sub-commands.
        key_slices: For a client's hot path: `argv[key_slices[name]]` are the keys of a call,
            for commands with a `key_slice`. A name is a str or bytes.
    """

    servers: tuple[str, ...]
    commands: Mapping[str, CommandSpec]
    containers: frozenset[str] = field(init=False, repr=False, compare=False)
    key_slices: Mapping[str | bytes, slice] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        containers = frozenset(name.partition(" ")[0] for name in self.commands if " " in name)
        slices = {spec.name: spec.key_slice for spec in self if spec.refused is None}
        plain = {name: place for name, place in slices.items() if place and " " not in name}
        encoded = {name.encode(): place for name, place in plain.items()}
        object.__setattr__(self, "containers", containers)
        object.__setattr__(self, "key_slices", {**plain, **encoded})

    def __hash__(self) -> int:
        # Few tables are of the same servers, and a table is hashed for every identity.
        return hash(self.servers)

    def __iter__(self) -> Iterator[CommandSpec]:
        return iter(self.commands.values())

    def get(self, name: str) -> CommandSpec | None:
        """Return the row of a command named in upper case, or None."""
        return self.commands.get(name)

    def find(self, words: Sequence[bytes]) -> CommandSpec | None:
        """Return the row of a call, its name in any case; of a container the sub-command's row."""
        name = words[0].decode("latin-1").upper()
        if name in self.containers and len(words) > 1:
            name = f"{name} {words[1].decode('latin-1').upper()}"
        return self.commands.get(name)

    def problem(self, words: Sequence[bytes | str]) -> str | None:
        """Return why servers reject a call before they queue it: the number of its words, or an
        unknown sub-command; None if they do not.
        """
        name, sub = str(words[0]), ""
        if name in self.containers and len(words) > 1:
            sub = words[1].decode("latin-1") if isinstance(words[1], bytes) else str(words[1])
        spec = self.commands.get(f"{name} {sub.upper()}".strip())
        if spec is not None and not spec.takes(len(words)):
            shown = "|".join(filter(None, (name, sub))).lower()
            return f"wrong number of arguments for '{shown}' command"
        if spec is None and sub:
            return f"unknown subcommand '{sub[:128]}'. Try {name} HELP."
        return None

    def extended(self, commands: Mapping[str, CommandSpec]) -> CommandTable:
        """Return this table with added or replaced commands."""
        return CommandTable(self.servers, {**self.commands, **commands})

    @property
    def categories(self) -> frozenset[str]:
        """Every ACL category that some command is in, with its `@`."""
        return frozenset(category for spec in self for category in spec.categories)
