"""
What one identity may do and another may not, found and proved by a call.

Both directions are the same question: what the old rules allow beyond the new ones is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from keyleash.commands import CommandTable, OperationClass
from keyleash.commands.spec import Needs
from keyleash.policy.diff.access import Access, Places
from keyleash.policy.diff.forms import Form, commands_alike, narrowings_of
from keyleash.policy.model import Pattern
from keyleash.policy.regions import NOWHERE, Region, RegionsTooComplexError, find_key

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
            place in one.givers and one.is_through(grant.channels if one.by_channel else grant.keys)
            for one in self.openings
        )

    def by_lifting(self, denied: Pattern) -> bool:
        """Whether a pattern that the other identity is denied has a part in it."""
        return any(
            one.is_through((denied,))
            for one in self.openings
            if one.inside is not None and not one.by_channel
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
        # Neither key nor channel: whoever may name the command may call it.
        if self.about_old:
            return [], []
        return [Gain(commands, form)], [Opening(self.about_new)]

    def _reaching(self, form: Form, names: tuple[str, ...]) -> tuple[list[Gain], list[Opening]]:
        kinds = [self._kind(needs) for needs in form.needs]
        openings = [one.opening for one in kinds if one.opening is not None]
        # A call of which one key is allowed nowhere is not allowed, however many others are.
        if not openings or not all(one.exists for one in kinds):
            return [], []
        return [Gain(names, form, tuple(one.key for one in kinds))], openings

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
