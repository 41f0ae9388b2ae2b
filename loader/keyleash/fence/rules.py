"""The ACL rules of an identity."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from keyleash.commands.facts import OF_THE_CONNECTION
from keyleash.commands.spec import OperationClass
from keyleash.compiler import CompiledGuard
from keyleash.compiler.ir import Guard
from keyleash.fence.acl import EVERY_KEY, GLOB_CHARACTERS, Rules, Selector, may_reach
from keyleash.fence.data_rules import (
    HELPERS,
    WRITING,
    data_selectors,
    imaged_patterns,
    patterns_for,
)
from keyleash.policy.keysets import covers, overlaps
from keyleash.policy.model import Pattern
from keyleash.store.keyspace import CONTROL_PREFIX, account
from keyleash.store.records import database_of
from keyleash.store.server import command_names, keys_of_calls, known_commands
from keyleash.store.server_check import Client

# A guard accesses control keys with the rights of its agent, and an ACL cannot tell the two apart:
# a fenced agent can run these commands on these keys by itself; see docs/how-to/fence.md.

STATE = ("get", "getrange", "setrange", "pttl")
"""On the state and on token records."""
SHARD_STATE = (*STATE, "set", "exists")
"""On the same, at the home and the shards of a cluster."""
CHILD_RECORDS = ("mget", "set")
"""On records of tokens that make child tokens."""
CHILD_ENTRIES = ("hexists", "hset", "hdel", "pexpireat")
"""On the hash of child tokens."""
DELEGATIONS = ("zadd", "zrangebyscore", "zrem", "pexpireat")
"""On the set of expiries of child tokens."""
CHILDREN = ("zadd", "zcount", "zremrangebyscore", "pexpireat")
"""On the sets of children of tokens."""
LEASES = ("exists", "hmget", "hlen", "hset")
"""On the hash of leases, at the home of a cluster."""
RENEW = ("get", "set")
"""On token records, if tokens may be renewed."""
ISSUES = ("hget",)
"""On the hash of the identity's tokens, if they may be renewed."""
LIMIT = ("getrange", "set", "setrange", "pexpire")
"""On counters per token or per capture."""
REPEATS = ("hincrby", "hset", "hmget", "hgetall", "hlen", "hdel", "del")
"""On the hash that counts repeated denials."""
SUSPENSION = ("hget",)
"""On the hash with the reason of a suspension."""
BREAKER = ("rpush", "lpop", "del")
"""On the list of denials that count towards the circuit breaker."""


ONCE = ("get", "set")
"""On remembered calls with an idempotency id; on a cluster also `exists`."""

SCRATCH = (
    "restore", "del", "type", "strlen", "llen", "scard", "zcard", "hlen", "xlen", "memory|usage",
    "lrange", "smembers", "zrange", "hgetall", "xrange",
)  # fmt: skip
"""On the key with which payloads of RESTORE are measured."""

ANY_TAG = "\0"
"""Stands for the tag of any shard, or that of the home: no name has such a byte.

Only one glob per key: servers try all of them for each command that a guard runs. No control key of
another identity, or of all, has the brace that ends a tag elsewhere in its name.
"""


def _control_selectors(guard: Guard) -> Iterator[Selector]:
    """Yield a selector for each kind of control keys; every call needs the first two."""
    names, name = guard.keyspace, guard.identity.name
    if guard.shards:
        names = names.at_shard(ANY_TAG)
    state = [f"~{_literal(names.state(name))}", f"~{_under(names.token_prefix(name))}"]
    # On a cluster, each token has units and grants of limits per token.
    by_token = guard.shards and (
        guard.identity.token.bound or any(limit.subject == "token" for limit in guard.limits)
    )
    if by_token:
        state.append(f"~{_under(names.state(account(name, '')))}")
    if guard.shards:
        yield Selector(SHARD_STATE, (*state, f"%R~{_literal(names.none)}"))
    else:
        yield Selector(STATE, tuple(state))
    # The audit stream is only written: an agent must not read its former values. Where events are
    # retained until they are exported, only the archiver trims.
    is_trimmed = guard.identity.audit.hard_max is None
    yield Selector(
        ("xadd", "xtrim" if is_trimmed else "xlen"),
        (f"%W~{_literal(names.audit(name))}", f"%W~{_literal(names.denied(name))}"),
    )
    yield Selector(REPEATS, (f"~{_literal(names.repeats(name))}",))
    suspension = _literal(names.suspension(name))
    if guard.identity.on_denials is None:
        yield Selector(SUSPENSION, (f"%R~{suspension}",))
    else:
        yield Selector((*SUSPENSION, "hset"), (f"~{suspension}",))
        yield Selector(BREAKER, (f"~{_literal(names.refused(name))}",))
    if guard.shards:
        home = guard.keyspace
        leases = (f"~{_literal(home.leases(name))}", f"%R~{_literal(home.state(name))}")
        yield Selector(LEASES, leases)
        if by_token:
            of_tokens = f"~{_under(home.leases(account(name, '')))}"
            yield Selector(("hmget", "hlen", "hset", "pexpireat"), (of_tokens,))
    yield from _selectors_of_tokens(guard)
    if guard.value_plans and any(usage.spec.name == "RESTORE" for usage in guard.usages):
        yield Selector(SCRATCH, (f"~{_literal(names.scratch(name))}",))
    if guard.identity.idempotency is not None:
        commands = (*ONCE, "exists") if guard.shards else ONCE
        yield Selector(commands, (f"~{_under(names.once_prefix(name))}",))
    subjects = [limit.key_prefix for limit in guard.limits if limit.key_prefix]
    if subjects:
        yield Selector(LIMIT, tuple(f"~{_under(prefix)}" for prefix in dict.fromkeys(subjects)))


def _selectors_of_tokens(guard: Guard) -> Iterator[Selector]:
    """Yield what a guard needs to renew tokens, and to store child tokens."""
    names, name = guard.keyspace, guard.identity.name
    if guard.identity.token.renew:
        yield Selector(RENEW, (f"~{_under(names.token_prefix(name))}",))
        yield Selector(ISSUES, (f"%R~{_literal(names.tokens(name))}",))
    if not guard.identity.delegate.depth:
        return
    yield Selector(CHILD_RECORDS, (f"~{_under(names.token_prefix(name))}",))
    yield Selector(CHILD_ENTRIES, (f"~{_literal(names.delegated(name))}",))
    yield Selector(DELEGATIONS, (f"~{_literal(names.delegations(name))}",))
    yield Selector(CHILDREN, (f"~{_under(names.children_prefix(name))}",))


def _literal(name: str) -> str:
    glob = "".join(f"\\{item}" if item in GLOB_CHARACTERS else item for item in name)
    return glob.replace(ANY_TAG, "*")


def _under(prefix: str) -> str:
    return f"{_literal(prefix)}*"


# Commands that a fence leaves out although the policy grants them; the guard cannot run them.
#
# Servers find the wrong keys for some calls, so that their ACLs check other keys than the call
# touches. Guards deny these calls, but a user with the command could make them directly. Each is
# therefore tried on the server by COMMAND GETKEYS, which shares the code of the check.

LEFT_OUT: Mapping[str, str] = {
    "SCAN": "an ACL allows it to list every key of the server",
    "COPY": "an ACL allows it to write into another database",
    # Before Search 8, servers check the name of an index alone.
    "FT.CREATE": "an ACL allows it to index any key",
    "FT.DROPINDEX": "an ACL allows it to delete the documents, too",
    "FT._LIST": "an ACL allows it to list every index of the server",
}
"""On every server."""


class AclBypass(NamedTuple):
    """A call for which servers may find the wrong keys, and the keys that it touches."""

    command: str
    call: tuple[str, ...]
    keys: tuple[str, ...]
    why: str


ACL_BYPASSES = (
    AclBypass("PFMERGE", ("other",), ("other",), "without sources it can create any key"),
    AclBypass(
        "SORT", ("key", "STORE", "LIMIT", "STORE", "other"), ("key", "other"),
        "with a target named like an option it can write any key",
    ),
    AclBypass(
        "GEORADIUS", ("key", "1", "1", "1", "m", "STORE", "one", "STORE", "other"),
        ("key", "other"), "with two targets it can write any key",
    ),
    AclBypass(
        "GEORADIUSBYMEMBER", ("key", "m", "1", "m", "STORE", "one", "STORE", "other"),
        ("key", "other"), "with two targets it can write any key",
    ),
    AclBypass(
        "XREADGROUP", ("COUNT", "1", "GROUP", "STREAMS", "c", "STREAMS", "other", ">"),
        ("other",), "with a group named STREAMS it can read any stream",
    ),
    *(
        AclBypass(name, call, ("key", "other"), "servers check its first key alone")
        for name, call in {
            "JSON.MGET": ("key", "other", "$"),
            **dict.fromkeys(("CMS.MERGE", "TDIGEST.MERGE"), ("key", "1", "other")),
            **dict.fromkeys(("TS.CREATERULE", "TS.DELETERULE"), ("key", "other")),
        }.items()
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Properties that all servers share.

    Attributes:
        helpers: Commands that guards run in addition to those of agents, in upper case.
        left_out: Commands that no user gets, in upper case, and the reasons.
        database: The number of the database with the keys.
    """

    helpers: Collection[str]
    left_out: Mapping[str, str]
    database: int = 0


def read_server_facts(clients: Sequence[Client]) -> ServerFacts:
    """Read the properties of all servers; nothing is changed.

    Args:
        clients: One for each server; the first is connected to the database with the keys.
    """
    left_out = dict(LEFT_OUT)
    helpers = set(HELPERS)
    for client in clients:
        left_out.update(_bypasses(client))
        helpers &= _helpers(client)
    if len(clients) > 1:
        known = [command_names(client) for client in clients]
        lacking = {name for item in known for other in known for name in item - other}
        left_out.update(dict.fromkeys(lacking, "one of the servers lacks it"))
    return ServerFacts(frozenset(helpers), left_out, database_of(clients[0]))


def _bypasses(client: Client) -> dict[str, str]:
    found = keys_of_calls(client, [(item.command, *item.call) for item in ACL_BYPASSES])
    return {
        item.command: item.why
        for item, keys in zip(ACL_BYPASSES, found, strict=True)
        # A server that does not answer is not trusted either.
        if keys != item.keys
    }


def _helpers(client: Client) -> set[str]:
    names = {name: name.replace(" ", "|") for name in HELPERS}
    known = known_commands(client, sorted(names.values()))
    return {name for name, word in names.items() if word in known}


COMMON_COMMANDS = (
    "ping", "echo", "time", "hgetall", *(f"client|{name.lower()}" for name in OF_THE_CONNECTION)
)  # fmt: skip
"""Commands of connecting clients, commands without keys, and HGETALL for the guard record.

AUTH, HELLO, QUIT and RESET are allowed to every user.
"""


CLUSTER_COMMANDS = ("cluster|slots", "cluster|shards", "asking", "readonly")
"""Commands of clients of a cluster; no other sub-command, since GETKEYSINSLOT lists keys."""

TRANSACTION = ("multi", "exec", "discard", "unwatch")
"""Commands of connecting clients around a batch, with WATCH on granted keys."""


class FenceNote(NamedTuple):
    """A caveat of a fence, shown to the operator; the message follows *what*."""

    code: str
    what: str
    message: str


@dataclass(frozen=True, slots=True)
class Fence:
    """The desired user of an identity.

    Attributes:
        notes: Where the fence is wider or narrower than the policy.
        blocker: Why the identity should not be fenced; None if it can be.
    """

    identity: str
    rules: Rules
    notes: tuple[FenceNote, ...] = ()
    blocker: str | None = None


def fence_of(guard: CompiledGuard, digests: Iterable[str], facts: ServerFacts) -> Fence:
    """Return the desired user of an identity.

    Args:
        guard: Its guard, compiled for the server.
        digests: The digests of its scripts.

    Raises:
        OperationError (unsayable-pattern): ACL rules cannot express a pattern.
    """
    plan = guard.plan
    calls = tuple(f"evalsha|{digest}" for digest in digests)
    authentication, log, *control = _control_selectors(plan)
    selectors = (
        # Any key may be declared: the guard denies wrong ones, and records that.
        Selector(calls, (EVERY_KEY,)),
        authentication,
        log,
        *data_selectors(plan, facts.left_out, facts.helpers),
        *control,
    )
    rules = Rules(root_of(guard.identity, facts.database, plan), selectors)
    return Fence(guard.identity, rules, tuple(_notes(plan, facts)), _blocker(plan))


def root_of(identity: str, database: int, plan: Guard) -> Selector:
    """Return the root permissions of a user, by which keyleash recognizes its users."""
    # Without a rule for SELECT the user cannot leave database 0.
    select = (f"select|{database}",) if database else ()
    wait = ("wait",) if plan.identity.durability.wait_replicas else ()
    cluster = CLUSTER_COMMANDS if plan.shards else ()
    return Selector(
        (*COMMON_COMMANDS, *cluster, *TRANSACTION, *select, *wait),
        (record_rule(plan.keyspace.guard(identity)),),
    )


def selected_by(root: Selector) -> int | None:
    """Return the database in the root permissions of a user; None if no fence made them."""
    selects = [name for name in root.commands if name.partition("|")[0] == "select"]
    if not selects:
        return 0
    number = selects[0].partition("|")[2]
    return int(number) if len(selects) == 1 and number.isdecimal() else None


def record_rule(record: str) -> str:
    """Return the rule that lets a user read its guard record."""
    return f"%R~{record}"


def without_digests(rules: Rules) -> Rules:
    """Return the rules for a server that rejects first arguments of EVALSHA."""
    runner, *others = rules.selectors
    return Rules(rules.root, (Selector(("evalsha",), runner.keys), *others))


def _blocker(plan: Guard) -> str | None:
    for pattern in plan.identity.granted_keys:
        if may_reach(pattern, CONTROL_PREFIX):
            return (
                f"its pattern `{pattern.source}` may match control keys, which an ACL cannot"
                " exclude: tokens, limits and audit streams of all identities"
            )
    return None


def _notes(plan: Guard, facts: ServerFacts) -> Iterator[FenceNote]:
    granted = {usage.spec.name for usage in plan.usages if usage.missing is None}
    for name in sorted(granted & set(facts.left_out)):
        yield FenceNote("left-out", name, f"not available when fenced: {facts.left_out[name]}")
    if facts.database:
        yield FenceNote(
            "database",
            f"`database {facts.database}`",
            "connections begin in database 0, and ACLs apply to key names in every database:"
            " the user may use keys of these names there, too",
        )
    for pattern in plan.identity.denied_keys:
        if any(overlaps(pattern, item) for item in plan.identity.granted_keys):
            yield FenceNote(
                "deny", f"`{pattern.source}`", "denied by the guard only: ACLs have no deny rules"
            )
    for pattern in (item for grant in plan.identity.grants for item in grant.indexes):
        yield FenceNote(
            "index",
            f"the index `{pattern.source}`",
            "before Search 8, servers check its name alone, and a direct search reads all of it",
        )
    grants = plan.identity.grants
    readable = patterns_for(grants, {OperationClass.READ})
    for pattern in imaged_patterns(plan):
        if not any(covers(item, pattern) for item in readable):
            yield FenceNote(
                "images",
                f"`{pattern.source}`",
                "readable to the user without a grant: the guard stores its before-images",
            )
    yield from _split_classes(readable, patterns_for(grants, WRITING))


def _split_classes(readable: Sequence[Pattern], writable: Sequence[Pattern]) -> Iterator[FenceNote]:
    for item in readable:
        for other in writable:
            if overlaps(item, other) and not (covers(item, other) or covers(other, item)):
                yield FenceNote(
                    "split",
                    f"`{item.source}` with `{other.source}`",
                    "commands that read and write need one pattern that gives both",
                )
