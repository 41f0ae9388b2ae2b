"""Random queries under a filter of the policy: no reply has a document of another agent."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from keyleash.errors import ReplyCode
from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.trace import Decision
from keyleash.operator.tokens.list import list_tokens
from keyleash.policy.parse import parse_policy
from keyleash.store.wire import refusal
from proofs.oracle.data import model_state
from support.leash import Leash, policy
from support.stack import stack_server
from support.thorough import FACTOR

FIELDS = [
    "a", "TAG", "k", "TAG", "t", "TEXT", "u", "TEXT", "own", "NUMERIC", "n", "NUMERIC", "SORTABLE",
    "g", "GEO", "v", "VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", 2, "DISTANCE_METRIC", "L2",
]  # fmt: skip
VALID = [
    "hello", "foo", "w1", "bar", "he*", "%helo%", '"hello foo"', "@t:hello", "@u:bar", "*",
    "@t:(hello|foo)", "@k:{red}", "@k:{x\\ y}", "@a:{bob}", "@a:{ann | bob}", "@n:[0 20]",
    "@n:[(3 +inf]", "@own:[2 2]", "@g:[1 1 5000 km]", "w'h*o'", "@v:[VECTOR_RANGE 100 $q]", "$y",
    "@t:$y", "@k:{$z}", "@n:[3 (9]",
]  # fmt: skip
WORDS = [
    "hello", "foo", "w1", "bar", "he*", "*oo", "*ell*", "%helo%", "w'h*o'", "w'", "*", "(", ")",
    "|", "-", "~", "@t:", "@u:", "@a:{bob}", "@a:{", "@k:{red}", "@k:{x\\ y}", "@own:[2 2]",
    "@own:[", "]", "@n:[0 10]", "@n:[(3 +inf]", "@n:[3 (9]", "@g:[1 1 500 km]", "{", "}", "[",
    '"', "'", "\\", "\\)", "\\(", '\\"', '"hello foo"', '"a)', "=>", "=>{$weight: 2;}",
    "=>[KNN 40 @v $q]", "=>[KNN 40 @v $q AS d]", "@v:[VECTOR_RANGE 100 $q]", "$x", "$q", "@t|u:",
    "@t|a:", "hello) | (hello", ")|(", "*)|(*", ":", "@", "ismissing(@t)", "\0", "é", ";", "||",
    "@a:{$z}", "@own==2", "@a:{ann|bob}", "@t:(hello", "//", "#", "\t", "\n", "!=", ">=", "@n<5",
    "hello)=>{$weight:1}|(foo", "$y", "@t:$y",
]  # fmt: skip
PARAMS = ("PARAMS", 8, "q", struct.pack("ff", 1, 1), "x", "*) | (*", "y", "hello) | (hello", "z",
          "red} | @a:{bob")  # fmt: skip
GRANT = {
    "allow": ["read"],
    "indexes": [
        {"name": "tags", "where": {"a": "{agent}"}},
        {"name": "numbers", "where": {"own": "{own}"}},
    ],
}


@pytest.fixture(scope="module")
def leash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leash]:
    with stack_server(tmp_path_factory.mktemp("stack")) as server:
        leash = Leash(server)
        for i in range(40):
            fields: dict[str, Any] = {"a": ["ann", "bob"][i % 2], "own": i % 2 + 1, "n": i}
            fields |= {"k": ["red", "green", "x y"][i % 3], "t": f"hello w{i % 7} foo"}
            fields |= {"u": f"bar z{i % 5}", "g": f"{i},{i % 50}", "v": struct.pack("ff", i, 1)}
            leash.admin.hset(f"fz:{i}", mapping=fields)
        for name in ("tags", "numbers"):
            leash.admin.execute_command("FT.CREATE", name, "PREFIX", 1, "fz:", "SCHEMA", *FIELDS)
            while leash.admin.ft(name).info()["indexing"]:
                pass
        yield leash


def query(random: Random, depth: int = 0) -> str:
    """Return a query: one from a grammar, or a row of words."""
    if depth == 0 and random.random() < 0.2:
        glue = " " if random.random() < 0.7 else ""
        return glue.join(random.choice(WORDS) for _ in range(random.randint(1, 9)))
    kind = random.random()
    if depth > 3 or kind < 0.45:
        return random.choice(VALID)
    inner = query(random, depth + 1)
    if kind < 0.7:
        return inner + random.choice([" ", "|", " | "]) + query(random, depth + 1)
    near = f"({inner})=>[KNN 40 @v $q]" if depth == 0 else f"({inner})=>{{$weight: 2.0}}"
    return random.choice([f"-{inner}", f"({inner})", near])


def edited(random: Random, text: str) -> str:
    for _ in range(random.choice([0, 0, 0, 1, 2])):
        at, to = random.randrange(len(text) + 1), random.randrange(len(text) + 1)
        new = random.choice([*WORDS, "(", ")", "|", ") | ("])
        changed = [text[:at] + new + text[at:], text[:at] + text[at + 1 :], text[:at] + text[to:]]
        text = random.choice(changed)
    return text


def keys_in(name: str, reply: list[Any]) -> list[bytes]:
    if name == "FT.SEARCH":
        return [item for item in reply[1:] if isinstance(item, bytes)]
    rows = (dict(zip(row[::2], row[1::2], strict=True)) for row in reply[1:])
    return [row.get(b"__key", b"fz:0") for row in rows]


@pytest.mark.parametrize("command", ["FT.SEARCH", "FT.AGGREGATE"])
@pytest.mark.parametrize("index", ["tags", "numbers"])
def test_no_query_leaves_its_filter(leash: Leash, command: str, index: str) -> None:
    """Row of words, valid queries with edits, parameters, every dialect; the model agrees."""
    document = policy(one={"grants": [GRANT], "token": {"bound": True}})
    leash.load(document)
    bind = {"agent": "ann"} if index == "tags" else {"own": "1"}
    token = leash.issue("one", bind=bind)
    (info,) = (item for item in list_tokens(leash.store, "one") if item.id == token.id)
    identity = parse_policy(document, file="p", commands=None).identities[0]
    state = model_state(leash.store, restrictions=info.restrictions)
    random, counts = Random(f"{command} {index}"), Counter[str]()
    for _ in range(300 * FACTOR):
        text = edited(random, query(random))
        dialect = ("DIALECT", random.choice([1, 2, 3, 4]))
        argv: list[Any] = [command, index, text, *PARAMS]
        if command == "FT.SEARCH":
            argv += ["NOCONTENT", "LIMIT", 0, 100]
            argv += random.choice([[], ["FILTER", "own", 2, 2], ["FILTER", "own", "-inf", "+inf"]])
        else:
            argv += random.choice([[], ["APPLY", "1", "AS", "a", "FILTER", "1==1"]])
            argv += ["LOAD", 1, "@__key", "LIMIT", 0, 100]
        argv += random.choice([[], dialect])
        reply = leash.call("one", token.token, *argv)
        denial = refusal(reply) if isinstance(reply, str) else None
        words = [word if isinstance(word, bytes) else str(word).encode() for word in argv]
        expected = decide(identity, leash.server.table, words, [], state, 0, token.id)
        found = Decision(ReplyCode(denial.code), denial.details) if denial else Decision()
        assert found == expected, argv
        if isinstance(reply, list):
            keys = keys_in(command, reply)
            assert not [key for key in keys if int(key[3:]) % 2], argv
            counts["some" if keys else "none"] += 1
            if command == "FT.SEARCH":
                assert reply[0] <= 20, argv
        else:
            counts["denied" if denial else "error"] += 1
    print(command, index, counts)
    assert counts["some"] > 20
    assert min(counts["none"], counts["error"]) > 5
