"""PyYAML's parser in C reads documents as the one in Python does, or is not used."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml as pyyaml

from keyleash.compiler.render import examples_root
from keyleash.errors import PolicyError
from keyleash.policy import yaml
from keyleash.policy.problems import Problems
from keyleash.policy.yaml import read_document
from keyleash.text import StoredDocument
from support.golden import GOLDEN
from support.leash import grant, policy

BAD = (Path(__file__).parent / "bad_documents.txt").read_text("utf-8")
FILES = [*examples_root().glob("*.yaml"), *GOLDEN.rglob("*.yaml")]
MIXED_IN = [
    *" \n\t:-?[]{},#&*!|>'\"%@`\\~\r\u00e9\ufeff",
    ": ", "- ", "? ", "\n  ", "\n- ", "<<: ", "!!str ", "&a ", "*a", "|\n", "---\n", "...\n", "{}",
    "[]", "> x", " |", "\u2026", "''", '""', " # c", "{a:b}", '"a":b', '"\\x41"', '"\\ud83d"',
    "a" * 1030, "null", "%YAML 1.1\n", "[" * 30, "!a.b!c ",
]  # fmt: skip


@pytest.fixture(scope="module")
def documents() -> list[str]:
    texts = [file.read_text("utf-8") for file in sorted(FILES)]
    texts += BAD.split("\n=== ")
    texts.append(
        policy(one={"grants": [grant("read", keys="a:{x}:*")], "rate": {"reads": "9/hour"}})
    )
    return [*texts, *mixed(texts)]


def mixed(texts: list[str]) -> Iterator[str]:
    """Pieces of documents with a few changes, mostly still YAML."""
    chosen = random.Random(7)
    for _ in range(3000):
        lines = chosen.choice(texts).splitlines(keepends=True)
        start = chosen.randrange(len(lines))
        text = "".join(lines[start : start + chosen.randrange(1, 12)])
        for _ in range(chosen.randrange(4)):
            at = chosen.randrange(len(text) + 1)
            text = text[:at] + chosen.choice(MIXED_IN) + text[at + chosen.randrange(2) :]
        yield text if chosen.random() < 0.2 else f"{text}\n"


def read(text: str) -> object:
    problems = Problems()
    try:
        return read_document(text, "p.yaml", problems), problems.in_order
    except PolicyError as error:
        return error.problems


def test_both_parsers_read_the_same(documents: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy means the same wherever it is read, to the place of each value and problem."""
    first = [read(text) for text in documents]
    monkeypatch.setattr(yaml, "_loader_of", pyyaml.SafeLoader)

    for text, result in zip(documents, first, strict=True):
        assert result == read(text), text


@pytest.mark.skipif(not pyyaml.__with_libyaml__, reason="PyYAML has no parser in C here")
def test_usual_documents_are_read_by_the_parser_in_c() -> None:
    """It is the one that reads a thousand identities quickly."""
    for name in ("agents.yaml", "jobs.yaml", "memory.yaml", "starter.yaml"):
        text = (examples_root() / name).read_text("utf-8")
        for made in (text, StoredDocument(text)):
            assert isinstance(yaml._loader_of(made), pyyaml.CSafeLoader)


@pytest.mark.parametrize(
    "text", ["a: 1", "a: \x85\n", "a?: 1\n", "a: |\n  b\n", "a:\n", "a: [\n", "\ta: 1\n"]
)
def test_text_that_the_parsers_may_read_differently_is_read_by_the_one_in_python(text: str) -> None:
    """They have other places for ends and empty values, and other messages."""
    assert isinstance(yaml._loader_of(text), pyyaml.SafeLoader)


def test_list_with_too_many_entries_is_an_error_at_its_place() -> None:
    """A policy that takes minutes to compile ends before it is compiled."""
    with pytest.raises(PolicyError) as caught:
        read_document(f"a: [{'x, ' * 10_001}]\n", "p.yaml", Problems())
    (problem,) = caught.value.problems
    assert problem.message == "cannot read the document: too many entries in a list"
    assert (problem.span.line, problem.span.column) == (1, 30_005)
    read_document(f"a: [{'x, ' * 10_000}]\n", "p.yaml", Problems())
