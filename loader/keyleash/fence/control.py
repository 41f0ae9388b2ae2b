"""
What a guard does to control keys, which it does with the rights of its agent.

A fenced agent that speaks to the server by itself can do the same to these keys, and to no
others: see docs/fence.md for what that opens. An ACL cannot tell the guard from its agent.
"""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.compiler.ir import Guard
from keyleash.fence.acl import Selector
from keyleash.fence.patterns import GLOB_CHARACTERS

STATE = ("get", "getrange", "setrange", "pttl")
"""On the state, and on records of tokens."""
LIMIT = ("getrange", "set", "setrange", "pexpire")
"""On counters per token or per capture."""
REPEATS = ("hincrby", "hset", "hmget", "hgetall", "hlen", "hdel", "del")
"""On the hash that counts denials of one kind."""
SUSPENSION = ("hget",)
"""On the hash that says why the identity is suspended."""
BREAKER = ("rpush", "lpop", "del")
"""On the list of refusals that count towards its suspending itself."""


def control_selectors(guard: Guard) -> tuple[Selector, ...]:
    """One selector for each kind of control keys, the first ones those that every call needs."""
    return tuple(_selectors(guard))


def _selectors(guard: Guard) -> Iterator[Selector]:
    names, name = guard.keyspace, guard.identity.name
    yield Selector(
        STATE, (f"~{_literal(names.state(name))}", f"~{_under(names.token_prefix(name))}")
    )
    # The trail is only written; an agent that could read it would see all that it ever wrote.
    yield Selector(
        _of_trails(guard),
        (f"%W~{_literal(names.audit(name))}", f"%W~{_literal(names.denied(name))}"),
    )
    yield Selector(REPEATS, (f"~{_literal(names.repeats(name))}",))
    suspension = _literal(names.suspension(name))
    if guard.identity.on_denials is None:
        yield Selector(SUSPENSION, (f"%R~{suspension}",))
    else:
        yield Selector((*SUSPENSION, "hset"), (f"~{suspension}",))
        yield Selector(BREAKER, (f"~{_literal(names.refused(name))}",))
    subjects = [limit.key_prefix for limit in guard.limits if limit.key_prefix]
    if subjects:
        yield Selector(LIMIT, tuple(f"~{_under(prefix)}" for prefix in dict.fromkeys(subjects)))


def _of_trails(guard: Guard) -> tuple[str, ...]:
    # Where events are kept until they are exported, only the archiver trims.
    if guard.identity.audit.hard_max is None:
        return ("xadd", "xtrim")
    return ("xadd", "xlen")


def _literal(name: str) -> str:
    return "".join(f"\\{one}" if one in GLOB_CHARACTERS else one for one in name)


def _under(prefix: str) -> str:
    return f"{_literal(prefix)}*"
