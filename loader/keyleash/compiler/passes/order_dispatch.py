"""Order the comparisons of a command's name: by length, often-used commands apart.

Lua interns strings, so one comparison is one of pointers, and a length is read without a
call; what counts is how many comparisons there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from keyleash.commands import CommandTable
from keyleash.compiler.ir import Branch, Container, Guard
from keyleash.compiler.passes.select_commands import KEPT

OFTEN_USED = (
    "SET", "GET", "HSET", "HGET", "INCR", "EXPIRE", "DEL", "EXISTS", "HGETALL", "LPUSH",
    "RPUSH", "LPOP", "RPOP", "LRANGE", "ZADD", "ZRANGE", "SADD", "SMEMBERS", "XADD", "XRANGE",
    "MGET", "MSET", "SETEX", "TTL", "INCRBY", "HINCRBY", "ZRANGEBYSCORE", "SISMEMBER", "UNLINK",
)  # fmt: skip
_RANK = {name: rank for rank, name in enumerate(OFTEN_USED)}


class _Ordered(NamedTuple):
    dispatch: tuple[Branch, ...]
    rare: tuple[Branch, ...]
    containers: tuple[Container, ...]
    places: Mapping[int, int]
    """Of each rule, that of its most used command."""


def order_dispatch(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `dispatch`, `rare` and `containers`; order `rules` by their most used commands."""
    denials = frozenset(rule.id for rule in guard.rules if rule.missing is not None)
    dispatch, rare, containers, places = _ordered(guard.assigned, denials)
    return replace(
        guard,
        dispatch=dispatch,
        rare=rare,
        containers=containers,
        rules=tuple(sorted(guard.rules, key=lambda rule: places.get(rule.id, len(places)))),
    )


@lru_cache(KEPT)
def _ordered(assigned: tuple[tuple[str, int], ...], denials: frozenset[int]) -> _Ordered:
    def rank(assignment: tuple[str, int]) -> tuple[bool, int, str]:
        name, rule = assignment
        return rule in denials, _RANK.get(name, len(_RANK)), name

    often: dict[int, list[tuple[str, int]]] = defaultdict(list)
    rare: dict[int, list[tuple[str, int]]] = defaultdict(list)
    containers: dict[str, list[tuple[str, int]]] = defaultdict(list)
    ranked = sorted(assigned, key=rank)
    for name, rule in ranked:
        container, _, subcommand = name.partition(" ")
        if subcommand:
            containers[container].append((subcommand, rule))
        elif name in _RANK and rule not in denials:
            often[len(name)].append((name, rule))
        else:
            rare[len(name)].append((name, rule))
    return _Ordered(
        dispatch=_branches(often),
        rare=_branches(rare),
        containers=tuple(Container(name, _grouped(subs)) for name, subs in containers.items()),
        places={rule: place for place, (_, rule) in reversed(list(enumerate(ranked)))},
    )


def _branches(by_length: dict[int, list[tuple[str, int]]]) -> tuple[Branch, ...]:
    return tuple(Branch(length, _grouped(named)) for length, named in by_length.items())


def _grouped(named: list[tuple[str, int]]) -> tuple[tuple[tuple[str, ...], int], ...]:
    """One group per rule; the group of the most used command comes first."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, rule in named:
        groups[rule].append(name)
    return tuple((tuple(names), rule) for rule, names in groups.items())
