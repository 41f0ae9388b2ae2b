"""The ACL rules of an identity."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from redis.exceptions import RedisError

from keyleash.commands.spec import OperationClass
from keyleash.compiler import CompiledGuard
from keyleash.compiler.ir import Guard
from keyleash.fence.acl import EVERY_KEY, GLOB_CHARACTERS, Rules, Selector, may_reach
from keyleash.fence.data_rules import HELPERS, WRITING, data_selectors, imaged_patterns
from keyleash.policy.keysets import covers, overlaps
from keyleash.policy.model import Pattern
from keyleash.store.keyspace import PUBLIC_PREFIX, Keyspace
from keyleash.store.records import Client, GuardRecord, database_of
from keyleash.store.server_check import operator_client
from keyleash.store.wire import Transport, call_head, reading_reply

# What a guard does to control keys, which it does with the rights of its agent.
#
# A fenced agent that speaks to the server by itself can do the same to these keys, and to no
# others: see docs/how-to/fence.md for what that opens. An ACL cannot tell the guard from its agent.

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
    return "".join(f"\\{item}" if item in GLOB_CHARACTERS else item for item in name)


def _under(prefix: str) -> str:
    return f"{_literal(prefix)}*"


# Commands that a fence leaves out though the policy grants them; the guard then cannot run them.
#
# A server finds the keys of some calls wrongly, and its ACLs then check others than the call
# touches. A guard refuses these calls; a user that is allowed the command could make them by
# itself. So each is tried on the server, by COMMAND GETKEYS, which shares the code of the check.
# Where the server is sealed, what it finds must begin with the vault's prefix, which no agent
# knows; so only those calls matter in which it finds no key at all.

LEFT_OUT: Mapping[str, str] = {"SCAN": "an ACL lets it list every key of the server"}
"""Whatever the server and the tier."""

LEFT_OUT_UNSEALED: Mapping[str, str] = {"COPY": "an ACL lets it write into another database"}
"""Unless the server is sealed: then an agent would have to know the name of a key."""


class AclBypass(NamedTuple):
    """A call, and the keys that it touches."""

    command: str
    call: tuple[str, ...]
    keys: tuple[str, ...]
    why: str


ACL_BYPASSES = (
    AclBypass("PFMERGE", ("other",), ("other",), "called without sources, it makes any key"),
    AclBypass(
        "SORT", ("key", "STORE", "LIMIT", "STORE", "other"), ("key", "other"),
        "behind a target named like an option, it writes any key",
    ),
    AclBypass(
        "GEORADIUS", ("key", "1", "1", "1", "m", "STORE", "one", "STORE", "other"),
        ("key", "other"), "with two targets, it writes any key",
    ),
    AclBypass(
        "GEORADIUSBYMEMBER", ("key", "m", "1", "m", "STORE", "one", "STORE", "other"),
        ("key", "other"), "with two targets, it writes any key",
    ),
    AclBypass(
        "XREADGROUP", ("COUNT", "1", "GROUP", "STREAMS", "c", "STREAMS", "other", ">"),
        ("other",), "with a group named STREAMS, it reads any stream",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """
    Of all servers together.

    Attributes:
        helpers: Commands that guards run besides those they are options for, in upper case.
        left_out: Those that no user gets, in upper case, and why.
        database: The number of the one that the keys are in.
    """

    helpers: Collection[str]
    left_out: Mapping[str, str]
    database: int = 0


def read_server_facts(clients: Sequence[Client], keyspace: Keyspace) -> ServerFacts:
    """
    Read them; nothing is changed.

    Args:
        clients: One for each server; the first is connected to the database of the keys.
        keyspace: Where these are.
    """
    clients = [operator_client(item, "clients") for item in clients]
    is_sealed = bool(keyspace.vault)
    left_out = dict(LEFT_OUT) if is_sealed else {**LEFT_OUT, **LEFT_OUT_UNSEALED}
    helpers = set(HELPERS)
    for client in clients:
        left_out.update(_holes(client, is_sealed))
        helpers &= _helpers(client)
    if len(clients) > 1:
        known = [_names(client) for client in clients]
        lacking = {name for item in known for other in known for name in item - other}
        left_out.update(dict.fromkeys(lacking, "one of the servers lacks it"))
    return ServerFacts(frozenset(helpers), left_out, database_of(clients[0]))


def _holes(client: Client, is_sealed: bool) -> dict[str, str]:
    with client.pipeline(transaction=False) as pipe:
        for hole in ACL_BYPASSES:
            # Its name as one word: redis-py knows how to read the reply of that.
            pipe.execute_command("COMMAND GETKEYS", hole.command, *hole.call)
        answers = pipe.execute(raise_on_error=False)
    with reading_reply("COMMAND GETKEYS"):
        return {
            hole.command: hole.why
            for hole, answer in zip(ACL_BYPASSES, answers, strict=True)
            # A server that does not say is not trusted either.
            if isinstance(answer, RedisError)
            or (not is_sealed and tuple(map(_text, answer)) != hole.keys)
        }


def _helpers(client: Client) -> set[str]:
    names = sorted(HELPERS)
    said = client.execute_command("COMMAND INFO", *(name.replace(" ", "|") for name in names))
    with reading_reply("COMMAND INFO"):
        return {name for name, info in zip(names, said, strict=True) if info is not None}


def _names(client: Client) -> set[str]:
    """Of the server's commands, without sub-commands."""
    listed = client.execute_command("COMMAND LIST")
    with reading_reply("COMMAND LIST"):
        return {_text(name).upper() for name in listed}


def _text(reply: bytes | str) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply


Call = tuple[str, str]
"""A command in lower case and its first argument: what calls a guard."""

FOR_EVERYBODY = ("ping", "echo", "time", "client|setinfo", "client|setname", "hgetall")
"""What clients send when they connect, what needs no key, and HGETALL for the guard record.

AUTH, HELLO, QUIT and RESET are allowed to every user.
"""


class FenceNote(NamedTuple):
    """Something that whoever sets up a fence must know of it; *what* begins the sentence."""

    code: str
    what: str
    message: str


@dataclass(frozen=True, slots=True)
class Fence:
    """
    An identity's user as it is desired.

    Attributes:
        notes: What the fence lets through, or keeps from the guard, against the policy.
        blocker: Why nobody should have such a user; None if there is no reason.
    """

    identity: str
    rules: Rules
    notes: tuple[FenceNote, ...] = ()
    blocker: str | None = None


def script_calls(guard: CompiledGuard, transport: Transport) -> tuple[Call, ...]:
    """How the scripts of a guard are called."""
    return tuple(_call(transport, digest) for digest in guard.scripts)


def record_calls(record: GuardRecord) -> tuple[Call, ...]:
    """How the scripts that a guard record names are called."""
    return tuple(_call(record.transport, digest) for digest in (record.digest, record.batch_digest))


def _call(transport: Transport, digest: str) -> Call:
    command, first = call_head(transport, digest)
    return command.lower(), first


def fence_of(guard: CompiledGuard, calls: Sequence[Call], facts: ServerFacts) -> Fence:
    """
    The user of an identity.

    Args:
        guard: The identity's, compiled for the server.
        calls: How its scripts are called.
        facts: Of the server.

    Raises:
        OperationError (unsayable-pattern): ACL rules cannot hold one of its patterns.
    """
    plan = guard.plan
    vault = plan.keyspace.vault
    rules = Rules(
        root_of(guard.identity, facts.database, plan),
        (
            # Any key may be declared: the guard refuses a wrong one, and records that.
            Selector(tuple(f"{command}|{first}" for command, first in calls), (EVERY_KEY,)),
            *control_selectors(plan)[:2],
            *data_selectors(plan, facts.left_out, facts.helpers, vault),
            *control_selectors(plan)[2:],
        ),
    )
    return Fence(guard.identity, rules, tuple(_notes(plan, facts)), _hindrance(plan, vault))


def root_of(identity: str, database: int, plan: Guard) -> Selector:
    """What a user may do outside of its selectors; by the key of it a user is known as ours."""
    # Without a rule for SELECT it cannot leave database 0.
    select = (f"select|{database}",) if database else ()
    wait = ("wait",) if plan.identity.durability.wait_replicas else ()
    return Selector((*FOR_EVERYBODY, *select, *wait), (record_rule(plan.keyspace.guard(identity)),))


def selected_by(root: Selector) -> int | None:
    """Return the database of the policy that a root was made for; None if no fence made it."""
    selects = [name for name in root.commands if name.partition("|")[0] == "select"]
    if not selects:
        return 0
    number = selects[0].partition("|")[2]
    return int(number) if len(selects) == 1 and number.isdecimal() else None


def record_rule(record: str) -> str:
    """The rule that lets a user read its guard record."""
    return f"%R~{record}"


def without_digests(rules: Rules) -> Rules:
    """The same rules for a server that does not take a first argument with EVALSHA or FCALL."""
    runner, *others = rules.selectors
    commands = tuple(dict.fromkeys(name.partition("|")[0] for name in runner.commands))
    return Rules(rules.root, (Selector(commands, runner.keys), *others))


def _hindrance(plan: Guard, vault: str) -> str | None:
    prefixes = {PUBLIC_PREFIX, plan.keyspace.prefix}
    for pattern in _patterns(plan):
        if any(may_reach(pattern, prefix, vault) for prefix in prefixes):
            return (
                f"its pattern `{pattern.source}` may reach keyleash's own keys, which an ACL cannot"
                " take out again: tokens, limits and trails of all identities"
            )
    return None


def _notes(plan: Guard, facts: ServerFacts) -> Iterator[FenceNote]:
    granted = {usage.spec.name for usage in plan.usages if usage.missing is None}
    for name in sorted(granted & set(facts.left_out)):
        yield FenceNote("left-out", name, f"not to be had fenced: {facts.left_out[name]}")
    if facts.database:
        yield FenceNote(
            "database",
            f"`database {facts.database}`",
            "connections begin in database 0, and ACLs hold for names of keys in any database:"
            " the user may use keys of these names there, too",
        )
    for deny in plan.identity.deny:
        for pattern in deny.keys:
            if any(overlaps(pattern, item) for item in _patterns(plan)):
                yield FenceNote(
                    "deny", f"`{pattern.source}`", "denied by the guard alone: ACLs only allow"
                )
    readable = _giving(plan, {OperationClass.READ})
    for pattern in imaged_patterns(plan):
        if not any(covers(item, pattern) for item in readable):
            yield FenceNote(
                "images",
                f"`{pattern.source}`",
                "readable to the user, though not granted: the guard keeps before-images of it",
            )
    yield from _split_classes(readable, _giving(plan, WRITING))


def _split_classes(readable: Sequence[Pattern], writable: Sequence[Pattern]) -> Iterator[FenceNote]:
    for item in readable:
        for other in writable:
            if overlaps(item, other) and not (covers(item, other) or covers(other, item)):
                yield FenceNote(
                    "split",
                    f"`{item.source}` with `{other.source}`",
                    "no command that reads and writes gets a key of both: one pattern must give"
                    " it all",
                )


def _patterns(plan: Guard) -> list[Pattern]:
    return [pattern for grant in plan.identity.grants for pattern in grant.keys]


def _giving(plan: Guard, classes: Collection[OperationClass]) -> list[Pattern]:
    return [
        pattern
        for grant in plan.identity.grants
        if not set(classes).isdisjoint(grant.allow)
        for pattern in grant.keys
    ]
