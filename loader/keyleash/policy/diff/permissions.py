"""Compare what two policies permit: commands on keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from keyleash.commands import CommandTable, OperationClass
from keyleash.commands.spec import Needs
from keyleash.errors import RegionsTooComplexError
from keyleash.policy.diff.call_shapes import (
    Form,
    PatternOf,
    command_groups,
    example_call,
    filters_of,
)
from keyleash.policy.keysets import NOWHERE, Region, common_key, find_key
from keyleash.policy.model import Capture, Grant, Identity, Literal, Pattern
from keyleash.policy.pattern_lists import THINGS
from keyleash.policy.patterns import beginning, exactly, is_open, keys_under
from keyleash.text import to_json

_SPECIAL = frozenset(b"*?[\\")


@dataclass(frozen=True, slots=True)
class Globs:
    """
    The globs that some patterns allow.

    Attributes:
        wholes: Literal patterns: a glob may equal one of them.
        beginnings: Prefixes of the others: a glob may begin with one, before any wildcard.
    """

    wholes: tuple[bytes, ...] = ()
    beginnings: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, patterns: Iterable[Pattern]) -> Globs:
        """Return the globs that *patterns* allow if they are granted for scanning."""
        wholes, beginnings = [], []
        for pattern in patterns:
            match pattern.parts:
                case (Literal(text),):
                    wholes.append(text)
                case _ if _SPECIAL.isdisjoint(beginning(pattern)):
                    beginnings.append(beginning(pattern))
        return cls(tuple(dict.fromkeys(wholes)), tuple(dict.fromkeys(beginnings)))

    @property
    def widest(self) -> tuple[bytes, ...]:
        """The widest globs; every other one shows fewer keys, or is denied if these are."""
        return (*(start + b"*" for start in self.beginnings), *self.wholes)

    def allows(self, glob: bytes) -> bool:
        """Return whether SCAN may be called with *glob*."""
        special = next((at for at, byte in enumerate(glob) if byte in _SPECIAL), len(glob))
        return glob in self.wholes or glob[:special].startswith(self.beginnings)

    def beyond(self, other: Globs) -> bytes | None:
        """Return a glob that these allow and *other* does not, or None."""
        return next((glob for glob in self.widest if not other.allows(glob)), None)

    @property
    def show_more_than_named(self) -> bool:
        """True if a literal pattern has wildcards as a glob, and so shows other keys."""
        return any(not _SPECIAL.isdisjoint(glob) for glob in self.wholes)

    @property
    def shown(self) -> tuple[Pattern, ...]:
        """Patterns of the keys that the globs match, unless they `show_more_than_named`."""
        return (*map(keys_under, self.beginnings), *map(exactly, self.wholes))


Places = tuple[int, ...]
"""Indexes of the grants of an identity that apply to a command."""


@dataclass(frozen=True, slots=True)
class Reach:
    """
    Keys, channels or indexes on which the calls of a form are allowed.

    Attributes:
        classes: The classes that the calls use there.
        named: The field of grants that has them.
        place: The kind of key that they are, of those of the form.
        others: A key of each kind of the form, or the index whose documents they are.
    """

    classes: Needs
    region: Region
    named: str
    commands: tuple[str, ...]
    form: Form
    place: int = 0
    others: tuple[bytes, ...] = ()

    def call(self, name: str, table: CommandTable, at: bytes) -> list[bytes]:
        """Return a call of the command *name* on a key, channel or index of the region."""
        spec, form = table.commands[name], self.form
        if form.scans:
            return [name.encode(), b"0", b"MATCH", at]
        if form.channel is not None:
            words = [*name.encode().split(), at if self.named == form.named else self.others[0]]
            return words + [b"1"] * (abs(spec.arity) - len(words))
        keys = (*self.others[: self.place], at, *self.others[self.place + 1 :])
        return example_call(spec, form, keys)


@dataclass(frozen=True, slots=True)
class Access:
    """
    The rules of one identity, or of none.

    Attributes:
        denied: The patterns of its deny rules.
        protected: Patterns of keyleash's own keys, which are always denied.
    """

    grants: tuple[Grant, ...] = ()
    denied: tuple[Pattern, ...] = ()
    protected: tuple[Pattern, ...] = ()

    @classmethod
    def of(cls, identity: Identity | None, protected: tuple[Pattern, ...]) -> Access:
        """Return the access of *identity*."""
        if identity is None:
            return cls(protected=protected)
        denied = tuple(dict.fromkeys(identity.denied_keys))
        return cls(identity.grants, denied, protected)

    def gives(self, about: Places, needed: OperationClass) -> Places:
        """Return the grants *about* a command that allow a class."""
        return tuple(place for place in about if needed in self.grants[place].allow)

    def givers(self, about: Places, needs: Needs) -> Places:
        """Return the grants that allow any class that a key needs."""
        if not needs:
            return about
        return tuple(dict.fromkeys(place for need in needs for place in self.gives(about, need)))

    def keys(self, about: Places, needs: Needs) -> Region:
        """Return the keys on which the grants allow all needed classes."""
        givers = [self.gives(about, need) for need in needs] if needs else [about]
        groups = dict.fromkeys(self._patterns(places) for places in givers)
        return Region(tuple(groups), self.protected + self.denied)

    def channels(self, about: Places, form: Form, other: Access | None = None) -> Region:
        """Return the channels or indexes on which the grants allow a form of call.

        Compared with *other*, an index under a filter is another one than without, and one under a
        filter of *other* is given, too, by a filter that has less conditions.
        """
        giving = self.gives(about, form.channel) if form.channel else ()
        granted = (
            channel
            for place in giving
            for channel in (
                getattr(self.grants[place], form.named)
                if other is None
                else _names(self.grants[place], form.named, other)
            )
            if form.pattern is None or _gives_pattern(channel, form.pattern)
            if form.channel is OperationClass.READ or not channel.where
        )
        return Region((tuple(dict.fromkeys(granted)),))

    def globs(self, about: Places) -> Globs:
        """Return the globs that the grants allow."""
        return Globs.of(self._patterns(self.gives(about, OperationClass.SCAN)))

    def shown(self, about: Places) -> Region:
        """Return the keys that scanning shows."""
        region, globs = self.keys(about, (OperationClass.SCAN,)), self.globs(about)
        return region if globs.show_more_than_named else region.within(globs.shown)

    def reaches(self, table: CommandTable) -> Iterator[Reach]:
        """Yield everything that the identity may use, by command and form of call."""
        for group in command_groups(table, (), filters_of(self.grants)):
            for form, names in group.names.items() if group.after else ():
                yield from self._reaches(group.after, form, names)

    def _reaches(self, about: Places, form: Form, names: tuple[str, ...]) -> Iterator[Reach]:
        if form.scans:
            if self.globs(about).widest:
                yield Reach((OperationClass.SCAN,), self.shown(about), "keys", names, form)
        elif form.channel is not None:
            region = self.channels(about, form)
            yield Reach((form.channel,), region, form.named, names, form)
            if form.named == "indexes":
                yield from self._documents(about, form, names, region.groups[0])
        else:
            regions = [self.keys(about, needs) for needs in form.needs]
            looked = [_look(region, NOWHERE) for region in regions]
            others = tuple(key or b"" for _, key in looked)
            for place, region in enumerate(regions) if all(exists for exists, _ in looked) else ():
                yield Reach(form.needs[place], region, "keys", names, form, place, others)

    def _documents(
        self, about: Places, form: Form, names: tuple[str, ...], indexes: tuple[Pattern, ...]
    ) -> Iterator[Reach]:
        """Yield the keys that documents of indexes may have: any under a filter of the policy."""
        needs = tuple(dict.fromkeys((OperationClass.READ, form.channel or OperationClass.READ)))
        opens = tuple(tuple(filter(is_open, self._patterns(self.gives(about, x)))) for x in needs)
        denied = (*self.protected, *self.denied)
        free = tuple(pattern for pattern in indexes if not pattern.where)
        filtered = tuple(pattern for pattern in indexes if pattern.where)
        for some, others, groups in ((free, (), opens), (filtered, free, ())):
            exists, index = _look(Region((some,), others), NOWHERE)
            if exists:
                region = Region(groups, denied)
                yield Reach(needs, region, "keys", names, form, others=(index or b"",))

    def _patterns(self, places: Iterable[int]) -> tuple[Pattern, ...]:
        return tuple(dict.fromkeys(key for place in places for key in self.grants[place].keys))


@dataclass(frozen=True, slots=True)
class Gain:
    """
    Calls that become allowed, or denied.

    Attributes:
        commands: Names of the commands that have such a call.
        keys: A key of each kind in one such call; None for a key that could not be found.
        channel: The channel or the index of that call, if it has one.
        glob: The glob of that call, if it has one.
        shown: A key that a scan or an index then shows, if this is the gain.
    """

    commands: tuple[str, ...]
    form: Form
    keys: tuple[bytes | None, ...] = ()
    channel: bytes | None = None
    glob: bytes | None = None
    shown: bytes | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return commands and one call; a key is null if only its existence is likely."""
        keys = [
            {"needs": needs, "key": key}
            for needs, key in zip(self.form.needs, self.keys, strict=True)
        ]
        name = THINGS[self.form.named]
        optional = {name: self.channel, "glob": self.glob, "shown": self.shown}
        return to_json(  # type: ignore[no-any-return]
            {
                "commands": self.commands,
                **({"keys": keys} if keys else {}),
                **{name: value for name, value in optional.items() if value is not None},
            }
        )


@dataclass(frozen=True, slots=True)
class Opening:
    """
    Keys, channels or indexes that one identity may use and the other may not.

    Attributes:
        givers: Indexes of the grants that allow them, each where its own patterns match.
        inside: Those of the first identity; None if calls have none.
        outside: Those of the other.
        named: The field of grants that has them.
    """

    givers: Places
    inside: Region | None = None
    outside: Region | None = None
    named: str = "keys"

    def is_through(self, patterns: Iterable[Pattern]) -> bool:
        """Return whether a key or channel that *patterns* match is gained."""
        if self.inside is None or self.outside is None:
            return True
        return _look(self.inside.within(patterns), self.outside)[0]


@dataclass(frozen=True, slots=True)
class Gains:
    """All calls that one identity may make and another may not."""

    calls: tuple[Gain, ...] = ()
    openings: tuple[Opening, ...] = ()

    def __add__(self, other: Gains) -> Gains:
        return Gains(self.calls + other.calls, self.openings + other.openings)

    def by_grant(self, access: Access, place: int) -> bool:
        """Return whether a grant of the gaining identity contributes."""
        grant = access.grants[place]
        return any(
            place in opening.givers and opening.is_through(_names(grant, opening.named))
            for opening in self.openings
        )

    def by_lifting(self, denied: Pattern) -> bool:
        """Return whether a pattern that the other identity is denied contributes."""
        return any(
            opening.is_through((denied,))
            for opening in self.openings
            if opening.inside is not None and opening.named == "keys"
        )


def gains_of(new: Access, old: Access, table: CommandTable) -> Gains:
    """Find the calls that *new* allows and *old* does not."""
    if new == old:
        return Gains()
    calls: list[Gain] = []
    openings: dict[Opening, None] = {}
    for group in command_groups(table, filters_of(old.grants), filters_of(new.grants)):
        if not group.after:
            continue
        search = _Search(new, old, group.after, group.before)
        for form, names in group.names.items():
            search.find(form, names)
        calls += search.calls
        openings |= dict.fromkeys(search.openings)
    return Gains(tuple(calls), tuple(openings))


@dataclass(frozen=True, slots=True)
class _Search:
    """A search for the gains of commands to which certain grants of both identities apply."""

    new: Access
    old: Access
    about_new: Places
    about_old: Places
    calls: list[Gain] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    _keys: dict[Needs, tuple[bool, bytes | None, Opening | None]] = field(default_factory=dict)

    def find(self, form: Form, names: tuple[str, ...]) -> None:
        if form.scans:
            self._find_scans(form, names)
        elif form.channel is not None:
            inside = self.new.channels(self.about_new, form, self.old)
            outside = self.old.channels(self.about_old, form, self.new)
            is_gained, channel = _look(inside, outside)
            if is_gained:
                if channel is not None and form.pattern is PatternOf.MANY:
                    channel += b"*"
                giving = self.new.gives(self.about_new, form.channel)
                opening = Opening(giving, inside, outside, form.named)
                self._add(Gain(names, form, channel=channel), opening)
            elif form.named == "indexes":
                self._find_documents(form, names, _look(inside, NOWHERE))
        elif form.needs:
            exist, keys, openings = zip(*map(self._find_key, form.needs), strict=True)
            gained = [opening for opening in openings if opening is not None]
            # A call is denied if one of its keys is allowed nowhere.
            if gained and all(exist):
                self._add(Gain(names, form, keys), *gained)
        elif not self.about_old:
            # Without key and channel, the grant of the command is sufficient.
            self._add(Gain(names, form), Opening(self.about_new))

    def _find_documents(
        self, form: Form, names: tuple[str, ...], allowed: tuple[bool, bytes | None]
    ) -> None:
        """Find keys that a known index may have."""
        read, deleted = (OperationClass.READ,), (OperationClass.READ, OperationClass.DELETE)
        for needs in (read, deleted) if form.channel is OperationClass.DELETE else (read,):
            is_gained, key, opening = self._find_key(needs)
            if allowed[0] and is_gained and opening is not None:
                self._add(Gain(names, form, channel=allowed[1], shown=key), opening)

    def _add(self, gain: Gain, *openings: Opening) -> None:
        self.calls.append(gain)
        self.openings.extend(openings)

    def _find_key(self, needs: Needs) -> tuple[bool, bytes | None, Opening | None]:
        """Return whether a key is allowed, such a key, gained if possible, and all gained keys."""
        if needs not in self._keys:
            inside = self.new.keys(self.about_new, needs)
            outside = self.old.keys(self.about_old, needs)
            is_gained, key = _look(inside, outside)
            if is_gained:
                opening = Opening(self.new.givers(self.about_new, needs), inside, outside)
                self._keys[needs] = (True, key, opening)
            else:
                self._keys[needs] = (*_look(inside, NOWHERE), None)
        return self._keys[needs]

    def _find_scans(self, form: Form, names: tuple[str, ...]) -> None:
        allowed, before = self.new.globs(self.about_new), self.old.globs(self.about_old)
        glob = allowed.beyond(before)
        if glob is not None:
            openings = (
                Opening((place,))
                for place in self.about_new
                if self.new.globs((place,)).beyond(before) is not None
            )
            self._add(Gain(names, form, glob=glob), *openings)
        inside, outside = self.new.shown(self.about_new), self.old.shown(self.about_old)
        is_gained, key = _look(inside, outside) if allowed.widest else (False, None)
        if is_gained:
            scanning = self.new.gives(self.about_new, OperationClass.SCAN)
            self._add(Gain(names, form, shown=key), Opening(scanning, inside, outside))


def _names(grant: Grant, named: str, other: Access | None = None) -> Iterator[Pattern]:
    """Yield the patterns of a field; an index under a filter is another one than without."""
    filters = {item.where for some in (other.grants if other else ()) for item in some.indexes}
    for pattern in getattr(grant, named):
        parts, own = pattern.parts, {*pattern.where}
        if not own:
            yield pattern
            continue
        text = parts[0].text if isinstance(parts[0], Literal) else b""
        for where in (pattern.where, *(item for item in sorted(filters) if own < {*item})):
            label = ", ".join(map("=".join, sorted(where))) + " of "
            yield replace(pattern, parts=(Literal(label.encode() + text), *parts[bool(text) :]))


def _gives_pattern(granted: Pattern, pattern: PatternOf) -> bool:
    """Return whether a granted channel allows such patterns of PSUBSCRIBE."""
    literals = b"".join(part.text for part in granted.parts if isinstance(part, Literal))
    return _SPECIAL.isdisjoint(literals) and (is_open(granted) or pattern is PatternOf.ONE)


def _look(inside: Region, outside: Region) -> tuple[bool, bytes | None]:
    """Return whether there may be a key, and one if it was found."""
    try:
        key = find_key(inside, outside)
    except RegionsTooComplexError:
        return True, None
    return key is not None, key


Place = tuple[int, bytes, bytes]
"""The index of a capture's segment, and the literal text around it in the segment."""


@dataclass(frozen=True, slots=True)
class Captured:
    """
    The patterns of an identity with a capture of one name, in their order.

    Attributes:
        reached: All granted patterns.
        denied: All denied patterns.
    """

    name: str
    patterns: tuple[Pattern, ...]
    reached: tuple[Pattern, ...]
    denied: tuple[Pattern, ...]

    @classmethod
    def of(cls, identity: Identity, name: str) -> Captured:
        """Return the patterns of *identity*."""
        granted = identity.granted_keys
        capturing = tuple(item for item in granted if name in item.captures)
        return cls(name, capturing, granted, identity.denied_keys)

    def misses(self, other: Captured) -> bool:
        """Return whether *other* captures more, or something else, of the allowed keys."""
        if self.patterns == other.patterns:
            return False
        theirs = Region((self.reached, other.patterns), self.denied)
        try:
            return find_key(theirs, Region((self.patterns,))) is not None or any(
                self._place(pattern) != self._place(another)
                and common_key((pattern,), (another,)) is not None
                for pattern in self.patterns
                for another in other.patterns
            )
        except RegionsTooComplexError:
            return True

    def _place(self, pattern: Pattern) -> Place:
        before = after = b""
        at = next(n for n, part in enumerate(pattern.parts) if part == Capture(self.name))
        if at > 0 and isinstance(text := pattern.parts[at - 1], Literal):
            before = text.text.rpartition(b":")[2]
        if at + 1 < len(pattern.parts) and isinstance(text := pattern.parts[at + 1], Literal):
            after = text.text.partition(b":")[0]
        ahead = b"".join(item.text for item in pattern.parts[:at] if isinstance(item, Literal))
        return ahead.count(b":"), before, after
