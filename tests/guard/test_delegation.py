"""Delegation: a token makes child tokens that may do no more than it."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import keyleash
from guard.test_bound_tokens import RUNNER, agent, denied, record_of
from keyleash.asyncio import Redis as AsyncRedis
from keyleash.operator.decisions import explain
from keyleash.operator.tokens.list import list_tokens
from keyleash.operator.tokens.revoke import revoke
from keyleash.operator.tokens.rotate import rotate_token
from keyleash.store.token import ID_ALPHABET, RECORD_BYTES, TokenRecord, child_id, token_digest
from support.clustered import NODES
from support.leash import NAMES, Leash, grant
from support.servers import RealServer

AGENT: dict[str, Any] = {**RUNNER, "delegate": {"depth": 3, "children": 1000, "max_ttl": "1h"}}


def delegated(leash: Leash, parent: keyleash.Redis, **wishes: Any) -> keyleash.Redis:
    """Return a client with a child token of that of *parent*."""
    return leash.client(parent.delegate(**wishes).token)


def refused(parent: keyleash.Redis, **wishes: Any) -> dict[str, str]:
    """Return the details of a refused delegation."""
    with pytest.raises(keyleash.DelegationRefusedError) as denial:
        parent.delegate(**wishes)
    return dict(denial.value.details)


def test_child_has_the_bindings_of_both_and_the_classes_and_keys_of_its_own(leash: Leash) -> None:
    """Restrictions collapse into one record; a child of an unbound token is bound too."""
    leash.load(runner=AGENT)
    root = leash.agent("runner")
    job = delegated(leash, root, bind={"job_id": 42})
    leaf = delegated(leash, job, bind={"day": "monday"}, allow=["read"])
    few = delegated(leash, job, keys=["jobs:42:st*"])

    root.set("shared:a", "x")
    job.set("jobs:42:state", "x")
    job.set("logs:monday:42", "y")
    assert denied(job.get, "jobs:43:state")["by"] == "token"
    assert leaf.get("logs:monday:42") == b"y"
    assert denied(leaf.get, "jobs:42:state")["by"] == "token"
    assert denied(leaf.set, "logs:monday:42", 1)["class"] == "write"
    assert few.get("jobs:42:state") == b"x"
    assert denied(few.get, "jobs:42:x")["by"] == "token"
    inherited = delegated(leash, few)
    assert denied(inherited.get, "jobs:42:x")["by"] == "token"
    assert inherited.get("jobs:42:state") == b"x"


def test_child_may_repeat_the_binding_of_its_parent(leash: Leash) -> None:
    """It is one binding then, so that the keys of the parent stay within reach."""
    leash.load(runner=AGENT)
    job = delegated(leash, leash.agent("runner"), bind={"job_id": 42})
    made = job.delegate(bind={"job_id": 42})
    same = leash.client(made.token)

    same.set("jobs:42:state", "x")
    assert leash.admin.get(record_of(leash, made.token))[RECORD_BYTES + 1] == 1
    assert denied(same.get, "jobs:43:state")["by"] == "token"


def test_classes_and_keys_of_a_child_are_those_of_patterns_with_all_its_bindings(
    leash: Leash,
) -> None:
    """A pattern with the last of two captures grants nothing, nor one with the first."""
    leash.load(
        runner={
            **AGENT,
            "grants": [
                {"allow": ["read"], "keys": ["logs:{day}:{job_id}"]},
                {"allow": ["write"], "keys": ["jobs:{job_id}:*"]},
                {"allow": ["delete"], "keys": ["days:{day}:*"]},
            ],
        }
    )
    root = leash.agent("runner")

    for bind in ({"day": "monday", "job_id": "42"}, {"job_id": "42", "day": "monday"}):
        assert delegated(leash, root, bind=bind, allow=["read"]).get("logs:monday:42") is None
        for cls, key in (("write", "jobs:42:a"), ("delete", "days:monday:a")):
            assert refused(root, bind=bind, allow=[cls])["reason"] == "allow"
            assert refused(root, bind=bind, keys=[key])["reason"] == "keys"


def test_keys_of_a_child_are_within_those_of_its_parent(leash: Leash) -> None:
    """An exact key has no others within it, and one of several is enough."""
    leash.load(runner=AGENT)
    keys = ["shared:a", "shared:dir:*", "shared:z"]
    parent = leash.client(leash.issue("runner", keys=keys).token)

    for key in ("shared:a", "shared:dir:x", "shared:dir:x*", "shared:dir:*", "shared:z"):
        parent.delegate(keys=[key])
    for key in ("shared:ab", "shared:a*", "shared:dir", "shared:dir*", "shared:", "*", "shared:z:"):
        assert refused(parent, keys=[key])["reason"] == "keys", key
    assert leash.agent("runner").delegate(keys=["*"])


def test_key_of_a_child_needs_a_pattern_of_its_classes(leash: Leash) -> None:
    """Not one of another class, nor a channel."""
    leash.load(
        runner={
            **AGENT,
            "grants": [
                grant("read", keys="in:*"),
                grant("write", keys="out:*"),
                {"allow": ["publish"], "channels": ["news:*"]},
            ],
        }
    )
    root = leash.agent("runner")

    root.delegate(keys=["out:a"])
    root.delegate(allow=["read"], keys=["in:a"])
    assert refused(root, allow=["read"], keys=["out:a"])["reason"] == "keys"
    assert refused(root, keys=["news:a"])["reason"] == "keys"


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"bind": {"user": "a"}}, "bind", "user=a"),
    ({"bind": {"job_id": "43"}}, "bind", "job_id=43"),
    ({"bind": {"day": "a:b"}}, "bind", "day=a:b"),
    ({"bind": {"day": ""}}, "bind", "day="),
    ({"bind": {"day": "x" * 256}}, "bind", ""),
    ({"allow": ["delete"]}, "allow", "delete"),
    ({"allow": ["wirte"]}, "allow", "wirte"),
    ({"keys": ["jobs:43:*"]}, "keys", "jobs:43:*"),
    ({"keys": ["jobs:42:b*"]}, "keys", "jobs:42:b*"),
    ({"keys": ["jobs:42:a*c"]}, "keys", "jobs:42:a*c"),
    ({"keys": ["jobs:{job_id}:a"]}, "keys", "jobs:{job_id}:a"),
    ({"keys": [""]}, "keys", ""),
    ({"keys": ["*"]}, "keys", "*"),
    ({"keys": ["jobs:42:a" + "x" * 300]}, "keys", ""),
    ({"keys": ["jobs:42:a"] * 17}, "keys", "jobs:42:a"),
    ({"budget": {"request": "5"}}, "budget", "request=5"),
    ({"budget": {"requests": "5/week"}}, "budget", "requests=5/week"),
    ({"budget": {"requests": 0}}, "budget", "requests=0"),
    ({"budget": {"requests": -1}}, "budget", "requests=-1"),
    ({"budget": {"requests": "9" * 17}}, "budget", "requests=" + "9" * 17),
    ({"budget": {"requests": 10**15 + 1}}, "budget", ""),
    ({"ttl": "61m"}, "ttl", "3660"),
    ({"ttl": "20m"}, "outlives", "1200"),
    ({"meta": {"Run": "x"}}, "meta", "Run"),
    ({"meta": {"run": "x" * 65}}, "meta", "run"),
    ({"meta": {"run": "a\nb"}}, "meta", "run"),
    ({"meta": {"run": "ü"}}, "meta", "run"),
    ({"meta": {"r" * 33: "x"}}, "meta", "r" * 33),
    ({"meta": {f"n{n}": "x" for n in range(17)}}, "meta", ""),
]


def test_wider_or_malformed_child_is_refused_and_nothing_is_stored(leash: Leash) -> None:
    """The denial names the reason and the word; it is recorded, and charges nothing."""
    leash.load(runner={**AGENT, "budget": {"requests": "100/day"}})
    scope = {"bind": {"job_id": "42"}, "allow": ["read", "write"], "keys": ["jobs:42:a*"]}
    parent = leash.client(leash.issue("runner", **scope, ttl="10m").token)

    for wishes, reason, word in BAD:
        found = refused(parent, **wishes)
        assert found["reason"] == reason, wishes
        if word:
            assert found["restriction"] == word
    assert leash.used("runner") == {"budget.requests": 0}
    assert leash.events("runner") == []
    assert {item["reason"] for item in leash.denials("runner")} == {item[1] for item in BAD}
    assert len(list(leash.admin.scan_iter(NAMES.token("runner", "*")))) == 1
    assert leash.admin.exists(NAMES.delegated("runner")) == 0
    assert delegated(leash, parent).get("jobs:42:a") is None


def test_depth_children_and_life_are_bounded(leash: Leash) -> None:
    """Depth counts from the issued token; children count until they expire."""
    rules = {"depth": 2, "children": 2, "max_ttl": "10m"}
    leash.load(runner={**AGENT, "delegate": rules})
    issued = leash.issue("runner", ttl="5m")
    root = leash.client(issued.token)

    child = root.delegate(ttl="2m")
    grandchild = leash.client(child.token).delegate()
    assert grandchild.expires_ms == child.expires_ms
    assert refused(leash.client(grandchild.token))["reason"] == "depth"
    assert root.delegate().expires_ms == issued.expires_ms
    assert refused(root)["reason"] == "children"
    past_ms = int(leash.admin.time()[0]) * 1000 - 1000
    record = TokenRecord.unpack(leash.admin.get(record_of(leash, child.token)))
    leash.put_token("runner", child.token, replace(record, expires_us=past_ms * 1000))
    children = f"{NAMES.children_prefix('runner')}{issued.id}"
    assert leash.admin.zadd(children, {child.id: past_ms}, xx=True, ch=True) == 1
    leash.end_leases()
    root.delegate()
    assert refused(root)["reason"] == "children"
    with pytest.raises(keyleash.TokenExpiredError):
        leash.client(child.token).get("shared:a")


def test_children_below_a_lowered_depth_are_denied(leash: Leash) -> None:
    """The depth bounds tokens that exist, not only new delegations."""
    leash.load(runner=AGENT)
    child = leash.agent("runner").delegate()
    grandchild = leash.client(child.token).delegate()

    leash.load(runner={**AGENT, "delegate": {"depth": 1}})
    assert leash.client(child.token).get("shared:a") is None
    denial = denied(leash.client(grandchild.token).get, "shared:a")
    assert denial == {"code": "TOKEN_REVOKED", "depth": "2"}


def test_revoked_ancestor_stops_its_whole_subtree(leash: Leash) -> None:
    """Every next call is denied, and names the ancestor."""
    leash.load(runner=AGENT)
    issued = leash.issue("runner")
    root = leash.client(issued.token)
    middle = root.delegate()
    leaf = delegated(leash, leash.client(middle.token))
    sibling = delegated(leash, root)

    leaf.set("shared:a", 1)
    assert [item.id for item in revoke(leash.store, token_id=middle.id).tokens] == [middle.id]
    assert denied(leaf.get, "shared:a") == {
        "code": "TOKEN_REVOKED",
        "ancestor": middle.id,
        "state": "revoked",
    }
    assert denied(leash.client(middle.token).get, "shared:a") == {"code": "TOKEN_REVOKED"}
    assert sibling.get("shared:a") == b"1"
    revoke(leash.store, identity="runner")
    assert denied(sibling.get, "shared:a") == {
        "code": "TOKEN_REVOKED",
        "ancestor": issued.id,
        "state": "revoked",
    }
    leash.admin.delete(NAMES.token("runner", token_digest(issued.token)))
    assert denied(sibling.get, "shared:a")["code"] == "TOKEN_REVOKED"


def test_rotated_token_works_in_its_grace_and_its_subtree_does_not(leash: Leash) -> None:
    """It makes no further child either; the new token has none of the old one's."""
    leash.load(runner=AGENT)
    issued = leash.issue("runner")
    root = leash.client(issued.token)
    child = delegated(leash, root)

    new = rotate_token(leash.store, issued.id, grace="10m")
    root.set("shared:a", 1)
    assert denied(child.get, "shared:a") == {
        "code": "TOKEN_REVOKED",
        "ancestor": issued.id,
        "state": "rotated",
    }
    assert refused(root)["reason"] == "rotated"
    assert delegated(leash, leash.client(new.issued.token)).get("shared:a") == b"1"
    again = rotate_token(leash.store, issued.id, grace="10m")
    assert [item.id for item in again.replaced] == [issued.id]


def test_rotation_without_delegation_in_the_policy_ends_children_for_good(leash: Leash) -> None:
    """A later policy with delegation does not bring them back; the token itself is denied, too."""
    leash.load(runner=AGENT)
    issued, childless = leash.issue("runner"), leash.issue("runner")
    child = delegated(leash, leash.client(issued.token))

    leash.load(runner=RUNNER)
    for token in (issued, childless):
        rotate_token(leash.store, token.id, grace="10m")
    assert denied(leash.client(issued.token).get, "shared:a")["code"] == "TOKEN_REVOKED"
    assert leash.client(childless.token).get("shared:a") is None
    leash.load(runner=AGENT)
    assert leash.client(issued.token).get("shared:a") is None
    assert denied(child.get, "shared:a") == {
        "code": "TOKEN_REVOKED",
        "ancestor": issued.id,
        "state": "rotated",
    }


def test_caps_of_parent_and_children_are_exact_under_threads(leash: Leash) -> None:
    """50 clients on a child's cap of 97 make 97 calls; with a sibling they use up the parent's."""
    leash.load(runner=AGENT)
    parent = leash.client(leash.issue("runner", budget={"writes": 152}).token)
    # A delegation counts as a write.
    tokens = [parent.delegate(budget={"writes": 97}).token, parent.delegate().token]
    done: dict[str, list[bool]] = {token: [] for token in tokens}

    def work(token: str, times: int) -> None:
        client = leash.client(token)
        for _ in range(times):
            with suppress(keyleash.BudgetExhaustedError):
                client.incr("shared:n")
                done[token].append(True)

    for token, times in zip(tokens, (3, 2), strict=True):
        threads = [threading.Thread(target=work, args=(token, times)) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [len(done[token]) for token in tokens] == [97, 53]
    assert leash.admin.get("shared:n") == b"150"
    last = leash.client(tokens[1])
    assert denied(last.incr, "shared:n")["by"] == "ancestor"
    assert denied(parent.incr, "shared:n")["limit"] == "token.writes"


def test_denied_call_charges_no_cap_of_the_chain(leash: Leash) -> None:
    """In a batch each command is charged to all, or to none."""
    leash.load(runner=AGENT)
    parent = agent(leash, budget={"writes": 4, "requests": 100})
    child = parent.delegate(budget={"writes": 50})
    replies = leash.batch(
        "runner", child.token, "each", *[("SET", f"shared:{{t}}{n}", "1") for n in range(5)]
    )
    assert replies[:3] == [b"OK"] * 3
    # A shard knows of caps, but not whose they are.
    by = "" if NODES else " by=ancestor"
    for reply in replies[3:]:
        assert reply.startswith(f"LEASH BUDGET_EXHAUSTED limit=token.writes{by}")
    client = leash.client(child.token)
    (cap,) = client.whoami().limits
    assert cap.left == 47
    # A node has the units of the two calls that a cap of writes denied.
    assert {item.name: item.left for item in parent.whoami().limits} == {
        "token.writes": 0, "token.requests": 94 if NODES else 96,
    }  # fmt: skip


def test_limits_per_token_count_the_tree_as_one(leash: Leash) -> None:
    """A token does not multiply them by making children."""
    leash.load(runner={**AGENT, "budget": {"writes": {"limit": "3/day", "per": "token"}}})
    root = leash.agent("runner")
    child = delegated(leash, root)

    child.set("shared:a", 1)
    root.set("shared:a", 1)
    assert denied(child.set, "shared:a", 1)["limit"] == "budget.writes"
    assert [item.left for item in child.whoami().limits] == [0]
    leash.agent("runner").set("shared:a", 1)


def test_delegation_is_recorded_and_events_carry_the_chain(leash: Leash) -> None:
    """The event names the child and what it was given; later events name its ancestors."""
    leash.load(runner=AGENT)
    issued = leash.issue("runner")
    child = leash.client(issued.token).delegate(bind={"job_id": 42}, meta={"run": "r-17"})
    leash.client(child.token).set("jobs:42:a", 1)

    made, written = leash.events("runner")
    assert (made["token"], made["DELEGATE"]) == (issued.id, "")
    assert made["args"] == f"12:{child.id},4:bind,9:job_id=42,4:meta,8:run=r-17,"
    assert written["token"] == f"{issued.id}.{child.id}"


def test_masked_keys_of_a_delegation_are_recorded_as_digests(leash: Leash) -> None:
    """As those of other calls; of keys that begin so, all that a mask may match."""
    masks = ["jobs:42:secret:*", "logs:{day}:key", "jobs:42:plain"]
    leash.load(runner={**AGENT, "audit": {"mask_keys": masks}})
    keys = [
        "jobs:42:secret:alice", "jobs:42:secret:al*", "jobs:42:plain", "jobs:42:open", "jobs:42:*",
        "logs:monday:*", "jobs:42:secret:{{a}}",
    ]  # fmt: skip
    root = leash.agent("runner")
    root.delegate(keys=keys)
    root.set("jobs:42:secret:{a}", 1)

    def digest(text: str) -> str:
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    made, written = leash.events("runner")
    recorded = [
        f"jobs:42:secret:#{digest('jobs:42:secret:alice')}",
        f"jobs:42:secret:#{digest('jobs:42:secret:al')}*",
        f"jobs:42:plain#{digest('jobs:42:plain')}",
        "jobs:42:open",
        "jobs:42:*",
        f"logs:#{digest('logs:monday:')}*",
        written["SET"],
    ]
    assert [f"4:keys,{len(key)}:{key}," in made["args"] for key in recorded] == [True] * 7
    assert "alice" not in made["args"]
    assert "{a}" not in written["SET"]


def test_identity_without_delegation_refuses_the_mode(leash: Leash) -> None:
    """Its guard does not know children either: they are over when the policy loses it."""
    leash.load(runner=AGENT)
    root = leash.agent("runner")
    child = delegated(leash, root)
    child.set("shared:a", 1)

    leash.load(runner=RUNNER)
    with pytest.raises(keyleash.CommandRefusedError):
        root.delegate()
    assert denied(child.get, "shared:a")["code"] == "TOKEN_REVOKED"


@pytest.mark.slow
def test_a_thousand_descendants_are_over_with_their_root(leash: Leash) -> None:
    """Any tree: the next call of each is denied."""
    leash.load(runner={**AGENT, "delegate": {"depth": 8, "children": 1000, "max_ttl": "1h"}})
    issued = leash.issue("runner")
    dice, nodes = random.Random(0), [(0, issued.token)]
    while len(nodes) <= 1000:
        depth, token = dice.choice(nodes)
        if depth < 8:
            nodes.append((depth + 1, leash.client(token).delegate().token))
    tokens = [token for _, token in nodes[1:]]

    assert all(leash.call("runner", token, "GET", "shared:a") is None for token in tokens)
    revoke(leash.store, token_id=issued.id)
    denial = f"LEASH TOKEN_REVOKED ancestor={issued.id} state=revoked"
    assert {leash.call("runner", token, "GET", "shared:a") for token in tokens} == {denial}


def test_list_names_children_with_their_parents(leash: Leash) -> None:
    """A child whose ancestor is over is not live."""
    leash.load(runner=AGENT)
    issued = leash.issue("runner")
    child = leash.client(issued.token).delegate(meta={"run": "r-17"})
    leaf = leash.client(child.token).delegate()

    found = {info.id: info for info in list_tokens(leash.store)}
    assert {id_: found[id_].chain for id_ in found} == {
        issued.id: (), child.id: (issued.id,), leaf.id: (issued.id, child.id),
    }  # fmt: skip
    assert [info.id for info in list_tokens(leash.store, meta={"run": "r-17"})] == [child.id]
    assert found[child.id].by == issued.id
    revoke(leash.store, token_id=child.id)
    states = {info.id: str(info.state) for info in list_tokens(leash.store)}
    assert states == {issued.id: "live", child.id: "revoked", leaf.id: "revoked"}


def test_corrupt_records_of_a_chain_deny_and_never_fail(leash: Leash) -> None:
    """None of them stops the guard."""
    leash.load(runner=AGENT)
    issued = leash.issue("runner", budget={"requests": 10_000})
    root = leash.client(issued.token)
    middle = root.delegate(bind={"job_id": 42}, budget={"requests": 9_000})
    leaf = leash.client(middle.token).delegate(keys=["jobs:42:a"], budget={"requests": 8_000})
    names = [record_of(leash, token) for token in (issued.token, middle.token, leaf.token)]
    packed: list[bytes] = [leash.admin.get(name) for name in names]
    codes = set()

    def tried(place: int, record: bytes) -> None:
        leash.admin.set(names[place], record, keepttl=True)
        for key in ("jobs:42:a", "jobs:43:a", "else"):
            reply = leash.call("runner", leaf.token, "GET", key)
            # Its own record may give it what its identity may do, and never more.
            is_granted = reply is None and (key == "jobs:42:a" or (place == 2 and key != "else"))
            assert is_granted or str(reply).startswith("LEASH "), (place, record, reply)
            codes.add(str(reply).split()[1] if reply else "")
        leash.admin.set(names[place], packed[place], keepttl=True)

    for place, record in enumerate(packed):
        for end in range(0, len(record), 5):
            tried(place, record[:end])
        for at in (0, 7, 16, *range(29, 36), 40, 60, len(record) - 60, len(record) - 1):
            for byte in (0, 1, 2, 4, 6, 8, 15, 127, 255):
                tried(place, record[:at] + bytes([byte]) + record[at + 1 :])
        tried(place, record + b"\xff" * 5000)
    assert {"TOKEN_UNKNOWN", "TOKEN_REVOKED", "KEY_NOT_GRANTED", ""} <= codes
    for name in (NAMES.delegated("runner"), NAMES.delegations("runner")):
        leash.admin.set(name, "x")
    assert leash.client(middle.token).delegate().id
    leash.admin.set(NAMES.children_prefix("runner") + middle.id, "x")
    assert refused(leash.client(middle.token))["reason"] == "children"


def test_id_of_another_child_cannot_be_chosen_or_used_again(leash: Leash) -> None:
    """Operators revoke a child by its id, and the set of live children has one entry for each."""
    leash.load(runner=AGENT)
    first, other = leash.issue("runner"), leash.issue("runner")
    child = leash.client(first.token).delegate(meta={"job": "7"})
    batch = leash.record("runner").batch_digest
    places = [ID_ALPHABET.index(char) for char in child.id]
    chosen = "".join(f"{place:02x}" for place in places).ljust(40, "0")

    _, id_ = leash.raw("runner", [], other.token, "", "delegate", chosen, "1", digest=batch)

    assert id_.decode() == child_id(chosen) != child.id
    leash.admin.hset(NAMES.delegated("runner"), child_id("1" * 40), "{}")
    taken = leash.raw("runner", [], other.token, "", "delegate", "1" * 40, "1", digest=batch)
    assert taken == "LEASH DELEGATION_REFUSED reason=digest"
    revoke(leash.store, token_id=child.id)
    assert denied(leash.client(child.token).get, "agents:jobs:42:state")["code"] == "TOKEN_REVOKED"


def test_raw_call_is_checked_like_that_of_a_client(leash: Leash) -> None:
    """Digests and words that no client sends; a digest is never used twice."""
    leash.load(runner=AGENT)
    issued = leash.issue("runner")
    digest, taken = leash.record("runner").batch_digest, token_digest(issued.token)

    def raw(*words: str, token: str = issued.token) -> Any:
        return leash.raw("runner", [], token, "", "delegate", *words, digest=digest)

    for words in ((), ("x" * 40, ""), ("A" * 40, ""), ("0" * 39, ""), (taken, "")):
        assert raw(*words) == "LEASH DELEGATION_REFUSED reason=digest"
    for ttl in ("-1", "0", "1.5", "nan", "9" * 11, "1e3"):
        assert raw("0" * 40, ttl).endswith(" reason=ttl")
    for odd in (["mask", "63"], ["bind"], ["", "x"], ["allow", "read", "keys"]):
        assert raw("0" * 40, "", *odd).endswith(" reason=word")
    twice = ("budget", "requests=5", "budget", "requests=6")
    assert raw("0" * 40, "", *twice).endswith(" restriction=requests%3D6 reason=budget")
    assert raw("0" * 40, "", token="kl_runner_x") == "LEASH TOKEN_UNKNOWN"
    expires_ms, id_ = raw("0" * 40, "60")
    assert id_.decode() == child_id("0" * 40)
    assert issued.expires_ms - int(expires_ms) > 0
    assert raw("0" * 40, "60") == "LEASH DELEGATION_REFUSED reason=digest"
    for kind in ("bind", "allow", "keys", "budget", "meta"):
        for text in (issued.token, f"job_id={issued.token.upper()}"):
            reply = raw("1" * 40, "", kind, text)
            assert reply == f"LEASH DELEGATION_REFUSED reason={kind}"
    assert raw("1" * 40, issued.token) == "LEASH DELEGATION_REFUSED reason=ttl"
    assert raw("1" * 40, "", issued.token, "x") == "LEASH DELEGATION_REFUSED reason=word"
    stored = str((leash.denials("runner"), leash.events("runner")))
    assert issued.token.lower() not in stored.lower()


def test_restriction_that_contains_a_token_is_rejected_and_not_shown(leash: Leash) -> None:
    """Events repeat restrictions, and errors name them."""
    leash.load(runner=AGENT)
    secret = leash.issue("runner").token
    parent = leash.client(secret)
    for wishes in (
        {"bind": {"job_id": secret}}, {"keys": [f"jobs:{secret}"]}, {"allow": [secret]},
        {"budget": {"requests": secret}}, {"budget": {secret: 1}}, {"bind": {secret: 1}},
    ):  # fmt: skip
        with pytest.raises(keyleash.SecretInTextError) as of_agent:
            parent.delegate(**wishes)
        with pytest.raises(keyleash.SecretInTextError) as of_operator:
            leash.issue("runner", **wishes)
        assert secret not in str((of_agent.value, of_operator.value))
    assert leash.events("runner") == []


def test_entries_of_expired_children_are_removed_by_later_delegations(leash: Leash) -> None:
    """Expired children do not add up in what operators list, and nothing is scanned."""
    leash.load(runner=AGENT)
    root = leash.agent("runner")
    for n in range(30):
        leash.admin.hset(NAMES.delegated("runner"), f"old{n}", "{}")
        leash.admin.zadd(NAMES.delegations("runner"), {f"old{n}": 1000 + n})

    root.delegate()
    assert leash.admin.hlen(NAMES.delegated("runner")) == 11
    child = root.delegate()
    assert leash.admin.hlen(NAMES.delegated("runner")) == 2
    assert leash.admin.zscore(NAMES.delegations("runner"), child.id) == child.expires_ms
    for name in (NAMES.delegated("runner"), NAMES.delegations("runner")):
        # A week longer than any child of now.
        assert leash.admin.pttl(name) > 7 * 86_400_000
    assert leash.admin.pttl(NAMES.children_prefix("runner") + root.whoami().token_id) > 0


def test_full_audit_stream_and_used_up_limits_refuse_a_delegation(leash: Leash) -> None:
    """It counts as a write and is recorded, or it does not happen."""
    audit = {"retain": {"until": "exported", "hard_max": 2}}
    leash.load(runner={**AGENT, "audit": audit}, other={**AGENT, "rate": {"writes": "1/minute"}})
    root, other = leash.agent("runner"), leash.agent("other")

    root.delegate()
    root.delegate()
    assert denied(root.delegate)["code"] == "AUDIT_FULL"
    other.delegate()
    assert denied(other.delegate)["limit"] == "rate.writes"
    assert leash.admin.hlen(NAMES.delegated("runner")) == 2
    assert leash.admin.hlen(NAMES.delegated("other")) == 1


def test_async_client_delegates(leash: Leash) -> None:
    """The same call, with a callable as the source of the parent's token."""
    leash.load(runner=AGENT)
    issued = leash.issue("runner")

    async def work() -> Any:
        async def source() -> str:
            return issued.token

        url = leash.server.url
        async with AsyncRedis.from_url(url, token=source) as parent:
            child = await parent.delegate(bind={"job_id": 42}, ttl=timedelta(minutes=1))
        async with AsyncRedis.from_url(url, token=child.token) as found:
            await found.set("jobs:42:a", 1)
            return child, await found.whoami()

    child, found = asyncio.run(work())
    assert (found.token_id, found.restrictions.bind) == (child.id, {"job_id": b"42"})
    assert "kl_" not in repr(child)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"allow": []}, ValueError, "`allow` has no operation class"),
    ({"keys": ()}, ValueError, "`keys` has no key"),
    ({"ttl": "soon"}, ValueError, "`ttl`"),
    ({"bind": {"job_id": "\ud800"}}, ValueError, "`bind` cannot be encoded"),
    ({"keys": ["jobs:\ud800"]}, ValueError, "`keys` cannot be encoded"),
    ({"ttl": 5}, TypeError, "`ttl`"),
    ({"bind": "x"}, TypeError, "`bind` must be a mapping, not a str"),
    ({"bind": {"job_id": None}}, TypeError, "`bind` must be str or int or bytes, not NoneType"),
    ({"bind": {"job_id": True}}, TypeError, "not bool"),
    ({"bind": {"job_id": 4.5}}, TypeError, "not float"),
    ({"bind": {5: "1"}}, TypeError, "the names in `bind`"),
    ({"budget": {"writes": 1.5}}, TypeError, "`budget` must be str or int, not float"),
    ({"budget": {"writes": b"1"}}, TypeError, "not bytes"),
    ({"meta": {"run": 5}}, TypeError, "`meta` must be str, not int"),
    ({"allow": "read"}, TypeError, "`allow` must be a collection of texts, not a str"),
    ({"allow": [None]}, TypeError, "not of NoneType"),
    ({"keys": [5]}, TypeError, "`keys` must be a collection of texts, not of int"),
]


@pytest.mark.parametrize(("wish", "kind", "message"), WRONG)
def test_wish_that_an_operator_may_not_have_is_an_error_of_both(
    embedded: RealServer, wish: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """Before anything is sent. Of an operator, who has a policy at hand, some name its grants."""
    leash = Leash(embedded)
    leash.load(runner=AGENT)
    with pytest.raises(kind, match=message):
        leash.agent("runner").delegate(**wish)
    errors = (kind, keyleash.OperationError)
    with keyleash.Operator.from_url(embedded.url) as op, pytest.raises(errors):
        op.tokens.issue("runner", **wish)
    assert leash.events("runner") == []


@pytest.mark.parametrize("value", [42, "42", b"42", "\udcff", b"\xff"])
def test_value_of_a_binding_is_one_for_operators_and_parents(
    embedded: RealServer, value: Any
) -> None:
    """And that of `whoami`, which is bytes, is taken by both; a text of `keys` is one key."""
    leash = Leash(embedded)
    leash.load(runner=AGENT)
    with keyleash.Operator.from_url(embedded.url) as op:
        issued = op.tokens.issue("runner", bind={"job_id": value}, keys="jobs:*")
    bound = leash.client(issued.token).whoami().restrictions
    child = leash.agent("runner").delegate(bind={"job_id": value}, keys="jobs:*")
    found = leash.client(child.token).whoami().restrictions
    assert found is not None
    assert bound is not None
    assert (found.bind, found.keys) == (bound.bind, bound.keys)
    assert leash.agent("runner").delegate(bind=found.bind).id


def test_guard_with_every_feature_delegates(embedded: RealServer) -> None:
    """A script may have no more than 200 locals."""
    leash = Leash(embedded)
    counters = ("requests", "reads", "writes", "deletes")
    values = {"max_bytes": "64kb", "max_elements": 100, "ttl": {"max": "7d"}}
    images = {"before_images": {"max_bytes": "64kb"}}
    bytes_ = {
        f"bytes_{name}": {"limit": "1mb/minute", "burst": "4mb"} for name in ("read", "written")
    }
    leash.load(
        runner={
            **AGENT,
            "token": {"bound": True, "idle": "1h", "renew": True},
            "grants": [{**RUNNER["grants"][0], "values": values, **images}],
            "rate": {name: {"limit": "99/minute", "per": "token"} for name in counters} | bytes_,
            "budget": {name: {"limit": "99/day", "per": "{job_id}"} for name in counters},
            "on_denials": {"threshold": "50/minute", "suspend": "10m"},
            "audit": {"reads": True, "source": True, "values": "full", "mask_keys": ["jobs:m:*"]},
            "idempotency": {"keep": "1h"},
        }
    )
    child = delegated(leash, leash.agent("runner"), bind={"job_id": 42}, budget={"writes": 5})

    child.set("jobs:42:a", "x")
    assert child.get("jobs:42:a") == b"x"
    assert denied(child.get, "jobs:43:a")["by"] == "token"


def test_explanation_of_a_child_counts_its_ancestors(leash: Leash) -> None:
    """`explain --token-id` decides as the guard does."""
    leash.load(runner={**AGENT, "budget": {"reads": {"limit": "2/day", "per": "token"}}})
    issued = leash.issue("runner", budget={"writes": 2})
    child = leash.client(issued.token).delegate(bind={"job_id": 42})
    client = leash.client(child.token)

    def decided(*words: str) -> tuple[Any, Any]:
        found = explain(leash.store, "runner", *words, token_id=child.id).decision
        return found.code, found.details.get("by")

    client.get("jobs:42:a")
    assert decided("SET", "jobs:42:a", "x") == (None, None)
    assert decided("SET", "jobs:43:a", "x") == ("KEY_NOT_GRANTED", "token")
    client.set("jobs:42:a", 1)
    assert decided("SET", "jobs:42:a", "x") == ("BUDGET_EXHAUSTED", "ancestor")
    leash.client(issued.token).get("shared:a")
    assert decided("GET", "jobs:42:a") == ("BUDGET_EXHAUSTED", None)
    assert client.whoami().limits[0].left == 0
    revoke(leash.store, token_id=issued.id)
    assert decided("GET", "jobs:42:a")[0] == "TOKEN_REVOKED"
    explained = explain(leash.store, "runner", "GET", "jobs:42:a", token_id=child.id)
    sentence = f"the token `{issued.id}`, from which it was delegated, was revoked"
    assert sentence in str(explained)
    assert denied(client.get, "jobs:42:a") == {
        "code": "TOKEN_REVOKED",
        **explained.decision.details,
    }


def test_largest_child_takes_what_the_page_says(leash: Leash) -> None:
    """Its record, and what operators list about it: an agent may make many."""
    body = {**AGENT, "grants": [grant("read", "write", keys="*")], "delegate": {"depth": 1}}
    leash.load(runner=body)
    keys = [f"{number:02}" + "k" * 251 for number in range(15)]
    labels = {f"n{number:02}" + "n" * 29: '"' * 64 for number in range(16)}
    parent = leash.agent("runner")
    child = parent.delegate(keys=keys, meta=labels)

    names = NAMES
    record = names.token("runner", token_digest(child.token))
    listed = leash.admin.hgetall(names.delegated("runner"))
    size = leash.admin.memory_usage(record) + max(map(len, listed.values()))
    assert 6_500 < size < 7 * 1024
