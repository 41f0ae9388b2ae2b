"""Seal, rotate and unseal a server's prefixes, and adopt keys."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from redis.exceptions import ResponseError, WatchError

from keyleash.errors import OperationError
from keyleash.fence.apply import refreshed_users
from keyleash.fence.record import read_records, write_tier
from keyleash.operator.load.activate import activate_policy
from keyleash.operator.load.compile import PreparedPolicy, prepare_policy
from keyleash.operator.load.functions import load_functions, retire_functions
from keyleash.operator.load.staging import LoadStage, load_scripts, record_sources
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import (
    ChangeKind,
    PrefixChange,
    change_fields,
    read_seal,
    server_keyspace,
)
from keyleash.store.records import ActivePolicy, Client, read_active
from keyleash.store.scripts import END_SWITCH, SWITCH_PREFIXES, switch_arguments
from keyleash.store.server_check import operator_client
from keyleash.store.token import reject_tokens
from keyleash.store.wire import Transport
from keyleash.vault.names import (
    Moved,
    NewName,
    Report,
    changed_names,
    conflict,
    find_conflicts,
    into_vault,
    logical_names,
    move_keys,
    out_of_vault,
    patterns_of,
)

# Putting other prefixes in force: for the first time, again, or none.
#
#     plan      the new prefixes stand in the record before anything is made under them
#     prepare   guards that know them are compiled, loaded and staged; agents go on as before
#     switch    one script: new guards are active and refuse everybody as suspended
#     move      every key gets its new name, in pieces
#     end       one script: who was not suspended before may act again
#
# Nobody sees keys in two places: up to the switch all are in the old one, and nobody acts until
# all are in the new one. Whatever is interrupted is gone on with by asking for the same again.

PREFIX_BYTES = 16


@dataclass(frozen=True, slots=True)
class Hooks:
    """
    What else must know of a change, such as rules of an ACL.

    Attributes:
        before_begin: Called before the first write; at once if the change was begun before.
        before_switch: Called with the prefixes and guards that are about to be in force; those
            before them still are.
        after_end: Called with the prefixes that are in force, once the others are of no use.
    """

    before_switch: Callable[[Keyspace, PreparedPolicy], None] = lambda _keyspace, _prepared: None
    after_end: Callable[[Keyspace], None] = lambda _keyspace: None
    before_begin: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """
    What a change did.

    Attributes:
        moved: How many keys got other names.
        generation: Of the policy, which is the same, with other guards.
        resumed: Whether it was begun before.
    """

    moved: int
    generation: int
    resumed: bool


def seal(
    client: Client,
    *,
    adopt: Sequence[str] = (),
    actor: str = "unknown",
    report: Report | None = None,
    hooks: Hooks | None = None,
    others: Sequence[Client] = (),
) -> ChangeResult:
    """
    Put the control keys, and all keys that agents use from then on, under random prefixes.

    Args:
        client: A redis-py client of an operator.
        adopt: Patterns of the keys that go into the vault with it.
        actor: Who does it, for the control stream.
        report: Told now and again how far it is.
        hooks: What else must know.
        others: Further servers, such as replicas, whose ACL users are to be kept in step.

    Raises:
        OperationError (vault): the server is sealed, or another change is under way.
        OperationError (no-policy): no policy is active.
        OperationError (activation-conflict): a policy was loaded at the same time.
        VaultConflictError: two keys claim a name; the others were moved.
    """
    return _change(client, ChangeKind.SEAL, adopt, actor, report, hooks or Hooks(), others)


def rotate(
    client: Client,
    *,
    actor: str = "unknown",
    report: Report | None = None,
    hooks: Hooks | None = None,
    others: Sequence[Client] = (),
) -> ChangeResult:
    """Replace both prefixes of a sealed server by new ones; see `seal`."""
    return _change(client, ChangeKind.ROTATE, (), actor, report, hooks or Hooks(), others)


def unseal(
    client: Client,
    *,
    actor: str = "unknown",
    report: Report | None = None,
    hooks: Hooks | None = None,
    others: Sequence[Client] = (),
) -> ChangeResult:
    """Give all keys of a sealed server the names that agents have for them; see `seal`.

    Where such a key exists already, nothing is begun.
    """
    return _change(client, ChangeKind.UNSEAL, (), actor, report, hooks or Hooks(), others)


def _change(
    client: Client,
    kind: ChangeKind,
    adopt: Sequence[str],
    actor: str,
    report: Report | None,
    hooks: Hooks,
    others: Sequence[Client],
) -> ChangeResult:
    client = operator_client(client)
    others = [operator_client(other, "others") for other in others]
    reject_tokens(actor=actor)
    change, resumed = _planned(client, kind, adopt, hooks)
    if not change.is_switched:
        _load_as_it_is(client, change.old, actor)
    active = _require_policy(client, change.new if change.is_switched else change.old)
    prepared = _prepared(client, active.document, change.new)
    # In either place, if the change was interrupted.
    records = {**read_records(client, change.old), **read_records(client, change.new)}
    nodes, guards = (client, *others), prepared.guards
    with refreshed_users(nodes, change.new, guards, active.transport, records):
        if not change.is_switched:
            _switch(client, change, prepared, actor, hooks)
        moved = _move(client, change, report)
        client.eval(END_SWITCH.text, *END_SWITCH.arguments(change.new, actor))
    write_tier(client, change.new, records)
    hooks.after_end(change.new)
    generation = _require_policy(client, change.new).generation
    # Those of before know prefixes that are of no use any more.
    retire_functions(client, change.new, guards, active.transport, generation)
    return ChangeResult(moved, generation, resumed)


def _planned(
    client: Client, kind: ChangeKind, adopt: Sequence[str], hooks: Hooks
) -> tuple[PrefixChange, bool]:
    """The change that is under way, or a new one; and which it is."""
    record = read_seal(client)
    if record.change is not None:
        hooks.before_begin()
        return _resumed(record.change, kind, adopt), True
    old = record.keyspace
    _require_sealed(kind, old)
    _require_policy(client, old)
    new = Keyspace() if kind is ChangeKind.UNSEAL else Keyspace(_prefix(), _prefix())
    change = PrefixChange(kind, old, new, adopt=tuple(adopt))
    names = changed_names(change, patterns_of(adopt, old))
    if kind is ChangeKind.UNSEAL and (taken := find_conflicts(client, names)):
        raise conflict(logical_names(taken, old))
    with client.pipeline(transaction=True) as pipe:
        pipe.watch(old.sealed)
        if not pipe.hexists(old.sealed, "change"):
            pipe.multi()
            pipe.hset(old.sealed, mapping=change_fields(change))
            hooks.before_begin()
            with suppress(WatchError):
                pipe.execute()
                return change, False
    raise OperationError(
        "vault", "another change of the vault was begun just now", help="see what it does"
    )


def _resumed(change: PrefixChange, kind: ChangeKind, adopt: Sequence[str]) -> PrefixChange:
    if change.kind is not kind:
        raise OperationError(
            "vault",
            f"`keyleash vault {change.kind.value}` was begun and not finished",
            help="run that again first: it goes on where it was",
        )
    # What was asked for now counts as well.
    return replace(change, adopt=tuple(dict.fromkeys((*change.adopt, *adopt))))


def _require_sealed(kind: ChangeKind, keyspace: Keyspace) -> None:
    if kind is ChangeKind.SEAL and keyspace.vault:
        raise OperationError(
            "vault",
            "the server is sealed already",
            help="`keyleash vault rotate` replaces its prefixes, `vault adopt` moves keys in",
        )
    if kind is not ChangeKind.SEAL and not keyspace.vault:
        raise OperationError(
            "vault", "the server is not sealed", help="see `keyleash vault seal --help`"
        )


def _require_policy(client: Client, keyspace: Keyspace) -> ActivePolicy:
    active = read_active(client, keyspace)
    if active is None:
        raise OperationError(
            "no-policy", "no policy is active", help="load one with `keyleash load FILE`"
        )
    return active


def _prefix() -> str:
    return f"{secrets.token_hex(PREFIX_BYTES)}:"


def _load_as_it_is(client: Client, keyspace: Keyspace, actor: str) -> None:
    # States are taken over as they are, so they must be as the new guards count.
    active = _require_policy(client, keyspace)
    prepared = _prepared(client, active.document, keyspace)
    activate_policy(
        client,
        prepared,
        actor=actor,
        keyspace=keyspace,
        transport=active.transport,
        # It is the active policy itself.
        allow_removal=True,
    )


def _switch(
    client: Client, change: PrefixChange, prepared: PreparedPolicy, actor: str, hooks: Hooks
) -> None:
    """Let guards that know the new prefixes take over from those that know the old ones."""
    active = _require_policy(client, change.old)
    load = load_functions if active.transport is Transport.FUNCTION else load_scripts
    load(client, prepared.guards)
    record_sources(client, change.new, prepared.guards)
    hooks.before_switch(change.new, prepared)
    stage = LoadStage(client, change.new)
    try:
        stage.put_records(
            prepared.guards, active.generation + 1, prepared.commands, active.transport
        )
        stage.keep_records()
        stamps = {
            guard.identity.encode(): struct.pack("<d", guard.stamp) for guard in prepared.guards
        }
        left = set(client.hkeys(change.old.layouts)) - set(stamps)
        words = [word for name in left for word in (name, b"")]
        words += [word for pair in stamps.items() for word in pair]
        arguments = switch_arguments(change.old, change.new, active.generation, stage.load, *words)
        client.evalsha(client.script_load(SWITCH_PREFIXES.text), *arguments)
    except ResponseError as error:
        if str(error).startswith("LEASH ACTIVATION_"):
            raise OperationError(
                "activation-conflict",
                "another policy was activated at the same time; no prefix was changed",
                help=f"run `keyleash vault {change.kind.value}` again",
            ) from None
        raise
    finally:
        stage.discard()


def _prepared(client: Client, document: str, keyspace: Keyspace) -> PreparedPolicy:
    # It is active already, however the server is configured.
    return prepare_policy(
        client,
        document,
        file="<active policy>",
        keyspace=keyspace,
        allow_eviction=True,
        allow_unvalidated_restore=True,
    )


def _move(client: Client, change: PrefixChange, report: Report | None) -> int:
    names = changed_names(change, patterns_of(change.adopt, change.old))
    moved = 0
    while True:
        # Once more after the last: a tool that began before the switch may have written meanwhile.
        walk = move_keys(client, names, report, moved)
        moved += walk.count
        if walk.conflicts:
            raise conflict(logical_names(walk.conflicts, change.old, change.new))
        if not walk.count:
            break
    identities = [name.decode() for name in client.hkeys(change.new.layouts)]
    if identities:
        client.unlink(*map(change.old.source, identities))
    return moved


def adopt_keys(client: Client, patterns: Sequence[str], report: Report | None = None) -> Moved:
    """
    Move keys into the vault: from then on agents have them, and others have not.

    Each moves at once, with its expiry. What was interrupted is gone on with by calling this
    again.

    Args:
        client: A redis-py client of an operator.
        patterns: Of keys, as policies have them.
        report: Told now and again how far it is.

    Raises:
        OperationError (vault): the server is not sealed, or a pattern is about keyleash's own keys.
        VaultConflictError: keys of these names are in the vault already. All others were moved.
    """
    client = operator_client(client)
    keyspace = _sealed_keyspace(client)
    names = into_vault(keyspace, patterns_of(patterns, keyspace))
    return _moved(client, keyspace, names, report)


def release_keys(client: Client, patterns: Sequence[str], report: Report | None = None) -> Moved:
    """
    Move keys out of the vault, under the names that agents have for them; see `adopt_keys`.

    Raises:
        OperationError (vault): the server is not sealed, or a pattern is about keyleash's own keys.
        VaultConflictError: keys of these names are outside already. All others were moved.
    """
    client = operator_client(client)
    keyspace = _sealed_keyspace(client)
    names = out_of_vault(keyspace, patterns_of(patterns, keyspace))
    return _moved(client, keyspace, names, report)


def _sealed_keyspace(client: Client) -> Keyspace:
    keyspace = server_keyspace(client)
    if not keyspace.vault:
        raise OperationError(
            "vault", "the server is not sealed", help="see `keyleash vault seal --help`"
        )
    return keyspace


def _moved(client: Client, keyspace: Keyspace, names: NewName, report: Report | None) -> Moved:
    moved = move_keys(client, names, report)
    if moved.conflicts:
        raise conflict(logical_names(moved.conflicts, keyspace))
    return moved
