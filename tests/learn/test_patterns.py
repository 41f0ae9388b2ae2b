"""Patterns learned from keys: grammars of applications, and keys of libraries."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from keyleash.addons.learn import patterns as learned_patterns
from keyleash.addons.learn.calls import RecordedCall
from keyleash.addons.learn.patterns import (
    COMMENTED_OUT,
    ENDS_ALIKE,
    FROM_ROOT,
    LEFT_OUT,
    MASKED,
    MOST_WORDS,
    UNSAYABLE,
    KeyTree,
    Need,
)
from keyleash.commands import OperationClass
from keyleash.policy import Pattern
from keyleash.policy.patterns import match, parse_pattern

READ = ((OperationClass.READ,), "")
WRITE = ((OperationClass.WRITE,), "")
DELETE = ((OperationClass.DELETE,), "")
CALL = RecordedCall("a", 1, "GET")
Grammar = Callable[[random.Random], str]


def hex_of(rng: random.Random, digits: int) -> str:
    return f"{rng.getrandbits(4 * digits):0{digits}x}"


def uuid(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128)))


def ulid(rng: random.Random) -> str:
    return "01" + "".join(rng.choices("0123456789ABCDEFGHJKMNPQRSTVWXYZ", k=24))


def nanoid(rng: random.Random) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
    return "".join(rng.choices(letters, k=21))


def name(rng: random.Random) -> str:
    return rng.choice("bcdfghklmnprst") + "".join(rng.choices("aeioulnrst", k=5))


def any_of(*forms: str) -> Grammar:
    """Return keys of one of these forms, with random values of what they name."""

    def key(rng: random.Random) -> str:
        return rng.choice(forms).format(
            n=rng.randrange(10**6),
            uuid=uuid(rng),
            ulid=ulid(rng),
            hex=hex_of(rng, 32),
            short=hex_of(rng, 8),
            nano=nanoid(rng),
            name=name(rng),
            day=f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
            few=rng.randrange(3),
        )

    return key


GRAMMARS: dict[str, tuple[Grammar, set[str]]] = {
    "jobs": (
        any_of("agents:jobs:{n}:state", "agents:jobs:{n}:result", "agents:jobs:index"),
        {"agents:jobs:index", "agents:jobs:{job_id}:result", "agents:jobs:{job_id}:state"},
    ),
    "tenants": (
        any_of("app:{uuid}:user:{name}:visits:{day}", "app:{uuid}:settings"),
        {"app:{app_id}:settings", "app:{app_id}:user:{user}:visits:{date}"},
    ),
    "shards": (
        any_of("shard-{few}:orders:{ulid}", "{{cart{n}}}:items", "tok-{short}"),
        {
            *(f"shard-{number}:orders:{{order_id}}" for number in range(3)),
            "{{cart{cart_id}}}:items",
            "tok-{tok_id}",
        },
    ),
    "cache": (
        any_of("cache:html:{nano}", "cache:api:v1:{hex}", "page:https://example.com/{name}/{n}"),
        {"cache:api:v1:{v1_id}", "cache:html:{html_id}", "page:https://example.com/{com}"},
    ),
    "rq": (
        any_of(
            *("rq:job:{uuid}", "rq:results:{uuid}", "rq:executions:{uuid}", "rq:worker:{hex}"),
            *("rq:queues", "rq:queue:default", "rq:workers", "rq:workers:default"),
            *("rq:wip:default", "rq:finished:default"),
        ),
        {
            *("rq:job:{job_id}", "rq:results:{result_id}", "rq:executions:{execution_id}"),
            *("rq:worker:{worker_id}", "rq:queues", "rq:queue:default", "rq:workers"),
            *("rq:workers:default", "rq:wip:default", "rq:finished:default"),
        },
    ),
    "celery": (
        any_of(
            *("celery-task-meta-{uuid}", "celery", "unacked", "unacked_index", "unacked_mutex"),
            *("_kombu.binding.celery", "_kombu.binding.celeryev", "_kombu.binding.celery.pidbox"),
        ),
        {
            *("celery-task-meta-{meta_id}", "celery", "unacked", "unacked_index", "unacked_mutex"),
            *("_kombu.binding.celery", "_kombu.binding.celeryev", "_kombu.binding.celery.pidbox"),
        },
    ),
    "bullmq": (
        any_of(
            *("bull:emails:{n}", "bull:emails:{n}:lock", "bull:emails:{n}:logs"),
            *("bull:emails:wait", "bull:emails:active", "bull:emails:completed"),
            *("bull:emails:failed", "bull:emails:delayed", "bull:emails:meta", "bull:emails:id"),
            *("bull:emails:events", "bull:emails:marker", "bull:emails:stalled-check"),
        ),
        # The first one matches the words too.
        {"bull:emails:{email_id}", "bull:emails:{email_id}:lock", "bull:emails:{email_id}:logs"},
    ),
}


def learned(grammar: Grammar, rng: random.Random, count: int = 10_000) -> list[Pattern]:
    tree = KeyTree()
    call = RecordedCall("a", 1, "GET")
    for _ in range(count):
        tree.add(grammar(rng).encode(), READ, call)
    return [parse_pattern(pattern.text) for pattern in tree.patterns()]


def patterns_of(keys: list[tuple[str, Need]]) -> dict[str, set[Need]]:
    tree = KeyTree()
    for key, need in keys:
        tree.add(key.encode(), need, CALL)
    return {pattern.text: {*pattern.needs} for pattern in tree.patterns()}


def allows(patterns: list[Pattern], key: str) -> bool:
    return any(match(pattern, key.encode()) is not None for pattern in patterns)


@pytest.mark.parametrize("name", GRAMMARS)
def test_grammar_becomes_the_patterns_that_a_person_would_write(name: str) -> None:
    """99 % of fresh keys match, no key of another grammar, and no pattern is wider."""
    rng = random.Random(name)
    grammar, expected = GRAMMARS[name]

    patterns = learned(grammar, rng)

    fresh = sum(allows(patterns, grammar(rng)) for _ in range(2_000))
    assert fresh >= 1_980
    foreign = [
        key
        for other, (keys, _) in GRAMMARS.items()
        for key in (keys(rng) for _ in range(200))
        if other != name and allows(patterns, key)
    ]
    assert foreign == []
    written = [parse_pattern(text) for text in expected]
    assert expected <= {pattern.source for pattern in patterns}
    assert [
        pattern.source
        for pattern in patterns
        if pattern.captures and pattern.source not in expected
    ] == []
    literal = [pattern.source for pattern in patterns if not pattern.captures]
    assert [text for text in literal if not allows(written, text)] == []


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("k8s-pod-{}", "k8s-pod-{pod_id}"),
        ("s3-u1-{}", "s3-u1-{u1_id}"),
        ("i18n_{}", "i18n_{i18n_id}"),
        ("acme:v2-us-east-1-{}:state", "acme:v2-us-east-1-{east_id}:state"),
        ("oauth2-state-{}", "oauth2-state-{state_id}"),
        ("cache/v2/page-{}/en", "cache/v2/page-{page_id}/en"),
        ("news:{}", "news:{news_id}"),
    ],
)
def test_parts_that_are_equal_stay_literal(form: str, expected: str) -> None:
    """Only what differs becomes a capture, whatever else has digits."""
    texts = patterns_of([(form.format(number), READ) for number in range(80, 120)])

    assert {*texts} == {expected}


def test_names_with_digits_are_words() -> None:
    """A few names are none of a namespace, and nothing is joined with another word."""
    names = ["hash:sha1", "hash:sha224", "hash:sha256", "hash:sha384", "hash:sha512"]
    pods = [f"app:k8s-pod-{number}" for number in range(40)]

    assert {*patterns_of([(name, READ) for name in names])} == {*names}
    assert {*patterns_of([(key, READ) for key in [*pods, "app:admin-token"]])} == {
        "app:k8s-pod-{pod_id}",
        "app:admin-token",
    }


def test_classes_of_one_word_stay_with_it() -> None:
    """Many words become a capture only with the same needs."""
    rng = random.Random(1)
    keys = [(f"k:{name(rng)}", WRITE) for _ in range(90)]

    assert patterns_of([*keys, *[("k:password", DELETE)] * 9]) == {
        "k:{k}": {WRITE},
        "k:password": {DELETE},
    }


def test_many_words_with_nothing_in_common_are_left_out() -> None:
    """They are not joined; what is left out is an open pattern with a doubt."""
    rng = random.Random(1)
    words = [*{name(rng) for _ in range(3000)}][:900]
    tree = KeyTree()
    for word in words:
        tree.add(word.encode(), WRITE, CALL)
        tree.add(f"x:{rng.choice(words)}".encode(), READ, CALL)
    found = {pattern.text: pattern.doubt for pattern in tree.patterns()}

    assert len(found) == MOST_WORDS + 1
    assert found.pop("*") == LEFT_OUT
    assert found.pop("x:{x}") == ""
    assert {*found} <= {*words}


def test_patterns_wider_than_what_was_seen_have_a_doubt() -> None:
    """A capture at the root, one for a single odd key, and masks, which any client can write."""
    tree, mask = KeyTree(), b"#" + b"0123456789" * 4
    for number in range(9):
        tree.add(b"%d" % number, READ, CALL)
        tree.add(b"tok-%d" % number, READ, CALL)
    tree.add(b"\xac\xed:x", READ, CALL)
    tree.add(b"b:\xff", READ, CALL)
    tree.add(b"m:" + mask, READ, CALL)
    tree.add(b"c:" + mask, READ, replace(CALL, argv=(b"GET", b"c:" + mask)))
    found = {pattern.text: pattern.doubt for pattern in tree.patterns()}

    assert found == {
        "{id}": FROM_ROOT,
        "{id}:x": FROM_ROOT,
        "b:{b_id}": UNSAYABLE,
        "tok-{tok_id}": "",
        "m:*": MASKED,
        f"c:{mask.decode()}": "",
    }


def test_captures_that_begin_a_key_before_a_literal_are_a_question() -> None:
    """They also allow keys of others that end so, but libraries have such keys."""
    rng, tree = random.Random(1), KeyTree()
    for _ in range(60):
        for key in (f"{uuid(rng)}.lock", f"{name(rng)}-cart:state", f"{uuid(rng)}:x"):
            tree.add(key.encode(), READ, CALL)
    found = {pattern.text: pattern.doubt for pattern in tree.patterns()}

    assert found == {"{id}.lock": ENDS_ALIKE, "{name}-cart:state": ENDS_ALIKE, "{id}:x": FROM_ROOT}
    assert ENDS_ALIKE not in COMMENTED_OUT


def test_four_values_are_literals_and_five_are_a_capture() -> None:
    """The trees below the values are joined."""

    def of(count: int) -> set[str]:
        tree = KeyTree()
        for number in range(count):
            for end in ("a", "b")[: 1 + number % 2]:
                tree.add(f"q:{number}:{end}".encode(), READ, RecordedCall("a", 1, "GET"))
        return {pattern.text for pattern in tree.patterns()}

    assert of(4) == {"q:0:a", "q:1:a", "q:1:b", "q:2:a", "q:3:a", "q:3:b"}
    assert of(5) == {"q:{q_id}:a", "q:{q_id}:b"}


def test_keys_that_no_literal_can_name_match_a_capture() -> None:
    """Bytes that are not UTF-8, and a `*` within a key."""
    tree = KeyTree()
    for number in range(9):
        tree.add(b"bin:%c\xff:x" % number, READ, RecordedCall("a", 1, "GET"))
        tree.add(b"glob:%d*%d" % (number, number), READ, RecordedCall("a", 1, "GET"))

    assert {pattern.text for pattern in tree.patterns()} == {"bin:{bin_id}:x", "glob:{glob_id}"}


def test_masked_keys_become_an_open_pattern() -> None:
    """A recorded mask is a prefix and a digest."""
    tree = KeyTree()
    tree.add(b"agents:secrets:#" + b"0123456789" * 4, READ, RecordedCall("a", 1, "GET"))

    assert [pattern.text for pattern in tree.patterns()] == ["agents:secrets:*"]


@pytest.mark.parametrize("seed", range(20))
def test_random_keys_match_a_pattern_with_their_needs(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is joined or left out: each key that was added matches a pattern."""
    rng = random.Random(seed)
    monkeypatch.setattr(learned_patterns, "MOST_WORDS", rng.choice((10, 400)))
    words = ["a", "b", "x1", "7", "12", "2026-01-02", "e-3", "f0", "", "*", "{", "}x", "é"]
    monkeypatch.setattr(learned_patterns, "MOST_NODES", rng.choice((100, 50_000)))
    keys = {":".join(rng.choices(words, k=rng.randrange(1, 5))) for _ in range(300)} - {""}
    keys |= {f"w:{name(rng)}:{rng.choice(words)}" for _ in range(60)}
    needs = {key: rng.choice((READ, WRITE, DELETE)) for key in sorted(keys)}
    tree = KeyTree()
    for key, need in needs.items():
        tree.add(key.encode(), need, CALL)
    patterns = [(parse_pattern(pattern.text), pattern.needs) for pattern in tree.patterns()]

    for key, need in needs.items():
        assert any(allows([pattern], key) for pattern, of in patterns if need in of), key


def test_a_tree_of_distinct_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other keys become open patterns with a doubt, after their first segment or none."""
    monkeypatch.setattr(learned_patterns, "MOST_NODES", 1_000)
    rng, tree = random.Random(1), KeyTree()
    words = [name(rng) for _ in range(100)]
    keys = [":".join(rng.choices(words, k=3)) for _ in range(20_000)]
    for number, key in enumerate([*keys, *(f"late{n}" for n in range(9))]):
        tree.add(key.encode(), READ, CALL)
        tree.add(f"{key}*{number}".encode(), READ, CALL, is_open=True)
    found = [*tree.patterns()]

    assert len(found) < 2_000
    wide = {pattern.text for pattern in found if pattern.doubt == LEFT_OUT}
    assert wide <= {"*", *(f"{word}:*" for word in words)}
    patterns = [parse_pattern(pattern.text) for pattern in found]
    assert [key for key in rng.choices(keys, k=200) if not allows(patterns, key)] == []


def test_a_place_that_left_out_words_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distinct words are folded once; captures of numbers are still learned after that."""
    monkeypatch.setattr(learned_patterns, "MOST_NODES", 1_000)
    rng, tree, folds = random.Random(1), KeyTree(), list[bool]()
    fold = learned_patterns._Node.fold

    def counted(node: learned_patterns._Node, *, is_root: bool = False) -> learned_patterns.Needed:
        folds.append(is_root)
        return fold(node, is_root=is_root)

    monkeypatch.setattr(learned_patterns._Node, "fold", counted)
    for _ in range(5_000):
        tree.add(f"{name(rng)}{name(rng)}".encode(), READ, CALL)
    for number in range(9):
        tree.add(f"late-{number}".encode(), READ, CALL)
    count = sum(folds)
    found = {pattern.text: pattern.doubt for pattern in tree.patterns()}

    assert count == 1
    assert found["late-{late_id}"] == ""
    assert found["*"] == LEFT_OUT
    assert len(found) == MOST_WORDS + 2


def test_words_that_are_joined_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bounded tree learns captures of more words than it has nodes."""
    monkeypatch.setattr(learned_patterns, "MOST_NODES", 1_000)
    rng, tree = random.Random(1), KeyTree()
    for number in range(20_000):
        tree.add(f"{'abc'[number % 3]}:{name(rng)}:name".encode(), READ, CALL)
    found = {pattern.text: pattern.doubt for pattern in tree.patterns()}

    assert {"a:{a}:name", "b:{b}:name", "c:{c}:name"} <= found.keys()
    assert {*found.values()} == {""}
