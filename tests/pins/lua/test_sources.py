"""The Lua sources: legal before rendering, and headers that say what the bodies do."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from lupa import lua51

from keyleash.errors import ReplyCode
from keyleash.store.scripts import lua_root

GUARD = lua_root() / "guard"


def text_of(path: Path) -> str:
    """The source without the line that gives flags to the server."""
    return path.read_text().removeprefix("#!lua flags=allow-oom\n")


SOURCES = sorted(lua_root().rglob("*.lua"))
SCRIPTS = [path for path in SOURCES if text_of(path).startswith("---")]
PARTIALS = [path for path in SOURCES if path not in SCRIPTS]


def header(path: Path) -> list[str]:
    lines = text_of(path).splitlines()
    count = next(i for i, line in enumerate(lines) if not line.startswith("---"))
    return [line.removeprefix("---").strip() for line in lines[:count]]


@cache
def included(text: str) -> frozenset[Path]:
    """Return the partials that *text* includes. A name that the template completes stands for all
    partials that begin with it."""
    named = re.findall(r'(?:cached_)?include "([\w/.]+)"', text)
    return frozenset(
        path
        for path in PARTIALS
        for name in named
        if str(path).startswith((f"{GUARD}/{name}", f"{lua_root()}/{name}"))
    )


@cache
def whole_body(path: Path) -> str:
    """The script without comments, and with every partial that it reaches."""
    reached = {path}
    while True:
        texts = [item.read_text() for item in sorted(reached)]
        more = set().union(*map(included, texts))
        if more <= reached:
            return re.sub(r"--[^%\n].*", "", "\n".join(texts))
        reached |= more


def documented_arguments(path: Path) -> tuple[set[int], bool]:
    """The ARGV places that a header names, and whether it leaves the end open (`ARGV[5…]`)."""
    places = re.findall(r"^ARGV\[(\d+)(…?)\]", "\n".join(header(path)), re.MULTILINE)
    return {int(number) for number, more in places if not more}, any(more for _, more in places)


def read_arguments(path: Path) -> tuple[set[int], bool]:
    body = whole_body(path)
    single = {int(number) for number in re.findall(r"\b(?:ARGV|argv)\[(\d+)\]", body)}
    return single, bool(re.search(r"unpack\(argv, |#argv", body))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_source_is_legal_lua_before_rendering(path: Path) -> None:
    """Editors and linters keep working on a template; a partial may break out of its loop."""
    text = text_of(path)
    lua51.LuaRuntime().compile(text if path in SCRIPTS else f"repeat\n{text}\nuntil true")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_header_of_a_script_names_the_arguments_that_its_body_reads(path: Path) -> None:
    """A contract in prose drifts; this one cannot."""
    named, open_end = documented_arguments(path)
    read, reads_rest = read_arguments(path)

    first_line = header(path)[0]
    assert first_line.startswith(f"{path.stem}: ")
    if open_end:
        assert read - named <= {max(named) + 1, max(named) + 2}
        assert reads_rest
    else:
        assert read == named
        assert not reads_rest
    assert named <= read


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_header_of_a_script_says_whether_it_takes_keys(path: Path) -> None:
    """Every key that a script uses under a fixed name is in KEYS."""
    line = next(line for line in header(path) if line.startswith("KEYS"))

    assert ("none" in line) == (not re.search(r"\bKEYS\b", whole_body(path)))


def test_partial_never_names_keys_or_arguments_of_the_script() -> None:
    """A partial works on the names of the script it is put into."""
    assert [path for path in PARTIALS if re.search(r"\b(KEYS|ARGV)\b", path.read_text())] == []


def contract(path: Path) -> dict[str, set[str]]:
    """Return the names in the `-- in:` and `-- out:` lines of a partial."""
    names: dict[str, set[str]] = {}
    direction = ""
    for line in path.read_text().splitlines():
        found = re.match(r"--(?: (in|out):| {5}) +((?:[\w]+, *)*\w+,?)(?:   .*)?$", line)
        if not line.startswith("--") or line == "--":
            break
        if found:
            direction = found[1] or direction
            names.setdefault(direction, set()).update(re.findall(r"\w+", found[2]))
    return {direction: found - {"none"} for direction, found in names.items()}


def assigned(text: str) -> set[str]:
    """Return the names that *text* assigns and does not declare as local."""
    code = re.sub(r"'(?:\\.|[^'\\])*'|{{.*?}}", "0", re.sub(r"--.*", "", text))
    variable = r"[A-Za-z_]\w*(?:\[[^\]]*\]|\.\w+)*"
    targets = rf"(?:^|\b(?:then|else|do|repeat)\b) *({variable}(?:, {variable})*) =(?!=)"
    set_names = {
        re.match(r"\w+", target)[0]  # type: ignore[index]
        for line in re.findall(targets, re.sub(r"^ +", "", code, flags=re.MULTILINE), re.MULTILINE)
        for target in re.sub(r"\[[^\]]*\]", "", line).split(", ")
    }
    declared = re.findall(r"\b(?:local|for) (?:function )?([\w, ]+)", code)
    declared += re.findall(r"\bfunction *\w*\(([\w, ]*)\)", code)
    return set_names - {name for names in declared for name in re.findall(r"\w+", names)}


@pytest.mark.parametrize("path", PARTIALS, ids=lambda path: path.stem)
def test_contract_of_a_partial_names_what_it_reads_and_sets(path: Path) -> None:
    """A partial shares its locals with the script that includes it; its first lines list them."""
    names = contract(path)

    assert path.read_text().startswith(f"-- {path.stem}: ")
    assert set(names) == {"in", "out"}
    used = set(re.findall(r"\w+", whole_body(path)))
    assert names["in"] | names["out"] <= used
    assert assigned(path.read_text()) <= names["out"]


def test_partials_are_all_used() -> None:
    """A partial that no script includes is dead code."""
    assert set().union(*(included(path.read_text()) for path in SOURCES)) == set(PARTIALS)


def test_codes_in_lua_are_those_of_the_enum() -> None:
    """Lua and Python share one list of reply codes."""
    text = "".join(path.read_text() for path in [GUARD / "guard.lua", *PARTIALS])
    written = set(re.findall(r"'(?:LEASH )?([A-Z]+_[A-Z_]+|SUSPENDED|REPLAYED)\b", text))

    assert written - {"KEEPTTL"} == set(ReplyCode)
