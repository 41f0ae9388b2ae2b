"""Which known flaws a version of a server has, by the table in `advisories.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Advisory:
    """
    A flaw.

    Attributes:
        fixed: The first release of each line that has the fix, by product.
        since: The first release that has the flaw.
        setting: A setting of the server, if only servers where it is on have the flaw; else empty.
    """

    name: str
    what: str
    fixed: dict[str, tuple[Version, ...]]
    since: Version
    setting: str = ""

    def concerns(self, product: str, version: Version) -> bool:
        """Whether that release has the flaw, if nobody else mended it."""
        fixed = self.fixed[product]
        if not fixed:
            return False
        in_line = [item for item in fixed if item[:2] == version[:2]]
        if in_line:
            return version < in_line[0]
        # A line that came after the fix has it; an older one that is not named never got it.
        return self.since <= version and version[:2] < max(fixed)[:2]

    def upgrade(self, product: str, version: Version) -> Version:
        """The next release that has the fix: in the same line, or in the next one above."""
        return min(item for item in self.fixed[product] if item > version)


@cache
def advisories() -> tuple[Advisory, ...]:
    """All that are known, the worst first."""
    text = files("keyleash.doctor").joinpath("advisories.json").read_text(encoding="utf-8")
    return tuple(
        Advisory(
            load["name"],
            load["what"],
            {name: tuple(map(_version, fixed)) for name, fixed in load["fixed"].items()},
            _version(load.get("since", "0.0.0")),
            load.get("setting", ""),
        )
        for load in json.loads(text)["advisories"]
    )


def parse_version(text: str) -> Version | None:
    """A release number, `8.0.2`; None if *text* is none, as of a build from a branch."""
    parts = text.split("-", maxsplit=1)[0].split(".")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        return None
    found = _version(".".join(parts))
    # What servers are called that are built from no release.
    return None if found[0] == 255 else found


def _version(text: str) -> Version:
    major, minor, patch = map(int, text.split("."))
    return major, minor, patch


def shown(version: Sequence[int]) -> str:
    """As people write it."""
    return ".".join(map(str, version))
