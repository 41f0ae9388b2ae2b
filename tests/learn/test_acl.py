"""ACL users as a policy: it allows nothing that the user may not do."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

import keyleash
from keyleash.commands import known_table
from keyleash.evaluate.client_calls import client_call, decide_client_call
from keyleash.evaluate.state import ModelState
from keyleash.policy.diff.call_shapes import example_call, forms_of
from keyleash.types import AclPolicy
from support.errors import raises_code
from support.servers import RealServer
from support.thorough import FACTOR

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
NO_GRANT = "it has no command with keys or channels that a pattern stands for"
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


def may(client: redis.Redis, name: str, *call: str) -> bool:
    """Return whether a user may make a call, by ACL DRYRUN; nothing is run."""
    try:
        return bool(client.execute_command("ACL", "DRYRUN", name, *call) == b"OK")
    except ResponseError as error:
        if "not found" in str(error):
            # The server lacks the command.
            return False
        raise


def policy_of(server: RealServer) -> keyleash.Policy:
    client = server.client()
    for name, rules in USERS.items():
        client.execute_command("ACL", "SETUSER", name, "reset", *split(rules))
    operator = keyleash.Operator(client)
    found = operator.learn_acl()
    assert found.users["odd-name"] == "odd.Name"
    assert found.left_out["off"] == "it is off"
    assert found.left_out["nothing"] == NO_GRANT
    assert "# the glob log:?:* cannot be a pattern: write narrower ones by hand" in found.document
    return keyleash.Policy(found.document)


def split(rules: str) -> list[str]:
    """Split rules at blanks, but not within selectors."""
    return re.findall(r"\([^)]*\)|[^ ]+", rules)


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
    table = commands_of(client)
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


GLOBS: tuple[str | bytes, ...] = (
    *("a:*", "b:*", "*", "a:?", "a:*:x", "c", "c*", "a:1", "x:*:b:*", "*:x", "a:**", "[ab]:*"),
    *("a:\\*", "\\*", "{a}:*", "*a*", "a*", "a:\\1", "\\a:*", "a:\\\\*", "b:*:x", "b:**:x", "a\\"),
    *("c\u00a0~*", "c\x1c~b:*", b"\xff*", "a:\\"),
)
"""With blanks that are none for a server, and bytes that are not UTF-8."""
ANY_KEYS = (
    "a:1",
    "a:1:x",
    "b:1",
    "b:",
    "c",
    "c1",
    "a:",
    "x:a:b:y",
    "b:a:x",
    "A:1",
    "a:*",
    "\ufffd",
)
RULES = (
    *("+@all", "-@all", "+@read", "-@read", "+@write", "-@write", "-@dangerous", "+@string"),
    *("-@list", "+get", "-get", "+set", "+xgroup", "-xgroup|create", "+object|encoding", "+sort"),
    *(
        "+@keyspace",
        "-@keyspace",
        "+@pubsub",
        "+publish",
        "-@slow",
        "+@stream",
        "-@stream",
        "+scan",
    ),
    *("+del", "+lpop", "+@hash", "-@blocking", "+copy", "+mset", "+mget", "+rename", "-@fast"),
    *("+get|a:1", "+subscribe", "-ping", "+ping", "+exists", "+@sortedset", "-@transaction"),
)


def random_rules(
    rng: random.Random, databases: tuple[str, ...], globs: list[str | bytes]
) -> list[str | bytes]:
    """Return rules of keys, channels, commands and databases, as for a selector."""
    rules: list[str | bytes] = []
    for _ in range(rng.randint(1, 3)):
        rules.append(joined(rng.choice(("~", "~", "%R~", "%W~")), rng.choice(globs)))
    for _ in range(rng.randrange(2)):
        rules.append(joined("&", rng.choice(globs)))
    rules += [*["+@all"] * rng.randrange(2), *rng.choices(RULES, k=rng.randint(1, 5))]
    return [*rules, rng.choice(databases)] if databases and rng.random() < 0.5 else rules


def joined(head: str, glob: str | bytes) -> str | bytes:
    return head + glob if isinstance(glob, str) else head.encode() + glob


def test_random_users_have_valid_policies_that_allow_no_more(server: RealServer) -> None:
    """So it is for escapes, accesses, selectors, overlapping globs and databases."""
    client, rng = server.client(), random.Random(1 if FACTOR == 1 else None)
    table, allowed = commands_of(client), 0
    databases = ("alldbs", "db=0,1", "db=1") if has_databases(server) else ()
    for _ in range(3 * FACTOR):
        rules: dict[str, list[Any]] = {}
        for name in (f"user-{number}" for number in range(20)):
            # Of few globs, accesses and selectors often have the same.
            globs = rng.sample(GLOBS, k=3)
            rules[name] = random_rules(rng, databases, globs)
            for _ in range(rng.choice((0, 0, 1, 2))):
                words = [joined("", word) for word in random_rules(rng, databases, globs)]
                selector = b" ".join(w.encode() if isinstance(w, str) else w for w in words)
                rules[name].append(b"(" + selector + b")")
            # Some patterns have no effect after a `*`, which is an error.
            with contextlib.suppress(ResponseError):
                client.execute_command("ACL", "SETUSER", name, "reset", "on", *rules[name])
        found = keyleash.Operator(client).learn_acl()
        policy = keyleash.Policy(found.document)
        assert policy.check().digest
        for name in sorted(found.users.keys() & rules.keys()):
            grants = grants_of(policy, name)
            granted = [spec for spec in table if any(grant.applies_to(spec) for grant in grants)]
            weights = [1 + 4 * len(spec.needs) for spec in granted]
            for spec in rng.choices(granted, weights, k=100) if granted else ():
                call = example_of(spec, rng)
                if is_allowed(policy, name, call):
                    allowed += 1
                    assert may(client, name, *call), (call, rules[name], found.document)
        client.acl_deluser(*rules)
    assert allowed > 300


def has_databases(server: RealServer) -> bool:
    return b"databases" in server.client().execute_command("ACL", "GETUSER", "default")


def example_of(spec: Any, rng: random.Random) -> list[str]:
    """Return a call of one of a command's forms, with random keys and channels."""
    form = rng.choice(forms_of(spec))
    call = [word.decode() for word in example_call(spec, form, [b"a:1"] * 3)]
    if spec.channel is not None:
        call[spec.channel : spec.channel + 1] = ["a:1"]
    return [rng.choice(ANY_KEYS) if word == "a:1" else word for word in call]


def learned(server: RealServer, **users: str) -> tuple[AclPolicy, keyleash.Policy]:
    """Return what users become, and the policy, which is valid."""
    client = server.client()
    for name, rules in users.items():
        client.execute_command("ACL", "SETUSER", name, "reset", "on", "nopass", *split(rules))
    found = keyleash.Operator(client).learn_acl()
    policy = keyleash.Policy(found.document)
    assert policy.check().digest
    return found, policy


def grants_of(policy: keyleash.Policy, name: str) -> list[Any]:
    identity = policy.model.identity(name)
    assert identity is not None
    return [*identity.grants]


def test_escaped_star_is_no_pattern(embedded: RealServer) -> None:
    """A user of the keys `c:*` and `*` alone may use no others; other escapes are literal."""
    found, policy = learned(embedded, one=r"~c:\* ~\* &\* ~d\:1 +@all", two=r"~c:\* +get")

    assert sources(policy, "one") == [["d:1"]]
    assert found.left_out["two"] == NO_GRANT
    assert r"# the glob c:\* cannot be a pattern: write narrower ones by hand" in found.document


def test_blanks_and_bytes_of_a_glob_are_not_rules(embedded: RealServer) -> None:
    """A rule ends where the server ends it, and a glob without text has no pattern."""
    client = embedded.client()
    client.execute_command("ACL", "SETUSER", "one", "reset", "on", "+@all", "~a\u00a0~*", b"~\xff*")
    client.execute_command("ACL", "SETUSER", "two", "reset", "on", "~b", "+del", "+get|x\u00a0+set")
    _, policy = learned(embedded)

    assert grants_of(policy, "two")[0].only == ("DEL",)
    assert sources(policy, "one") == [["a\u00a0~*"]]


def test_rights_in_other_databases_are_left_out(embedded: RealServer) -> None:
    """Root permissions and selectors count for the database of the URL alone."""
    if not has_databases(embedded):
        pytest.skip("the server has no rights by database")
    found, policy = learned(
        embedded,
        one="~q:* +@read db=1",
        two="~q:* +@read db=1 (~a:* +set db=0,2)",
        three="~q:* +@read alldbs",
    )

    assert found.left_out["one"] == "it may not use database 0"
    assert sources(policy, "two") == [["a:*"]]
    assert sources(policy, "three") == [["q:*"]]
    other = keyleash.Operator(embedded.client(db=1)).learn_acl()
    assert sources(keyleash.Policy(other.document), "one") == [["q:*"]]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("~c ~c* +@all", [["c*"]]),
        ("~b:**:c ~b:*:c +@all", [["b:{part}:c"]]),
        ("~{a}:* ~* &a &* +@all", [["*"], ["*"]]),
        ("~a:* +get (~a:1 +get) (~b +get)", [["a:*", "b"]]),
        ("~*:x:*:y +@all", [["{part}:x:{part_2}:y"]]),
    ],
)
def test_overlapping_globs_become_one_pattern(
    embedded: RealServer, rules: str, expected: list[list[str]]
) -> None:
    """A pattern that another one of equal rights covers is left out, also that of a selector."""
    assert sources(learned(embedded, one=rules)[1], "one") == expected


def sources(policy: keyleash.Policy, name: str) -> list[list[str]]:
    return [
        [pattern.source for pattern in (*grant.keys, *grant.channels)]
        for grant in grants_of(policy, name)
    ]


def test_commands_of_a_grant_are_those_that_need_its_classes(embedded: RealServer) -> None:
    """`only` or `except` is written, whichever is shorter, or none if all are allowed."""
    _, policy = learned(
        embedded,
        one="%R~a %W~b &* +get +mget +set +publish +ping",
        two="~a:* &* +@all -getdel -psubscribe",
        three="~a:* &* +@all",
    )

    reads, writes, channels = grants_of(policy, "one")
    assert (reads.only, writes.only) == (("GET", "MGET", "PING"), ("PING", "SET"))
    assert channels.only == ("PING", "PUBLISH")
    keys, channels = grants_of(policy, "two")
    assert (keys.except_, channels.except_) == (("GETDEL",), ("PSUBSCRIBE",))
    assert all(grant.only is None and not grant.except_ for grant in grants_of(policy, "three"))


def test_sort_is_for_users_who_may_get(embedded: RealServer) -> None:
    """SORT with BY or GET reads keys that match a pattern, which a server allows with all keys."""
    _, policy = learned(embedded, one="~a:* +sort +lrange", two="~a:* +sort +get +hget")

    assert grants_of(policy, "one")[0].only == ("LRANGE",)
    assert grants_of(policy, "two")[0].only == ("GET", "HGET", "SORT")


def commands_of(client: Any) -> list[Any]:
    """Return the commands of a server of which DRYRUN decides as a guard does.

    PSUBSCRIBE is none: a policy also allows a pattern within one of the user's.
    """
    present = {name.upper() for name in client.command()} - {"PSUBSCRIBE"}
    return [
        spec
        for spec in known_table()
        if spec.refused is None and spec.name.partition(" ")[0] in present
    ]


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
