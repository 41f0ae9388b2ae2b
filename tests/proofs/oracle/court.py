"""One call before two judges: the guard of an identity, and a native ACL user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from tools.refresh_table import ask

from keyleash.commands import CommandSpec, CommandTable, load_table
from keyleash.errors import ReplyCode
from keyleash.evaluate.trace import Decision
from keyleash.operator.tokens.issue import issue_token
from keyleash.policy import Identity
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import guard_record
from keyleash.store.store import Store
from proofs.oracle.arguments import Call
from proofs.oracle.asking import Asker, ask_all
from proofs.oracle.differences import Example
from proofs.oracle.native import acl_rules
from proofs.oracle.placements import ours_of
from support.decisions import decision_in
from support.loading import load_policy
from support.servers import RealServer

NAMES = Keyspace()
TABLE = load_table()
USER = b"native"

ABOUT_COMMAND_CLASS_AND_KEYS = frozenset(
    {
        ReplyCode.COMMAND_REFUSED,
        ReplyCode.CLASS_NOT_GRANTED,
        ReplyCode.KEY_NOT_GRANTED,
        ReplyCode.KEY_DENIED,
        ReplyCode.CHANNEL_NOT_GRANTED,
    }
)


@dataclass
class Tally:
    """The numbers of calls that both judges allowed, both denied, or that the server cannot judge.

    Attributes:
        agreed: The commands on which both agree, and whether they are allowed.
    """

    allowed: int = 0
    refused: int = 0
    unheard: int = 0
    agreed: set[tuple[str, bool]] = field(default_factory=set)


class Court:
    """A server with one policy for both judges, and the command table of both."""

    def __init__(self, server: RealServer, table: CommandTable = TABLE) -> None:
        self.table = table
        self.admin = server.client()
        self.label, rows = ask(server.client())
        self.known = set(rows)
        self.tally = Tally()
        self._connection: Any = server.client().connection_pool.get_connection()
        self._asker = Asker(server)
        self._begin: list[bytes] = []
        self._identity: Identity

    def install(self, document: str, identity: Identity) -> None:
        """Load the policy, issue a token, and make the native user."""
        self.admin.flushall()
        load_policy(Store(self.admin), document, allow_removal=True, allow_unvalidated_restore=True)
        token = issue_token(Store(self.admin), identity.name).token.encode()
        record = guard_record(self.admin.hgetall(NAMES.guard(identity.name)))  # type: ignore[arg-type]
        assert record is not None
        rules = acl_rules(identity, self.table, self.known)
        (made,) = ask_all(self._connection, [(b"ACL", b"SETUSER", USER, *rules)])
        assert made == b"OK", made
        self._identity = identity
        self._begin = [b"EVALSHA", record.digest.encode(), token, b"correlation"]

    def _guarded(self, call: Call) -> Call:
        evalsha, digest, *header = self._begin
        spec = self.table.find(call)
        keys = [use.key for use in (spec and ours_of(spec, call)) or []]
        return (evalsha, digest, b"%d" % len(keys), *keys, *header, *call)

    def reply(self, call: Call) -> Any:
        """Return the reply of the guard, which may be an error."""
        return ask_all(self._connection, [self._guarded(call)])[0]

    def hear(self, calls: Sequence[Call]) -> list[tuple[Call, Decision, bool | None]]:
        """
        Return the decisions of the guard, and whether the native user is allowed.

        The calls that the guard allows are run. The latter is None if the server has no such
        command, or rejects the number of arguments before it looks for keys.
        """
        words: list[Call] = []
        for call in calls:
            words += [self._guarded(call), (b"ACL", b"DRYRUN", USER, *call)]
        replies = ask_all(self._connection, words)
        heard = []
        for call, reply, dry_run in zip(calls, replies[::2], replies[1::2], strict=True):
            decision = decision_in(reply)
            assert decision.allowed or decision.code in ABOUT_COMMAND_CLASS_AND_KEYS, (call, reply)
            may = None
            if isinstance(dry_run, redis.ResponseError):
                text = str(dry_run)
                assert "not found" in text or "number of arguments" in text, text
                # The call itself must fail too.
                assert isinstance(reply, redis.ResponseError), call
            else:
                assert dry_run == b"OK" or b"has no permissions" in dry_run, dry_run
                may = dry_run == b"OK"
            heard.append((call, decision, may))
        return heard

    def compare(self, calls: Sequence[Call]) -> list[Example]:
        """Return the calls on which the judges disagree."""
        differing = []
        for call, decision, may in self.hear(calls):
            if may is None:
                self.tally.unheard += 1
            elif decision.allowed is not may:
                differing.append((call, decision))
            else:
                self.tally.agreed.add((required(self.table.find(call), call).name, may))
                if may:
                    self.tally.allowed += 1
                else:
                    self.tally.refused += 1
        return self._examples(differing)

    def _examples(self, differing: Sequence[tuple[Call, Decision]]) -> list[Example]:
        calls = [call for call, _ in differing]
        specs = [self.table.find(call) for call in calls]
        # Refused commands are not tried: SHUTDOWN is one of them.
        harmless = [c for c, spec in zip(calls, specs, strict=True) if spec and not spec.refused]
        errors = dict(zip(harmless, self._asker.argument_errors(harmless), strict=True))
        return [
            Example(
                identity=self._identity,
                spec=required(spec, call),
                call=call,
                ours=ours_of(required(spec, call), call),
                theirs=theirs,
                decision=decision,
                invalid=errors.get(call) is not None,
            )
            for (call, decision), spec, theirs in zip(
                differing, specs, self._asker.keys(calls), strict=True
            )
        ]


def required(spec: CommandSpec | None, call: Call) -> CommandSpec:
    assert spec is not None, f"the server has a command that the table lacks: {call}"
    return spec
