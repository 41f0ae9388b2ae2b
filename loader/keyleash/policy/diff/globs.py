"""The globs for which an identity may scan; docs/policy.md says which these are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keyleash.policy.model import AnySuffix, Literal, Pattern
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
    source = "".join("*" if isinstance(one, AnySuffix) else one.text.decode() for one in parts)
    return Pattern(source, parts)
