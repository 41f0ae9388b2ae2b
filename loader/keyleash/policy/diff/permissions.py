"""Compare what two policies permit: commands on keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from keyleash.commands import CommandTable, OperationClass
from keyleash.commands.spec import Needs
from keyleash.policy.diff.call_shapes import Form, commands_alike, narrowings_of
from keyleash.policy.keysets import NOWHERE, Region, RegionsTooComplexError, common_key, find_key
from keyleash.policy.model import AnySuffix, Capture, Grant, Identity, Literal, Pattern
from keyleash.policy.patterns import beginning

_SPECIAL = frozenset(b"*?[\\")


@dataclass(frozen=True, slots=True)
class Globs:
    """
    Globs that some patterns allow.

    Attributes:
        wholes: From patterns that are literal: a glob is one of them.
        beginnings: From the others: a glob begins with one of them, before anything special.
    """

    wholes: tuple[bytes, ...] = ()
    beginnings: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, patterns: Iterable[Pattern]) -> Globs:
        """Those that *patterns*, granted for scanning, allow."""
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
        """Globs of which each other one shows a part, or is refused wherever these are."""
        return (*(start + b"*" for start in self.beginnings), *self.wholes)

    def allows(self, glob: bytes) -> bool:
        """Whether SCAN may be called with it."""
        special = next((at for at, byte in enumerate(glob) if byte in _SPECIAL), len(glob))
        return glob in self.wholes or glob[:special].startswith(self.beginnings)

    def beyond(self, other: Globs) -> bytes | None:
        """A glob that these allow and *other* does not, or None."""
        return next((glob for glob in self.widest if not other.allows(glob)), None)

    @property
    def show_more_than_named(self) -> bool:
        """Whether a glob is literal as a pattern and special as a glob, so that it shows others."""
        return any(not _SPECIAL.isdisjoint(glob) for glob in self.wholes)

    @property
    def shown(self) -> tuple[Pattern, ...]:
        """Patterns of the keys that they match, if they do not `show_more_than_named`."""
        return (
            *(_pattern(Literal(start), AnySuffix()) for start in self.beginnings if start),
            *(_pattern(AnySuffix()) for start in self.beginnings if not start),
            *(_pattern(Literal(text)) for text in self.wholes),
        )


def _pattern(*parts: Literal | AnySuffix) -> Pattern:
    source = "".join("*" if isinstance(part, AnySuffix) else part.text.decode() for part in parts)
    return Pattern(source, parts)


Places = tuple[int, ...]
"""Of grants in an identity: those that are about a command."""


@dataclass(frozen=True, slots=True)
class Access:
    """
    The rules of one identity, or of none.

    Attributes:
        denied: The patterns of its deny rules.
        protected: Patterns of keys that nobody gets, keyleash's own.
    """

    grants: tuple[Grant, ...] = ()
    denied: tuple[Pattern, ...] = ()
    protected: tuple[Pattern, ...] = ()

    @classmethod
    def of(cls, identity: Identity | None, protected: tuple[Pattern, ...]) -> Access:
        """That of *identity*."""
        if identity is None:
            return cls(protected=protected)
        denied = tuple(dict.fromkeys(key for deny in identity.deny for key in deny.keys))
        return cls(identity.grants, denied, protected)

    def gives(self, about: Places, needed: OperationClass) -> Places:
        """Those of the grants *about* a command that give a class."""
        return tuple(place for place in about if needed in self.grants[place].allow)

    def givers(self, about: Places, needs: Needs) -> Places:
        """Those of them that give anything that a key needs."""
        if not needs:
            return about
        return tuple(dict.fromkeys(place for need in needs for place in self.gives(about, need)))

    def keys(self, about: Places, needs: Needs) -> Region:
        """The keys on which they give all that is needed."""
        givers = [self.gives(about, need) for need in needs] if needs else [about]
        groups = dict.fromkeys(self._patterns(places) for places in givers)
        return Region(tuple(groups), self.protected + self.denied)

    def channels(self, about: Places) -> Region:
        """The channels to which they let it publish."""
        granted = (channel for place in about for channel in self.grants[place].channels)
        return Region((tuple(dict.fromkeys(granted)),))

    def globs(self, about: Places) -> Globs:
        """The globs that they let it scan for."""
        return Globs.of(self._patterns(self.gives(about, OperationClass.SCAN)))

    def shown(self, about: Places) -> Region:
        """The keys that scanning shows."""
        region, globs = self.keys(about, (OperationClass.SCAN,)), self.globs(about)
        return region if globs.show_more_than_named else region.within(globs.shown)

    def _patterns(self, places: Iterable[int]) -> tuple[Pattern, ...]:
        return tuple(dict.fromkeys(key for place in places for key in self.grants[place].keys))


SCAN = OperationClass.SCAN

UNKNOWN = None
"""In the place of a key: whether there is one could not be found out, so there may be."""


@dataclass(frozen=True, slots=True)
class Gain:
    """
    Calls that are allowed from now on and were not, or the other way round.

    Attributes:
        commands: By name; each of them has such a call.
        form: The form of these calls.
        keys: Of one such call, a key of each kind; None for one that could not be found.
        channel: What it publishes to, if it does.
        glob: What it scans for, if it does.
        shown: A key that it then sees, if that is what is gained.
    """

    commands: tuple[str, ...]
    form: Form
    keys: tuple[bytes | None, ...] = ()
    channel: bytes | None = None
    glob: bytes | None = None
    shown: bytes | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """
    Where one identity may go and the other may not.

    Attributes:
        givers: Places of the grants that give it; each does so where its own patterns match.
        inside: The keys, or channels, of the one; None if it is about none.
        outside: Those of the other.
        by_channel: Whether it is about channels.
    """

    givers: Places
    inside: Region | None = None
    outside: Region | None = None
    by_channel: bool = False

    def is_through(self, patterns: Iterable[Pattern]) -> bool:
        """Whether some key, or channel, that *patterns* match is gained."""
        if self.inside is None or self.outside is None:
            return True
        return _look(self.inside.within(patterns), self.outside)[0]


@dataclass(frozen=True, slots=True)
class Gains:
    """All that one identity may do and another may not."""

    calls: tuple[Gain, ...] = ()
    openings: tuple[Opening, ...] = ()

    def by_grant(self, access: Access, place: int) -> bool:
        """Whether a grant of the gaining identity has a part in it."""
        grant = access.grants[place]
        return any(
            place in opening.givers
            and opening.is_through(grant.channels if opening.by_channel else grant.keys)
            for opening in self.openings
        )

    def by_lifting(self, denied: Pattern) -> bool:
        """Whether a pattern that the other identity is denied has a part in it."""
        return any(
            opening.is_through((denied,))
            for opening in self.openings
            if opening.inside is not None and not opening.by_channel
        )


def gains_of(new: Access, old: Access, table: CommandTable) -> Gains:
    """Find what *new* allows and *old* does not."""
    if new == old:
        return Gains()
    calls: list[Gain] = []
    openings: dict[Opening, None] = {}
    for alike in commands_alike(table, narrowings_of(old.grants), narrowings_of(new.grants)):
        if not alike.after:
            continue
        search = _Search(new, old, alike.after, alike.before)
        for form, names in alike.names.items():
            found, through = search.gains(form, names)
            calls += found
            openings |= dict.fromkeys(through)
    return Gains(tuple(calls), tuple(openings))


@dataclass(frozen=True, slots=True)
class _Kind:
    """
    What is gained of the keys that need certain classes.

    Attributes:
        exists: Whether there is such a key at all.
        key: One, of those that are gained if there are any.
        opening: Where they are gained; None if none is.
    """

    exists: bool
    key: bytes | None = UNKNOWN
    opening: Opening | None = None


@dataclass(frozen=True, slots=True)
class _Search:
    """What is gained for commands that certain grants of both identities are about."""

    new: Access
    old: Access
    about_new: Places
    about_old: Places
    _kinds: dict[Needs, _Kind] = field(default_factory=dict)

    def gains(self, form: Form, names: Sequence[str]) -> tuple[list[Gain], list[Opening]]:
        commands = tuple(names)
        if form.scans:
            return self._scanning(form, commands)
        if form.publishes:
            return self._publishing(form, commands)
        if form.needs:
            return self._reaching(form, commands)
        # Neither key nor channel: being granted the command is enough.
        if self.about_old:
            return [], []
        return [Gain(commands, form)], [Opening(self.about_new)]

    def _reaching(self, form: Form, names: tuple[str, ...]) -> tuple[list[Gain], list[Opening]]:
        kinds = [self._kind(needs) for needs in form.needs]
        openings = [kind.opening for kind in kinds if kind.opening is not None]
        # A call of which one key is allowed nowhere is not allowed, however many others are.
        if not openings or not all(kind.exists for kind in kinds):
            return [], []
        return [Gain(names, form, tuple(kind.key for kind in kinds))], openings

    def _kind(self, needs: Needs) -> _Kind:
        known = self._kinds.get(needs)
        if known is None:
            known = self._kinds[needs] = self._look_up(needs)
        return known

    def _look_up(self, needs: Needs) -> _Kind:
        inside = self.new.keys(self.about_new, needs)
        outside = self.old.keys(self.about_old, needs)
        gained, key = _look(inside, outside)
        if gained:
            return _Kind(
                True, key, Opening(self.new.givers(self.about_new, needs), inside, outside)
            )
        return _Kind(*_look(inside, NOWHERE))

    def _publishing(self, form: Form, names: tuple[str, ...]) -> tuple[list[Gain], list[Opening]]:
        inside, outside = self.new.channels(self.about_new), self.old.channels(self.about_old)
        gained, channel = _look(inside, outside)
        if not gained:
            return [], []
        opening = Opening(self.about_new, inside, outside, by_channel=True)
        return [Gain(names, form, channel=channel)], [opening]

    def _scanning(self, form: Form, names: tuple[str, ...]) -> tuple[list[Gain], list[Opening]]:
        gains: list[Gain] = []
        openings: list[Opening] = []
        allowed, before = self.new.globs(self.about_new), self.old.globs(self.about_old)
        glob = allowed.beyond(before)
        if glob is not None:
            gains.append(Gain(names, form, glob=glob))
            openings += (
                Opening((place,))
                for place in self.about_new
                if self.new.globs((place,)).beyond(before) is not None
            )
        inside, outside = self.new.shown(self.about_new), self.old.shown(self.about_old)
        gained, key = _look(inside, outside) if allowed.widest else (False, None)
        if gained:
            gains.append(Gain(names, form, shown=key))
            openings.append(Opening(self.new.gives(self.about_new, SCAN), inside, outside))
        return gains, openings


def _look(inside: Region, outside: Region) -> tuple[bool, bytes | None]:
    """Whether there is a key, and which; one that cannot be excluded counts as one."""
    try:
        key = find_key(inside, outside)
    except RegionsTooComplexError:
        return True, UNKNOWN
    return key is not None, key


Place = tuple[int, bytes, bytes]
"""A capture's segment, counted from 0, and the literal text around it there."""


@dataclass(frozen=True, slots=True)
class Captured:
    """
    The patterns of an identity that have a capture of one name, in their order.

    Attributes:
        reached: All patterns that it is granted.
        denied: All that it is denied.
    """

    name: str
    patterns: tuple[Pattern, ...]
    reached: tuple[Pattern, ...]
    denied: tuple[Pattern, ...]

    @classmethod
    def of(cls, identity: Identity, name: str) -> Captured:
        """Those of *identity*."""
        granted = tuple(key for grant in identity.grants for key in grant.keys)
        capturing = tuple(item for item in granted if name in item.captures)
        denied = tuple(key for deny in identity.deny for key in deny.keys)
        return cls(name, capturing, granted, denied)

    def misses(self, other: Captured) -> bool:
        """Whether keys are reached of which *other* captures something, or something else."""
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
