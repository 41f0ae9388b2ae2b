"""Delegation: a token makes child tokens that may do no more than it."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

import keyleash
from guard.test_bound_tokens import RUNNER, agent, denied
from keyleash.operator.tokens import Scope, list_tokens, revoke, rotate_token
from keyleash.store.token import token_digest
from support.leash import NAMES, Leash

AGENT: dict[str, Any] = {
    **RUNNER,
    "delegate": {"depth": 3, "children": 1000, "max_ttl": "1h"},
}


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
    ({"meta": {"Run": "x"}}, "meta", ""),
    ({"meta": {"run": "x" * 65}}, "meta", ""),
    ({"meta": {"run": "a\nb"}}, "meta", ""),
    ({"meta": {"run": "ü"}}, "meta", ""),
    ({"meta": {"r" * 33: "x"}}, "meta", ""),
    ({"meta": {"run": "kl_runner_" + "x" * 32}}, "meta", ""),
    ({"meta": {f"n{n}": "x" for n in range(17)}}, "meta", ""),
]


def test_wider_or_malformed_child_is_refused_and_nothing_is_stored(leash: Leash) -> None:
    """The denial names the reason and the word; it is recorded, and charges nothing."""
    leash.load(runner={**AGENT, "budget": {"requests": "100/day"}})
    scope = Scope(bind={"job_id": "42"}, allow=["read", "write"], keys=["jobs:42:a*"])
    parent = leash.client(leash.issue("runner", scope=scope, ttl_s=600).token)

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
    issued = leash.issue("runner", ttl_s=300)
    root = leash.client(issued.token)

    child = root.delegate(ttl="1s")
    grandchild = leash.client(child.token).delegate()
    assert grandchild.expires_ms == child.expires_ms
    assert refused(leash.client(grandchild.token))["reason"] == "depth"
    assert root.delegate().expires_ms == issued.expires_ms
    assert refused(root)["reason"] == "children"
    time.sleep(1.1)
    root.delegate()
    assert refused(root)["reason"] == "children"
    with pytest.raises(keyleash.TokenExpiredError):
        leash.client(child.token).get("shared:a")


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
    assert denied(leaf.get, "shared:a") == {"code": "TOKEN_REVOKED", "ancestor": middle.id}
    assert denied(leash.client(middle.token).get, "shared:a") == {"code": "TOKEN_REVOKED"}
    assert sibling.get("shared:a") == b"1"
    revoke(leash.store, identity="runner")
    assert denied(sibling.get, "shared:a") == {"code": "TOKEN_REVOKED", "ancestor": issued.id}
    leash.admin.delete(NAMES.token("runner", token_digest(issued.token)))
    assert denied(sibling.get, "shared:a")["code"] == "TOKEN_REVOKED"


def test_rotated_token_works_in_its_grace_and_its_subtree_does_not(leash: Leash) -> None:
    """It makes no further child either; the new token has none of the old one's."""
    leash.load(runner=AGENT)
    issued = leash.issue("runner")
    root = leash.client(issued.token)
    child = delegated(leash, root)

    new = rotate_token(leash.store, token_id=issued.id, grace_s=600)
    root.set("shared:a", 1)
    assert denied(child.get, "shared:a") == {"code": "TOKEN_REVOKED", "ancestor": issued.id}
    assert refused(root)["reason"] == "rotated"
    assert delegated(leash, leash.client(new.issued.token)).get("shared:a") == b"1"
    again = rotate_token(leash.store, token_id=issued.id, grace_s=600)
    assert [item.id for item in again.replaced] == [issued.id]


def test_caps_of_parent_and_children_are_exact_under_threads(leash: Leash) -> None:
    """50 clients on a child's cap of 97 make 97 calls; with a sibling they use up the parent's."""
    leash.load(runner=AGENT)
    scope = Scope(budget={"writes": 152})
    parent = leash.client(leash.issue("runner", scope=scope).token)
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
        "runner", child.token, "each", *[("SET", f"shared:{n}", "1") for n in range(5)]
    )
    assert replies[:3] == [b"OK"] * 3
    for reply in replies[3:]:
        assert reply.startswith("LEASH BUDGET_EXHAUSTED limit=token.writes by=ancestor")
    client = leash.client(child.token)
    (cap,) = client.whoami().limits
    assert cap.left == 47
    assert {item.name: item.left for item in parent.whoami().limits} == {
        "token.writes": 0, "token.requests": 96,
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
    denial = f"LEASH TOKEN_REVOKED ancestor={issued.id}"
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
