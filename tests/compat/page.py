"""The page of libraries, from what their tests showed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from compat.redis_py.suite import differences
from keyleash.policy.bundles import BUNDLES

INTRODUCTION = """\
<!-- Made by `make compat` from test runs; do not edit. -->
# Compatibility

Libraries built on redis-py, unmodified, tested over [guarded
connections](client.md#guarded-connections) with the code and the policy that are shown. In the code
`url` and `token` are strings, and `keyleash` and `redis` are imported. It works as it is for
`redis:` and `rediss:` URLs and for Unix sockets, and each is tested.

The policies cover all tested features, with the least that these need; those of [Agent
memory](../how-to/agent-memory.md) cover only its programs, and add limits. Replace names such as
`cache:` by those of the application. With a [rate](policy.md#limits) pass `wait=True` to
`keyleash.pool` or `connection_class`: most libraries take a denial for a lost server, or stop. Some
catch it: `Redlock.acquire()` of pottery then tries again without end. [`keyleash audit log
--denied`](../how-to/export-audit.md) shows what was denied.
"""

MODULES = """\
For servers with the modules of Redis Stack; see [agent memory](../how-to/agent-memory.md). Tested
by TCP with these clients, with redis-py's clients over `keyleash.pool`, and with
`redis.Redis.from_url(url)` [through the gateway](gateway.md), on redis-server 8.0.2 with the
modules of Redis Stack 7.4 (Search 2.10); those of Redis 8 itself were not run.
"""


@dataclass
class Library:
    """A row of the page: what is declared, and the outcomes of the tests.

    Attributes:
        name: The distribution, or several that share their Redis code, with commas.
        recipe: The code by which guarded connections get into it.
        policy: The least that it needs.
        scripts: The Lua texts that the policy approves by files.
        texts: Where these are.
        has_modules: Whether it needs the modules of Redis Stack; it is then also tested through the
            gateway.
        unix: The URL of a Unix socket, with `{}` for its path.
        note: What else to know.
        versions: The versions that were tested.
        features: Its features, with the reason if one does not work.
    """

    name: str
    recipe: str
    policy: str
    scripts: Sequence[str] = ()
    texts: str = ""
    has_modules: bool = False
    unix: str = "unix://{}?db=0"
    note: str = ""
    versions: Sequence[str] = ()
    features: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The distributions."""
        return self.name.split(", ")

    @property
    def bundles(self) -> list[str]:
        """The bundles of scripts that the policy approves."""
        return [name for name in BUNDLES if re.search(rf"scripts: .*\b{name}\b", self.policy)]


def page(libraries: Iterable[Library], summary: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        libraries: The libraries.
        summary: Of redis-py's own tests the number of modules, and the results.
    """
    libraries = sorted(libraries, key=lambda library: library.name.lower())
    rows = [
        f"| [{item.name}](#{_anchor(item)}) | {', '.join(item.versions)} | {_status(item)} |"
        for item in libraries
    ]
    table = ["| library | version | tested features that work |", "|---|---|---|", *rows, ""]
    return "\n".join([INTRODUCTION, *table, _redis_py(summary), *map(_section, libraries)])


def _redis_py(summary: Mapping[str, Any]) -> str:
    lines = ["## redis-py", ""]
    lines += wrapped(
        f"The tests of redis-py {redis.__version__} in {summary['modules']} modules, of those that"
        " pass without keyleash. The other modules are about clusters, TLS, modules of servers,"
        " passwords, COMMAND, and code that uses no connection:",
        "",
    )
    lines += ["", "| client | `protocol` | connections | pass |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in summary["results"]]
    lines += ["", "The others fail for these reasons:", ""]
    for entry in differences():
        denied = ", ".join(entry.denied)
        lines += wrapped(f"{entry.reason} {f'Denied: {denied}.' if denied else ''}".strip(), "- ")
    return "\n".join([*lines, ""])


def wrapped(text: str, bullet: str = "") -> list[str]:
    """Return the lines of a text, the first with a bullet."""
    return textwrap.wrap(
        text, 100, initial_indent=bullet, subsequent_indent=" " * len(bullet),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _status(library: Library) -> str:
    reasons = list(library.features.values())
    return f"{reasons.count('')} of {len(reasons)}" if any(reasons) else "all"


def _anchor(library: Library) -> str:
    return library.name.lower().replace(", ", "-")


def _section(library: Library) -> str:
    lines = [f"## {library.name}", ""]
    if library.has_modules:
        lines += [*wrapped(MODULES, ""), ""]
    if library.note:
        lines += [*wrapped(library.note, ""), ""]
    lines += ["```python", library.recipe.strip(), "```", ""]
    if not library.unix.startswith("unix:"):
        socket = library.unix.format("/run/redis.sock")
        lines += [f"The URL of a Unix socket is `{socket}`.", ""]
    approved = [f"the bundle `{name}`" for name in library.bundles]
    if library.texts:
        approved.append(f"files with {library.texts}")
    if approved:
        link = "scripts.md#bundles-of-libraries" if library.bundles else "scripts.md"
        lines += [*wrapped(f"With [approved scripts]({link}): {', '.join(approved)}.", ""), ""]
    lines += ["With this policy:", "", "```yaml", library.policy.strip(), "```", ""]
    for feature, reason in library.features.items():
        lines += wrapped(f"{feature}: {f'does not work. {reason}' if reason else 'works.'}", "- ")
    return "\n".join([*lines, ""])
