"""`docs/reference/commands.md`, which is made from the command table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.command_page import main, needs_of, places_of, remarks_of, render

from keyleash.commands import load_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "commands.md"
ROW = re.compile(r"^\| `([A-Z_ ]+)` \|.*\|$", re.MULTILINE)


def test_page_is_what_the_command_table_says() -> None:
    """A table that was asked anew must not leave an old page behind."""
    assert PAGE.read_text(encoding="utf-8") == render(load_table()), (
        "docs/reference/commands.md is not what the command table says; `make docs` writes it anew"
    )


def test_page_tells_of_every_command_once() -> None:
    """Whoever looks a command up finds it: in a table, or among the refused."""
    tables, refused = PAGE.read_text(encoding="utf-8").split("## Refused\n")
    whole = set(re.findall(r"`([A-Z]+)` with all its sub-commands", refused))
    told = re.findall(r"`([A-Z][A-Z _-]+)`", refused.partition("- **")[2])

    assert sorted(ROW.findall(tables)) == sorted(
        spec.name for spec in load_table() if spec.refused is None
    )
    assert sorted(told) == sorted(
        spec.name
        for spec in load_table()
        if spec.refused is not None
        and (spec.name in whole or spec.name.partition(" ")[0] not in whole)
    )


def test_rows_of_the_page_have_as_many_cells_as_their_head() -> None:
    """A bar in a text would break a row in two."""
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
        ("GEORADIUS", "1, then behind STORE or STOREDIST", "read / write"),
        ("XREAD", "behind STREAMS, the first half", "read"),
        ("XGROUP CREATE", "2", "write"),
        ("PUBLISH", "none", "publish"),
        ("PING", "none", "nothing"),
    ],
)
def test_keys_of_a_command_read_as_people_say_them(name: str, places: str, needs: str) -> None:
    """Each way to find keys has its words."""
    spec = load_table().commands[name]

    assert (places_of(spec), needs_of(spec)) == (places, needs)


@pytest.mark.parametrize(
    ("name", "remarks"),
    [
        ("SET", ["with GET: read, write"]),
        ("BITFIELD", ["of GETs alone: read", "refused on integers wider than 53 bits"]),
        ("SORT", ["refused with BY or GET", "weight 20", "audited if it stores"]),
        ("BLPOP", ["polled"]),
        ("XADD", ["weight 250"]),
        (
            "XREAD",
            ["refused with options other than COUNT, BLOCK", "weight 14", "polled with BLOCK"],
        ),
        ("HTTL", ["not Valkey 8.1"]),
        ("DELIFEQ", ["Valkey 9.1 only"]),
        ("VSIM", ["weight 10", "not audited", "Redis 8.0 only"]),
    ],
)
def test_what_is_odd_about_a_command_stands_beside_it(name: str, remarks: list[str]) -> None:
    """Variants, refused options, blocking, servers, and what is audited against the rule."""
    table = load_table()

    assert list(remarks_of(table.commands[name], table)) == remarks


def test_page_without_a_file_name_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """It writes nowhere by itself."""
    assert main([]) == 64
    assert "usage: " in capsys.readouterr().err
