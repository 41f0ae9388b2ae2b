"""Known vulnerabilities of server versions, from the table in `advisories.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Version(NamedTuple):
    """A release number."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return ".".join(map(str, self))


@dataclass(frozen=True, slots=True)
class Advisory:
    """A vulnerability.

    Attributes:
        fixed: The first release with the fix in each line, by product.
        since: The first vulnerable release.
        setting: The server setting that enables the vulnerable feature; empty if there is none.
    """

    name: str
    what: str
    fixed: dict[str, tuple[Version, ...]]
    since: Version
    setting: str = ""

    def concerns(self, product: str, version: Version) -> bool:
        """Return whether a release is vulnerable, unless a distribution backported the fix."""
        fixed = self.fixed[product]
        if not fixed:
            return False
        in_line = [item for item in fixed if item[:2] == version[:2]]
        if in_line:
            return version < in_line[0]
        # Later lines have the fix; older lines that are not listed never got it.
        return self.since <= version and version[:2] < max(fixed)[:2]

    def upgrade(self, product: str, version: Version) -> Version:
        """Return the next release with the fix, in the same line or the next higher one."""
        return min(item for item in self.fixed[product] if item > version)


@cache
def advisories() -> tuple[Advisory, ...]:
    """Return all known vulnerabilities, the worst first."""
    text = files("keyleash.addons.doctor").joinpath("advisories.json").read_text(encoding="utf-8")
    return tuple(
        Advisory(
            entry["name"],
            entry["what"],
            {name: tuple(map(_version, fixed)) for name, fixed in entry["fixed"].items()},
            _version(entry.get("since", "0.0.0")),
            entry.get("setting", ""),
        )
        for entry in json.loads(text)["advisories"]
    )


def parse_version(text: str) -> Version | None:
    """Parse a release number such as `8.0.2`; None for other text, such as a branch build."""
    parts = text.split("-", maxsplit=1)[0].split(".")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        return None
    # Version 255 marks builds that are no release.
    return None if int(parts[0]) == 255 else Version(*map(int, parts))


def _version(text: str) -> Version:
    return Version(*map(int, text.split(".")))
