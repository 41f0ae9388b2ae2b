"""The records of the active policy, of earlier ones, and of each guard."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from keyleash.commands import CommandSpec, CommandTable, known_table, load_table
from keyleash.commands.spec import KeyRange, KeySearch, NumberedKeys, OptionKey, StreamKeys
from keyleash.results import Instant, Result
from keyleash.store.keyspace import script_digest
from keyleash.store.server import round_trip
from keyleash.store.server_check import Client
from keyleash.store.wire import reading_record
from keyleash.text import StoredDocument, json_object

if TYPE_CHECKING:
    from keyleash.store.store import Store

_R = TypeVar("_R", "ActivePolicy", "GuardRecord")


def database_of(client: Client) -> int:
    """Return the number of the database that a client is connected to."""
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


@dataclass(frozen=True, slots=True)
class ActivePolicy(Result):
    """The record of a policy's activation.

    Attributes:
        generation: The number of activations on this server, including this one.
        digest: SHA-256 of the policy in canonical form.
        document: The policy file's text.
        actor: The operator who activated it.
        activated_ms: Server time of the activation, Unix milliseconds.
        before: Digest of the previous policy; empty if there was none.
        modules: The commands of the server's modules that its guards allow; empty on most servers,
            where records lack this field.
    """

    generation: int
    digest: str
    document: StoredDocument
    actor: str
    activated_ms: int
    before: str = ""
    modules: str = ""

    activated_at = Instant[datetime]()

    def to_dict(self) -> dict[str, Any]:
        """Return the record as `keyleash policy --json` prints it, without the document."""
        return {
            **json_object(self, "generation", "digest", "activated=activated_ms", "by=actor"),
            "from": self.before or None,
        }


@dataclass(frozen=True, slots=True)
class GuardRecord:
    """The public record by which a client finds the scripts of its guard.

    Attributes:
        commands: Key positions of commands that the client's table lacks; see
            `commands_to_learn`.
        wait_replicas: Number of replicas to wait for; 0 disables waiting.
        wait_ms: The longest wait for replicas.
        ttl_s: Default lifetime of a new token, in seconds.
        max_ttl_s: Longest lifetime of a new token.
        idle_s: Idle timeout of tokens, in seconds; 0 disables it.
        rotate_after_s: Age at which a token is due for rotation, in seconds; 0 is never.
        limits: The limits of the identity, see `limits.pack_limits`.
        approved_digest: The script that runs approved scripts; empty if there are none.
        approved: The digests of approved scripts, separated by spaces.
        takes_runs: Whether its batches may have runs.
        delegates: Whether its tokens may make child tokens.
        takes_ids: Whether its calls may have idempotency ids.
        lease: The script by which the home of a cluster grants leases; only there.
        renew: Whether tokens may renew themselves; records of others lack this field.
        takes_source: Whether its calls have their source, see `wire.with_source`; likewise.
        grants: The grants, see `grants.pack_grants`; likewise if the policy hides them.
        flushes: Whether FLUSHDB deletes the keys that the grants cover; likewise.
    """

    digest: str
    batch_digest: str
    policy_digest: str
    generation: int
    commands: str = ""
    wait_replicas: int = 0
    wait_ms: int = 0
    ttl_s: int = 0
    max_ttl_s: int = 0
    idle_s: int = 0
    rotate_after_s: int = 0
    limits: str = ""
    takes_runs: bool = False
    delegates: bool = False
    takes_ids: bool = False
    approved_digest: str = ""
    approved: str = ""
    lease: str = ""
    renew: bool = False
    takes_source: bool = False
    grants: str = ""
    flushes: bool = False

    def may_run(self, script: str) -> bool:
        """Return whether the script with this SHA-1 is approved."""
        return script in self.approved.split()

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests of its scripts."""
        named = (*(getattr(self, name) for name in DIGEST_FIELDS), self.lease)
        return tuple(filter(None, named))


DIGEST_FIELDS = ("digest", "batch_digest", "approved_digest")
"""The fields of a guard record that name scripts on every server."""
RARE_FIELDS = {
    **dict.fromkeys((b"lease", b"grants", b"modules"), b""),
    **dict.fromkeys((b"flushes", b"renew", b"takes_source"), b"0"),
}
"""The fields that most records lack, as if they had these values."""


def read_active(store: Store) -> ActivePolicy | None:
    """Return the active policy; None if there is none, also after a flush."""
    return active_policy(store.client.hgetall(store.keys.policy))


class PolicyHead(NamedTuple):
    """The generation and digest of the active policy, without its document."""

    generation: int
    digest: str


def read_head(store: Store) -> PolicyHead | None:
    """Return the head of the active policy; None if there is none.

    Raises:
        KeyleashError: a later version wrote it, or the record is corrupt.
    """
    raw = store.client.hmget(store.keys.policy, *PolicyHead._fields)
    if raw[0] is None:
        return None
    with reading_record("the record of a policy"):
        generation, digest = (text.decode() for text in raw)
        return PolicyHead(int(generation), digest)


def active_policy(raw: dict[bytes, bytes]) -> ActivePolicy | None:
    """Read the fields of a policy's record; None if there is none.

    Raises:
        KeyleashError: a later version wrote it, or the record is corrupt.
    """
    return _record(ActivePolicy, raw, "the record of a policy", "replace") if raw else None


def guard_record(raw: dict[bytes, bytes]) -> GuardRecord | None:
    """Read the fields of a guard record; None if the identity has none; errors as above."""
    return _record(GuardRecord, raw, "a guard record") if raw else None


def _record(cls: type[_R], raw: dict[bytes, bytes], what: str, errors: str = "strict") -> _R:
    with reading_record(what):
        raw = {**RARE_FIELDS, **raw}
        texts = ((item, raw[item.name.encode()].decode("utf-8", errors)) for item in fields(cls))
        return cls(**{item.name: _READERS[str(item.type)](text) for item, text in texts})


_READERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "StoredDocument": StoredDocument,
    "int": int,
    "bool": lambda text: bool(int(text)),
}
"""The conversion of a field's text, by its type."""


SCRIPT_LEVEL = 4
"""Higher levels of zlib take twice the time for 4 % fewer bytes."""
MAX_SCRIPT_BYTES = 16 * 1024 * 1024
"""Bound of what a stored text may inflate to."""


def packed_script(script: str) -> bytes:
    """Return the stored form of the text of a script, in ASCII: a zlib stream."""
    return zlib.compress(script.encode("ascii"), SCRIPT_LEVEL)


def script_of(stored: bytes, digest: str) -> str | None:
    """Return the text of the script with *digest* from its stored form; None if that is another.

    Earlier versions stored the text as it is.
    """
    try:
        text = zlib.decompressobj().decompress(stored, MAX_SCRIPT_BYTES)
    except zlib.error:
        text = stored
    script = text.decode("latin-1")
    return script if script.isascii() and script_digest(script) == digest else None


def read_history(store: Store) -> tuple[ActivePolicy, ...]:
    """Return the stored policies, each as it was last active; the newest first.

    An activation adds its own entry in the same step, so the first is the active policy.
    """
    digests = store.client.zrevrange(store.keys.history, 0, -1)
    keys = (store.keys.stored_policy(digest.decode()) for digest in digests)
    policies = map(active_policy, round_trip(store.client, (("HGETALL", key) for key in keys)))
    return tuple(policy for policy in policies if policy is not None)


_KINDS: dict[str, Callable[..., KeySearch]] = {
    kind.kind: kind for kind in (KeyRange, NumberedKeys, OptionKey, StreamKeys)
}


def commands_to_learn(server: CommandTable) -> str:
    """Return the field `commands` of the records of guards compiled against *server*.

    A client declares the keys of each call by its shipped table. The server may have commands
    that this table lacks or places differently, those of a module or of a later version. The
    field holds the key searches of these commands: `{"NAME": [["range", first, last, step], …]}`,
    the fields of each search in the order of its class, without its needs. It is empty for servers
    without modules, whose clients do not read the table of modules.
    """
    shipped = known_table()
    searches = {
        spec.name: [_packed(search) for search in spec.keys]
        for spec in server
        if spec.refused is None and spec.keys and _keys(shipped.get(spec.name)) != spec.keys
    }
    is_empty = not searches and all("." not in spec.name for spec in server)
    return "" if is_empty else json.dumps(searches, separators=(",", ":"), sort_keys=True)


@lru_cache(maxsize=16)
def learned_table(commands: str) -> CommandTable:
    """Return the shipped table extended by the field *commands* of a guard record."""
    if not commands:
        return load_table()
    shipped = known_table()
    return shipped.extended(
        {
            name: replace(_known(name, shipped), refused=None, keys=tuple(map(_read, searches)))
            for name, searches in json.loads(commands).items()
            # A later loader may use kinds of searches that this client lacks.
            if all(search[0] in _KINDS for search in searches)
        }
    )


def _keys(spec: CommandSpec | None) -> tuple[KeySearch, ...] | None:
    return spec.keys if spec is not None else None


def _known(name: str, shipped: CommandTable) -> CommandSpec:
    is_module = "." in name
    other = CommandSpec(name, arity=-1, flags=(), categories=(), named_only=is_module)
    return shipped.get(name) or other


def _packed(search: KeySearch) -> list[Any]:
    *places, _needs = astuple(search)
    return [search.kind, *places]


def _read(packed: list[Any]) -> KeySearch:
    kind, *places = packed
    return _KINDS[kind](*map(_tuples, places), ())


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
