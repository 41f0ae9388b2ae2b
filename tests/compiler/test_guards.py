"""The whole text of the guards that are measured, and what holds for every guard's text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from benchmarks.support.policy import plain_example
from lupa import lua51

from keyleash.commands import load_table
from keyleash.compiler import CompiledGuard, compile_policy
from keyleash.policy import parse_policy
from keyleash.store.keyspace import script_digest
from support.golden import GOLDEN, assert_golden

EXAMPLE = plain_example()
NAMES = ("agent-reader", "agent-runner", "agent-recovery", "human-admin")


def compiled(document: str, **options: object) -> dict[str, CompiledGuard]:
    table = load_table()
    policy = parse_policy(document, file="policy.yaml", commands=table)
    guards = compile_policy(policy, table, year=2026, **options)  # type: ignore[arg-type]
    return {guard.identity: guard for guard in guards}


def main_chunk(script: str) -> str:
    """The script without the functions that it calls at once: what an often-used call runs."""
    return re.sub(r"\(function\(.*?\nend\)\(", "(", script, flags=re.DOTALL)


def returns(chunk: str) -> list[str]:
    return [line for line in chunk.splitlines() if line.startswith("return")]


@pytest.fixture(scope="module")
def example() -> dict[str, CompiledGuard]:
    return compiled(EXAMPLE)


def beside(lines: list[str], known: str) -> Iterator[str]:
    """Yield lines, and for each run of four or more that stand in *known* only its first."""
    while lines:
        run = 0
        while run < len(lines) and "\n".join(["", *lines[: run + 1], ""]) in known:
            run += 1
        yield f"-- {run} lines of the guard: {lines[0]}" if run > 3 else lines[0]
        lines = lines[run if run > 3 else 1 :]


def test_example_guard_and_batch_script_are_as_recorded(example: dict[str, CompiledGuard]) -> None:
    """A change to the text of guards shows in review; the passes have golden files of their own."""
    guard = example["agent-runner"]
    batch = beside(guard.batch_script.splitlines(), guard.script)

    assert_golden(GOLDEN / "guards" / "agent-runner.lua", guard.script)
    assert_golden(GOLDEN / "guards" / "agent-runner.batch.diff", "\n".join(batch) + "\n")


def test_example_guards_are_legal_lua_in_ascii(example: dict[str, CompiledGuard]) -> None:
    """A script parses as Lua 5.1, and its digest is the SHA-1 of its ASCII text."""
    lua = lua51.LuaRuntime()
    for guard in example.values():
        for digest, script in guard.scripts.items():
            lua.compile(script)
            assert script.isascii()
            assert digest == script_digest(script)


def test_same_policy_compiles_to_the_same_digest(example: dict[str, CompiledGuard]) -> None:
    """A digest is an identity: nothing of the run gets into the text."""
    again = compiled(EXAMPLE)

    assert {name: guard.digest for name, guard in again.items()} == {
        name: guard.digest for name, guard in example.items()
    }


def test_change_to_one_identity_leaves_the_others_as_they_were(
    example: dict[str, CompiledGuard],
) -> None:
    """Agents whose rules did not change keep their guard across a load."""
    changed = compiled(EXAMPLE.replace("60/minute}", "61/minute}"))

    differing = {name for name in NAMES if changed[name].digest != example[name].digest}
    assert differing == {"agent-recovery"}


def test_another_limit_changes_the_stamp(example: dict[str, CompiledGuard]) -> None:
    """The stamp ties a state to one guard, so it differs whenever the rules do."""
    changed = compiled(EXAMPLE.replace("60/minute}", "61/minute}"))

    assert changed["agent-recovery"].stamp != example["agent-recovery"].stamp
    assert all(0 < guard.stamp < 2**48 for guard in example.values())


def test_guard_ends_in_a_refusal(example: dict[str, CompiledGuard]) -> None:
    """Deny by default is visible: one early return, and the last line is an error reply."""
    for guard in example.values():
        main = main_chunk(guard.script)
        assert guard.script.splitlines()[-1] == "return { err = line }"
        assert returns(main) == ["return reply", "return { err = line }"]
        assert main.count("unpack(argv") == 1
        assert guard.script.count("reply = redis.pcall(unpack(argv, 3))") == 1
        # XREAD … BLOCK is tried first; it only reads.
        assert guard.script.count("redis.pcall(unpack(argv") <= 2
        batch = guard.batch_script
        assert batch.splitlines()[-1] == "return { err = line }"
        # The first is of the function that puts nulls back.
        assert returns(main_chunk(batch))[-2:] == ["return replies", "return { err = line }"]
        assert batch.count("= run(unpack(argv, name_at, stop))") == 1


def test_words_of_the_templates_are_nothing_special_in_a_policy() -> None:
    """Names are rewritten when a guard is rendered; keys that look like them are not."""
    name = "name_at + 1:used_N:COUNTS_CALL:{x}:STATE_NUMBERS"
    document = (
        "version: 1\nidentities:\n  one:\n    kind: machine\n"
        f"    grants: [{{allow: [write], keys: [{json.dumps(name)}]}}]\n"
        "    rate: {writes: {limit: 5/minute, per: '{x}'}}\n"
    )
    guard = compiled(document)["one"]

    for script in (guard.script, guard.batch_script):
        found = re.findall(r"\"\^name_at %\+ 1:used_N:COUNTS_CALL:.*?:STATE_NUMBERS\$\"", script)
        assert len(found) >= 2


def test_often_used_commands_are_told_apart_without_a_function(
    example: dict[str, CompiledGuard],
) -> None:
    """The collector marks a function in one step, so the main chunk holds little but these."""
    main = main_chunk(example["human-admin"].script)

    named = set(re.findall(r'command == "(.+?)"', main))
    assert {"SET", "GET", "HSET", "ZADD", "DEL"} <= named
    assert named.isdisjoint({"GEORADIUS", "XREADGROUP", "BITFIELD"})


@pytest.mark.parametrize(
    "pattern",
    ['a"b', "a]]b", "a\\b", "a'b", "a--b", "a%b", "a.b*", "ключ:*", "a\nb", "a\0b", "{{x}}:*"],
)
def test_pattern_with_awkward_bytes_compiles_to_legal_lua(pattern: str) -> None:
    """One quoting function stands between a policy and the Lua text."""
    document = (
        "version: 1\nidentities:\n  one:\n    kind: machine\n"
        f"    grants: [{{allow: [read], keys: [{json.dumps(pattern)}]}}]\n"
    )

    lua51.LuaRuntime().compile(compiled(document)["one"].script)
