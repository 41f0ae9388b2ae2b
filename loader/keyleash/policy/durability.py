"""Durability: an identity's own fields over the document's defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from keyleash.policy.model import Durability
from keyleash.policy.node import Node
from keyleash.policy.problems import Problems, quote
from keyleash.policy.quantities import parse_wait

MAX_REPLICAS = 100

Changes = dict[str, Any]
"""Fields of `Durability` with what the document says of them."""


def read_durability(node: Node | None, base: Durability, problems: Problems) -> Durability:
    """What the `durability` mapping *node* makes of *base*, field by field."""
    changes: Changes = {}
    for field, read in _READERS.items():
        below = node.get(field) if node else None
        if below is not None:
            changes |= read(below, problems)
    return replace(base, **changes)


def _read_replicas(node: Node, problems: Problems) -> Changes:
    count = int(node.source)
    if not 0 <= count <= MAX_REPLICAS:
        problems.add(
            "wait-replicas-out-of-range",
            f"{quote(node.source)} is not between 0 and {MAX_REPLICAS}",
            node.span,
            "write how many replicas must have a write, such as `wait_replicas: 1`;"
            " with `0` nothing is waited for",
        )
        return {}
    return {"wait_replicas": count}


def _read_timeout(node: Node, problems: Problems) -> Changes:
    timeout_ms = problems.attempt(lambda: parse_wait(node.source, node.span))
    return {} if timeout_ms is None else {"timeout_ms": timeout_ms}


_READERS: dict[str, Callable[[Node, Problems], Changes]] = {
    "wait_replicas": _read_replicas,
    "timeout": _read_timeout,
}
