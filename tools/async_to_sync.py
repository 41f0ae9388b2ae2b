"""Generate the sync modules from their asyncio sources.

python -m tools.async_to_sync [--check]
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "loader" / "keyleash"
SOURCES = {
    "client/aio_connection.py": "client/_sync/connection.py",
    "client/aio_holder.py": "client/_sync/holder.py",
    "client/aio.py": "client/_sync/sync.py",
    "client/aio_node.py": "client/_sync/node.py",
    "client/aio_cluster_pipeline.py": "client/_sync/cluster_pipeline.py",
    "client/aio_cluster.py": "client/_sync/cluster.py",
}
"""Each asyncio source, and the module that is generated from it."""
NAMES = {
    "AsyncIterator": "Iterator",
    "acall_source": "call_source",
    "acheckin": "checkin",
    "acheckin_node": "checkin_node",
    "acheckout": "checkout",
    "acheckout_node": "checkout_node",
    "agathered": "gathered",
    "aguard_nodes": "guard_nodes",
    "aio": "sync",
    "acalled_back": "called_back",
    "aown_lock": "own_lock",
    "amove_slot": "move_slot",
    "asynccontextmanager": "contextmanager",
    "aread_within": "read_within",
    "areadable": "readable",
    "aio_connection": "connection",
    "aio_holder": "holder",
    "aio_cluster_pipeline": "cluster_pipeline",
    "aio_node": "node",
    "asyncio": "time",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}
TEXTS = {
    "redis.asyncio": "redis",
    "keyleash.asyncio": "keyleash",
    "keyleash.client.aio": "keyleash.client._sync.aio",
    "keyleash.client import aio": "keyleash.client._sync import aio",
    "an `async with`": "a `with`",
}
"""Dotted names and phrases, also in docstrings."""
_CLASS = re.compile(r"Async(?=[A-Z])")
_ASYNC_ONLY = re.compile(r"^.*  # asyncio only\n", re.MULTILINE)
"""Lines without a counterpart, such as the first connection of a cluster's client."""


def generated(source: str) -> str:
    """Return the sync text of the asyncio module *source*, formatted."""
    text = _ASYNC_ONLY.sub("", (PACKAGE / source).read_text(encoding="utf-8"))
    for asynchronous, synchronous in TEXTS.items():
        text = text.replace(asynchronous, synchronous)
    title, _, rest = text.partition("\n")
    parts: list[str] = []
    at = 0
    offsets = [0]
    for line in rest.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    for token in tokenize.generate_tokens(io.StringIO(rest).readline):
        if token.type != tokenize.NAME:
            continue
        start = offsets[token.start[0] - 1] + token.start[1]
        end = offsets[token.end[0] - 1] + token.end[1]
        parts.append(rest[at:start])
        if token.string in {"async", "await"}:
            end += 1  # the blank behind it
        else:
            parts.append(NAMES.get(token.string) or _CLASS.sub("", token.string))
        at = end
    parts.append(rest[at:])
    note = f"# Generated from {source} by `make sync`: edit that file.\n"
    return _formatted(
        title.split(";")[0].replace(", for asyncio", "") + '."""\n' + note + "".join(parts),
        PACKAGE / SOURCES[source],
    )


def _formatted(text: str, path: Path) -> str:
    ruff = [sys.executable, "-m", "ruff"]
    name = f"--stdin-filename={path}"
    for words in (["check", "--quiet", "--fix", "--select=I", name, "-"], ["format", name, "-"]):
        text = subprocess.run(
            [*ruff, *words], input=text, check=True, capture_output=True, text=True
        ).stdout
    return text


def main() -> int:
    """Write the generated modules, or with `--check` report those that differ."""
    differ = []
    for source, target in SOURCES.items():
        text = generated(source)
        path = PACKAGE / target
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            differ.append(target)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and differ:
        print(f"generated modules differ, run `make sync`: {', '.join(differ)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
