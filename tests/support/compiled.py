"""Remember compiled guards: most tests load one of a few policies; compiling is a pure function.

Only loads use it; tests of the compiler call the compiler.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

from keyleash.compiler import compile_policy
from keyleash.operator.load import compile as loading

KEPT = 64


def remember_compiled_guards() -> None:
    """Let `prepare_policy` compile each policy once per set of commands, prefixes and year."""
    loading.compile_policy = _remembering(compile_policy)  # type: ignore[attr-defined]


def _remembering(compile_all: Callable[..., Any]) -> Callable[..., Any]:
    kept: dict[tuple[bytes, bytes], Any] = {}
    tables: dict[tuple[int, ...], tuple[Any, bytes]] = {}

    def key_of_table(commands: tuple[Any, ...]) -> bytes:
        ids = tuple(map(id, commands))
        if ids not in tables:
            # The commands too, so that no others get their ids.
            tables[ids] = commands, pickle.dumps(commands)
        return tables[ids][1]

    @functools.wraps(compile_all)
    def compile_once(policy: Any, table: Any, **options: Any) -> Any:
        report = options.pop("report", None)
        key = pickle.dumps((policy, options)), key_of_table(tuple(table.commands.values()))
        if key not in kept:
            if len(kept) == KEPT:
                del kept[next(iter(kept))]
            kept[key] = compile_all(policy, table, report=report, **options)
        elif report is not None:
            for done in range(len(policy.identities)):
                report(done + 1, len(policy.identities))
        return kept[key]

    return compile_once
