"""A server with a policy on it, as most tests need it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

import keyleash
from keyleash.audit.read import read_denials
from keyleash.commands import load_table
from keyleash.operator.load.activate import LoadResult
from keyleash.operator.tokens.issue import IssuedToken, issue_token
from keyleash.policy.scripts import MARK
from keyleash.store.keyspace import Keyspace, account
from keyleash.store.leases import unpack_shard
from keyleash.store.records import GuardRecord, guard_record, script_of
from keyleash.store.server_check import Client
from keyleash.store.shards import read_tags
from keyleash.store.state import Layout, unpack_state
from keyleash.store.store import Store
from keyleash.store.streams import AuditStream, audit_streams, denied_streams
from keyleash.store.token import KEEP_AFTER_EXPIRY_MS, TokenRecord, token_digest
from keyleash.store.wire import ONCE, BatchMode, guard_call, replies_of, runs_call
from keyleash.text import StoredDocument
from support.clustered import NODES, ClusterServer
from support.loading import load_policy

NAMES = Keyspace().at_home() if NODES else Keyspace()


def policy(**identities: dict[str, Any]) -> str:
    """A policy document; underscores in names stand for hyphens, and machines are the rule."""
    return json.dumps(
        {
            "version": 1,
            "identities": {
                name.replace("_", "-"): {"kind": "machine", **body}
                for name, body in identities.items()
            },
        }
    )


def grant(*classes: str, keys: str | list[str], **narrowed: list[str]) -> dict[str, Any]:
    """One grant of a policy document."""
    return {"allow": list(classes), "keys": [keys] if isinstance(keys, str) else keys, **narrowed}


def with_files(document: str, files: Mapping[str, str]) -> StoredDocument:
    """Return a document with the texts of its scripts by file, as a server stores it."""
    lines = (MARK + json.dumps(item) for item in files.items())
    return StoredDocument("\n".join([document, *lines, ""]))


def put_token(
    admin: Client, identity: str, token: str, record: TokenRecord, names: Keyspace = NAMES
) -> None:
    """See `Leash.put_token`."""
    kept_until_ms = record.expires_us // 1000 + KEEP_AFTER_EXPIRY_MS
    name = names.token(identity, token_digest(token))
    admin.set(name, record.pack(), pxat=kept_until_ms)


@dataclass
class Leash:
    """An operator's hands on a server, and agents' clients made by name.

    Attributes:
        server: A `RealServer`, or a `ClusterServer` in its place.
    """

    server: Any
    admin: Client = field(init=False)

    def __post_init__(self) -> None:
        self.admin = self.server.client()

    @property
    def store(self) -> Store:
        """The server's store, for the operator `ops`."""
        if isinstance(self.server, ClusterServer):
            return self.server.store("ops")
        return Store(self.admin, actor="ops")

    @property
    def node(self) -> Any:
        """A client of one node, which sends what it gets: redis-py routes by the words."""
        return self.server.home if isinstance(self.server, ClusterServer) else self.admin

    @property
    def nodes(self) -> Sequence[Any]:
        """Clients of all nodes with slots, or of the one server."""
        if not isinstance(self.server, ClusterServer):
            return [self.admin]
        return [node.admin for node in self.server.nodes]

    def names_at(self, key: str) -> Keyspace:
        """Return the names of the control keys that the calls of a key use."""
        if not isinstance(self.server, ClusterServer):
            return NAMES
        return NAMES.at_shard(self.server.tag_of(self.server.node_of(key)))

    def end_leases(self) -> None:
        """Forget the tokens that shards know, as if their leases had ended."""
        if isinstance(self.server, ClusterServer):
            for node in self.server.nodes:
                names = NAMES.at_shard(self.server.tag_of(node)).token_prefix("*")
                for name in node.admin.keys(f"{names}*"):
                    node.admin.delete(name)

    def store_of(self, **options: Any) -> Store:
        """Return the store of an operator with a client of its own."""
        if isinstance(self.server, ClusterServer):
            return self.server.store("ops", **options)
        return Store(self.server.client(**options), actor="ops")

    def at(self, key: str | bytes) -> Any:
        """Return a client of the node that has a key."""
        is_cluster = isinstance(self.server, ClusterServer)
        return self.server.node_of(key).admin if is_cluster else self.admin

    def load(self, document: str | None = None, **identities: dict[str, Any]) -> LoadResult:
        return load_policy(
            self.store,
            document or policy(**identities),
            table=self.server.table,
            allow_removal=True,
            allow_unvalidated_restore=True,
        )

    def issue(self, identity: str, **options: Any) -> IssuedToken:
        return issue_token(self.store, identity, **options)

    def forget_leases(self, identity: str) -> None:
        """Delete what shards have of tokens; one server has nothing of the kind."""
        for tag in read_tags(self.store, [identity])[identity][1:] if NODES else ():
            shard = NAMES.at_shard(tag)
            for name in (shard.token_prefix(identity), shard.state(account(identity, ""))):
                for key in self.admin.keys(f"{name}*"):
                    self.admin.delete(key)

    def put_token(self, identity: str, token: str, record: TokenRecord) -> None:
        """Write a token's record as `issue_token` does, with its expiry."""
        put_token(self.admin, identity, token, record)

    def agent(self, identity: str, **options: Any) -> keyleash.Redis:
        """A guarded client with a token of its own."""
        return self.client(self.issue(identity).token, **options)

    def client(self, token: str, **options: Any) -> keyleash.Redis:
        """A guarded client; on a cluster a `keyleash.RedisCluster`."""
        client: keyleash.Redis = self.server.guarded(token, **options)
        return client

    def audit_name(self, identity: str) -> str:
        """Return the name of the identity's audit stream; on a cluster of the first shard's."""
        names = [stream.key for stream in audit_streams(self.store, [identity])]
        return next(name for name in (*names[1:], names[0]))

    def digest(self, identity: str) -> str:
        return self.record(identity).digest

    def record(self, identity: str) -> GuardRecord:
        """Return the guard record of an identity."""
        record = guard_record(self.admin.hgetall(NAMES.guard(identity)))
        assert record is not None
        if isinstance(self.server, ClusterServer):
            self.server.learn(record)
        return record

    def stored_script(self, identity: str, digest: str | None = None) -> str:
        """Return the stored text of a script, by default of the guard."""
        digest = digest or self.digest(identity)
        script = script_of(self.admin.hget(NAMES.source(identity), digest), digest)
        assert script is not None
        return script

    def raw(self, identity: str, keys: list[Any], *argv: Any, digest: str | None = None) -> Any:
        """A bare call of the identity's guard; an error comes back as its text."""
        try:
            call = ("EVALSHA", digest or self.digest(identity), len(keys), *keys, *argv)
            return self.send(identity, call)
        except redis.ResponseError as error:
            return str(error)

    def send(self, identity: str, call: Sequence[Any]) -> Any:
        """Make a call of a guard, as its words are; on a cluster with the leases that it needs."""
        if isinstance(self.server, ClusterServer):
            return self.server.call_guard(identity, call)
        return self.admin.execute_command(*call)

    def call(self, identity: str, token: str, *command: Any) -> Any:
        """A guard call as a wrapper would build it, its error as text."""
        _, digest, count, *rest = guard_call(
            load_table(), self.digest(identity), token, "test", command
        )
        keys = rest[: int(count)]
        return self.raw(identity, keys, *rest[len(keys) :], digest=digest)

    def batch(
        self,
        identity: str,
        token: str,
        mode: str,
        *commands: tuple[Any, ...],
        once: str = "",
        **options: Any,
    ) -> Any:
        """A batch call as a wrapper would build it; errors, also those in it, as text."""
        record = self.record(identity)
        call, shape = runs_call(
            load_table(),
            record.batch_digest,
            token,
            "test",
            BatchMode(mode),
            commands,
            takes_runs=record.takes_runs,
        )
        if once:
            place = call.index(token) + 2
            call = (*call[:place], ONCE, once, *call[place:])
        try:
            replies = self.server.call_guard(identity, call, **options)
        except redis.ResponseError as error:
            return str(error)
        return [
            str(reply) if isinstance(reply, redis.ResponseError) else reply
            for reply in replies_of(replies, shape)
        ]

    def events(self, identity: str) -> list[dict[str, str]]:
        return self._fields(audit_streams(self.store, [identity]))

    def refusals(self, identity: str) -> int:
        """Return the number of denied calls, also of denials without an entry."""
        denials = read_denials(self.store, [identity])
        return sum(denial.repeats for denial in denials)

    def denials(self, identity: str) -> list[dict[str, str]]:
        return self._fields(denied_streams(self.store, [identity]))

    def _fields(self, streams: Iterable[AuditStream]) -> list[dict[str, str]]:
        """Return the fields of the entries of all streams, by their time."""
        entries = [entry for stream in streams for entry in self.admin.xrange(stream.key)]
        return [
            {key.decode(): value.decode("utf-8", "replace") for key, value in fields.items()}
            for _, fields in sorted(entries, key=lambda entry: [*map(int, entry[0].split(b"-"))])
        ]

    def counters(self, identity: str = "*", limit: str = "*") -> list[bytes]:
        """Return the names of the counters of tokens and captured segments."""
        # Those of tokens have the tag of the home in front.
        name = Keyspace().limit_prefix(identity, limit).replace("limit:", "*limit:")
        found: list[bytes] = self.admin.keys(f"{name}*")
        return found

    def state(self, identity: str) -> bytes:
        """Return the state of an identity, on a cluster that of the home."""
        state: bytes = self.admin.get(NAMES.state(identity))
        return state

    def spent(self, identity: str) -> Any:
        """Return what a call changes that counts: the state, on a cluster the use of budgets."""
        return self.used(identity) if NODES else self.state(identity)

    def used(self, identity: str) -> dict[str, int]:
        """Return the used units of budgets; on a cluster without those that shards have."""
        layout = Layout.from_json(self.admin.hget(NAMES.layouts, identity))
        state = unpack_state(self.admin.get(NAMES.state(identity)), layout)
        used = {item.slot.name: item.used for item in state.limits}
        for tag in read_tags(self.store, [identity])[identity][1:] if NODES else ():
            shard = unpack_shard(self.admin.get(NAMES.at_shard(tag).state(identity)))
            for item, credit in zip(state.limits, shard.limits, strict=False):
                used[item.slot.name] -= credit.credit
        return {name: used[name] for name in used if name.startswith("budget.")}
