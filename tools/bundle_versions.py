"""Compare the scripts of installed libraries with those of their bundles.

    python -m tools.bundle_versions [FOLDER]

Run it where the libraries are installed; packages of Node.js are found from FOLDER. Exit code 1 if
a version that a bundle names has other texts.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

from keyleash.errors import OperationError
from keyleash.policy.bundles import BUNDLES, bundle_texts, installed_version


class BundleReport(NamedTuple):
    """The installed version of a bundle's library.

    Attributes:
        is_named: Whether the bundle names the version.
        problem: Why its texts are not those of the bundle; empty if they are.
    """

    name: str
    version: str
    is_named: bool
    problem: str

    @property
    def is_wrong(self) -> bool:
        """Return whether the bundle names a version with other texts."""
        return self.is_named and bool(self.problem)

    def __str__(self) -> str:
        named = "named" if self.is_named else "not named"
        return f"{self.name} {self.version} ({named}): {self.problem or 'the same texts'}"


def bundle_report(name: str, folder: Path) -> BundleReport | None:
    """Return the report of a bundle; None if its library is not installed."""
    version, problem = installed_version(name, folder), ""
    if version is None:
        return None
    try:
        for _ in bundle_texts(name, folder):
            pass
    except OperationError as error:
        problem = error.message
    return BundleReport(name, version, names_version(BUNDLES[name].versions, version), problem)


def names_version(versions: str, version: str) -> bool:
    """Return whether a version is in one of the ranges, as in `5.8.0 to 5.8.3, 6.1.0`."""
    for item in versions.split(", "):
        first, _, last = item.partition(" to ")
        if _parts(first) <= _parts(version) <= _parts(last or first):
            return True
    return False


def _parts(version: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", version)]


def main() -> int:
    """Print a line for each library that is installed."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".").absolute()
    reports = [found for name in BUNDLES if (found := bundle_report(name, folder))]
    for report in reports:
        print(report)
    return int(any(report.is_wrong for report in reports))


if __name__ == "__main__":
    sys.exit(main())
