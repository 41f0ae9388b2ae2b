"""The page of libraries, from what their tests showed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import redis

from compat.redis_py.suite import differences

INTRODUCTION = """\
<!-- Made by `make compat` from test runs; do not edit. -->
# Compatibility

Libraries built on redis-py, tested over [guarded connections](client.md#guarded-connections) by an
identity that has the policy that is shown, or everything granted where none is shown. In the code,
`url` and `token` are strings, and `keyleash` and `redis` are imported.

Some libraries catch the errors of denied calls: `Redlock.acquire()` of pottery then tries again
without end. [`keyleash audit log --denied`](../how-to/export-audit.md) shows what was denied.
"""


@dataclass
class Library:
    """The outcomes of the tests of a library.

    Attributes:
        name: The distribution.
        version: The version that was tested.
        client: The code by which guarded connections get into it.
        texts: The place of those Lua scripts that the policy approves by files.
        bundles: The bundles of scripts that the policy approves.
        policy: What it needs; without it, everything was granted.
        features: Its features, with the reason if one does not work.
    """

    name: str
    version: str
    client: str
    texts: str = ""
    bundles: Sequence[str] = ()
    policy: str = ""
    features: dict[str, str] = field(default_factory=dict)


def page(libraries: Iterable[Library], summary: Mapping[str, Mapping[str, str]]) -> str:
    """Return the page.

    Args:
        libraries: The libraries.
        summary: The results of redis-py's own tests, by the protocol of the pool.
    """
    libraries = sorted(libraries, key=lambda library: library.name.lower())
    rows = [
        f"| [{item.name}](#{item.name.lower()}) | {item.version} | {_status(item)} |"
        for item in libraries
    ]
    table = ["| library | version | tested features that work |", "|---|---|---|", *rows, ""]
    return "\n".join([INTRODUCTION, *table, _redis_py(summary), *map(_section, libraries)])


def _redis_py(summary: Mapping[str, Mapping[str, str]]) -> str:
    lines = ["## redis-py", ""]
    lines += _wrapped(
        f"The tests of redis-py {redis.__version__}, of those that pass without keyleash:", ""
    )
    lines += ["", "| client | `protocol` of the pool | pass |", "|---|---|---|"]
    for protocol, sides in summary.items():
        lines += [
            f"| {side} | {protocol or 'not given'} | {result} |" for side, result in sides.items()
        ]
    lines += ["", "The others fail for these reasons:", ""]
    for entry in differences():
        denied = ", ".join(entry.denied)
        lines += _wrapped(f"{entry.reason} {f'Denied: {denied}.' if denied else ''}".strip(), "- ")
    return "\n".join([*lines, ""])


def _wrapped(text: str, bullet: str) -> list[str]:
    return textwrap.wrap(
        text, 100, initial_indent=bullet, subsequent_indent=" " * len(bullet),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _status(library: Library) -> str:
    reasons = list(library.features.values())
    return f"{reasons.count('')} of {len(reasons)}" if any(reasons) else "all"


def _section(library: Library) -> str:
    lines = [f"## {library.name}", "", "```python", library.client.strip(), "```", ""]
    approved = [f"the bundle `{name}`" for name in library.bundles]
    if library.texts:
        approved.append(f"files with {library.texts}")
    if approved:
        link = "scripts.md#bundles-of-libraries" if library.bundles else "scripts.md"
        lines += [*_wrapped(f"With [approved scripts]({link}): {', '.join(approved)}.", ""), ""]
    if library.policy:
        lines += ["With this policy:", "", "```yaml", library.policy.strip(), "```", ""]
    for feature, reason in library.features.items():
        lines += _wrapped(f"{feature}: {f'does not work. {reason}' if reason else 'works.'}", "- ")
    return "\n".join([*lines, ""])
