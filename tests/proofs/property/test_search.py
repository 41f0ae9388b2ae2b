"""Random policies and histories of search indexes: guards decide as the model and hide the rest."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import pytest
from redis.exceptions import ResponseError

from keyleash.errors import DelegationRefusedError, OperationError, PolicyError, ReplyCode
from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.trace import Decision
from keyleash.operator.tokens.list import list_tokens
from keyleash.policy import Identity
from keyleash.policy.parse import parse_policy
from keyleash.store.restrictions import Restrictions
from keyleash.store.wire import refusal
from proofs.oracle.data import model_state
from support.leash import Leash, policy
from support.stack import stack_server
from support.thorough import FACTOR

KEYS = ["a:x:1", "a:x:s1", "a:y:1", "a:xx:1", "a:1", "ab:1", "b:1", "b:2", "c", "keyleash:q"]
KEY_PATTERNS = ["a:*", "a:{agent}:*", "a:x:*", "ab*", "b:*", "a:x:1", "*", "a:{agent}:s{job}", "k*"]
INDEX_PATTERNS = ["ix", "ix:*", "ix:{agent}", "*", "i:x"]
DENIED = ["a:x:*", "a:{agent}:s*", "b:1", "ab:1", "zz:*", "a:{agent}:s{n}:t", "{any}:1"]
PREFIXES = ["a:", "a:x:", "a:x", "a:y:", "ab", "a", "", "b:", "a:x:s", "a:x:s:", "keyleash:", "c"]
NAMES = ["ix", "ix:x", "ix:y", "i:x", "al", "ix:al"]
SCHEMA = ("SCHEMA", "t", "TEXT", "n", "NUMERIC")
JSON_SCHEMA = ("SCHEMA", "$.t", "AS", "t", "TEXT", "$.n", "AS", "n", "NUMERIC")
CLASSES = ["read", "write", "delete", "scan"]
NARROWED: list[dict[str, Any]] = [
    *[{}] * 5,
    {"except": ["FT.SEARCH", "FT.INFO"]},
    {"only": ["HGETALL", "HSET"]},
    {"only": ["FT.SEARCH", "FT.AGGREGATE", "FT.CREATE", "HGETALL"]},
    {"except": ["FT.CREATE"]},
]  # fmt: skip


@pytest.fixture(scope="module")
def leash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leash]:
    with stack_server(tmp_path_factory.mktemp("stack")) as server:
        yield Leash(server)


class Token(NamedTuple):
    """A token and its restrictions."""

    text: str
    id: str
    restrictions: Restrictions | None


def drawn_grant(random: Random) -> dict[str, Any]:
    classes = [*{"read", *random.sample(CLASSES, random.randint(0, 4))}]
    body = {"allow": classes, "keys": random.sample(KEY_PATTERNS, random.choice([1, 1, 2]))}
    if random.random() < 0.8:
        body["indexes"] = random.sample(INDEX_PATTERNS, random.choice([1, 1, 2]))
    return {**body, **random.choice(NARROWED)}


def drawn_policy(random: Random) -> tuple[str, Identity]:
    while True:
        body: dict[str, Any] = {
            "grants": [drawn_grant(random) for _ in range(random.randint(1, 3))],
            "token": {"bound": True},
            "delegate": {"depth": 2},
        }
        if random.random() < 0.3:
            body["deny"] = [{"keys": [random.choice(DENIED)]}]
        document = policy(one=body)
        try:
            identity = parse_policy(document, file="p", commands=None).identity("one")
        except PolicyError:
            # Where one pattern covers another.
            continue
        assert identity is not None
        return document, identity


def drawn_tokens(leash: Leash, random: Random) -> list[Token]:
    """Return an issued token, and others with restrictions that the policy allows."""
    texts = [leash.issue("one").token]
    for _ in range(3):
        # Restrictions may leave nothing of the policy, or of the parent.
        options: dict[str, Any] = {}
        if random.random() < 0.6:
            options["bind"] = {"agent": random.choice("xy")}
        if random.random() < 0.4:
            options["keys"] = random.sample(["a:x:*", "a:*", "ab*", "b:1", "a:y:1"], 1)
        if random.random() < 0.3:
            options["allow"] = random.sample(CLASSES, 2)
        with contextlib.suppress(OperationError, DelegationRefusedError):
            if random.random() < 0.5:
                texts.append(leash.issue("one", **options).token)
            else:
                texts.append(leash.client(random.choice(texts)).delegate(**options).token)
    infos = {info.id: info for info in list_tokens(leash.store, "one")}
    ids = [leash.client(text).whoami().token_id for text in texts]
    return [Token(text, id, infos[id].restrictions) for text, id in zip(texts, ids, strict=True)]


def operator_call(random: Random) -> tuple[Any, ...]:
    """Return a change of an index or of a document."""
    name, prefixes = random.choice(NAMES), random.sample(PREFIXES, random.randint(1, 2))
    kind, schema = random.choice([("HASH", SCHEMA), ("JSON", JSON_SCHEMA)])
    document = json.dumps({"t": "hello", "n": random.randint(0, 9)})
    return random.choice(
        [
            ("FT.CREATE", name, "ON", kind, "PREFIX", len(prefixes), *prefixes, *schema),
            ("FT.CREATE", name, "ON", kind, "PREFIX", len(prefixes), *prefixes, *schema),
            ("FT.DROPINDEX", name),
            (random.choice(["FT.ALIASADD", "FT.ALIASUPDATE"]), random.choice(NAMES), name),
            ("FT.ALIASDEL", name),
            ("HSET", random.choice(KEYS), "t", "hello", "n", random.randint(0, 9)),
            ("JSON.SET", random.choice(KEYS) + ":j", "$", document),
        ]
    )


def agent_call(random: Random) -> tuple[Any, ...]:
    name, prefixes = random.choice(NAMES), random.sample(PREFIXES, random.randint(1, 2))
    search = random.choice(
        [
            ("FT.SEARCH", name, "*", "LIMIT", 0, 100),
            ("FT.SEARCH", name, "hello", "RETURN", 1, "t", "LIMIT", 0, 100),
            ("FT.AGGREGATE", name, "*", "LOAD", 2, "@__key", "@t"),
            ("FT.INFO", name),
        ]
    )
    change = random.choice(
        [
            ("FT.CREATE", name, "PREFIX", len(prefixes), *prefixes, *SCHEMA),
            ("FT.CREATE", name, "PREFIX", 1, *prefixes[:1], "PREFIX", 1, *prefixes[-1:], *SCHEMA),
            ("FT.CREATE", name, "PREFIX", 1, *prefixes[:1], "TEMPORARY", 1, *SCHEMA),
            ("FT.ALTER", name, "SCHEMA", "ADD", f"f{random.randint(0, 99)}", "TAG"),
            ("FT.DROPINDEX", name),
            ("FT.DROPINDEX", name, "DD"),
        ]
    )
    return random.choice([search, search, search, change])


def keys_in(argv: Sequence[Any], reply: Any) -> list[bytes]:
    """Return the keys in the reply to a search."""
    if not isinstance(reply, list):
        return []
    if argv[0] == "FT.SEARCH":
        return [item for item in reply[1:] if isinstance(item, bytes)]
    rows = (dict(zip(row[::2], row[1::2], strict=True)) for row in reply[1:])
    return [row[b"__key"] for row in rows] if argv[0] == "FT.AGGREGATE" else []


def decision_of(reply: Any) -> Decision:
    found = refusal(reply) if isinstance(reply, str) else None
    return Decision() if found is None else Decision(ReplyCode(found.code), found.details)


def operate(leash: Leash, call: Sequence[Any]) -> None:
    """Make a call of an operator, and wait until a new index has its documents."""
    try:
        leash.admin.execute_command(*call)
    except ResponseError:
        return
    while call[0] == "FT.CREATE" and leash.admin.ft(call[1]).info()["indexing"]:
        pass


def require_readable(leash: Leash, token: Token, argv: Sequence[Any], reply: Any) -> int:
    """Assert that the token may read every key of a reply."""
    keys = keys_in(argv, reply)
    for key in keys:
        read = leash.call("one", token.text, "HGETALL", key)
        assert decision_of(read).allowed, (argv, key, read)
    return len(keys)


def run_history(leash: Leash, random: Random, steps: int, codes: Counter[Any]) -> None:
    document, identity = drawn_policy(random)
    leash.server.close_clients()
    leash.admin.flushall()
    for name in leash.admin.execute_command("FT._LIST"):
        leash.admin.execute_command("FT.DROPINDEX", name)
    leash.load(document)
    tokens, store = drawn_tokens(leash, random), leash.store
    for key in KEYS:
        leash.admin.hset(key, mapping={"t": "hello", "n": 1})
    for name in random.sample(NAMES[:4], 2):
        operate(leash, ("FT.CREATE", name, "PREFIX", 1, random.choice(PREFIXES[:6]), *SCHEMA))
    for _ in range(steps):
        if random.random() < 0.3:
            operate(leash, operator_call(random))
            continue
        token = random.choice(tokens)
        if random.random() < 0.1:
            # The model knows the indexes before the batch alone.
            calls = [agent_call(random) for _ in range(3)]
            mode = random.choice(["each", "all"])
            replies = leash.batch("one", token.text, mode, *calls)
            for argv, reply in zip(calls, replies, strict=False):
                codes["keys"] += require_readable(leash, token, argv, reply)
            continue
        argv = agent_call(random)
        state = model_state(store, restrictions=token.restrictions)
        words = [str(word).encode() for word in argv]
        expected = decide(identity, leash.server.table, words, [], state, 0, token.id)
        reply = leash.call("one", token.text, *argv)
        assert decision_of(reply) == expected, (argv, document, token)
        codes[expected.code, expected.details.get("by")] += 1
        if expected.allowed:
            codes["keys"] += require_readable(leash, token, argv, reply)


def test_searches_reveal_no_key_that_the_token_may_not_read(leash: Leash) -> None:
    """Indexes are made, changed and dropped by agents and others; guard and model agree."""
    codes: Counter[Any] = Counter()
    for seed in range(40 * FACTOR):
        run_history(leash, Random(seed), 40, codes)

    print(codes)
    assert codes["keys"] > 20
    assert codes[None, None] > 20
    for code in ("INDEX_NOT_GRANTED", "KEY_NOT_GRANTED", "CLASS_NOT_GRANTED"):
        assert codes[code, None] > 5
        assert codes[code, "token"] > 0
    assert codes["KEY_DENIED", None] > 5


WORDS = [
    *["PREFIX"] * 6, "prefix", "PREFIX\0", "1", "1", "2", "0", "01", "010", "1e0", "+1", "-1", "3",
    "a:", "a:x", "b", "hr:", "", "a:\0", "SCHEMA", "ON", "HASH", "JSON", "TEMPORARY", "STOPWORDS",
    "FILTER", "@n>1", "LANGUAGE", "english", "LANGUAGE_FIELD", "SCORE", "0.5", "SCORE_FIELD",
    "PAYLOAD_FIELD",
    "NOHL", "NOFREQS", "MAXTEXTFIELDS", "NOOFFSETS", "NOFIELDS", "SKIPINITIALSCAN", "INDEXALL",
    "ENABLE", "ASYNC", "TEXT", "WITHSUFFIXTRIE", "DIM", "format(format(1))",
]  # fmt: skip


def options(random: Random) -> list[str]:
    """Return options of an FT.CREATE: some that fit together, then some edits."""
    prefixes = random.choices(
        ["a:", "a:x", "b", "hr:", "", "PREFIX", "SCHEMA"], k=random.choice([1, 1, 2])
    )
    rest = random.sample(["NOHL", "NOFREQS", "ON HASH", "STOPWORDS 0", "LANGUAGE english"], 2)
    parts = [["PREFIX", str(len(prefixes)), *prefixes], *(item.split() for item in rest)]
    if random.random() < 0.3:
        parts.append(["PREFIX", "1", random.choice(["a:", "hr:", ""])])
    random.shuffle(parts)
    words = [word for part in parts for word in part]
    for _ in range(random.choice([0, 0, 1, 2])):
        at = random.randrange(len(words) + 1)
        words[at : at + random.choice([0, 1])] = [random.choice(WORDS)] * random.choice([0, 1, 1])
    return words


def test_prefixes_that_a_guard_reads_are_those_of_the_index(leash: Leash) -> None:
    """Whatever the arguments of FT.CREATE, an index that a guard lets be made has no other keys."""
    body = {"grants": [{"allow": ["read", "write"], "keys": ["a:*", "b*"], "indexes": ["ix"]}]}
    document = policy(one=body)
    leash.load(document)
    identity = parse_policy(document, file="p", commands=None).identities[0]
    token, made, random = leash.issue("one").token, Counter[str](), Random(1)
    for _ in range(500 * FACTOR):
        argv = ["FT.CREATE", "ix", *options(random), *SCHEMA]
        reply = leash.call("one", token, *argv)
        words = [word.encode() for word in argv]
        expected = decide(identity, leash.server.table, words, [], model_state(), 0)
        assert decision_of(reply) == expected, argv
        made[str(reply if reply == b"OK" else expected.code)] += 1
        if reply == b"OK":
            info = leash.admin.execute_command("FT.INFO", "ix")
            prefixes = info[b"index_definition"][b"prefixes"]
            assert all(prefix.startswith((b"a:", b"b")) for prefix in prefixes), (argv, prefixes)
            leash.admin.execute_command("FT.DROPINDEX", "ix")
    print(made)
    assert len(made) > 2
    assert made["b'OK'"] > 50


NUMBERS = [
    *("0", "1", "2", "9", "010", "08", "+1", " 1", "1e5", "0x2", "-1", "1.5", ""),
    *("8192", "8193", "1025", "1000000", "1000001", "9" * 20),
]
NAMES_OF_FIELDS = [
    "t",
    "@n",
    "..a",
    "$.a,b",
    "@$.a?",
    "$.l[" + "9" * 19 + "]",
    "a" * 513,
    "t\0",
    "*",
]
SCHEMA_WORDS = [
    *("VECTOR", "vector", "VECTOR\0", "FLAT", "HNSW", "SVS", "DIM", "M", "TYPE", "FLOAT32", "TAG"),
    *("INITIAL_CAP", "EF_RUNTIME", "EPSILON", "AS", "SEPARATOR", ",", "TEXT", "SCHEMA"),
    *NAMES_OF_FIELDS,
    *NUMBERS,
]
EXPRESSIONS = [
    *("1", "upper (@t)", "matched_terms(1)", "Split\n(@t)", "'a(b'", "!(1)", "é(1)", "f\0(1)"),
    *("format('%s')", f"format('{'%s' * 9}')", "format(format(1))", "a" * 1025, "1%2" * 9),
]
QUERIES = [
    *("*", "w", "w'h*'", "w'$q'", "*$q", "$q*", "@v:[VECTOR_RANGE 9 $q]", "x $q ", "[" * 99),
    *("*=>[KNN 3 @v $q]", "*=>[KNN $k @v $q]", "*=>[KNN $k\\-x @v $q]", "*=>[KNN $ké @v $q]"),
    *(
        "*=>[KNN 3@v $q]",
        "*=>[ \1knn 2 @v $q]",
        "x[[KNN",
        "@s:[within $q]|[inf",
        "-a|" * 17,
        "@v:[vector_range 1 $q]" * 5,
        "w=>[KNN 2 @v $q BATCH_SIZE 9]",
    ),
    *("a" * 513, "*" + "a" * 513, "*\\ " * 200, "w'" + "a" * 511, "w=>{$batch_size : 10}"),
]
OPTIONS = {
    "FT.SEARCH": "RETURN INFIELDS INKEYS HIGHLIGHT FIELDS TAGS LIMIT SORTBY PARAMS PAYLOAD FILTER"
    " WITHSCORES WITHSORTKEYS EXPLAINSCORE SUMMARIZE FRAGS DIALECT NOCONTENT",
    "FT.AGGREGATE": "LOAD GROUPBY REDUCE SORTBY MAX APPLY FILTER LIMIT PARAMS AS DIALECT ADDSCORES",
}  # fmt: skip
TAKES = {"LIMIT": 2, "MAX": 1, "FRAGS": 1, "DIALECT": 1, "TAGS": 2, "AS": 1, "PAYLOAD": 1}


def words_of_call(random: Random) -> list[str]:
    """Return a call of an index with odd words."""
    kind = random.random()
    if kind < 0.4:
        start = random.choice([["FT.CREATE", "ix2", "PREFIX", "1", "a:"], ["FT.ALTER", "ix"]])
        added = random.choices(SCHEMA_WORDS, k=random.randint(1, 6))
        vector = ["v", "VECTOR", "FLAT", random.choice(["6", "4", "06"]), "TYPE", "FLOAT32", "DIM"]
        return [*start, "SCHEMA", *random.choice([[], [*vector, random.choice(NUMBERS)]]), *added]
    command = random.choice([*OPTIONS])
    words = [command, "ix", random.choice(QUERIES)]
    for _ in range(random.randint(0, 4)):
        name = random.choice(OPTIONS[command].split())
        values = [*NAMES_OF_FIELDS, *NUMBERS, "q", "k"]
        if name == "APPLY" or (name == "FILTER" and command == "FT.AGGREGATE"):
            words += [name, random.choice(EXPRESSIONS)]
            continue
        count = TAKES.get(name, random.choice([0, 1, 2, 4, 33, 70]))
        named = [] if name in TAKES else [random.choice([str(count)] * 9 + NUMBERS)]
        function = ["random_sample"] if name == "REDUCE" else []
        words += [name, *function, *named, *random.choices(values, k=count)]
    if random.random() < 0.5:
        words += ["PARAMS", "4", "q", random.choice(["h*", "a" * 513]), "k", random.choice(NUMBERS)]
    return words


def test_words_of_searches_are_judged_as_by_the_model(leash: Leash) -> None:
    """Every option, number, function and parameter; the server runs on."""
    grants = [{"allow": ["read", "write"], "keys": ["a:*"], "indexes": ["ix*"]}]
    document = policy(one={"grants": grants, "limits": {"work": 2700, "strings": 100}})
    leash.admin.flushall()
    for name in leash.admin.execute_command("FT._LIST"):
        leash.admin.execute_command("FT.DROPINDEX", name)
    leash.load(document)
    for i in range(40):
        leash.admin.hset(f"a:{i}", mapping={"t": "w" * (i % 3), "n": i, "u": "w"})
    operate(leash, ("FT.CREATE", "ix", "PREFIX", 1, "a:", *SCHEMA))
    identity = parse_policy(document, file="p", commands=None).identities[0]
    token, store, random = leash.issue("one").token, leash.store, Random(1)
    codes = Counter[Any]()
    for _ in range(1500 * FACTOR):
        argv = words_of_call(random)
        words = [word.encode() for word in argv]
        expected = decide(identity, leash.server.table, words, [], model_state(store), 0)
        reply = leash.call("one", token, *argv)
        assert decision_of(reply) == expected, argv
        codes[expected.code, expected.details.get("command")] += 1
        if reply == b"OK":
            leash.admin.execute_command("FT.DROPINDEX", argv[1])
            if argv[1] == "ix":
                operate(leash, ("FT.CREATE", "ix", "PREFIX", 1, "a:", *SCHEMA))
    print(codes)
    refused = {command.partition(" ")[2] for _, command in codes if command}
    assert refused >= {
        "WORDS",
        "FIELDS",
        "STEPS",
        "ROWS",
        "PARAMS",
        "QUERY",
        "KNN",
        "VECTOR",
        "DIM",
    }
    assert codes[ReplyCode.WORK_TOO_LARGE, "FT.SEARCH"]
    assert codes[None, None] > 100
