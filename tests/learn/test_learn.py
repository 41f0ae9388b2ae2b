"""Policies learned from recorded calls: they allow what was recorded, and no more."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import keyleash
from keyleash.addons.learn.backtest import Outcome
from keyleash.addons.learn.learn import Learned
from keyleash.addons.learn.patterns import FROM_ROOT
from keyleash.addons.learn.sources import open_log
from keyleash.addons.policy_tests.run import Verdict
from keyleash.commands import known_table
from keyleash.evaluate.client_calls import client_call, decide_client_call
from keyleash.evaluate.state import ModelState
from keyleash.limits import Counter
from support.errors import raises_code
from support.servers import RealServer

BROAD = """\
version: 1
defaults: {on_denials: {threshold: 50/minute, suspend: 10m}}
scripts:
  take: {file: take.lua}
identities:
  worker:
    kind: machine
    grants:
      - allow: [read, write, delete, scan, publish, subscribe]
        keys: ["*"]
        channels: ["*"]
        scripts: [take, redis-py-lock]
    rate: {requests: 60000/minute, deletes: 9000/minute}
    audit: {reads: true}
    token: {bound: true, renew: true}
    delegate: {depth: 2}
  other:
    kind: machine
    grants: [{allow: [read, write], keys: ["*"]}]
"""
TAKE = "return redis.call('RPOPLPUSH', KEYS[1], KEYS[2])\n"


def broad(server: RealServer, folder: Path) -> keyleash.Operator:
    (folder / "take.lua").write_text(TAKE)
    (folder / "broad.yaml").write_text(BROAD)
    operator = keyleash.Operator(server.client())
    operator.load(keyleash.Policy.from_file(folder / "broad.yaml"))
    return operator


def agent(server: RealServer, operator: keyleash.Operator, name: str = "worker") -> Any:
    return keyleash.Redis.from_url(server.url, token=operator.tokens.issue(name).token)


def work(client: Any, rng: random.Random) -> None:
    """Make calls of many kinds, whose keys depend on the seed."""
    for _ in range(30):
        job = rng.randrange(10**6)
        client.hset(f"jobs:{job}", mapping={"state": "new"})
        client.set(f"jobs:{job}:lock", 1, get=True)
        client.getdel(f"jobs:{job}:lock")
        client.rpush("queue:high", job)
        client.publish(f"events:{job}", "x")
        client.exists(f"flags:{job}")
        client.copy(f"jobs:{job}", f"archive:{job}")
        client.xadd("log", {"a": "b"})
        client.xread({"log": "$", "other": "0"})
        client.zunionstore("sum", ["one", f"z:{job}"])
        with client.pipeline() as pipe:
            pipe.set(f"batch:{job}", 1).get(f"batch:{job}").mset({f"m:{job}": 1, "m:all": 2})
            pipe.execute()
        client.register_script(TAKE)(keys=["queue:high", "queue:taken"])
        with client.lock(f"mutex:{job % 3}"):
            list(client.scan_iter("jobs:*"))
        with client.pubsub() as pubsub:
            pubsub.subscribe(f"inbox:{job}")
            pubsub.psubscribe("news:*")


def written(learned: Learned, folder: Path) -> keyleash.Policy:
    """Return the policy from its files, as `load` reads it."""
    for name, text in learned.files().items():
        (folder / name).write_text(text)
    return keyleash.Policy.from_file(folder / "learned.yaml")


def test_learned_policy_allows_the_same_work_and_is_narrower(
    server: RealServer, tmp_path: Path
) -> None:
    """Fresh keys of the same kinds are allowed, foreign ones denied; tests and check pass."""
    operator = broad(server, tmp_path)
    work(agent(server, operator), random.Random(1))

    policy = written(operator.learn("worker"), tmp_path)
    plan = operator.plan(policy)
    tests = policy.run_tests(tmp_path / "learned.test.yaml")
    assert plan.widened == ()
    operator.apply(plan, allow_removal=True)
    # The rate still counts the calls from which it was learned.
    operator.limits.reset("worker", reason="a new day")
    client = agent(server, operator)
    work(client, random.Random(2))

    assert policy.check().digest
    assert {outcome.verdict for _, outcome in tests.outcomes} == {Verdict.PASSED}
    assert tests.covered == tests.total
    for denied in (("GET", "jobs:1:x"), ("DEL", "jobs:1"), ("SET", "m", "1"), ("PUBLISH", "e", "")):
        with pytest.raises(keyleash.LeashError):
            client.execute_command(*denied)


def test_pattern_has_its_support_and_rare_ones_are_comments(
    embedded: RealServer, tmp_path: Path
) -> None:
    """Lines have calls and values; what fewer calls show is there, commented out."""
    operator = broad(embedded, tmp_path)
    client = agent(embedded, operator)
    for number in range(40):
        client.set(f"jobs:{number}", 1)
        client.get(f"jobs:{number}")
    client.delete("jobs:1", "once")

    text = operator.learn("worker").files()["learned.yaml"]

    assert '- "jobs:{job_id}"  # 80 calls, 40 jobs, last' in text
    assert '      #     - "once"  # 1 call, last' in text
    assert '      #     - "jobs:{job_id}"  # 1 call, 40 jobs, last' in text
    assert "take" not in text
    assert 'deletes: "9000/minute"' in text
    # Twice 81 calls, rounded up to two digits; the active rate is higher.
    assert "      # requests: 170/minute  # p99 of a minute had" in text
    assert "    # budget:\n      # requests: 170/day" in text


def test_few_calls_are_refused_with_their_number(embedded: RealServer, tmp_path: Path) -> None:
    """The error has the number that there is and the number that is needed."""
    operator = broad(embedded, tmp_path)
    agent(embedded, operator).set("a", 1)

    with raises_code("too-few-calls") as raised:
        operator.learn("worker")

    assert "the audit log has 1 call of `worker`, and 25 are needed" in raised.value.message


def test_few_calls_of_each_class_are_comments_but_not_a_subscription(tmp_path: Path) -> None:
    """The comment has the calls that were too few; a process subscribes once."""
    rare = [("LPUSH", "rare", "x"), ("LLEN", "rare"), ("LRANGE", "rare", "0", "1")] * 4
    learned = captured(tmp_path, ("SUBSCRIBE", "news"), *[("SET", "a", "b")] * 25, *rare)

    text = learned.files()["learned.yaml"]

    assert '          - "news"  # 1 call, last' in text
    assert text.count('    - "rare"  # 4 calls, last') == 2


def test_a_key_with_one_date_is_a_question(tmp_path: Path) -> None:
    """The pattern of one day denies the next."""
    calls = [("INCR", f"stats:{day}:hits") for day in ("2026-03-02", "20260303")] * 20

    learned = captured(tmp_path, *calls)

    assert [*learned.questions] == [
        f"`client-10-0-0-9`: `stats:{day}:hits` names a date: other days are denied"
        for day in ("2026-03-02", "20260303")
    ]


def test_a_client_that_a_capture_lacks_is_named(tmp_path: Path) -> None:
    """The error has those that there are."""
    captured(tmp_path, *[("SET", "a", "b")] * 25)

    with raises_code("unknown-identity") as raised:
        keyleash.Operator.from_url("redis://unused").learn("shop", monitor=tmp_path / "monitor.txt")

    assert "has no calls of `shop`" in raised.value.message
    assert raised.value.help == "it has `client-10-0-0-9`"


def test_patterns_for_all_keys_are_comments(tmp_path: Path) -> None:
    """A capture without a literal before it also allows what others use; its doubt is beside it."""
    sort, odd = ("SORT", "l", "GET", "*"), ("SET", "g*b:a", "x")
    ids = [("SET", form.format(n), "x") for n in range(40) for form in ("{}:cart", "tok-{}")]
    learned = captured(tmp_path, *[sort, odd, ("GET", "a")] * 40, *ids)

    text = learned.files()["learned.yaml"]

    rules = {rule.pattern for rule in learned.identities[0].rules if not rule.is_rare}
    assert rules == {"tok-{tok_id}", "a", "l"}
    for pattern in ("{id}:cart", "{id}:a", "*"):
        assert f'      #     - "{pattern}"  # 40 calls, ' in text
    assert text.count(f"; {FROM_ROOT}") == 3
    assert written(learned, tmp_path).check().digest


def test_patterns_of_sort_are_learned(tmp_path: Path) -> None:
    """They are reads of all keys that begin so, and the learned policy allows the call."""
    sort = ("SORT", "l", "BY", "w_*", "GET", "obj:*->name", "GET", "#", "STORE", "out")

    learned = captured(tmp_path, *[sort] * 30, *[("SET", "", "x")] * 30)
    policy = written(learned, tmp_path)
    found = keyleash.Operator.from_url("redis://unused").backtest(
        policy, monitor=tmp_path / "monitor.txt"
    )

    shown = {rule.pattern: rule.allow for rule in learned.identities[0].rules}
    assert shown == {"l": ("read",), "w_*": ("read",), "obj:*": ("read",), "out": ("write",)}
    assert "# 30 calls: no pattern names an empty key" in learned.files()["learned.yaml"]
    # The rest has the empty key.
    assert found.outcomes[Outcome.DENIED] == 30


def test_patterns_that_are_not_recorded_are_a_comment(embedded: RealServer, tmp_path: Path) -> None:
    """The audit log has no arguments of SORT."""
    operator = broad(embedded, tmp_path)
    client = agent(embedded, operator)
    client.rpush("l", 1, 2)
    for _ in range(30):
        client.sort("l", by="w_*")

    text = operator.learn("worker").files()["learned.yaml"]

    assert "# 30 calls: SORT: its patterns are not recorded: grant them" in text


def test_many_calls_without_a_pattern_are_not_to_be_recorded_longer(tmp_path: Path) -> None:
    """The help has what was left out, and why."""
    with raises_code("too-few-calls") as raised:
        captured(tmp_path, *[("SET", f"{number}", "x") for number in range(40)])

    assert "40 calls of `client-10-0-0-9`, and 25 are needed, 5 of them for" in raised.value.message
    assert raised.value.help is not None
    assert raised.value.help.startswith(f"`{{id}}` {FROM_ROOT}; record for longer, grant")


def test_identities_that_write_one_pattern_are_a_question(
    embedded: RealServer, tmp_path: Path
) -> None:
    """They are not merged; a log without reads is reported."""
    operator = broad(embedded, tmp_path)
    for name in ("worker", "other"):
        client = agent(embedded, operator, name)
        for number in range(60):
            client.set(f"jobs:{number}", 1)

    learned = operator.learn()

    assert [item.name for item in learned.identities] == ["other", "worker"]
    assert [*learned.questions] == [
        "`other` and `worker` write `jobs:{job_id}`: are they one identity, or is one not to?"
    ]
    text = learned.files()["learned.yaml"]
    assert "# question: `other` and `worker` write" in text
    assert "# other: reads: none: add what it reads" in text
    # How many requests it makes is then not known.
    assert "      requests:" not in text[text.index("  other:\n") : text.index("  worker:\n")]


def test_odd_keys_make_a_valid_policy(tmp_path: Path) -> None:
    """Quotes, control characters, braces, letters of all kinds and bytes that are not UTF-8."""
    rng, lines = random.Random(1), []
    parts = [
        '\\"',
        "\\n",
        "\\x00",
        "\\xff",
        "{",
        "}",
        "*",
        "é",
        "\\xe2\\x80\\xae",
        ":",
        "a",
        "1",
        " ",
    ]
    for number in range(600):
        key = "odd:" * bool(number) + "".join(rng.choices(parts, k=rng.randrange(1, 8)))
        lines.append(f'{1700000000 + number}.000000 [0 10.0.0.9:7] "SET" "{key}" "x"')
    file = tmp_path / "monitor.txt"
    file.write_text("\n".join(lines))
    operator = keyleash.Operator.from_url("redis://127.0.0.1:1")

    policy = written(operator.learn(monitor=file, least=1), tmp_path)

    assert policy.check().digest
    (identity,) = policy.model.identities
    calls = [call for call in open_log(fail, (), {"monitor": file}) if call.keys != (b"",)]
    for call in calls:
        found = client_call(identity, call.argv or ())
        assert decide_client_call(identity, known_table(), found, ModelState(), 0).allowed, call


def fail() -> Any:
    raise AssertionError("a file needs no server")


def captured(folder: Path, *calls: tuple[str, ...], step: float = 0.5) -> Learned:
    """Return what is learned from a capture of calls of one client."""
    lines = [
        f"{1700000000 + number * step:.6f} [0 10.0.0.9:7] {' '.join(map(json.dumps, call))}\n"
        for number, call in enumerate(calls)
    ]
    (folder / "monitor.txt").write_text("".join(lines))
    operator = keyleash.Operator.from_url("redis://127.0.0.1:1")
    return operator.learn(monitor=folder / "monitor.txt")


def test_tokens_are_in_no_file(tmp_path: Path) -> None:
    """Neither from keys, channels, commands and names, nor from texts of scripts."""
    token = "kl_worker_" + "s3cr3t-" * 4
    calls = [
        ("SET", f"session:{token}", "x"),
        ("GET", "plain"),
        ("PUBLISH", f"{token}", "x"),
        ("SCAN", "0", "MATCH", f"{token}*"),
        (token, "x"),
        ("EVAL", f"return '{token}'", "1", "plain"),
        ("SET", "plain", "x"),
    ]
    learned = captured(tmp_path, *calls * 10)

    files = learned.files()
    assert '"session:{session_id}"' in files["learned.yaml"]
    assert "its text has a token" in files["learned.yaml"]
    shown = "".join(files.values()) + json.dumps(learned.to_dict())
    assert "s3cr3t" not in shown.lower()
    assert written(learned, tmp_path).check().digest


@pytest.mark.parametrize(
    ("step", "rate", "budget"), [(1, "# ", "# "), (9, "", "# "), (1000, "", "")]
)
def test_limits_need_time(tmp_path: Path, step: float, rate: str, budget: str) -> None:
    """Budgets are proposed from a day on, rates from five minutes on; the rest are comments."""
    calls = [("SET", "a", "x")] * 100

    text = captured(tmp_path, *calls, step=step).files()["learned.yaml"]

    assert f"\n    {rate}rate:\n      {rate}requests: " in text
    assert f"\n    {budget}budget:\n      {budget}requests: " in text
    assert "; observed for " in text


def test_pattern_of_another_address_is_a_question(tmp_path: Path) -> None:
    """On a server without keyleash, any client may give itself the name of an agent."""
    lines = [
        f"1700000{number:03}.000000 [0 {host}:7] {call}"
        for host, key in (("1.1.1.1", "jobs:1:state"), ("9.9.9.9", "payroll:1:salary"))
        for number, call in enumerate(
            ['"CLIENT" "SETNAME" "agent-runner"', f'"GET" "{key}"', '"GET" "jobs:1:log"']
            + [f'"GET" "{key}"'] * 30
        )
        if host == "1.1.1.1" or "jobs" not in call
    ]
    (tmp_path / "monitor.txt").write_text("\n".join(lines))
    operator = keyleash.Operator.from_url("redis://127.0.0.1:1")

    learned = operator.learn(monitor=tmp_path / "monitor.txt")

    assert [*learned.questions] == [
        "`agent-runner`: `payroll:1:salary` is named from an address that names nothing else,"
        " perhaps by another program: 9.9.9.9"
    ]
    assert "9.9.9.9" in learned.files()["learned.yaml"]


def test_names_and_databases_of_a_capture_are_noted(tmp_path: Path) -> None:
    """Clients with one identity, databases, and calls of keyleash."""
    token = "kl_worker_" + "s3cr3t-" * 4
    guard = [
        '1700000000.000000 [0 10.0.0.9:7] "EVALSHA" "'
        + "ab" * 20
        + f'" "1" "g" "{token}" "GET" "g"',
        '1700000000.000000 [0 lua] "GET" "keyleash:state:worker"',
        '1700000000.000000 [0 lua] "GET" "g"',
    ]
    lines = [
        f"17000000{number:02}.000000 [{number % 2} {client}:7] {call}"
        for client, name in (("10.0.0.1", "a_b"), ("10.0.0.2", "a-b"), ("[::1]", ""))
        for number, call in enumerate([f'"CLIENT" "SETNAME" "{name}"', *['"SET" "a" "x"'] * 30])
    ]
    (tmp_path / "monitor.txt").write_text("\n".join([*guard, *lines]))
    operator = keyleash.Operator.from_url("redis://127.0.0.1:1")

    learned = operator.learn(monitor=tmp_path / "monitor.txt")

    names = {item.name: item.coverage.holes for item in learned.identities}
    assert names == {
        "a-b": ["it stands for several names of clients", "it uses several databases"],
        "client-0-1": ["it uses several databases"],
    }
    assert learned.not_understood.examples == [
        "line 1: a call of keyleash: learn from its audit log"
    ]
    assert [rule.pattern for item in learned.identities for rule in item.rules] == ["a", "a"]


def test_rare_scripts_and_those_built_at_run_time_make_no_files(tmp_path: Path) -> None:
    """A script needs as many calls as a pattern; many texts are one comment."""
    evals = [("EVAL", f"return {number}", "1", "a") for number in range(30)]
    work = [("SET", "a", "x")] * 30

    rare = captured(tmp_path, *evals[:1], *evals[1:2] * 9, *work).files()
    many = captured(tmp_path, *evals * 5, *work).files()

    assert len(rare) == 3
    assert "1 call: fewer than 5 calls" in rare["learned.yaml"]
    assert len(many) == 2
    assert "30 scripts: their text is built at run time" in many["learned.yaml"]


def test_scripts_and_denials_of_a_log_are_comments(embedded: RealServer, tmp_path: Path) -> None:
    """Keys of scripts are not recorded; a denied call is not learned."""
    operator = broad(embedded, tmp_path)
    client = agent(embedded, operator)
    for number in range(30):
        client.lpush("queue:a", number)
        client.register_script(TAKE)(keys=["queue:a", "queue:b"])
    with pytest.raises(keyleash.LeashError):
        client.flushall()

    learned = operator.learn("worker")

    text = learned.files()["learned.yaml"]
    assert "scripts: [take]  # runs scripts, whose KEYS are recorded only if" in text
    assert "`worker` runs scripts, whose KEYS are recorded only if" in next(learned.questions)
    assert "# Blocking commands and polls that found nothing are not recorded" in text
    assert "# 1 call: denied, so not learned: FLUSHALL: " in text


def test_capture_is_learned_with_scripts_and_denied_commands(tmp_path: Path) -> None:
    """Texts of scripts are written to files; commands that no policy allows are comments."""
    lines = ["# client 10.0.0.9:7 Worker@7"]
    for number in range(60):
        place = f"17000000{number:02}.000000 [0 10.0.0.9:7]"
        lines += [
            f'{place} "SET" "user:{number}:name" "kl-secret"',
            f'{place} "EVAL" "return redis.call(\'GET\', KEYS[1])" "1" "user:{number}:name"',
            f'17000000{number:02}.000001 [0 lua] "GET" "user:{number}:name"',
            f'{place} "FLUSHALL"',
            f'{place} "EVALSHA" "{"ab" * 20}" "0"',
        ]
    file = tmp_path / "monitor.txt"
    file.write_text("\n".join([*lines, '"cut']))
    operator = keyleash.Operator.from_url("redis://127.0.0.1:1")

    learned = operator.learn(monitor=file)
    files = learned.files()
    text = files["learned.yaml"]

    assert [name.endswith((".yaml", ".lua")) for name in files] == [True] * 3
    assert "  worker-7:\n    kind: machine" in text
    assert "scripts: [script-" in text
    assert "# 60 calls: no policy allows FLUSHALL: it deletes the keys of all clients" in text
    assert "its text is not known" in text
    assert "# 1 line not understood" in text
    assert "kl-secret" not in "".join(files.values())
    assert written(learned, tmp_path).check().digest
    (identity,) = learned.identities
    assert {limit.counter for limit in identity.limits} == {Counter.REQUESTS, Counter.WRITES}
