"""What an identity may reach, as regions of keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keyleash.commands import OperationClass
from keyleash.commands.spec import Needs
from keyleash.policy.diff.globs import Globs
from keyleash.policy.model import Grant, Identity, Pattern
from keyleash.policy.regions import Region

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
        return tuple(dict.fromkeys(place for one in needs for place in self.gives(about, one)))

    def keys(self, about: Places, needs: Needs) -> Region:
        """The keys on which they give all that is needed."""
        givers = [self.gives(about, one) for one in needs] if needs else [about]
        groups = dict.fromkeys(self._patterns(places) for places in givers)
        return Region(tuple(groups), self.protected + self.denied)

    def channels(self, about: Places) -> Region:
        """The channels to which they let it publish."""
        granted = (one for place in about for one in self.grants[place].channels)
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
