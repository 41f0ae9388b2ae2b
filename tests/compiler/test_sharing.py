"""Guards share equal parts of their text, and never get a part of another guard."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from jinja2 import DictLoader, UndefinedError, meta

from keyleash import compiler
from keyleash.commands import load_table
from keyleash.compiler import compile_guard
from keyleash.compiler.emit import stamped
from keyleash.compiler.ir import Guard
from keyleash.compiler.render import environment, examples_root
from keyleash.limits import SlotKind
from keyleash.policy import Identity, parse_policy
from keyleash.policy.canonical import identity_digest
from keyleash.policy.model import ClusterRules
from keyleash.store.keyspace import Keyspace
from keyleash.store.scripts import lua_root
from support.leash import grant, policy

SHARED = re.compile(r'cached_include "(\w+/\w+\.lua)" with (.*)')
SHARES = [
    pytest.param(path, *found.groups(), id=f"{path.stem}-{found[1]}")
    for path in sorted(lua_root().rglob("*.lua"))
    for found in SHARED.finditer(path.read_text())
]
READ, WRITE = grant("read", keys="a:*"), grant("write", keys="b:{x}:c")
SCAN = grant("read", "scan", keys=["list", "a:*"])
IDENTITIES: dict[str, dict[str, Any]] = {
    "reader": {"grants": [READ]},
    "reader-of-others": {"grants": [grant("read", keys="b:*")]},
    "both": {"grants": [READ, WRITE]},
    "the-other-way": {"grants": [WRITE, READ]},
    "equal-twice": {"grants": [READ, {**WRITE, "keys": READ["keys"]}]},
    "by-another-name": {"grants": [READ, {**WRITE, "keys": ["b:{y}:c"]}]},
    "one-of-two": {"grants": [grant("read", "write", keys=["a:*", "b:{x}:c"])]},
    "scanner": {"grants": [SCAN]},
    "scanner-of-others": {"grants": [{**SCAN, "keys": ["a:*", "list"]}]},
    "some-commands": {"grants": [{**READ, "only": ["get", "xread"]}]},
    "all-but": {"grants": [{**READ, "except": ["get"]}, WRITE]},
    "publisher": {"grants": [{**READ, "allow": ["read", "publish"], "channels": ["c:*"]}]},
    "other-publisher": {"grants": [{**READ, "allow": ["read", "publish"], "channels": ["d:*"]}]},
    "denied": {"grants": [READ], "deny": [{"keys": ["a:{x}:lock"]}]},
    "denied-by-another-name": {"grants": [READ], "deny": [{"keys": ["a:{y}:lock"]}]},
    "images": {"grants": [READ, WRITE], "audit": {"before_images": {"max_bytes": "1kb"}}},
    "ring": {"grants": [WRITE], "rate": {"writes": "9/hour"}},
    "two-rings": {"grants": [WRITE], "rate": {"requests": "9/hour", "writes": "9/hour"}},
    "burst": {"grants": [WRITE], "rate": {"writes": {"limit": "9/hour", "burst": 2}}},
    "subject": {"grants": [WRITE], "rate": {"writes": {"limit": "9/hour", "per": "{x}"}}},
    "budget": {"grants": [WRITE], "budget": {"writes": "9/day"}},
    "larger-budget": {"grants": [WRITE], "budget": {"writes": "10/day"}},
    "elsewhere": {
        "grants": [WRITE],
        "budget": {"writes": {"limit": "9/day", "timezone": "Europe/Berlin"}},
    },
}
CACHES: list[Any] = [
    getattr(import_module(f"keyleash.compiler.{module}"), name)
    for module, name in (
        ("passes.select_commands", "_usages"),
        ("passes.form_rules", "_formed"),
        ("passes.order_dispatch", "_ordered"),
        ("render", "_text"),
    )
]

WHOLE: Any = compiler._shared


def forget() -> None:
    for cache in (*CACHES, WHOLE):
        cache.cache_clear()


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def identities() -> tuple[Identity, ...]:
    parsed = parse_policy(policy(**IDENTITIES), file="p", commands=load_table())
    return parsed.identities


def scripts_of(identity: Identity, prefix: str) -> tuple[str, str]:
    made = compile_guard(identity, load_table(), keyspace=Keyspace(prefix), year=2026)
    return made.script, made.batch_script


def test_guard_is_the_same_whatever_was_compiled_before(identities: tuple[Identity, ...]) -> None:
    """Cold, warm, in any order and under another prefix: to the byte."""
    cases = [(identity, prefix) for identity in identities for prefix in ("keyleash:", "9f3a:")]
    cold = {}
    for identity, prefix in cases:
        forget()
        cold[identity.name, prefix] = scripts_of(identity, prefix)
    assert len(set(cold.values())) == len(cases)

    for seed in range(3):
        forget()
        for identity, prefix in random.Random(seed).sample(cases, len(cases)):
            assert scripts_of(identity, prefix) == cold[identity.name, prefix]


def test_what_is_shared_is_made_once(identities: tuple[Identity, ...]) -> None:
    """Of two that differ in keys alone, the second needs nothing new."""
    reader, other = identities[:2]
    scripts_of(reader, "keyleash:")
    made = [cache.cache_info().misses for cache in CACHES]
    scripts_of(other, "keyleash:")

    assert [cache.cache_info().misses for cache in CACHES] == made


def test_identities_that_differ_in_their_name_are_rendered_once(
    identities: tuple[Identity, ...],
) -> None:
    """A policy may have a thousand identities with the same rules."""
    made = [scripts_of(replace(identities[0], name=f"agent-{i}"), "keyleash:") for i in range(20)]

    assert len(set(made)) == 20
    assert WHOLE.cache_info().misses == 1


def example_identities() -> Iterator[Identity]:
    for file in sorted(examples_root().glob("*.yaml")):
        document = file.read_text(encoding="utf-8")
        if "\nidentities:" in document:
            yield from parse_policy(document, file=str(file), commands=load_table()).identities


@pytest.mark.parametrize("name", ["a", "agent-runner", "0" * 64])
def test_guard_is_the_one_that_is_made_for_its_identity_alone(
    identities: tuple[Identity, ...], name: str
) -> None:
    """Text that is shared by another name has nothing that depends on the name but the name."""
    table = load_table()
    every = (*identities, *example_identities())
    for identity in every:
        named = replace(identity, name=name, cluster=ClusterRules())
        alone = compiler._written(Guard(named, Keyspace(), identity_digest(named), 2026), table)
        shared = compile_guard(named, table, keyspace=Keyspace(), year=2026)

        assert shared.plan == alone.guard
        texts = [shared.script, shared.batch_script, shared.approved_script, shared.lease_script]
        assert (texts, shared.stamp) == stamped(alone.texts)


def test_shared_text_is_for_one_table_and_one_year(identities: tuple[Identity, ...]) -> None:
    """A plan must find every guard that another server, or another year, changes."""
    table, budget = load_table(), next(item for item in identities if item.name == "elsewhere")
    fewer = replace(table, commands={**table.commands})
    del fewer.commands["SET"]  # type: ignore[attr-defined]
    cases = [(table, 2026), (fewer, 2026), (table, 2027), (table, 2026)]

    made = [compile_guard(budget, on, keyspace=Keyspace(), year=year) for on, year in cases]

    assert len({guard.digest for guard in made}) == 3
    assert made[0].scripts == made[3].scripts


def test_all_that_is_remembered_is_bounded() -> None:
    """A process may load policies for ever."""
    assert all(cache.cache_info().maxsize for cache in (*CACHES, WHOLE))


@pytest.mark.parametrize(("path", "part", "names"), SHARES)
def test_part_is_shared_by_all_that_its_text_depends_on(path: Path, part: str, names: str) -> None:
    """No value is forgotten, which would be an error, and none divides guards needlessly."""
    assert {name.strip() for name in names.split(",")} == free_names(part)


def free_names(part: str) -> set[str]:
    """The names that a part takes from its context."""
    made = environment()
    return meta.find_undeclared_variables(made.parse(whole(part))) - {*made.globals}


def whole(part: str, within: tuple[str, ...] = ()) -> str:
    """A part's source with all that it includes."""

    def included(found: re.Match[str]) -> str:
        kinds = SlotKind if found[2] else [""]
        parts = [f"{found[1]}{kind}.lua" for kind in kinds]
        return "".join(whole(item, (*within, part)) for item in parts if item not in within)

    text = (lua_root() / "guard" / part).read_text()
    return re.sub(r'--% include "(\w+/\w+?)(?:\.lua"|("( ~ .*)))\n', included, text)


def test_part_sees_nothing_but_what_it_is_shared_by(small: Callable[..., str]) -> None:
    """A cached text that depended on more would be wrong for the next guard."""
    sources = {"whole": '--% cached_include "part" with seen\n', "part": "{{ seen }}\n"}
    assert small(sources, seen="a", hidden="b") == '"a"\n'
    assert small(sources, seen="c", hidden="b") == '"c"\n'

    sources["part"] = "--% if seen == 'a'\n{{ hidden }}\n--% endif\n"
    assert small(sources, seen="c", hidden="b") == ""
    with pytest.raises((UndefinedError, TypeError)):
        small(sources, seen="a", hidden="b")
    with pytest.raises((UndefinedError, TypeError)):
        small(sources, hidden="b")


@pytest.fixture
def small() -> Callable[..., str]:
    def render(sources: dict[str, str], **context: object) -> str:
        forget()
        made = environment().overlay(loader=DictLoader(sources))
        return made.get_template("whole").render(**context)

    return render
