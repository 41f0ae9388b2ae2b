"""ACL users as a policy: it allows nothing that the user may not do."""

from __future__ import annotations

import itertools
import random
from typing import Any

import keyleash
from keyleash.commands import known_table
from keyleash.evaluate.client_calls import client_call, decide_client_call
from keyleash.evaluate.state import ModelState
from keyleash.store.users import may
from support.errors import raises_code
from support.servers import RealServer

USERS = {
    "worker": "on nopass ~jobs:* %R~config:* %W~log:?:* &events:* +@all -@dangerous -keys -eval",
    "reader": "on nopass ~a:*:b ~exact +@read +ping",
    "odd.Name": "on nopass ~x:* -@all +get +set +xgroup|create (%R~y:* +@string -getdel)",
    "braces": "on nopass ~tag:{1}:* +@all",
    "accesses": "on nopass %R~jobs:* %W~jobs:1 %W~q +@all -sort",
    "selectors": "on nopass %R~jobs:* %W~q +@all (~jobs:1 +set +getset +mget +copy)",
    "off": "off ~* +@all",
    "nothing": "on nopass +@all",
}
KEYS = (
    "jobs:1",
    "config:x",
    "log:a:1",
    "a:1:b",
    "a:1:2:b",
    "exact",
    "x:1",
    "y:1",
    "tag:{1}:2",
    "q",
)


def policy_of(server: RealServer) -> keyleash.Policy:
    client = server.client()
    for name, rules in USERS.items():
        client.execute_command("ACL", "SETUSER", name, "reset", *split(rules))
    operator = keyleash.Operator(client)
    found = operator.learn_acl()
    assert found.users["odd-name"] == "odd.Name"
    assert found.left_out["off"] == "it is off"
    assert found.left_out["nothing"] == "no command that it may use needs a key or a channel"
    assert "# no pattern allows as much as log:?:* and no more" in found.document
    return keyleash.Policy(found.document)


def split(rules: str) -> list[str]:
    """Split rules at blanks, but not within a selector."""
    head, bracket, selector = rules.partition("(")
    return [*head.split(), *([bracket + selector] if bracket else [])]


def test_policy_of_users_is_valid_and_allows_what_they_do(server: RealServer) -> None:
    """Patterns, accesses, commands and selectors have their grants."""
    policy = policy_of(server)

    assert policy.check().digest
    for identity, *call in (
        ("worker", "SET", "jobs:1", "x"),
        ("worker", "GET", "config:a"),
        ("worker", "PUBLISH", "events:1", "x"),
        ("worker", "SCAN", "0", "MATCH", "jobs:*"),
        ("reader", "GET", "a:1:b"),
        ("reader", "HGETALL", "exact"),
        ("odd-name", "SET", "x:1", "1"),
        ("odd-name", "XGROUP", "CREATE", "x:1", "g", "$"),
        ("odd-name", "GET", "y:1"),
        ("braces", "SET", "tag:{1}:a", "1"),
    ):
        assert policy.explain(identity, *call).allowed, call


def test_policy_of_users_allows_no_more(server: RealServer) -> None:
    """Whatever the policy allows, the server would let the user do."""
    policy, client = policy_of(server), server.client()
    rng = random.Random(1)
    present = {name.upper() for name in client.command()}
    table = [
        spec
        for spec in known_table()
        if spec.refused is None and spec.name.partition(" ")[0] in present
    ]
    names: dict[str, Any] = {"worker": "worker", "reader": "reader", "odd-name": "odd.Name"}
    allowed = 0
    for _ in range(5000):
        identity = rng.choice([*names])
        call = random_call(rng.choice(table), rng)
        if is_allowed(policy, identity, call):
            allowed += 1
            assert may(client, names[identity], *call), (identity, call)
    assert allowed > 100


def test_grants_of_a_user_do_not_combine(server: RealServer) -> None:
    """Calls of two keys, or with two needs of one key, are allowed only as the server does."""
    policy, client = policy_of(server), server.client()
    keys = ("jobs:1", "jobs:2", "q", "x")
    calls = [
        words
        for first, second in itertools.product(keys, keys)
        for words in (
            *(
                ["MGET", first, second],
                ["COPY", first, second],
                ["SMOVE", first, second, "m"],
                ["GETSET", first, "v"],
            ),
            *(["SET", first, "v", "GET"], ["SET", first, "v"], ["GETEX", first, "PERSIST"]),
            *(
                ["INCR", first],
                ["LMOVE", first, second, "LEFT", "LEFT"],
                ["ZUNIONSTORE", first, "1", second],
            ),
        )
    ]
    allowed = 0
    for name, call in itertools.product(("accesses", "selectors"), calls):
        if is_allowed(policy, name, call):
            allowed += 1
            assert may(client, name, *call), (name, call)
    assert allowed > 20


def is_allowed(policy: keyleash.Policy, name: str, call: list[str]) -> bool:
    identity = policy.model.identity(name)
    assert identity is not None
    found = client_call(identity, [word.encode() for word in call])
    return decide_client_call(identity, known_table(), found, ModelState(), 0).allowed


def random_call(spec: Any, rng: random.Random) -> list[str]:
    count = max(abs(spec.arity), 2) + rng.randrange(2)
    words = [*spec.name.split(" "), *(rng.choice([*KEYS, "1"]) for _ in range(count))]
    return words[: count + (spec.arity < 0)] if spec.arity < 0 else words[: spec.arity]


def test_server_without_users_of_keys_is_an_error(embedded: RealServer) -> None:
    """There is nothing to write."""
    embedded.client().execute_command("ACL", "SETUSER", "default", "resetkeys", "resetchannels")
    try:
        with raises_code("no-acl-user"):
            keyleash.Operator(embedded.client()).learn_acl()
    finally:
        embedded.client().execute_command("ACL", "SETUSER", "default", "allkeys", "allchannels")
