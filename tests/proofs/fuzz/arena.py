"""A server with policies of every feature, and what must hold of any call whatsoever."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import redis

from keyleash.compiler.render import examples_root
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import Argv, matches
from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.trace import Decision
from keyleash.operator.tokens.issue import issue_token
from keyleash.policy import Identity, parse_policy
from keyleash.store.keyspace import CONTROL_PREFIX, Keyspace
from keyleash.store.records import GuardRecord, guard_record
from keyleash.store.store import Store
from keyleash.store.wire import replies_of
from proofs.fuzz.calls import TABLE, RawCall, Supply, declared
from proofs.oracle.data import model_state
from support.decisions import decision_in
from support.keyspaces import whole_keyspace
from support.loading import load_policy

NAMES = Keyspace()
SECRET = b"not-granted-to-anyone"
RUNTIME_ERROR = re.compile(r"user_script|@user_|running script|script:|attempt to|bad argument")
OUT_OF_LIMITS = {ReplyCode.RATE_LIMITED, ReplyCode.BUDGET_EXHAUSTED, ReplyCode.AUDIT_FULL}
CALLS_PER_ROUND = 200
"""Then data and limits are as at first, so that a round does not depend on those before it."""

EVERYTHING = """\
version: 1
identities:
  recorded:
    kind: machine
    grants:
      - {allow: [read, write, delete, scan], keys: ["k:*", "{w}:of:*"]}
      - {allow: [read, write], keys: ["j:{job_id}:state"], before_images: {max_bytes: 1kb}}
      - {allow: [publish], channels: ["k:*"]}
    deny: [{keys: ["k:secret:*", "j:{job_id}:lock"]}]
    audit:
      reads: true
      source: true
      values: full
      mask_keys: ["k:masked:*"]
      before_images: {max_bytes: 64kb}
  counted:
    kind: machine
    grants: [{allow: [read, write, delete], keys: ["k:*", "{w}:of:*"]}]
    rate:
      requests: 5000/minute
      writes: {limit: 90000/hour, burst: 9000}
      reads: {limit: 900/minute, per: "{w}"}
    budget:
      requests: {limit: 90000/day, timezone: Europe/Berlin}
      writes: {limit: 90000/day, per: token}
      deletes: {limit: 900/month, per: "{w}"}
    token: {ttl: 3d, idle: 1d}
    on_denials: {threshold: 1000/second, suspend: 10m}
    audit: {retain: {until: exported, hard_max: 5000}, values: digest}
  reader:
    kind: machine
    grants: [{allow: [read], keys: ["k:*"], except: ["@dangerous", LRANGE]}]
    rate: {requests: {limit: 9000/minute, burst: 900}}
    audit: {retain: 30d, values: length}
  repeated:
    kind: machine
    grants: [{allow: [read, write, delete], keys: ["k:*", "{w}:of:*"]}]
    deny: [{keys: ["k:secret:*"]}]
    rate: {writes: {limit: 90000/hour, burst: 9000}}
    budget: {requests: 90000/day}
  bystander:
    kind: machine
    grants: [{allow: [read, write, delete], keys: ["b:*"]}]
"""

INSIDE = (
    b"k:a", b"k:b", b"k:list", b"k:hash", b"k:set", b"k:zset", b"k:stream", b"k:secret:1",
    b"k:masked:1", b"w1:of:x", b"w2:of:x", b"j:1:state", b"j:1:lock", b"agents:jobs:42:state",
    b"agents:jobs:42:result", b"agents:jobs:42:lock", b"agents:context:1", b"agents:recovery:1",
    b"b:a", b"k:", b":of:", b"K:a", b"j::state", b"agents:jobs::state",
)  # fmt: skip
OUTSIDE = (b"other", b"", b"agents:", b"\0", b"k", b"elsewhere:1")


class BrokenError(AssertionError):
    """A call violated a property of all calls."""


class Arena:
    """
    A server that takes raw calls and is looked at after each.

    Args:
        client: Of a server that may be emptied.
        document: The policy.
    """

    def __init__(self, client: redis.Redis, document: str) -> None:
        self._client: Any = client
        client.flushall()
        load_policy(Store(self._client), document, table=TABLE, allow_removal=True)
        self.identities = parse_policy(document, file="policy", commands=TABLE).identities
        issued = [issue_token(Store(self._client), identity.name) for identity in self.identities]
        self._token_ids = [item.id for item in issued]
        control = sorted(self._client.scan_iter())
        records = [self._record(identity) for identity in self.identities]
        self.supply = Supply(
            [item.token.encode() for item in issued],
            (*INSIDE, *OUTSIDE, *control, b"keyleash:"),
            [record.takes_runs for record in records],
        )
        self._digests = [(record.digest, record.batch_digest) for record in records]
        self._own = [self._names_of(identity) for identity in self.identities]
        self._seed()
        self._first = {name: client.dump(name) for name in client.scan_iter()}
        self._whole = whole_keyspace(client)
        self._seen = whole_keyspace(client, _is_large)
        self._round = 0
        self.calls = self.allowed = self.ran = 0

    def fire(self, call: RawCall) -> Any:
        """
        Make one call.

        Raises:
            BrokenError: it did what no call may do.
        """
        reply = self._send(call)
        self.calls += 1
        decided = decision_in(reply)
        self.allowed += decided.allowed
        self.ran += decided.allowed and not isinstance(reply, redis.ResponseError)
        try:
            self._check_reply(reply)
            self._check_keys(call, is_refused=not decided.allowed)
            self._check_model(call, reply)
        except BrokenError as broken:
            shown = reply if isinstance(reply, redis.ResponseError) else repr(reply)
            raise BrokenError(f"{broken}\n  call: {call}\n  reply: {shown}") from None
        self._round += 1
        if self._round >= CALLS_PER_ROUND:
            self.end_round()
        return reply

    def end_round(self) -> None:
        """Compare what is too large for every call, and put everything back."""
        self._round = 0
        for name, (value, expires) in whole_keyspace(self._client).items():
            if _is_large(name) and self._whole.get(name) != (value, expires):
                raise BrokenError(f"{name!r} has changed")
        with self._client.pipeline(transaction=True) as pipe:
            for name in list(self._client.scan_iter()):
                if name not in self._first:
                    pipe.delete(name)
            for name, payload in self._first.items():
                if not _is_large(name):
                    expires = self._whole[name][1]
                    pipe.restore(name, max(expires, 0), payload, replace=True, absttl=expires > 0)
            pipe.execute()
        self._seen = whole_keyspace(self._client, _is_large)

    def _send(self, call: RawCall) -> Any:
        digest = self._digests[call.identity][call.is_batch]
        try:
            return self._client.execute_command(
                "EVALSHA", digest, len(call.keys), *call.keys, *call.arguments
            )
        except redis.ResponseError as error:
            return error

    def _check_reply(self, reply: Any) -> None:
        """An error is the guard's refusal or the command's own, never the script's."""
        for error in _errors_in(reply):
            if RUNTIME_ERROR.search(str(error)):
                raise BrokenError("the script failed")
        if SECRET in repr(reply).encode():
            raise BrokenError("a key that no grant covers was read")

    def _check_keys(self, call: RawCall, *, is_refused: bool) -> None:
        """Only what is granted, and the identity's own control keys, may differ."""
        now = whole_keyspace(self._client, _is_large)
        before, self._seen = self._seen, now
        changed = {name for name in now.keys() | before.keys() if now.get(name) != before.get(name)}
        for name in changed:
            if name not in now and before[name][1] > 0 and before[name][1] <= self._now_ms():
                continue
            if name.startswith(self._own[call.identity]):
                if is_refused and not name.startswith(self._of_refusals(call)):
                    raise BrokenError(f"a refused call changed {name!r}")
            elif is_refused:
                raise BrokenError(f"a refused call changed {name!r}")
            elif not _is_granted(self.identities[call.identity], name):
                raise BrokenError(f"{name!r} outside the grants was changed")

    def _check_model(self, call: RawCall, reply: Any) -> None:
        """The guard decides as the model does, limits apart."""
        if call.arguments[:1] != (self.supply.tokens[call.identity],):
            self._compare(call, decision_in(reply), Decision(ReplyCode.TOKEN_UNKNOWN))
        elif not call.is_batch:
            expected = self._expected(call, call.arguments[2:], call.keys)
            self._compare(call, decision_in(reply), expected)
        elif call.commands:
            decided = []
            if isinstance(reply, list):
                decided = [decision_in(item) for item in replies_of(reply, call.shape)]
            expected_of_all = [self._expected(call, argv, declared(argv)) for argv in call.commands]
            if isinstance(reply, list):
                for item, expected in zip(decided, expected_of_all, strict=True):
                    self._compare(call, item, expected)
            elif all(item.allowed for item in expected_of_all):
                self._compare(call, decision_in(reply), Decision())

    def _expected(self, call: RawCall, argv: Argv, keys: Argv) -> Decision:
        identity, token_id = self.identities[call.identity], self._token_ids[call.identity]
        return decide(identity, TABLE, argv, keys, model_state(), 0, token_id)

    def _compare(self, call: RawCall, decided: Decision, expected: Decision) -> None:
        if decided.code in OUT_OF_LIMITS and expected.allowed:
            return
        if decided.code is ReplyCode.KEY_NOT_GRANTED and expected.code is ReplyCode.KEY_DENIED:
            # Control keys that no grant reaches need no deny rule.
            return
        if decided.code != expected.code:
            raise BrokenError(f"decided {decided}, the model says {expected}")

    def _now_ms(self) -> int:
        seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def _of_refusals(self, call: RawCall) -> tuple[bytes, ...]:
        name = self.identities[call.identity].name
        return tuple(
            item.encode() for item in (NAMES.denied(name), NAMES.repeats(name), NAMES.refused(name))
        )

    def _record(self, identity: Identity) -> GuardRecord:
        record = guard_record(self._client.hgetall(NAMES.guard(identity.name)))
        assert record is not None
        return record

    def _names_of(self, identity: Identity) -> tuple[bytes, ...]:
        name = identity.name
        return tuple(
            item.encode()
            for item in (
                NAMES.state(name),
                NAMES.audit(name),
                NAMES.denied(name),
                NAMES.repeats(name),
                NAMES.refused(name),
                NAMES.token_prefix(name),
                f"{CONTROL_PREFIX}limit:{name}:",
            )
        )

    def _seed(self) -> None:
        client = self._client
        for name in (b"k:secret:1", b"j:1:lock", b"agents:jobs:42:lock", *OUTSIDE):
            # Who may read it may also copy it to where others do.
            is_reached = any(_is_granted(identity, name) for identity in self.identities)
            client.set(name, b"v" if is_reached else SECRET)
        client.mset({b"k:a": "1", b"k:b": "v", b"w1:of:x": "1", b"j:1:state": "s", b"b:a": "v"})
        client.set(b"agents:jobs:42:state", "s")
        client.rpush(b"k:list", "a", "b", "c")
        client.hset(b"k:hash", mapping={"f": "1", "g": "v"})
        client.sadd(b"k:set", "a", "b")
        client.zadd(b"k:zset", {"a": 1, "b": 2})
        client.xgroup_create(b"k:stream", "g", mkstream=True)
        client.xadd(b"k:stream", {"f": "v"})


def documents() -> dict[str, str]:
    """The policies that are fuzzed, by name."""
    example = (examples_root() / "agents.yaml").read_text()
    # Most random calls are refused: the identity would suspend itself, and the rest would be one
    # refusal again and again.
    unbroken, breakers = re.subn(r"^  on_denials: .*\n", "", example, flags=re.MULTILINE)
    assert breakers == 1
    return {"everything": EVERYTHING, "example": unbroken}


def _is_granted(identity: Identity, name: bytes) -> bool:
    """Return whether a grant covers a key, and neither a deny rule nor the control prefix does."""
    if name.startswith(CONTROL_PREFIX.encode()):
        return False
    if any(matches(pattern, name) for rule in identity.deny for pattern in rule.keys):
        return False
    return any(matches(pattern, name) for rule in identity.grants for pattern in rule.keys)


def _is_large(name: bytes) -> bool:
    """Scripts and the document: compared at the end of a round."""
    return name.startswith((b"keyleash:source:", b"keyleash:policy"))


def _errors_in(reply: Any) -> Sequence[redis.ResponseError]:
    if isinstance(reply, redis.ResponseError):
        return [reply]
    if isinstance(reply, list):
        return [error for item in reply for error in _errors_in(item)]
    return []
