"""A stage whose intruder has the address of a gateway and a token, and no access to the server."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import redis
from redis.connection import Connection

import keyleash
from keyleash.gateway import serve
from keyleash.store.keyspace import Keyspace
from proofs.redteam.attempt import Attempt, Outcome, Tier
from proofs.redteam.intruder import Intruder, Word, flat
from proofs.redteam.stage import (
    CLERK,
    DOCUMENT,
    OPERATOR,
    OPERATOR_PASSWORD,
    OWN_SECRET,
    WORKER,
    Stage,
    staged,
)
from support.command_line import Cli
from support.gateways import Raw, gateway_to, request
from support.namespaces import LOOPBACK, Outside, namespace

NAMES = Keyspace()
SCRIPT = "return redis.call('GET', KEYS[1])"
"""Approved for the clerk."""
UNCHARGED = frozenset(
    {"AUTH", "CLIENT", "COMMAND", "DBSIZE", "DISCARD", "HELLO", "INFO", "MULTI",
     "QUIT", "RESET", "SCRIPT",
     "SELECT", "KEYLEASH", "UNWATCH", "WATCH"}
)  # fmt: skip
"""Commands about the connection alone, which no guard charges, and those with stored replies."""
AROUND = frozenset({"MULTI", "UNWATCH", "WATCH"})
"""Commands around those of an attempt, whose replies are no outcome."""
REFUSALS = (
    b"tokens are for database",
    b"the gateway ",
    b"unknown command",
    b"unknown sub-command",
    b"only a command",
    b"an idempotency id",
    b"`once` contains",
    b"`correlation_id` contains",
    b"Can't execute",
    b"Protocol error",
)
"""The errors with which the gateway answers instead of the server."""
REQUESTS = "budget.requests"
TIMEOUT_S = 3


class OwnConnection(Connection):
    """A connection whose socket is made in a namespace."""

    place: Outside

    def _connect(self) -> Any:
        return self.place.run(super()._connect)


@dataclass
class GatewayIntruder(Intruder):
    """A connection through a gateway; where others call a guard, it also sends the command.

    Attributes:
        place: Where its sockets are made.
        host: The address of the gateway.
        let_make: Lets a program with access to the server make a child of its token.
        uncharged: Which replies are about the connection alone.
        raws: Further connections, until the next attempt.
    """

    place: Outside = field(default_factory=Outside)
    host: str = LOOPBACK
    let_make: Callable[[Word, Word], None] = lambda child, ttl: None
    uncharged: set[int] = field(default_factory=set)
    raws: list[Raw] = field(default_factory=list)
    _with_token: dict[str, GatewayIntruder] = field(default_factory=dict)

    def say(self, *words: Word) -> Any:
        """Send a command and return the reply."""
        reply = super().say(*words)
        if name_of(words) in UNCHARGED or reply == b"QUEUED":
            self.uncharged.add(len(self.replies) - 1)
        return reply

    def call(
        self,
        *command: Word,
        keys: Sequence[Word] | None = None,
        token: str | None = None,
        correlation: Word = "intruder",
        digest: bytes | str | None = None,
    ) -> Any:
        """Call a guard as if it were a script, then send the command with the token."""
        reply = super().call(
            *command, keys=keys, token=token, correlation=correlation, digest=digest
        )
        if digest not in (None, self.record[b"digest"]):
            return reply
        intruder = self.with_token(token)
        if correlation != "intruder":
            intruder.say("CLIENT", "SETNAME", correlation)
        prefix = ("KEYLEASH",) if command[0] == "once" else ()
        return intruder.say(*prefix, *command)

    def batch(self, *commands: Sequence[Word], mode: str = "all", keys_each: int = 1) -> Any:
        """Call a guard as if it were a script, then send a transaction or a pipeline."""
        super().batch(*commands, mode=mode, keys_each=keys_each)
        around = ([("MULTI",)], [("EXEC",)]) if mode == "all" else ([], [])
        return self.pipeline(*around[0], *commands, *around[1])[-1]

    def delegate(
        self, *words: Word, token: str | None = None, child: Word = "0" * 40, ttl: Word = ""
    ) -> Any:
        """Ask its own guard for a child of a token; another program makes the plain ones."""
        if ttl and not words:
            self.let_make(child, ttl)
        return super().delegate(*words, token=token, child=child, ttl=ttl)

    def pipeline(self, *commands: Sequence[Word]) -> list[bytes]:
        """Send commands in one packet on a connection of their own; return the bytes replied."""
        raw = self.raw()
        raw.send(*map(tuple, commands))
        return [self.note(raw.reply(), words) for words in commands]

    def raw(self, *, is_known: bool = True) -> Raw:
        """Return a connection of bytes; it is authenticated if *is_known*."""
        raw = self.place.run(Raw, self.holds.port, self.host)
        self.raws.append(raw)
        if is_known:
            assert raw.call("AUTH", self.holds.password) == b"+OK\r\n"
        return raw

    def note(self, reply: bytes, words: Sequence[Word] = ()) -> bytes:
        """Count the bytes of a reply as those of other replies."""
        if reply == b"+QUEUED\r\n" or (reply == b"+OK\r\n" and words and name_of(words) in AROUND):
            return reply
        # Also a transaction of errors alone, which the gateway itself may reply.
        is_error = not reply or bool(re.fullmatch(rb"(\*\d+\r\n)?(-[^\r]*\r\n)+", reply))
        text = reply[1:].removeprefix(b"ERR ").removeprefix(b"WRONGPASS ") if is_error else reply
        is_empty = reply == b"*0\r\n"
        if words and (name_of(words) in UNCHARGED or (is_empty and name_of(words) == "EXEC")):
            self.uncharged.add(len(self.replies))
        self._heard(text, is_error=is_error)
        return reply

    def with_token(self, token: str | None) -> GatewayIntruder:
        """Return a connection with another token under its name; replies are noted here."""
        if token is None or token == self.holds.password:
            return self
        if token not in self._with_token:
            holds = replace(self.holds, password=token)
            self._with_token[token] = replace(self, holds=holds, _connection=None, _with_token={})
        return self._with_token[token]

    def hang_up(self) -> None:
        super().hang_up()
        for intruder in self._with_token.values():
            intruder.hang_up()
        self._with_token.clear()
        while self.raws:
            self.raws.pop().close()

    def forget(self) -> None:
        super().forget()
        self.uncharged.clear()

    def _send(self, connection: Connection, words: Sequence[Word]) -> None:
        # redis-py would split a name with blanks.
        connection.send_packed_command([request(tuple(words))], check_health=False)

    def _open(self) -> Connection:
        if self._connection is None:
            holds = self.holds
            connection: Any = OwnConnection
            self._connection = connection(
                host=self.host, port=holds.port, username=holds.user, password=holds.password,
                protocol=2, socket_timeout=60, driver_info=None,
            )  # fmt: skip
            connection.place = self.place
        self._connection.connect()
        return self._connection


@dataclass
class GatewayStage(Stage):
    """A stage behind a gateway, where all that runs is charged and recorded.

    Attributes:
        place: Where the intruder is.
        gateway: The address of the gateway.
        server_port: The port of the server.
        operations: Those of the operator.
        clients_before: The connections to the server before the gateway's.
    """

    tier = Tier.GATEWAY
    intruder: GatewayIntruder
    operations: keyleash.Operator = None  # type: ignore[assignment]
    place: Outside = field(default_factory=Outside)
    gateway: tuple[str, int] = ("", 0)
    server_port: int = 0
    clients_before: frozenset[str] = frozenset()
    _used: int = 0

    def try_out(self, attempt: Attempt) -> tuple[Outcome, str]:
        """Make an attempt; it is also possible if a guard has not charged or recorded something.

        All that the token may do is no success, but `granted` where it is what was attempted.
        """
        self.reset()
        self._used = self.used()
        outcome, summary = super().try_out(replace(attempt, by_guard=True))
        changed = self.own_changes()
        unrecorded, reached = changed - self.recorded(), self.reached()
        if outcome is not Outcome.POSSIBLE and (unrecorded or reached or self.answered()):
            uncharged = f"{len(self.answers())} answers for {self.used() - self._used} charges"
            found = (
                f"unrecorded {unrecorded}, reached {reached}, {uncharged}: {self.answers()[-9:]}"
            )
            return Outcome.POSSIBLE, f"{found}, {summary}"
        is_own = changed or OWN_SECRET.encode() in b"\n".join(self.intruder.replies)
        if is_own and not attempt.by_guard:
            outcome = max(outcome, Outcome.GRANTED, key=[*Outcome].index)
        return outcome, summary

    def secrets(self, *, by_guard: bool) -> Iterator[tuple[str, bytes]]:
        """Yield those of other stages, without what denials repeat of the intruder's own words."""
        for name, secret in super().secrets(by_guard=by_guard):
            if not name.startswith("the digest"):
                yield name, secret

    def answered(self) -> bool:
        """Return whether more commands were answered than guards have charged."""
        return len(self.answers()) > self.used() - self._used

    def answers(self) -> list[bytes]:
        """Return the replies that are no errors, to commands that guards charge."""
        intruder = self.intruder
        replies = enumerate(zip(intruder.replies, intruder.errors, strict=True))
        return [
            reply for at, (reply, is_error) in replies if not (is_error or at in intruder.uncharged)
        ]

    def used(self) -> int:
        """Return the requests that were charged to the intruder's identity."""
        status = next(item for item in self.operations.status().identities if item.name == WORKER)
        return next(limit.used or 0 for limit in status.limits if limit.name == REQUESTS)

    def own_changes(self) -> set[bytes]:
        """Return the keys of the intruder's grants that changed."""
        before, after = self._before, self.snapshot()
        names = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        return {name for name in names if name.startswith((b"jobs:", b"runs:"))}

    def recorded(self) -> set[bytes]:
        """Return the keys in the intruder's events."""
        return {key for event in self.operations.audit.events(WORKER) for key in event.keys}

    def reached(self) -> list[tuple[str, int]]:
        """Return the addresses, other than the gateway's, to which the intruder can connect."""
        if self.place.why_outside:
            return []
        host, port = self.gateway
        others = [(host, self.server_port), (LOOPBACK, self.server_port), (LOOPBACK, port)]
        # On its own address the gateway may have the port that the server has on the loopback.
        others = [address for address in others if address != self.gateway]
        return [address for address in others if self.place.run(_connects, address)]

    def given(self, *command: str | bytes) -> None:
        """Set something up, and count from then on."""
        super().given(*command)
        self._used = self.used()

    def connection_of(self, identity: str) -> Raw:
        """Return a connection of an agent through the gateway, from outside of the namespace."""
        host, port = self.gateway
        raw = Raw(port, host)
        self.intruder.raws.append(raw)
        assert raw.call("AUTH", self.tokens[identity]) == b"+OK\r\n"
        return raw

    def value(self, key: str) -> Any:
        """Return the value of a string."""
        return self.operator.get(key)

    def keeps_tokens(self) -> bool:
        """Return whether no audit stream contains a token."""
        streams = (f(name) for f in (NAMES.audit, NAMES.denied) for name in (WORKER, CLERK))
        text = b"".join(flat(self.operator.xrange(name)) for name in streams)
        return not any(token.encode() in text for token in self.tokens.values())

    def changed_upstream(self) -> list[dict[str, str]]:
        """Return the connections of the gateway to the server that have another state."""
        clients: Any = self.operator.client_list()
        others = self.clients_before
        own = [item for item in clients if item["id"] not in others and item["name"] != OPERATOR]
        kept = {"name": "keyleash-gateway", "db": "0", "flags": "N"}
        states = [{name: item[name] for name in (*kept, "cmd", "lib-name")} for item in own]
        assert own
        return [state for state in states if not state.items() >= kept.items()]

    def own_addresses(self) -> set[str]:
        """Return the addresses that the intruder's connections can have."""
        host, port = self.gateway
        with self.place.run(socket.create_connection, (host, port)) as connected:
            return {connected.getsockname()[0]}

    def worst_reply(self) -> Outcome:
        """Return the worst outcome of all commands; the gateway denies some itself."""
        is_refused = self.intruder.replies and not self._replies()
        return Outcome.ACL if is_refused else super().worst_reply()

    def _replies(self) -> list[tuple[bytes, bool]]:
        return [
            (reply, is_error)
            for reply, is_error in super()._replies()
            if not (is_error and reply.startswith(REFUSALS))
        ]


def name_of(words: Sequence[Word]) -> str:
    """Return the name of a command, in upper case."""
    name = words[0]
    return (name.decode("latin-1") if isinstance(name, bytes) else str(name)).upper()


def _connects(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True


def document() -> str:
    """Return the policy: that of other stages, with sources, and a script for the clerk."""
    loaded = json.loads(DOCUMENT)
    worker, clerk = (loaded["identities"][name] for name in (WORKER, CLERK))
    worker["audit"] = {"source": True}
    clerk["grants"][0]["scripts"] = ["read"]
    return json.dumps({**loaded, "scripts": {"read": {"file": "read.lua"}}})


@contextmanager
def staged_behind_gateway(binary: Path, folder: Path) -> Iterator[GatewayStage]:
    """A server on the loopback of this machine, and an intruder that reaches only a gateway."""
    with staged(binary, folder) as stage, namespace() as place:
        server_port, credentials = stage.intruder.holds.port, f"{OPERATOR}:{OPERATOR_PASSWORD}"
        url = f"redis://{credentials}@{LOOPBACK}:{server_port}"
        (folder / "read.lua").write_text(SCRIPT)
        file = folder / "gateway.yaml"
        file.write_text(document())
        Cli(url).ok("load", file, "--yes", "--allow-widening")
        clients: Any = stage.operator.client_list()
        before = frozenset(item["id"] for item in clients)
        with (
            mock.patch.object(serve, "DENIED_LOGIN_S", 0),
            gateway_to(url, host=place.address) as served,
        ):
            holds = replace(
                stage.intruder.holds, port=served.port, user=WORKER, password=stage.tokens[WORKER]
            )
            record: Any = stage.operator.hgetall(NAMES.guard(WORKER))

            def let_make(child: Word, ttl: Word) -> None:
                head = ("EVALSHA", record[b"batch_digest"], 0, holds.token, "", "delegate")
                with suppress(redis.ResponseError):
                    stage.operator.execute_command(*head, child, ttl)

            intruder = GatewayIntruder(holds, place=place, host=place.address, let_make=let_make)
            # As if it had learnt that.
            intruder._record = record
            named = redis.Redis.from_url(f"{url}?client_name={OPERATOR}")
            operations = keyleash.Operator.from_url(f"{url}?client_name={OPERATOR}", actor="test")
            stage.operator.connection_pool.disconnect()
            changed = {"operator": named, "intruder": intruder, "_kept": {}}
            behind = GatewayStage(
                **{**vars(stage), **changed},
                operations=operations, place=place, gateway=(place.address, served.port),
                server_port=server_port, clients_before=before,
            )  # fmt: skip
            behind.keep()
            try:
                yield behind
            finally:
                intruder.hang_up()
                operations.close()
                named.close()
