"""Compare the hand-written lines of each package with `tools/size_budget.toml`.

python -m tools.size_budget [--check | --lower]

Prints a table; with `--check` only if a package has more lines than its number, which fails. With
`--lower` numbers that are too high are replaced by today's. Lines of Python and Lua count: code,
comments and blank ones. Generated modules stand in folders named `_sync` and are counted apart.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET = Path(__file__).with_suffix(".toml")
PRODUCT = "loader/keyleash"
FOLDERS = (PRODUCT, "lua", "tests", "benchmarks")
GENERATED = "generated"


def package_of(path: Path) -> str | None:
    """Return the package of the budget that has a file; None for golden files."""
    place = path.relative_to(ROOT).as_posix()
    if place.startswith("tests/pins/golden/"):
        return None
    if "/_sync/" in place or "\n# Generated from " in path.read_text(encoding="utf-8")[:300]:
        return GENERATED
    if not place.startswith(f"{PRODUCT}/"):
        return place.partition("/")[0]
    # The packages of addons count each on its own.
    inner = place.removeprefix(f"{PRODUCT}/").replace("addons/", "addons.", 1).split("/")
    return f"{PRODUCT}/{inner[0].replace('.', '/')}" if len(inner) > 1 else PRODUCT


def sizes() -> Counter[str]:
    """Return the lines of each package."""
    lines: Counter[str] = Counter()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in {".py", ".lua"} and (package := package_of(path)):
                lines[package] += len(path.read_bytes().splitlines())
    return lines


def table(lines: Counter[str], budget: dict[str, int]) -> str:
    """Return the lines of all packages beside their numbers."""
    names = sorted(budget | lines)
    rows = [(name, lines[name], budget.get(name, 0)) for name in names]
    product = [row for row in rows if row[0].startswith((PRODUCT, "lua"))]
    rows.append(("product", sum(row[1] for row in product), sum(row[2] for row in product)))
    marked = [(*row, "  too large" if row[1] > row[2] else "") for row in rows]
    head = f"{'hand-written lines':34}{'today':>8}{'budget':>8}"
    return "\n".join([head, *(f"{n:34}{have:8,}{may:8,}{mark}" for n, have, may, mark in marked)])


def main() -> int:
    """Print the table, or lower the numbers; return 1 if a package is too large."""
    lines = sizes()
    text = BUDGET.read_text(encoding="utf-8")
    budget = tomllib.loads(text)["lines"]
    if "--lower" in sys.argv:
        for name, number in budget.items():
            lowered = min(number, lines[name])
            text = re.sub(rf'^"{name}" = \d+$', f'"{name}" = {lowered}', text, flags=re.MULTILINE)
        BUDGET.write_text(text, encoding="utf-8")
        return 0
    is_over = any(count > budget.get(name, 0) for name, count in lines.items())
    if is_over or "--check" not in sys.argv:
        print(table(lines, budget))
    return int(is_over)


if __name__ == "__main__":
    sys.exit(main())
