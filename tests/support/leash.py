"""A server with a policy on it, as most tests need it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import redis

import keyleash
from keyleash.audit import read_denials
from keyleash.commands import load_table
from keyleash.operator import LoadResult, load_policy
from keyleash.operator.tokens import IssuedToken, issue_token
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import server_keyspace
from keyleash.store.records import guard_record
from keyleash.store.server_check import Client
from keyleash.store.store import Store
from keyleash.store.token import KEEP_AFTER_EXPIRY_MS, TokenRecord, token_digest
from keyleash.store.wire import BatchMode, Transport, call_head, guard_call, replies_of, runs_call
from support.sealed import record
from support.servers import RealServer

NAMES = Keyspace()


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


def put_token(admin: Client, identity: str, token: str, record: TokenRecord) -> None:
    """See `Leash.put_token`."""
    kept_until_ms = record.expires_us // 1000 + KEEP_AFTER_EXPIRY_MS
    name = NAMES.token(identity, token_digest(token))
    admin.set(name, record.pack(), pxat=kept_until_ms)


@dataclass
class Leash:
    """An operator's hands on a server, and agents' clients made by name.

    Attributes:
        transport: How the guards of the policies that are loaded are called.
    """

    server: RealServer
    keyspace: Keyspace = NAMES
    admin: Client = field(init=False)
    transport: Transport = Transport.EVALSHA

    def __post_init__(self) -> None:
        self.admin = self.server.client()
        if self.keyspace.vault:
            record(self.admin, self.keyspace)

    def follow(self) -> Keyspace:
        """Look where keys are from now on, and say it."""
        self.keyspace = server_keyspace(self.admin)
        return self.keyspace

    @property
    def store(self) -> Store:
        """The server's store, for the operator `ops`."""
        return Store.open(self.admin, actor="ops")

    @property
    def stale(self) -> str:
        """Return the reply of an earlier policy's guard, whose function a load deletes."""
        by_script = self.transport is Transport.EVALSHA
        return "LEASH POLICY_STALE" if by_script else "Function not found"

    def load(self, document: str | None = None, **identities: dict[str, Any]) -> LoadResult:
        return load_policy(
            self.store,
            document or policy(**identities),
            transport=self.transport,
            table=self.server.table,
            allow_removal=True,
            allow_unvalidated_restore=True,
        )

    def issue(self, identity: str, **options: Any) -> IssuedToken:
        return issue_token(self.store, identity, **options)

    def put_token(self, identity: str, token: str, record: TokenRecord) -> None:
        """Write a token's record as `issue_token` does, with its expiry."""
        put_token(self.admin, identity, token, record)

    def agent(self, identity: str, **options: Any) -> keyleash.Redis:
        """A guarded client with a token of its own."""
        return self.client(self.issue(identity).token, **options)

    def client(self, token: str, **options: Any) -> keyleash.Redis:
        return keyleash.Redis(port=self.server.port, token=token, **options)

    def digest(self, identity: str) -> str:
        record = guard_record(self.admin.hgetall(NAMES.guard(identity)))
        assert record is not None
        return record.digest

    def raw(self, identity: str, keys: list[Any], *argv: Any, digest: str | None = None) -> Any:
        """A bare call of the identity's guard; an error comes back as its text."""
        head = call_head(self.transport, digest or self.digest(identity))
        try:
            return self.admin.execute_command(*head, len(keys), *keys, *argv)
        except redis.ResponseError as error:
            return str(error)

    def call(self, identity: str, token: str, *command: Any) -> Any:
        """A guard call as a wrapper would build it, its error as text."""
        _, digest, count, *rest = guard_call(
            load_table(), self.digest(identity), token, "test", command
        )
        keys = rest[: int(count)]
        return self.raw(identity, keys, *rest[len(keys) :], digest=digest)

    def batch(
        self, identity: str, token: str, mode: str, *commands: tuple[Any, ...], **options: Any
    ) -> Any:
        """A batch call as a wrapper would build it; errors, also those in it, as text."""
        record = guard_record(self.admin.hgetall(NAMES.guard(identity)))
        assert record is not None
        call, shape = runs_call(
            load_table(),
            record.batch_digest,
            token,
            "test",
            BatchMode(mode),
            commands,
            self.transport,
            takes_runs=record.takes_runs,
        )
        client = self.server.client(**options)
        try:
            replies = client.execute_command(*call)
        except redis.ResponseError as error:
            return str(error)
        return [
            str(reply) if isinstance(reply, redis.ResponseError) else reply
            for reply in replies_of(replies, shape)
        ]

    def events(self, identity: str) -> list[dict[str, str]]:
        return self._stream(self.keyspace.audit(identity))

    def refusals(self, identity: str) -> int:
        """Return the number of denied calls, also of denials without an entry."""
        denials = read_denials(self.store, [identity])
        return sum(denial.repeats for denial in denials)

    def denials(self, identity: str) -> list[dict[str, str]]:
        return self._stream(self.keyspace.denied(identity))

    def _stream(self, name: str) -> list[dict[str, str]]:
        return [
            {key.decode(): value.decode("utf-8", "replace") for key, value in fields.items()}
            for _, fields in self.admin.xrange(name)
        ]

    def state(self, identity: str) -> bytes:
        state: bytes = self.admin.get(self.keyspace.state(identity))
        return state
