"""The forms of a command's calls, by the operation classes that their keys need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

from keyleash.commands import CHANNEL_CLASSES, CommandSpec, CommandTable, OperationClass
from keyleash.commands.spec import KeyRange, Needs, NumberedKeys, OptionKey, StreamKeys, Subscribes
from keyleash.policy.model import Grant

CACHED = 256
"""Cached pairs of filters; most identities have none."""

_FILLER = b"1"
_WORDS_BEFORE_STREAMS = {"XREADGROUP": (b"GROUP", b"g", b"c")}

Filters = tuple[tuple[tuple[str, ...] | None, tuple[str, ...]], ...]
"""`only` and `except` of each grant."""


class PatternOf(Enum):
    """The channels that the pattern of PSUBSCRIBE matches."""

    ONE = auto()
    MANY = auto()


@dataclass(frozen=True, slots=True)
class Form:
    """
    A form of a call.

    Attributes:
        needs: The needed classes of each kind of key: COPY has two kinds, MSET one.
        channel: The class that the call needs on its channel or index, if it has one.
        pattern: What the channel matches, if it is a pattern.
        scans: Whether the call lists keys by a glob.
        named: The field of grants that has the channels or indexes.
    """

    needs: tuple[Needs, ...] = ()
    channel: OperationClass | None = None
    pattern: PatternOf | None = None
    scans: bool = False
    named: str = "channels"


@dataclass(frozen=True, slots=True)
class CommandGroup:
    """
    Commands to which the same grants apply.

    Attributes:
        before, after: Indexes of these grants in the two identities.
        names: The commands by the forms of their calls.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    names: Mapping[Form, tuple[str, ...]]


def forms_of(spec: CommandSpec) -> tuple[Form, ...]:
    """
    Return the forms of a command's calls: the plain one first, then those with options.

    A call has a key of each kind that its command always takes. A call without these keys does
    nothing on any server, and is not a form.
    """
    plain = tuple(search.needs for search in spec.keys if not isinstance(search, OptionKey))
    forms = [Form(plain, spec.channel_class, scans=spec.scans)]
    if spec.subscribes is Subscribes.PATTERN:
        forms = [Form(plain, spec.channel_class, kind) for kind in PatternOf]
    if spec.index is not None:
        forms = [Form(channel=spec.index, named="indexes")]
    forms += [Form((*plain, key.needs)) for key in spec.keys if isinstance(key, OptionKey)]
    if spec.variant is not None:
        forms.append(Form((spec.variant.needs,) * len(plain)))
    return tuple(dict.fromkeys(forms))


def example_call(spec: CommandSpec, form: Form, keys: Sequence[bytes]) -> list[bytes]:
    """Return a call of *form* with a key for each kind; a server need not accept its options."""
    argv = [*spec.name.encode().split(b" ")]
    for search, key in zip(spec.keys, keys, strict=False):
        match search:
            case KeyRange(first=first, last=last):
                argv = [*_filled(argv, first), *[key] * (max(last, first) - first + 1)]
            case NumberedKeys(count_at=count_at, first=first):
                argv = [*_filled([*_filled(argv, count_at), b"1"], first), key]
            case StreamKeys():
                argv += [*_WORDS_BEFORE_STREAMS.get(spec.name, ()), b"STREAMS", key, b"0"]
            case OptionKey(words=words, start=start):
                argv = [*_filled(argv, start), words[0].encode(), key]
    argv = _filled(argv, abs(spec.arity))
    if spec.variant is not None and form.needs[0] == spec.variant.needs:
        argv += [b"GET"] if spec.name == "SET" else [b"GET", b"u8", b"0"]
    elif spec.name == "BITFIELD":
        argv += [b"SET", b"u8", b"0", b"1"]
    for search, key in zip(spec.keys, keys, strict=False):
        if isinstance(search, KeyRange) and search.last < 0:
            for place in range(search.first, len(argv) + search.last + 1, search.step):
                argv[place] = key
    return argv


def _filled(argv: list[bytes], length: int) -> list[bytes]:
    return [*argv, *[_FILLER] * (length - len(argv))]


def filters_of(grants: tuple[Grant, ...]) -> Filters:
    """Return the command filters of an identity's grants, for `command_groups`."""
    return tuple((grant.only, grant.except_) for grant in grants)


@lru_cache(CACHED)
def command_groups(
    table: CommandTable, before: Filters, after: Filters
) -> tuple[CommandGroup, ...]:
    """Group the commands of *table* by the grants of two identities that apply to them."""
    olds, news = (
        [Grant(tuple(CHANNEL_CLASSES), (), only, except_) for only, except_ in filters]
        for filters in (before, after)
    )
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], dict[Form, list[str]]] = {}
    for spec in sorted(table, key=lambda spec: spec.name):
        if spec.refused is not None:
            continue
        forms = groups.setdefault((_applying(olds, spec), _applying(news, spec)), {})
        for form in forms_of(spec):
            forms.setdefault(form, []).append(spec.name)
    return tuple(
        CommandGroup(*indexes, {form: tuple(names) for form, names in forms.items()})
        for indexes, forms in groups.items()
    )


def _applying(grants: Sequence[Grant], spec: CommandSpec) -> tuple[int, ...]:
    return tuple(place for place, grant in enumerate(grants) if grant.admits(spec))
