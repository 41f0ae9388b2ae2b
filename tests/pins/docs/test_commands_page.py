"""`docs/reference/commands.md`, which is generated from the command table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.command_page import main, needs_of, places_of, remarks_of, render

from keyleash.commands import load_table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "commands.md"
ROW = re.compile(r"^\| `([A-Z_ ]+)` \|.*\|$", re.MULTILINE)


def test_generated_page_equals_the_stored_page() -> None:
    """A changed command table needs a new page."""
    assert PAGE.read_text(encoding="utf-8") == render(load_table()), (
        "docs/reference/commands.md differs from the command table: run `make docs`"
    )


def test_page_lists_every_command_once() -> None:
    """A command is in a table or in the list of denied commands."""
    tables, denied = PAGE.read_text(encoding="utf-8").split("## Denied\n")
    whole = set(re.findall(r"`([A-Z]+)` with all its sub-commands", denied))
    listed = re.findall(r"`([A-Z][A-Z _-]+)`", denied.partition("- **")[2])

    assert sorted(ROW.findall(tables)) == sorted(
        spec.name for spec in load_table() if spec.refused is None
    )
    assert sorted(listed) == sorted(
        spec.name
        for spec in load_table()
        if spec.refused is not None
        and (spec.name in whole or spec.name.partition(" ")[0] not in whole)
    )


def test_rows_of_the_page_have_five_cells() -> None:
    """A bar in a cell would break the table."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]

    assert {row.count("|") for row in rows} == {6}


@pytest.mark.parametrize(
    ("name", "places", "needs"),
    [
        ("GET", "1", "read"),
        ("EXISTS", "1 … last", "any"),
        ("BLPOP", "1 … last but one", "read, delete"),
        ("LCS", "1, 2", "read"),
        ("COPY", "1, 2", "read / write"),
        ("MSET", "1, 3 …", "write"),
        ("BITOP", "2, then 3 … last", "write / read"),
        ("PFMERGE", "1, then 2 … last", "read, write / read"),
        ("ZUNION", "2 …, as many as 1 says", "read"),
        ("MSETEX", "2, 4 …, as many as 1 says", "write"),
        ("ZUNIONSTORE", "1, then 3 …, as many as 2 says", "write / read"),
        ("GEORADIUS", "1, then after STORE or STOREDIST", "read / write"),
        ("XREAD", "after STREAMS, the first half", "read"),
        ("XGROUP CREATE", "2", "write"),
        ("PUBLISH", "none", "publish"),
        ("PING", "none", "nothing"),
    ],
)
def test_keys_and_classes_of_a_command_are_put_into_words(
    name: str, places: str, needs: str
) -> None:
    """Each kind of key search has its own words."""
    spec = load_table().commands[name]

    assert (places_of(spec), needs_of(spec)) == (places, needs)


@pytest.mark.parametrize(
    ("name", "remarks"),
    [
        ("SET", ["with GET: read, write"]),
        ("BITFIELD", ["with GET only: read", "denied on integers wider than 53 bits"]),
        ("SORT", ["patterns within read grants", "weight 20", "audited if it stores"]),
        ("BLPOP", ["polled"]),
        ("XADD", ["weight 2500"]),
        (
            "XREAD",
            ["denied with options other than COUNT, BLOCK", "weight 14", "polled with BLOCK"],
        ),
        ("HTTL", ["not Valkey 8.1"]),
        ("DELIFEQ", ["Valkey 9.1 only"]),
        ("VSIM", ["weight 10", "not audited", "Redis 8.0 only"]),
    ],
)
def test_exceptions_of_a_command_are_remarks(name: str, remarks: list[str]) -> None:
    """Remarks name variants, denied options, blocking, servers and exceptions from auditing."""
    table = load_table()

    assert list(remarks_of(table.commands[name], table)) == remarks


def test_page_without_a_file_name_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """There is no default file."""
    assert main([]) == 64
    assert "usage: " in capsys.readouterr().err
