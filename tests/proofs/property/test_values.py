"""Generated rules for values, and batches and scripts of writes: judged as the evaluator says."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest
import redis

from keyleash.commands.keys import keys_of
from keyleash.commands.writes import Writes, written_by
from keyleash.errors import ReplyCode
from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.trace import Decision
from keyleash.operator.tokens.restrict import Scope, restrict
from keyleash.policy import Identity, parse_policy
from keyleash.store.store import Store
from keyleash.store.wire import declared_keys, refusal
from proofs.oracle.data import model_state
from support.leash import NAMES, Leash, policy, with_files
from support.servers import RealServer
from support.thorough import FACTOR
from support.written import Rules, Writer, drawn_rules, grants, payloads, violations

CONTENTS = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '[vwfo]:*')) do
  local kind = redis.call('TYPE', key).ok
  local held = {}
  if kind == 'string' then held = { redis.call('GET', key) } end
  if kind == 'list' then held = redis.call('LRANGE', key, 0, -1) end
  if kind == 'set' then held = redis.call('SMEMBERS', key) end
  if kind == 'zset' then held = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  if kind == 'hash' then held = redis.call('HGETALL', key) end
  if kind == 'stream' then
    for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do held[#held + 1] = entry[2] end
  end
  found[#found + 1] = { key, kind, held }
end
return found
"""
"""Each key with its type and what it holds; of streams without the ids, which the clock makes."""

COPY_ALL = """
for _, key in ipairs(redis.call('KEYS', '[vwfo]:*')) do redis.call('COPY', key, key, 'DB', 1) end
"""

RUNNER = """
local replies, at = {}, 2
for n = 1, tonumber(ARGV[1]) do
  local size = tonumber(ARGV[at])
  local words = {}
  for i = 1, size do words[i] = ARGV[at + i] end
  local reply = redis.pcall(unpack(words))
  replies[n] = type(reply) == 'table' and reply.err or 'ran'
  at = at + size + 1
end
return replies
"""
"""Runs the commands in its arguments, each behind its size."""

BY_CONTENTS = {Writes.MOVED, Writes.WHOLE, Writes.RESULT, Writes.FLOAT, Writes.FIELD_FLOAT}
"""What these leave depends on what other keys hold, which in a batch earlier commands change."""

STRINGS = {"@string", "@bitmap", "@hyperloglog"}
TYPES = [
    {*types, "@keyspace"}
    for types in (STRINGS, {"@list"}, {"@set"}, {"@hash"}, {"@sortedset", "@geo"}, {"@stream"})
]

GROWING = {
    "APPEND", "BITOP", "COPY", "INCRBY", "INCRBYFLOAT", "PFADD", "RENAME", "RENAMENX", "RESTORE",
    "SETRANGE",
}  # fmt: skip
"""Commands of which a later one may add to what an earlier one left."""
VECTORS = ("VADD", "VSETATTR")

Call = tuple[Any, ...]


class Trial:
    """An identity with rules on a server, and a copy of its keys in which calls are tried."""

    def __init__(self, server: RealServer, seed: int) -> None:
        self.leash = Leash(server)
        self.admin = self.leash.admin
        self.copy: Any = server.client(db=1)
        self.draws = random.Random(seed)
        self.writer = Writer(self.draws, self.admin.time()[0], payloads(self.admin))
        self.seen: Counter[str] = Counter()

    def begin(self) -> None:
        """Load a policy with other rules, and empty the server."""
        self.admin.flushall()
        self.rules: Rules = drawn_rules(self.draws)
        body: dict[str, Any] = {
            "grants": grants(self.rules),
            "limits": {"work": 1_000_000},
            "token": {"bound": True},
            "idempotency": {"keep": "1h", "max_reply": "64kb"},
        }
        body["grants"][0]["scripts"] = ["runner"]
        document = json.loads(policy(one=body))
        document["scripts"] = {"runner": {"file": "runner.lua"}}
        text = with_files(json.dumps(document), {"runner.lua": RUNNER})
        self.leash.load(text)
        self.identity: Identity = parse_policy(
            text, file="p", commands=self.leash.server.table
        ).identities[0]
        scope = self.draws.choice(
            (
                *4 * [Scope()],
                Scope(bind={"n": self.draws.randrange(3)}),
                Scope(keys=("v:*", "w:{{d}}1", "f:*")),
                Scope(allow=("read", "write")),
            )
        )
        self.restrictions = restrict(self.identity, scope)
        self.token = self.leash.issue("one", **asdict(scope)).token
        self.agent: Any = self.leash.client(self.token)

    def begin_scene(self) -> None:
        """Choose a few keys, which are then absent, and commands of one type or of any key."""
        self.writer.some_keys = []
        self.writer.some_keys = [self.writer.key() for _ in range(self.draws.choice((2, 3, 12)))]
        self.admin.delete(*self.writer.some_keys)
        drawn = {self.writer.call()[0] for _ in range(400)}
        names = drawn & GROWING
        if self.draws.random() < 0.7:
            types = self.draws.choice(TYPES)
            # Without vector sets, which COPY refuses.
            known = [spec for spec in self.leash.server.table if spec.name in drawn - {*VECTORS}]
            names = {spec.name for spec in known if not types.isdisjoint(spec.categories)}
        size = self.draws.choice((3, 5, 8))
        self.names = self.draws.sample(sorted(names), min(len(names), size))

    def calls(self, count: int) -> list[Call]:
        """Return calls of these commands."""
        found: list[Call] = []
        while len(found) < count:
            call = self.writer.call()
            if call[0] in self.names:
                found.append(call)
        return found

    def decided(self, call: Call) -> Decision:
        """Return what the evaluator decides on the copy."""
        table, words = self.leash.server.table, words_of(call)
        state = model_state(Store(self.copy, NAMES), restrictions=self.restrictions)
        now_us = self.leash.store.now_us()
        return decide(self.identity, table, words, declared_keys(table, words), state, now_us)

    def contents(self, client: Any) -> dict[bytes, Any]:
        """Return what the keys hold."""
        return {key: (kind, _in_order(kind, held)) for key, kind, held in client.eval(CONTENTS, 0)}

    def start_copy(self) -> dict[bytes, Any]:
        """Copy the keys, and return what they hold."""
        self.copy.flushdb()
        self.admin.eval(COPY_ALL, 0)
        return self.contents(self.copy)

    def run_copy(self, call: Call) -> None:
        """Make a call of an unguarded client in the copy; its own error is no matter."""
        try:
            self.copy.execute_command(*call)
        except redis.ResponseError:
            self.seen["failed"] += 1


def _in_order(kind: bytes, held: list[Any]) -> list[Any]:
    """Return what a key holds without an order that a copy may change."""
    if kind == b"hash":
        return sorted(zip(held[::2], held[1::2], strict=True))
    return sorted(held) if kind == b"set" else held


def words_of(call: Call) -> list[bytes]:
    return [word if isinstance(word, bytes) else str(word).encode() for word in call]


def denial(reply: Any) -> Any:
    """Return the denial in a reply, as text; None if the command ran."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    return refusal(text) if isinstance(text, str) and text.startswith("LEASH") else None


def compare(trial: Trial, calls: Sequence[Call], replies: Sequence[Any], *, batch: bool) -> None:
    """
    Judge calls one after the other on the copy, and compare with the decisions of the guard.

    What the evaluator denies, the guard denies. What it allows, the guard denies only in a batch,
    where sizes are upper bounds: if a key of it was written before, or if the bytes that it moves
    are not known. What a payload holds the evaluator does not judge.
    """
    table = trial.leash.server.table
    touched: set[bytes] = set()
    is_fresh = True
    for call, reply in zip(calls, replies, strict=True):
        found = denial(reply)
        expected = trial.decided(call)
        spec = table.find(words_of(call)[:2])
        assert spec is not None
        named = [use.key for use in keys_of(spec, words_of(call))]
        keys = {*named}
        written = written_by(spec)
        how = None if written is None else written.how
        is_alone = not keys & touched and len(keys) == len(named)
        is_known = not batch or ((is_fresh or how not in BY_CONTENTS) and is_alone)
        # Only a server knows what a payload holds.
        is_exact = is_known and how is not Writes.PAYLOAD
        shown = (call, expected, reply, calls, trial.rules)
        if not expected.allowed or is_exact:
            assert (found is None) is expected.allowed, shown
        if found is None:
            trial.seen["allowed"] += 1
            trial.run_copy(call)
            is_fresh = False
        else:
            trial.seen[found.code] += 1
            assert found.code.startswith(("VALUE_", "WORK_", "KEY_", "CLASS_")), shown
        if is_exact and found is not None:
            assert_equal_denials(expected, found, call)
        touched |= keys


def assert_equal_denials(expected: Decision, found: Any, call: Call) -> None:
    assert expected.code is ReplyCode(found.code), (call, expected, found.details)
    details = {name: text for name, text in found.details.items() if name != "item"}
    wanted = dict(expected.details)
    if details.get("rule") == "ttl":
        # Up to the moment.
        wanted["was"] = details["was"]
    if not call[0].startswith(("MSET", "COPY", "RENAME")):
        # Of several values or elements that are too long, any is named.
        assert wanted == details, (call, expected, found.details)


def check_batch(trial: Trial, calls: Sequence[Call]) -> None:
    """Send a batch, perhaps with an id, then again with it; compare decisions and what it left."""
    mode = trial.draws.choice(("each", "each", "all"))
    id = trial.draws.choice(("", "", str(trial.draws.random())))
    before = trial.start_copy()
    replies = trial.leash.batch("one", trial.token, mode, *calls, once=id)
    if isinstance(replies, str):
        found = denial(replies)
        assert found is not None, replies
        place = int(found.details["item"])
        compare(trial, calls[:place], [b""] * (place - 1) + [replies], batch=True)
        assert trial.contents(trial.admin) == before
        return
    compare(trial, calls, replies, batch=True)
    after = trial.contents(trial.admin)
    if not any(call[0] == "SPOP" for call in calls):
        assert after == trial.contents(trial.copy), (calls, replies)
    if id and any(denial(reply) is None for reply in replies):
        again = trial.leash.batch("one", trial.token, mode, *calls, once=id)
        has_changed = any(
            denial(reply) is None and call[0] != "SORT"
            for call, reply in zip(calls, replies, strict=True)
        )
        assert again == replies or not has_changed, (calls, replies, again)
        assert trial.contents(trial.admin) == after, calls
        trial.seen["replayed"] += has_changed


def check_script(trial: Trial, calls: Sequence[Call]) -> None:
    """Run the calls in an approved script, which is checked exactly."""
    trial.start_copy()
    words = [word for call in calls for word in (len(call), *call)]
    client = trial.agent
    replies = client.eval(RUNNER, 0, len(calls), *words)
    assert isinstance(replies, list)
    compare(trial, calls, replies, batch=False)
    if not any(call[0] == "SPOP" for call in calls):
        assert trial.contents(trial.admin) == trial.contents(trial.copy), calls
    trial.seen["scripts"] += 1


def run(server: RealServer, rounds: int, seed: int) -> Counter[str]:
    """Try rules, each with some batches and scripts; return what happened how often."""
    trial = Trial(server, seed)
    for _ in range(rounds):
        trial.begin()
        for place in range(24):
            if place % 4 == 0:
                trial.begin_scene()
            calls = trial.calls(trial.draws.choice((1, 2, 4, 8)))
            trial.draws.choice((check_batch, check_batch, check_batch, check_script))(trial, calls)
            assert [*violations(trial.admin, trial.rules)] == [], (calls, trial.rules)
    return trial.seen


def test_batch_of_writes_is_judged_as_the_evaluator_says(server: RealServer) -> None:
    """In both modes, with ids, of bound tokens and in scripts; a scan finds no broken rule."""
    seen = run(server, 5, seed=1)

    assert min(seen[name] for name in ("VALUE_REFUSED", "VALUE_TOO_LARGE", "KEY_NOT_GRANTED")) > 5
    assert min(seen[name] for name in ("allowed", "failed", "replayed", "scripts")) > 10


@pytest.mark.slow
def test_many_batches_of_writes_are_judged_as_the_evaluator_says(server: RealServer) -> None:
    """The same for many rules, new ones each time."""
    seed = random.randrange(10**9)
    print("seed", seed)
    run(server, 200 * FACTOR, seed)
