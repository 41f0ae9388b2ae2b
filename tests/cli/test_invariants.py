"""Invariants in test files: their fields, what breaks them, and what checks them."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyleash.addons.policy_tests.invariants import broken_by
from keyleash.addons.policy_tests.parse import parse_cases
from keyleash.commands import known_table
from keyleash.policy import parse_policy
from support.command_line import Cli

POLICY = """\
version: 1
tests: [p.test.yaml]
identities:
  reader: {kind: machine, grants: [{allow: [read], keys: ["a:*"]}]}
  writer:
    kind: machine
    grants:
      - {allow: [read, write], keys: ["a:{x}", "q:*"]}
      - {allow: [delete], keys: ["a:*"], only: [GETDEL]}
      - {allow: [publish], channels: ["a:*"]}
    deny: [{keys: ["a:lock"]}]
  other: {kind: machine, grants: [{allow: [read, write], keys: ["b:*", "q:*"]}]}
  searcher:
    kind: machine
    grants:
      - {allow: [read], keys: ["d:*", "e:{x}"], indexes: [i], only: [FT.SEARCH]}
      - {allow: [read], indexes: [{name: j, where: {agent: one}}], only: [FT.SEARCH]}
    deny: [{keys: ["z:*"]}]
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A policy, and the test file that it names."""
    policy = tmp_path / "p.yaml"
    policy.write_text(POLICY)
    return policy, tmp_path / "p.test.yaml"


def broken(*invariants: str) -> list[tuple[str, str]]:
    """Return message and help of each problem."""
    table = known_table()
    lines = "".join(f"  - {item}\n" for item in invariants)
    cases = parse_cases(f"policy: p.yaml\ninvariants:\n{lines}", "p.test.yaml")
    policy = parse_policy(POLICY, file="p.yaml", commands=table)
    found = (broken_by(item, policy, table, "p.yaml") for item in cases.invariants)
    return [(problem.message, problem.help) for problems in found for problem in problems]


@pytest.mark.parametrize(
    ("invariant", "problem", "command"),
    [
        ("{identity: reader, may_only: [read]}", "", ""),
        ("{identity: other, may_only: [read, write]}", "", ""),
        ("{no_two_may: [write], except: ['q:*']}", "", ""),
        ("{no_identity_may: [write], keys: ['a:lock', 'a:b:*']}", "", ""),
        ("{no_identity_may: [publish], channels: ['a:*'], but: [writer]}", "", ""),
        # GETDEL also reads, and that is granted for one segment alone.
        ("{no_identity_may: [delete], keys: ['a:x:*']}", "", ""),
        # A search returns what a pattern with an open end allows, and nothing that is denied.
        ("{no_identity_may: [read], keys: ['e:*'], but: [searcher]}", "", ""),
        ("{no_identity_may: [read], keys: ['z:*']}", "", ""),
        (
            "{name: calm, no_identity_may: [publish], channels: ['a:*']}",
            "calm: `writer` may publish the channel `a:`",
            "PUBLISH a: 1",
        ),
        (
            "{identity: writer, may_only: [read, write, publish]}",
            "`writer` may delete the key `a:l`",
            "GETDEL a:l",
        ),
        ("{no_two_may: [write]}", "`writer`, `other` may write the key `q:`", "SET q: 1"),
        (
            "{no_identity_may: [read], indexes: [i]}",
            "`searcher` may read the index `i`",
            "FT.SEARCH i",
        ),
        (
            "{no_identity_may: [read], keys: ['y:*']}",
            "`searcher` may read the key `y:`",
            "FT.SEARCH j",
        ),
    ],
)
def test_an_invariant_that_is_broken_is_reported_with_an_example(
    invariant: str, problem: str, command: str
) -> None:
    """The command line shows who breaks it, and by which call."""
    found = broken(invariant)

    assert [message for message, _ in found] == [problem][: bool(problem)]
    assert all(f"--policy p.yaml -- {command}" in help for _, help in found)


@pytest.mark.parametrize(
    ("invariant", "code"),
    [
        ("{may_only: [read]}", "missing-field"),
        ("{identity: reader}", "missing-field"),
        ("{no_two_may: [write], may_only: [read]}", "missing-field"),
        ("{no_two_may: [write], identity: reader}", "surplus-field"),
        ("{no_two_may: [wipe]}", "unknown-class"),
        ("{no_two_may: []}", "empty-list"),
        ("{no_identity_may: [publish], keys: ['a:*']}", "class-without-scope"),
        ("{no_identity_may: [scan], indexes: ['a:*']}", "class-without-scope"),
        ("{no_identity_may: [read], keys: ['a:*:b']}", "misplaced-wildcard"),
        ("{identity: raeder, may_only: []}", "unknown-identity"),
    ],
)
def test_a_bad_invariant_has_its_place(
    offline: Cli, files: tuple[Path, Path], invariant: str, code: str
) -> None:
    """`test` and `check` report a mistake in an invariant, and decide nothing."""
    policy, tests = files
    tests.write_text(f"policy: p.yaml\ninvariants:\n  - {invariant}\n")

    runs: list[list[str | Path]] = [["test", "--no-server", tests], ["check", policy]]
    for words in runs:
        problems = offline.json(*words, exit_code=65)["error"]["problems"]
        assert [(item["code"], item["line"]) for item in problems] == [(code, 3)]


def test_a_policy_that_breaks_an_invariant_of_its_tests_is_not_loaded(
    cli: Cli, files: tuple[Path, Path]
) -> None:
    """`test` exits with 1, and `check`, `plan` and `load` with 65, each with the example."""
    policy, tests = files
    tests.write_text("policy: p.yaml\ninvariants: [{identity: writer, may_only: [read]}]\n")

    runs: list[tuple[list[str | Path], int]] = [
        (["test", "--no-server", tests], 1),
        (["check", policy], 65),
        (["plan", policy], 65),
        (["load", policy, "--yes"], 65),
    ]
    for words, code in runs:
        result = cli.run(*words)
        assert result.exit_code == code
        assert f"--policy {policy} -- SET q: 1" in result.output
    assert cli.json("status")["policy"] is None


def test_a_policy_without_its_test_file_is_not_loaded(cli: Cli, files: tuple[Path, Path]) -> None:
    """A missing file is no reason to skip its invariants; a rollback needs no file."""
    policy, tests = files
    tests.write_text("policy: p.yaml\ninvariants: [{identity: reader, may_only: [read]}]\n")
    cli.ok("load", policy, "--yes")
    policy.write_text(POLICY.replace('["a:*"]}]}', '["a:b:*"]}]}'))
    cli.ok("load", policy, "--yes")
    tests.unlink()

    assert "p.test.yaml`: no such file" in cli.run("load", policy, "--yes").stderr
    assert "generation 3" in cli.ok("rollback", "--yes", "--allow-widening")
