"""A server with two agents on it, and what an attempt changed or gave away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import redis

from keyleash.addons.servers import EmbeddedServer
from keyleash.store.keyspace import Keyspace
from keyleash.store.token import token_digest
from proofs.redteam.attempt import Attempt, Outcome, Tier
from proofs.redteam.intruder import Holdings, Intruder
from support.command_line import Cli
from support.leash import grant, policy

NAMES = Keyspace()
WORKER, CLERK = "worker", "clerk"
BOUND = "bound"
"""The name of a token of the worker that is for one run only."""
OWN, OTHER, NOBODYS = "jobs:1", "books:1", "ledger"
OWN_SECRET, OTHER_SECRET, NOBODYS_SECRET = "own-a8Yw3", "other-q5Zt9", "nobodys-p2Lk7"
OPERATOR, OPERATOR_PASSWORD = "operator", "operators-only"
ALL = ("read", "write", "delete")
READS = "rate.reads"
"""The limit that counts each token apart."""

DOCUMENT = policy(
    worker={
        "grants": [grant(*ALL, keys=["jobs:*", "runs:{run}:*"])],
        # As long as it may live: a renewal is for nothing.
        "token": {"bound": True, "ttl": "1d", "max_ttl": "1d", "renew": True},
        "delegate": {"depth": 1},
        "idempotency": {"keep": "1h", "max_reply": "1kb"},
        "deny": [{"keys": ["jobs:locked"]}],
        "budget": {"requests": "100000/day"},
        "rate": {"writes": "10000/minute", "reads": {"limit": "1000/minute", "per": "token"}},
    },
    clerk={"grants": [grant(*ALL, keys="books:*")], "idempotency": {"keep": "1h"}},
)


@dataclass
class Stage:
    """
    One server.

    Attributes:
        operator: With all rights, by a user of its own.
    """

    tier: ClassVar[Tier] = Tier.DIRECT
    operator: redis.Redis
    tokens: dict[str, str]
    intruder: Intruder
    _kept: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    _before: dict[bytes, bytes] = field(default_factory=dict)

    def try_out(self, attempt: Attempt) -> tuple[Outcome, str]:
        """Reset the stage, make an attempt, and return its outcome with a summary."""
        self.reset()
        self.intruder.forget()
        assert self.intruder.record  # read before, so that it is no part of the attempt
        self.intruder.forget()
        self._before = self.snapshot()
        seen = attempt.act(self)
        changed = self.changed(by_guard=attempt.by_guard)
        leaked = self.leaked(by_guard=attempt.by_guard)
        summary = (
            f"replies {self.intruder.replies[-8:]}, changed {sorted(changed)}, leaked {leaked}"
        )
        if seen or changed or leaked:
            return Outcome.POSSIBLE, summary
        return self.worst_reply(), summary

    def worst_reply(self) -> Outcome:
        """Return the worst outcome of all commands."""
        outcomes = [_outcome(reply, error) for reply, error in self._replies()]
        return max(outcomes, key=list(Outcome).index, default=Outcome.NOTHING)

    def answered(self) -> bool:
        """Return whether a command was answered otherwise than by an error."""
        return not all(self.intruder.errors)

    def leaked(self, *, by_guard: bool) -> list[str]:
        """Return the names of secrets that replies contained."""
        text = b"\n".join(self.intruder.replies)
        return [name for name, secret in self.secrets(by_guard=by_guard) if secret in text]

    def secrets(self, *, by_guard: bool) -> Iterator[tuple[str, bytes]]:
        """Yield name and text of each secret that no reply may contain."""
        if not by_guard:
            yield "its own data, unrecorded", OWN_SECRET.encode()
        yield "data of another agent", OTHER_SECRET.encode()
        yield "data of no agent", NOBODYS_SECRET.encode()
        yield "another's token", self.tokens[CLERK].encode()
        yield "the digest of another's token", token_digest(self.tokens[CLERK]).encode()
        yield "a password of an operator", OPERATOR_PASSWORD.encode()

    def snapshot(self) -> dict[bytes, bytes]:
        """Every key, and all of its value."""
        names = list(self.operator.scan_iter(count=1000))
        with self.operator.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.dump(name)
            dumped = zip(names, pipe.execute(), strict=True)
        return {name: value for name, value in dumped if value is not None}

    def given(self, *command: str | bytes) -> None:
        """Set something up as an operator would, within an attempt and no part of it."""
        self.operator.execute_command(*command)
        self._before = self.snapshot()

    def changed(self, *, by_guard: bool) -> set[bytes]:
        """Return the changed keys, without those that a guard writes."""
        before, after = self._before, self.snapshot()
        names = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        if by_guard:
            prefixes = (NAMES.limit_prefix(WORKER, READS), NAMES.once_prefix(WORKER))
            own = (b"jobs:", b"runs:7:", *map(str.encode, prefixes))
            names = {name for name in names - self.written_down() if not name.startswith(own)}
        return names

    def written_down(self) -> set[bytes]:
        """Where guards keep what they count and record of a call of the intruder."""
        names = NAMES
        own = (self.tokens[WORKER], self.tokens[BOUND])
        kept = {names.state(WORKER), *(names.token(WORKER, token_digest(token)) for token in own)}
        kept.add(names.audit(WORKER))
        # A call of another guard is recorded there.
        kept |= {of(name) for of in (names.denied, names.repeats) for name in (WORKER, CLERK)}
        return {name.encode() for name in kept}

    def keep(self) -> None:
        """Store the present data, which every attempt starts from."""
        for name, dumped in self.snapshot().items():
            self._kept[name] = (
                dumped,
                max(int(self.operator.execute_command("PEXPIRETIME", name)), 0),
            )

    def reset(self) -> None:
        """Put everything back."""
        now = self.snapshot()
        with self.operator.pipeline(transaction=False) as pipe:
            for name in now.keys() - self._kept.keys():
                pipe.delete(name)
            for name, (dumped, expires_ms) in self._kept.items():
                if now.get(name) != dumped:
                    pipe.restore(name, expires_ms, dumped, replace=True, absttl=expires_ms > 0)
            pipe.execute()

    def digest(self, identity: str) -> bytes:
        """Of the script of an identity that judges one command."""
        record: Any = self.operator.hgetall(NAMES.guard(identity))
        digest: bytes = record[b"digest"]
        return digest

    def state(self) -> bytes:
        """Return the counters of the intruder's guard."""
        packed: Any = self.operator.get(NAMES.state(WORKER))
        assert isinstance(packed, bytes)
        return packed

    def newest_event(self) -> dict[bytes, bytes]:
        """Of the intruder's trail."""
        trail: Any = self.operator.xrevrange(NAMES.audit(WORKER), count=1)
        fields: dict[bytes, bytes] = trail[0][1]
        return fields

    def _replies(self) -> list[tuple[bytes, bool]]:
        return list(zip(self.intruder.replies, self.intruder.errors, strict=True))


def _outcome(reply: bytes, is_error: bool) -> Outcome:
    if is_error and reply.startswith((b"NOPERM", b"NOAUTH", b"WRONGPASS")):
        return Outcome.ACL
    # As Redis words it of the patterns of SORT.
    if is_error and b"insufficient ACL permissions" in reply:
        return Outcome.ACL
    return Outcome.GUARD if is_error and reply.startswith(b"LEASH ") else Outcome.NOTHING


@contextmanager
def staged(binary: Path, folder: Path) -> Iterator[Stage]:
    """A server, to which the intruder connects."""
    file = folder / "policy.yaml"
    file.write_text(DOCUMENT)
    with EmbeddedServer(binary=binary) as server:
        operator = _operator(server)
        url = f"redis://{OPERATOR}:{OPERATOR_PASSWORD}@127.0.0.1:{server.port}"
        cli = Cli(url)
        cli.ok("load", file, "--yes")
        for name, secret in ((OWN, OWN_SECRET), (OTHER, OTHER_SECRET), (NOBODYS, NOBODYS_SECRET)):
            operator.set(name, secret)
        tokens = {name: cli.token(name) for name in (WORKER, CLERK)}
        tokens[BOUND] = cli.token(WORKER, "--bind", "run=7", "--allow", "read,write")
        holds = Holdings(
            port=server.port,
            user=OPERATOR,
            password=OPERATOR_PASSWORD,
            identity=WORKER,
            token=tokens[WORKER],
            own=OWN,
            other_identity=CLERK,
            other_key=OTHER,
        )
        stage = Stage(operator, tokens, Intruder(holds))
        stage.keep()
        try:
            yield stage
        finally:
            stage.intruder.hang_up()
            operator.close()


def _operator(server: EmbeddedServer) -> redis.Redis:
    with redis.Redis(port=server.port) as default:
        default.acl_setuser(
            OPERATOR, enabled=True, passwords=[f"+{OPERATOR_PASSWORD}"], keys=["*"],
            channels=["*"], commands=["+@all"],
        )  # fmt: skip
    return redis.Redis(port=server.port, username=OPERATOR, password=OPERATOR_PASSWORD)
