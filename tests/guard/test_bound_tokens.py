"""Bound tokens: a token does what its identity may do and what its restrictions say."""

from __future__ import annotations

import json
import re
import struct
import threading
from contextlib import suppress
from typing import Any

import pytest
import redis

import keyleash
from keyleash.errors import OperationError
from keyleash.errors.sentences import reason_of
from keyleash.operator.decisions import explain
from keyleash.operator.tokens.list import list_tokens
from keyleash.operator.tokens.revoke import revoke
from keyleash.operator.tokens.rotate import rotate_token
from keyleash.store.token import RECORD_BYTES, TokenRecord, token_digest
from support.errors import raises_code
from support.leash import NAMES, Leash, grant, policy, with_files

RUNNER: dict[str, Any] = {
    "token": {"bound": True},
    "grants": [
        {
            "allow": ["read", "write", "delete", "scan", "publish", "subscribe"],
            "keys": ["jobs:{job_id}:*", "shared:*", "logs:{day}:{job_id}"],
            "channels": ["events:{job_id}:*", "news"],
        }
    ],
}


def agent(leash: Leash, meta: dict[str, str] | None = None, **scope: Any) -> keyleash.Redis:
    """A client with a token of `runner` that has restrictions."""
    return leash.client(leash.issue("runner", **scope, meta=meta).token)


def denied(call: Any, *arguments: Any) -> dict[str, str]:
    """The code and the details of a denial."""
    with pytest.raises(keyleash.LeashError) as denial:
        call(*arguments)
    return {"code": str(denial.value.code), **denial.value.details}


def record_of(leash: Leash, token: str, identity: str = "runner") -> str:
    return NAMES.token(identity, token_digest(token))


def test_bound_token_reaches_the_keys_of_its_binding_alone(leash: Leash) -> None:
    """Patterns without the bound capture are not granted, and others only for its value."""
    leash.load(runner=RUNNER)
    bound = agent(leash, bind={"job_id": 42})

    bound.set("jobs:42:state", "x")
    bound.set("logs:monday:42", "x")
    by = {"code": "KEY_NOT_GRANTED", "by": "token"}
    for key in ("jobs:43:state", "jobs:4:state", "jobs:421:x", "shared:a", "logs:42:monday"):
        assert denied(bound.set, key, "x") == {**by, "key": key}
    # What the identity may not do is denied as without a binding.
    assert denied(bound.get, "else") == {"code": "KEY_NOT_GRANTED", "key": "else"}
    assert bound.get("jobs:42:state") == b"x"
    some = ("jobs:42:{t}state", "shared:{t}a")
    assert denied(bound.mget, *some) == {**by, "key": "shared:{t}a"}


def test_two_bindings_need_a_pattern_that_has_both(leash: Leash) -> None:
    """Each bound capture must be in the pattern and equal."""
    leash.load(runner=RUNNER)
    bound = agent(leash, bind={"job_id": "42", "day": "monday"})

    bound.set("logs:monday:42", "x")
    for key in ("logs:monday:43", "logs:tuesday:42", "jobs:42:state"):
        assert denied(bound.get, key)["code"] == "KEY_NOT_GRANTED"


def test_binding_holds_for_each_class_that_a_command_needs(leash: Leash) -> None:
    """A pattern that grants reading does not pass a write, nor half of what GETSET needs."""
    leash.load(
        runner={
            "token": {"bound": True},
            "grants": [
                grant("read", keys=["jobs:{job_id}:*", "days:{day}"]),
                grant("write", keys=["jobs:{day}:*", "days:{job_id}"]),
                grant("delete", keys="*"),
            ],
        }
    )
    bound = agent(leash, bind={"job_id": "42"})
    both = agent(leash, allow=["read", "delete"])

    assert bound.get("jobs:42:a") is None
    bound.set("days:42", "x")
    for name in ("set", "getset"):
        assert denied(getattr(bound, name), "jobs:42:a", "x")["by"] == "token"
        assert denied(getattr(bound, name), "jobs:43:a", "x")["by"] == "token"
    for name in ("get", "getdel", "delete"):
        assert denied(getattr(bound, name), "days:42")["by"] == "token"
    assert denied(bound.getset, "days:42", "x")["by"] == "token"
    assert both.delete("days:42") == 1
    assert denied(both.set, "days:42", "x")["class"] == "write"


def test_keys_do_not_allow_a_class_that_is_left_out(leash: Leash) -> None:
    """The class is named, whether or not the key is one of the token."""
    leash.load(runner=RUNNER)
    few = agent(leash, keys=["shared:a"], allow=["write"])

    few.set("shared:a", "x")
    assert denied(few.get, "shared:a")["class"] == "read"
    assert denied(few.get, "shared:b")["class"] == "read"


@pytest.mark.parametrize("key", ["jobs:42:{{t}}list", "jobs:42:{{t}}li*"])
def test_token_of_one_key_is_denied_every_other_key(leash: Leash, key: str) -> None:
    """A single key or prefix restricts calls, listings, sorted lists and transactions."""
    leash.load(runner=RUNNER)
    only: Any = agent(leash, keys=[key])

    assert only.rpush("jobs:42:{t}list", "b", "a") == 2
    by = {"code": "KEY_NOT_GRANTED", "by": "token"}
    other = "jobs:42:{t}other"
    for call in (only.get, only.delete, lambda key: only.set(key, "x"), only.brpop):
        assert denied(call, other) == {**by, "key": other}
    for glob in ("jobs:42:*", "shared:*"):
        assert denied(lambda glob=glob: list(only.scan_iter(glob))) == {**by, "key": glob}
    pattern = "shared:{t}*"
    assert denied(only.sort, "jobs:42:{t}list", None, None, None, pattern)["by"] == "token"
    with only.pipeline(transaction=True) as pipe:
        pipe.lpop("jobs:42:{t}list").set(other, "x")
        assert denied(pipe.execute)["key"] == other
    assert leash.admin.exists(other) == 0
    assert leash.admin.llen("jobs:42:{t}list") == 2


def test_classes_keys_and_channels_are_narrowed(leash: Leash) -> None:
    """Each restriction holds for itself; keys do not narrow channels."""
    leash.load(runner=RUNNER)
    reader = agent(leash, allow=["read"])
    few = agent(leash, keys=["jobs:42:st*", "shared:one"])
    bound = agent(leash, bind={"job_id": "42"})

    assert reader.get("shared:a") is None
    assert reader.ping()
    assert denied(reader.set, "shared:a", "x") == {
        "code": "CLASS_NOT_GRANTED", "class": "write", "command": "SET", "key": "shared:a",
        "by": "token",
    }  # fmt: skip
    assert denied(reader.getdel, "shared:a")["class"] == "delete"
    assert denied(reader.publish, "news", "x")["class"] == "publish"
    assert denied(lambda: list(reader.scan_iter("shared:*")))["class"] == "scan"
    few.set("shared:one", "x")
    few.set("jobs:42:state", "x")
    for key in ("shared:two", "shared:one2", "jobs:42:other", "jobs:43:state"):
        assert denied(few.set, key, "x")["key"] == key
    assert few.publish("news", "x") == 0
    assert bound.publish("events:42:a", "x") == 0
    for channel in ("events:43:a", "news"):
        assert denied(bound.publish, channel, "x") == {
            "code": "CHANNEL_NOT_GRANTED", "channel": channel, "by": "token",
        }  # fmt: skip
    with bound.pubsub() as pubsub:
        pubsub.psubscribe("events:42:*")
        pubsub.subscribe("events:42:a")
        assert denied(pubsub.psubscribe, "events:4*")["code"] == "CHANNEL_NOT_GRANTED"
    assert len(bound.pubsub_numsub("events:42:a", "events:42:b")) == 2
    assert denied(bound.pubsub_numsub, "events:42:a", "news") == {
        "code": "CHANNEL_NOT_GRANTED", "channel": "news", "by": "token",
    }  # fmt: skip
    assert denied(reader.pubsub_numsub, "news")["class"] == "subscribe"


def test_scan_lists_and_sort_reads_keys_of_the_binding_alone(leash: Leash) -> None:
    """A glob must begin where the token has keys; found keys are filtered in any case."""
    leash.load(runner={**RUNNER, "grants": [*RUNNER["grants"], grant("read", "scan", keys="*")]})
    for job in (42, 43):
        leash.admin.set(f"jobs:{job}:{{t}}state", job)
        leash.admin.rpush(f"jobs:{job}:{{t}}list", "state")
    bound = agent(leash, bind={"job_id": "42"})
    few = agent(leash, keys=["jobs:42:{{t}}st*", "jobs:43:{{t}}list"])

    assert set(bound.scan_iter("jobs:42:*")) == {b"jobs:42:{t}state", b"jobs:42:{t}list"}
    assert denied(lambda: list(bound.scan_iter("jobs:4*"))) == {
        "code": "KEY_NOT_GRANTED", "key": "jobs:4*", "by": "token",
    }  # fmt: skip
    assert denied(lambda: list(bound.scan_iter()))["by"] == "token"
    assert list(few.scan_iter("jobs:42:{t}sta*")) == [b"jobs:42:{t}state"]
    assert list(few.scan_iter("jobs:43:{t}list")) == [b"jobs:43:{t}list"]
    assert denied(lambda: list(few.scan_iter("jobs:43:{t}lis*")))["by"] == "token"
    assert bound.sort("jobs:42:{t}list", get=["jobs:42:{t}*"], alpha=True) == [b"42"]
    assert denied(bound.sort, "jobs:42:{t}list", None, None, None, "jobs:43:{t}*") == {
        "code": "KEY_NOT_GRANTED", "key": "jobs:43:{t}*", "by": "token",
    }  # fmt: skip


def test_batches_transactions_and_blocking_commands_follow_the_restrictions(leash: Leash) -> None:
    """Every command of a batch is checked by itself."""
    leash.load(runner=RUNNER)
    token = leash.issue("runner", bind={"job_id": "42"}).token
    bound = leash.client(token)

    replies = leash.batch(
        "runner", token, "each",
        ("SET", "jobs:42:{t}", "1"), ("SET", "jobs:43:{t}", "1"), ("INCR", "jobs:42:{t}"),
    )  # fmt: skip
    assert replies == [b"OK", "LEASH KEY_NOT_GRANTED key=jobs:43:%7Bt%7D by=token", 2]
    run = [("SET", f"jobs:42:{{t}}{n}", "1") for n in range(20)]
    assert leash.batch("runner", token, "each", *run) == [b"OK"] * 20
    mixed = leash.batch("runner", token, "each", *run, ("SET", "jobs:1:{t}", "1"))
    assert mixed == [b"OK"] * 20 + ["LEASH KEY_NOT_GRANTED key=jobs:1:%7Bt%7D by=token"]
    with bound.pipeline(transaction=True) as pipe:
        pipe.set("jobs:42:{t}b", 1)
        pipe.set("jobs:43:{t}b", 1)
        assert denied(pipe.execute)["by"] == "token"
    assert leash.admin.exists("jobs:42:{t}b") == 0
    leash.admin.rpush("jobs:42:list", "x")
    assert bound.blpop("jobs:42:list", timeout=1) == (b"jobs:42:list", b"x")
    assert denied(bound.blpop, "jobs:43:list", 1)["by"] == "token"


def test_approved_script_reaches_what_the_token_reaches(leash: Leash) -> None:
    """Its declared keys and each of its commands are checked."""
    text = "return redis.call('SET', KEYS[1] or ARGV[1], 'x')"
    runner = {**RUNNER, "grants": [{**RUNNER["grants"][0], "scripts": ["put"]}]}
    document = json.loads(policy(runner=runner)) | {"scripts": {"put": {"file": "put.lua"}}}
    leash.load(with_files(json.dumps(document), {"put.lua": text}))
    bound = agent(leash, bind={"job_id": "42"}, budget={"writes": 2})

    assert bound.eval(text, 1, "jobs:42:a") == b"OK"
    assert denied(bound.eval, text, 1, "jobs:43:a") == {
        "code": "KEY_NOT_GRANTED", "key": "jobs:43:a", "by": "token",
    }  # fmt: skip
    with pytest.raises(redis.ResponseError, match="KEY_NOT_GRANTED key='jobs:43:a' by='token'"):
        bound.eval(text, 0, "jobs:43:a")
    assert denied(bound.eval, text, 1, "jobs:42:a")["limit"] == "token.writes"
    assert leash.admin.exists("jobs:43:a") == 0


def test_lock_of_redis_py_is_bound(leash: Leash) -> None:
    """A connection runs its scripts as commands."""
    leash.load(runner=RUNNER)
    bound = agent(leash, bind={"job_id": "42"})

    with bound.lock("jobs:42:lock", timeout=10):
        assert leash.admin.exists("jobs:42:lock")
    assert denied(bound.lock("jobs:43:lock", timeout=10).acquire)["by"] == "token"


def test_cap_is_exact_under_threads(leash: Leash) -> None:
    """50 clients on a cap of 97: exactly 97 calls run."""
    leash.load(runner=RUNNER)
    token = leash.issue("runner", budget={"writes": 97}).token
    done: list[bool] = []

    def work() -> None:
        client = leash.client(token)
        for _ in range(3):
            with suppress(keyleash.BudgetExhaustedError):
                client.incr("shared:n")
                done.append(True)

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 97
    assert leash.admin.get("shared:n") == b"97"
    assert leash.client(token).get("shared:n") == b"97"


def test_caps_count_by_counter_and_window_and_a_denied_call_charges_none(leash: Leash) -> None:
    """A cap for life ends with the token, others with their calendar window in UTC."""
    leash.load(runner={**RUNNER, "budget": {"reads": "3/day"}})
    issued = leash.issue("runner", budget={"requests": "5", "writes": "2/hour"})
    client = leash.client(issued.token)

    client.set("shared:a", 1)
    client.set("shared:a", 1)
    found = denied(client.set, "shared:a", 1)
    hour_ms = 3_600_000
    (seconds, _) = leash.admin.time()
    assert found["limit"] == "token.writes"
    assert int(found["resets_at_ms"]) == seconds * 1000 // hour_ms * hour_ms + hour_ms
    for _ in range(3):
        client.get("shared:a")
    last = denied(client.get, "shared:a")
    assert last["limit"] == "budget.reads"
    life = denied(client.ping)
    assert (life["limit"], life["resets_at_ms"]) == ("token.requests", str(issued.expires_ms))
    resets = {limit.name: limit.resets_at for limit in client.whoami().limits}
    assert resets["token.requests"] is None
    assert resets["token.writes"] is not None
    token = leash.issue("runner", budget={"writes": "25"}).token
    run = [("SET", f"shared:{{t}}{n}", "1") for n in range(20)]
    assert leash.batch("runner", token, "each", *run) == [b"OK"] * 20
    second = leash.batch("runner", token, "each", *run)
    assert second.count(b"OK") == 5
    assert second[5].startswith("LEASH BUDGET_EXHAUSTED limit=token.writes")


def test_restrictions_show_what_caps_have_counted(leash: Leash) -> None:
    """A program that prints `whoami` or a listed token sees numbers, not addresses of objects."""
    leash.load(runner=RUNNER)
    client = agent(leash, budget={"requests": "9"})
    client.get("shared:a")
    listed = list_tokens(leash.store)[0]

    # Of a cluster's cap, these are the units that nodes have been granted.
    assert re.search(r"<BudgetCount token\.requests: [1-9] of 9>", repr(listed.restrictions))


def test_rotation_keeps_restrictions_counts_and_labels(leash: Leash) -> None:
    """A rotated token is neither wider than the old one nor fresh; rotating an identity with bound
    tokens alone is an error."""
    leash.load(runner=RUNNER)
    scope = {"bind": {"job_id": "42"}, "budget": {"writes": "2"}}
    old = leash.issue("runner", **scope, meta={"run": "r-17"})
    leash.client(old.token).set("jobs:42:a", 1)

    with raises_code("token-not-live"):
        rotate_token(leash.store, identity="runner")
    assert [item.id for item in list_tokens(leash.store)] == [old.id]
    new = rotate_token(leash.store, old.id)
    client = leash.client(new.issued.token)
    client.set("jobs:42:a", 1)
    assert denied(client.set, "jobs:42:a", 1)["limit"] == "token.writes"
    assert denied(client.get, "jobs:43:a")["by"] == "token"
    info = next(item for item in list_tokens(leash.store) if item.id == new.issued.id)
    assert info.meta == {"run": "r-17"}
    assert info.restrictions is not None
    assert info.restrictions.bind == {"job_id": b"42"}


def test_revoked_bound_token_is_revoked(leash: Leash) -> None:
    """Both flags are in one byte of the record."""
    leash.load(runner=RUNNER)
    issued = leash.issue("runner", bind={"job_id": "42"})
    client = leash.client(issued.token)

    client.set("jobs:42:a", 1)
    assert [item.id for item in revoke(leash.store, token_id=issued.id).tokens] == [issued.id]
    assert denied(client.set, "jobs:42:a", 1)["code"] == "TOKEN_REVOKED"
    assert revoke(leash.store, token_id=issued.id).tokens == ()


def test_bound_token_is_denied_by_a_policy_without_bound_tokens(leash: Leash) -> None:
    """Its guard does not know restrictions, so it must not run the call."""
    leash.load(runner=RUNNER)
    client = agent(leash, bind={"job_id": "42"})
    client.set("jobs:42:a", 1)

    leash.load(runner={**RUNNER, "token": {}})
    with pytest.raises(keyleash.TokenRevokedError) as denial:
        client.set("jobs:42:a", 1)
    assert denial.value.details == {"bound": "off"}
    assert "does not allow bound tokens" in reason_of(denial.value).operator
    (info,) = list_tokens(leash.store)
    explained = explain(leash.store, "runner", "SET", "jobs:42:a", "1", token_id=info.id)
    assert explained.decision.details == {"bound": "off"}
    assert "does not allow bound tokens" in str(explained)


def test_corrupt_restrictions_deny_every_call(leash: Leash) -> None:
    """A damaged record may hold anything: none of them stops the guard or widens it."""
    leash.load(runner=RUNNER)
    issued = leash.issue("runner", bind={"job_id": "42"}, budget={"writes": "9"})
    name = record_of(leash, issued.token)
    packed: bytes = leash.admin.get(name)
    client = leash.client(issued.token)

    client.set("jobs:42:a", 1)
    tails = [packed[RECORD_BYTES:end] for end in range(RECORD_BYTES, len(packed))]
    header = packed[RECORD_BYTES : RECORD_BYTES + 6]
    for place in range(6):
        tails += [
            packed[RECORD_BYTES:][:place] + bytes([value]) + packed[RECORD_BYTES:][place + 1 :]
            for value in ((4, 255) if place in (1, 3) else (0, 4, 255))
            if value != header[place]
        ]
    tails += [b"\xff" * 300, b"\0" * 5000, b"\x3f\xff\xff\xff\xff\xff"]
    for tail in tails:
        leash.admin.set(name, packed[:RECORD_BYTES] + tail, keepttl=True)
        leash.forget_leases("runner")
        # A byte may also be a valid restriction of another kind.
        code = denied(client.set, "jobs:42:a", 1)["code"]
        assert code in ("TOKEN_UNKNOWN", "KEY_NOT_GRANTED", "CLASS_NOT_GRANTED", "COUNTER_CORRUPT")
        assert TokenRecord.unpack(packed[:RECORD_BYTES] + tail).tail == tail
    for used in (float("nan"), float("inf"), -1.0):
        at = RECORD_BYTES + 6 + 17
        corrupt = packed[:at] + struct.pack("<d", used) + packed[at + 8 :]
        leash.admin.set(name, corrupt, keepttl=True)
        leash.forget_leases("runner")
        assert denied(client.set, "jobs:42:a", 1)["code"] == "COUNTER_CORRUPT"
    assert len(list_tokens(leash.store)) == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"bind": {"jobid": "42"}}, "no pattern of `runner` has the capture `{jobid}`"),
    ({"bind": {"job_id": "4:2"}}, "`4:2` cannot be the value of `job_id`"),
    ({"bind": {"job_id": ""}}, "`` cannot be the value"),
    ({"bind": {"job_id": "x" * 300}}, "the value of `job_id` is over 255 bytes"),
    ({"bind": {"job_id": "42", "user": "a"}}, "has all of the captures `job_id`, `user`"),
    ({"allow": ["wirte"]}, "unknown operation class `wirte`"),
    ({"allow": []}, "`allow` has no operation class"),
    ({"bind": {"user": "a"}, "allow": ["write"]}, "no grant of `runner` allows `write` with"),
    ({"keys": ["else:*"]}, "no grant of `runner` has the key `else:*`"),
    ({"bind": {"job_id": "42"}, "keys": ["jobs:43:*"]}, "has the key `jobs:43:*` with"),
    ({"keys": ["jobs:{job_id}:*"]}, "has the capture `{job_id}`"),
    ({"keys": ["jobs:*:x"]}, "`*` is not at the end"),
    ({"keys": [f"shared:{n}" for n in range(17)]}, "at most 16 keys, not 17"),
    ({"keys": ["shared:" + "x" * 300]}, "is over 255 bytes"),
    ({"budget": {"request": "5"}}, "unknown counter `request`"),
    ({"budget": {"requests": "5/week"}}, "the budget of `requests`: unknown period `week`"),
    ({"budget": {"requests": "0"}}, "the budget of `requests` is not between 1"),
    ({"budget": {"requests": "-1"}}, "is not a count per period"),
    ({"budget": {"requests": "9" * 40}}, "is not between 1"),
]


def test_bad_restriction_is_refused_and_nothing_is_issued(leash: Leash) -> None:
    """The error names the restriction."""
    users = {"allow": ["read"], "keys": ["users:{user}"]}
    leash.load(
        runner={**RUNNER, "grants": [*RUNNER["grants"], users]}, other=RUNNER | {"token": {}}
    )

    for scope, message in REFUSED:
        with pytest.raises(OperationError) as refusal:
            leash.issue("runner", **scope)
        assert refusal.value.code == "bad-restriction"
        assert message in refusal.value.message
    with pytest.raises(OperationError) as unbound:
        leash.issue("other", bind={"job_id": "42"})
    assert unbound.value.code == "not-bound"
    assert "token: {bound: true}" in (unbound.value.help or "")
    assert unbound.value.span is not None
    assert list_tokens(leash.store) == []


def test_labels_are_checked_stored_and_searched(leash: Leash) -> None:
    """Up to 16 short labels; a label with a token is refused."""
    leash.load(runner=RUNNER)
    first = leash.issue("runner", meta={"run": "r-17", "team": "blå"})
    leash.issue("runner", meta={"run": "r-18"})
    leash.issue("runner")

    assert [info.id for info in list_tokens(leash.store, meta={"run": "r-17"})] == [first.id]
    assert list_tokens(leash.store, "runner", meta={"run": "r-17"})[0].meta["team"] == "blå"
    assert len(list_tokens(leash.store)) == 3
    bad = [{"Run": "x"}, {"r" * 33: "x"}, {"run": "x" * 65}, {"run": ""}, {"run": "a\nb"}]
    for meta in (*bad, {f"n{n}": "x" for n in range(17)}):
        with pytest.raises(OperationError) as refusal:
            leash.issue("runner", meta=meta)
        assert refusal.value.code == "bad-label"
    with pytest.raises(keyleash.SecretInTextError):
        leash.issue("runner", meta={"run": first.token})
    assert len(list_tokens(leash.store)) == 3
