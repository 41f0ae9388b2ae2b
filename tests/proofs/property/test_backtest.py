"""Random calls: a backtest says what the guards of a policy decide once it is active."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

import keyleash
from keyleash.addons.learn.backtest import Outcome, Replay
from keyleash.addons.learn.calls import RecordedCall
from keyleash.addons.learn.sources import open_log
from keyleash.addons.learn.unused import find_unused
from keyleash.addons.policy_tests.guards import Guards
from keyleash.addons.policy_tests.model import Case, Expected, TestStep
from keyleash.commands import CommandTable, known_table, load_table
from keyleash.compiler.render import examples_root
from keyleash.errors import LeashError, ReplyCode, Span, UnplacedKeysError
from keyleash.evaluate.trace import Decision
from keyleash.policy import Deny, Grant, Policy, parse_policy
from keyleash.policy.diff.call_shapes import example_call, forms_of
from keyleash.store.keyspace import Keyspace
from keyleash.store.live_table import read_table
from keyleash.store.records import guard_record, read_active
from keyleash.store.store import Store
from keyleash.store.wire import declared_keys, guard_call
from support.servers import RealServer
from support.thorough import FACTOR

CALLS = 1000 * FACTOR
LATE = CALLS * 0.8
"""The first call that may poll: limits count what it finds, which is not the same in two runs."""
UNDECIDED = 0.02
"""The largest share of calls about which the log does not say enough."""
NAMES = Keyspace()
SPAN = Span("test", 1, 1)
TABLE = load_table()
FAMILIAR = [TABLE.commands[name] for name in ("GET", "SET", "DEL", "INCR", "MGET", "HSET", "COPY")]
COUNTED = (ReplyCode.SUSPENDED, ReplyCode.RATE_LIMITED, ReplyCode.BUDGET_EXHAUSTED)
COUNTERS = ("rate.", "budget.", "on_denials")
VALUES = """\
version: 1
identities:
  one:
    kind: machine
    grants:
      - {allow: [read, write], keys: ["a:*"], values: {max_bytes: 64b, max_elements: 3}}
      - {allow: [read, write, delete], keys: ["b:{x}"]}
      - {allow: [read], keys: ["c:*"]}
    rate: {writes: {limit: 30/second, burst: 5, per: "{x}"}}
    budget: {requests: 800/day}
    on_denials: {threshold: 100/minute, suspend: 1s}
"""


def broad(policy: Policy) -> str:
    """Return a policy that allows the same identities everything, and records it."""
    rules = """
    kind: machine
    grants: [{allow: [read, write, delete, scan, publish, subscribe], keys: ["*"], channels: ["*"]}]
    audit: {reads: true, retain: 1000000}
"""
    identities = "".join(f"  {identity.name}:{rules}" for identity in policy.identities)
    return f"version: 1\nidentities:\n{identities}"


def keys_of(policy: Policy) -> list[bytes]:
    """Return keys that patterns of a policy match, and others."""
    rules: list[Grant | Deny] = [x for item in policy.identities for x in item.grants]
    rules += [x for item in policy.identities for x in item.deny]
    texts = [key.source.replace("*", "") for rule in rules for key in rule.keys]
    found = [re.sub(r"{\w+}", value, text) for text in texts for value in ("1", "4", "5", "6:7")]
    return [key.encode() for key in dict.fromkeys([*found, "other"])]


def random_calls(policy: Policy, table: CommandTable) -> Iterator[tuple[str, list[bytes]]]:
    """Yield an identity and a call; commands that people use are as frequent as all others."""
    numbers = random.Random(1)
    commands = [
        spec for spec in table if spec.refused is None and not (spec.subscribes or spec.named_only)
    ]
    keys, names = keys_of(policy), [identity.name for identity in policy.identities]
    for number in count():
        spec = numbers.choice(FAMILIAR if numbers.random() < 0.6 else commands)
        if spec.waits and number < LATE:
            continue
        form = numbers.choice(forms_of(spec))
        if spec.scans:
            argv = [b"SCAN", b"0", b"MATCH", numbers.choice(keys) + b"*"]
        elif spec.channel is not None:
            argv = [*spec.name.encode().split(), numbers.choice(keys), b"1"]
        else:
            argv = example_call(spec, form, [numbers.choice(keys) for _ in form.needs])
        try:
            [*declared_keys(TABLE, argv)]
        except UnplacedKeysError:
            continue
        yield numbers.choice(names), argv


WIDE = """\
version: 1
identities:
  one:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["a:{x}", "a:{x}:old", "b:*"]}
      - {allow: [read, scan], keys: ["b:{x}", "c:*", "d:*"]}
      - {allow: [write, delete, publish], keys: ["d:*", "e:*"], channels: ["f:*", "g:*"]}
      - {allow: [write, delete], keys: ["h:*", "c:1"], except: [SET]}
    deny: [{keys: ["b:1"]}]
    audit: {reads: true, retain: 1000000}
"""


def record(
    server: RealServer, document: str, policy: Policy, total: int = CALLS
) -> dict[str, list[bytes]]:
    """Make random calls under a broad policy; return them by their correlation ids."""
    client: Any = server.client()
    operator = keyleash.Operator(client)
    operator.load(keyleash.Policy(document))
    tokens, digests = {}, {}
    for name in (identity.name for identity in policy.identities):
        found = guard_record(client.hgetall(NAMES.guard(name)))
        assert found is not None
        tokens[name], digests[name] = operator.tokens.issue(name).token, found.digest
    made = {}
    pipe = client.pipeline(transaction=False)
    for number, (name, argv) in enumerate(islice(random_calls(policy, read_table(client)), total)):
        made[str(number)] = argv
        pipe.execute_command(*guard_call(TABLE, digests[name], tokens[name], str(number), argv))
    pipe.execute(raise_on_error=False)
    return made


def decisions(
    server: RealServer, document: str, calls: list[tuple[RecordedCall, list[bytes]]]
) -> list[Decision]:
    """Return what guards of a policy decide about the calls of each identity, at their times."""
    guards = Guards(server.client())
    guards.load(document, "p.yaml", calls[0][0].time_ms * 1000)
    policy = parse_policy(document, file="p.yaml", commands=known_table())
    found: dict[str, Iterator[Decision]] = {}
    for identity in policy.identities:
        steps = tuple(
            TestStep(call.time_ms * 1000, call.token_id, tuple(argv), 1, Expected(None), SPAN)
            for call, argv in calls
            if call.identity == identity.name
        )
        case = Case("", identity.name, steps, SPAN, SPAN)
        found[identity.name] = iter(guards.decisions(case, identity))
    guards.release()
    return [next(found[call.identity]) for call, _ in calls]


@pytest.mark.parametrize("name", ["agents", "jobs", "starter", "values"])
def test_verdicts_are_those_after_activation(embedded: RealServer, name: str) -> None:
    """Every decided call is decided as guards then do, and few are undecided."""
    document = VALUES if name == "values" else (examples_root() / f"{name}.yaml").read_text()
    policy = parse_policy(document, file="p.yaml", commands=known_table())
    before = broad(policy)
    made = record(embedded, before, policy)
    log = open_log(lambda: Store(embedded.client()), (), {})
    old = parse_policy(before, file="b.yaml", commands=known_table())
    replay = Replay(policy, old)
    judged = [(call, *replay.outcome(call)) for call in log]
    embedded.client().flushall()
    calls = [(call, made[call.correlation]) for call, _, _ in judged]

    real = decisions(embedded, document, calls)

    counts: Counter[Outcome] = Counter()
    is_sure = True
    for (call, outcome, ruling), (_, argv), decision in zip(judged, calls, real, strict=True):
        counts[outcome] += 1
        if ruling.allowed is None:
            # It is charged to limits and no denial; what is counted from then on may differ.
            is_sure = is_sure and decision.allowed
        elif is_sure or not (decision.code in COUNTED or ruling.rule.startswith(COUNTERS)):
            assert ruling.allowed == decision.allowed, (call, argv, ruling, decision)
        if (spec := call.spec) and spec.waits and decision.allowed:
            is_sure = False
    assert counts[Outcome.DENIED] > CALLS / 100
    assert counts.total() > CALLS * 0.9
    if name != "values":
        assert counts[Outcome.UNDECIDED] < UNDECIDED * counts.total(), counts


def test_a_policy_without_unused_rules_allows_every_recorded_call(embedded: RealServer) -> None:
    """It is narrower, and no call of the log is denied by it."""
    policy = parse_policy(WIDE, file="w.yaml", commands=known_table())
    record(embedded, WIDE, policy, 120)
    log = open_log(lambda: Store(embedded.client()), (), {})

    found = find_unused(log, WIDE, "w.yaml")

    narrowed = parse_policy(found.document, file="n.yaml", commands=known_table())
    replay = Replay(narrowed, policy)
    counts = Counter(replay.outcome(call)[0] for call in log)
    assert counts[Outcome.DENIED] == counts[Outcome.ALLOWED] == 0 < counts[Outcome.UNCHANGED]
    assert found.diff.identities
    assert not found.diff.widens


TAKE = """\
redis.call('SET', KEYS[1], 'x')
if ARGV[1] == '1' then redis.call('SET', KEYS[2], 'x') end
"""
SCRIPTS = """\
version: 1
scripts: {take: {file: take.lua}}
identities:
  one:
    kind: machine
    grants:
      - {allow: [write], keys: ["q:*", "c:*"], scripts: [take]}
      - {allow: [write, delete], keys: ["d:*", "e:*"]}
    audit: {reads: true}
"""


def test_keys_of_scripts_are_decided_as_guards_do_or_not_at_all(
    embedded: RealServer, tmp_path: Path
) -> None:
    """A key that is only in KEYS is in no event: what it may need is undecided."""
    (tmp_path / "take.lua").write_text(TAKE)
    operator = keyleash.Operator(embedded.client())
    file = str(tmp_path / "p.yaml")
    operator.load(keyleash.Policy(SCRIPTS, file=file), allow_widening=True)
    token = operator.tokens.issue("one").token
    client: Any = keyleash.Redis.from_url(embedded.url, token=token)
    active = read_active(Store(embedded.client()))
    assert active is not None
    before = parse_policy(active.document, file=file, commands=None)
    digest, numbers = before.identities[0].scripts[0].digest, random.Random(1)
    keys = ["q:1", "q:2", "c:1", "d:1"]
    calls = [(*numbers.choices(keys, k=2), numbers.choice("01")) for _ in range(60)]

    def allowed(argv: tuple[str, ...]) -> bool:
        try:
            client.evalsha(digest, 2, *argv)
        except LeashError:
            return False
        return True

    made = [argv for argv in calls if allowed(argv)]
    log = open_log(lambda: Store(embedded.client()), (), {})
    unused = find_unused(log, active.document, file)
    for text in (SCRIPTS.replace(', "c:*"', ""), SCRIPTS.replace("d:*", "d:2"), unused.document):
        replay = Replay(parse_policy(text, file=file, commands=None), before)
        rulings: dict[str, list[bool | None]] = {}
        for call in log:
            if not call.code and call.script:
                rulings.setdefault(call.event, []).append(replay.outcome(call)[1].allowed)
        operator.load(keyleash.Policy(text, file=file), allow_removal=True)
        assert len(rulings) >= len(made) > 10
        for argv, decided in zip(made, rulings.values(), strict=False):
            verdict = False if False in decided else None if None in decided else True
            assert verdict in (None, allowed(argv)), (text, argv)
        operator.load(keyleash.Policy(SCRIPTS, file=file), allow_widening=True)
    assert '"c:*"' in unused.document
