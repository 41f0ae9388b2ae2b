"""The records of the active policy, of earlier ones, and of each guard."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from typing import Any

from keyleash.commands import CommandSpec, CommandTable, load_table
from keyleash.commands.spec import KeyRange, KeySearch, NumberedKeys, OptionKey, StreamKeys
from keyleash.errors import KeyleashError
from keyleash.store.keyspace import Keyspace
from keyleash.store.wire import Transport, reading_record

Client = Any
"""A redis-py client with `decode_responses` off, whose stubs mix sync and async types."""


def database_of(client: Client) -> int:
    """Return the number of the database that a client is connected to."""
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


@dataclass(frozen=True, slots=True)
class ActivePolicy:
    """What the last activation left.

    Attributes:
        generation: How many policies were activated here, this one among them.
        digest: SHA-256 of the policy's meaning.
        document: The policy file's text.
        actor: Who activated it.
        activated_ms: When, server time, Unix milliseconds.
        transport: How its guards are called.
        before: Digest of the policy that was active before; empty if none was.
    """

    generation: int
    digest: str
    document: str
    actor: str
    activated_ms: int
    transport: Transport = Transport.EVALSHA
    before: str = ""


@dataclass(frozen=True, slots=True)
class GuardRecord:
    """How a wrapper finds its scripts: the guard of one command, and that of a batch.

    Attributes:
        commands: What the wrapper cannot know of the server's commands; see `protocol.learned`.
        transport: How they are called.
        wait_replicas: How many replicas must have a write before it is told as done.
        wait_ms: For how long they are waited for.
        ttl_s: How long a new token lives, in seconds, unless its issuer says otherwise.
        max_ttl_s: How long a new token may live.
        idle_s: After how many seconds without use a token expires; 0 if it does not.
        rotate_after_s: After how many seconds a token is due for rotation; 0 if never.
    """

    digest: str
    batch_digest: str
    policy_digest: str
    generation: int
    commands: str = ""
    transport: Transport = Transport.EVALSHA
    wait_replicas: int = 0
    wait_ms: int = 0
    ttl_s: int = 0
    max_ttl_s: int = 0
    idle_s: int = 0
    rotate_after_s: int = 0


def read_active(client: Client, keyspace: Keyspace) -> ActivePolicy | None:
    """The active policy, or None if none ever was, or all was flushed."""
    return active_policy(client.hgetall(keyspace.policy))


def active_policy(raw: dict[bytes, bytes]) -> ActivePolicy | None:
    """Read the fields of a policy's record; None if there is none.

    Raises:
        KeyleashError: a later version wrote it, or somebody else.
    """
    if not raw:
        return None
    with reading_record("the record of a policy"):
        return _active_policy(raw)


def _active_policy(raw: dict[bytes, bytes]) -> ActivePolicy:
    fields = {name.decode(): value.decode("utf-8", "replace") for name, value in raw.items()}
    return ActivePolicy(
        generation=int(fields["generation"]),
        digest=fields["digest"],
        document=fields["document"],
        actor=fields["actor"],
        activated_ms=int(fields["activated_ms"]),
        transport=_transport(fields["transport"]),
        before=fields["before"],
    )


def guard_record(raw: dict[bytes, bytes]) -> GuardRecord | None:
    """Read the fields of a guard record; None if the identity has none.

    Raises:
        KeyleashError: a later version wrote it, and this one cannot call its scripts.
    """
    if not raw:
        return None
    with reading_record("a guard record"):
        return _guard_record(raw)


def _guard_record(raw: dict[bytes, bytes]) -> GuardRecord:
    return GuardRecord(
        digest=raw[b"digest"].decode(),
        batch_digest=raw[b"batch_digest"].decode(),
        policy_digest=raw[b"policy_digest"].decode(),
        generation=int(raw[b"generation"]),
        commands=raw[b"commands"].decode(),
        transport=_transport(raw[b"transport"].decode()),
        wait_replicas=int(raw[b"wait_replicas"]),
        wait_ms=int(raw[b"wait_ms"]),
        ttl_s=int(raw[b"ttl_s"]),
        max_ttl_s=int(raw[b"max_ttl_s"]),
        idle_s=int(raw[b"idle_s"]),
        rotate_after_s=int(raw[b"rotate_after_s"]),
    )


def _transport(word: str) -> Transport:
    try:
        return Transport(word)
    except ValueError:
        raise KeyleashError(
            f"the guards are called in a way that is not known here, `{word}`",
            help="update keyleash on this side",
        ) from None


def read_history(client: Client, keyspace: Keyspace) -> tuple[ActivePolicy, ...]:
    """
    Read all policies that are kept, each once, as it last was active; the newest first.

    An activation writes its own entry in the same step, so the first one is the active policy.
    """
    digests = client.zrevrange(keyspace.history, 0, -1)
    with client.pipeline(transaction=False) as pipe:
        for digest in digests:
            pipe.hgetall(keyspace.kept_policy(digest.decode()))
        records = pipe.execute() if digests else []
    found = map(active_policy, records)
    return tuple(item for item in found if item is not None)


# What a guard record tells wrappers of commands that they cannot know.
#
# A wrapper declares the keys of each call, and finds them by the shipped table. A server
# may have commands that this table lacks, those of a module or of a later version, or
# whose keys stand elsewhere. Where the guard looks for the keys of these is in the field
# `commands` of the record: `{"NAME": [["range", first, last, step], …]}`, the fields of
# each search in the order of its class, without its needs. The field is empty as a rule.

_KINDS: dict[str, Callable[..., KeySearch]] = {
    kind.kind: kind for kind in (KeyRange, NumberedKeys, OptionKey, StreamKeys)
}


def commands_to_learn(server: CommandTable) -> str:
    """The field `commands` of the records of guards that were compiled against *server*."""
    shipped = load_table()
    searches = {
        spec.name: [_packed(search) for search in spec.keys]
        for spec in server
        if spec.refused is None and spec.keys and _keys(shipped.get(spec.name)) != spec.keys
    }
    return json.dumps(searches, separators=(",", ":"), sort_keys=True) if searches else ""


@lru_cache(maxsize=16)
def learned_table(commands: str) -> CommandTable:
    """The shipped table with what the field *commands* of a guard record adds to it."""
    shipped = load_table()
    if not commands:
        return shipped
    return shipped.extended(
        {
            name: replace(_known(name, shipped), refused=None, keys=tuple(map(_read, searches)))
            for name, searches in json.loads(commands).items()
            # A later loader may know of searches that this wrapper does not.
            if all(search[0] in _KINDS for search in searches)
        }
    )


def _keys(spec: CommandSpec | None) -> tuple[KeySearch, ...] | None:
    return spec.keys if spec is not None else None


def _known(name: str, shipped: CommandTable) -> CommandSpec:
    return shipped.get(name) or CommandSpec(name, arity=-1, flags=(), categories=())


def _packed(search: KeySearch) -> list[Any]:
    *places, _needs = astuple(search)
    return [search.kind, *places]


def _read(packed: list[Any]) -> KeySearch:
    kind, *places = packed
    return _KINDS[kind](*map(_tuples, places), ())


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
