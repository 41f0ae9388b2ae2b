"""The field `limits`: how much work one call or batch may be."""

from __future__ import annotations

from keyleash.policy.node import Node
from keyleash.policy.problems import Problems, quote

MIN_WORK, MAX_WORK = 1_000, 1_000_000_000


def read_work(node: Node | None, base: int, problems: Problems) -> int:
    """Return `work` of the `limits` mapping *node* in units of work; *base* if it sets none."""
    work = node.get("work") if node else None
    if work is None:
        return base
    count = int(work.source)
    if MIN_WORK <= count <= MAX_WORK:
        return count
    problems.add(
        "work-out-of-range",
        f"{quote(work.source)} is not between {MIN_WORK} and {MAX_WORK}",
        work.span,
        "write how many units of work one call may be, such as `work: 250000`;"
        " a unit is about 0.1 µs of the server's time",
    )
    return base
