"""Verification of an archive finds every change to its files."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keyleash.addons.export import rows
from keyleash.addons.export.archive import locked_archive
from keyleash.addons.export.rows import digest_of
from keyleash.addons.export.run import recorded_by_server
from keyleash.addons.export.verify import FindingKind, verify_archive
from keyleash.errors import OperationError
from keyleash.store.store import Store
from support.archives import KEYS, add_events, cursor, export
from support.errors import raises_code
from support.servers import RealServer

FOLDER = "audit/a"
DAYS = [f"1970-01-0{day}.jsonl" for day in range(1, 5)]
SECOND = DAYS[1]


@pytest.fixture
def to(embedded: RealServer, tmp_path: Path) -> Path:
    """An archive of four days with ten entries each, and another stream."""
    client = embedded.client()
    client.hset(KEYS.layouts, "a", "{}")
    for number in range(40):
        time_ms = number // 10 * 86_400_000 + number + 1
        client.xadd(KEYS.audit("a"), {"seq": number + 1, "SET": f"k:{number}"}, id=f"{time_ms}-0")
    add_events(client, "b", range(1, 3))
    export(client, tmp_path / "archive")
    return tmp_path / "archive"


def change(to: Path, file: str, edit: Callable[[list[bytes]], Any]) -> None:
    """Edit the lines of a file."""
    path = to / FOLDER / file
    lines = path.read_bytes().splitlines(keepends=True)
    edit(lines)
    path.write_bytes(b"".join(lines))


def kinds(to: Path) -> list[tuple[str, str]]:
    return [(str(finding.kind), finding.file) for finding in verify_archive(to).findings]


def plant(path: Path, what: str) -> None:
    """Put something in the place of a file that never ends, or that exhausts a parser."""
    path.unlink()
    match what:
        case "/dev/zero" | "missing":
            path.symlink_to(what)
        case "pipe":
            os.mkfifo(path)
        case "brackets":
            path.write_text("[" * 200_000)


@pytest.mark.parametrize("what", ["/dev/zero", "pipe", "brackets"])
def test_planted_files_are_findings(to: Path, what: str) -> None:
    """Who may write to the archive must not stop its verification."""
    plant(to / FOLDER / SECOND, what)
    plant(to / FOLDER / DAYS[-1], "missing")
    plant(to / "audit/b/cursor.json", what)

    found = kinds(to)

    assert {("changed", SECOND), ("changed", DAYS[-1]), ("changed", "cursor.json")} <= {*found}
    plant(to / "archive.json", what)
    with pytest.raises(OperationError, match=r"cannot read `.*archive\.json`"):
        verify_archive(to)


def test_overlong_line_is_a_finding(to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is read, but not stored."""
    change(to, SECOND, lambda lines: lines.insert(5, b"x" * 3000 + b"\n"))
    monkeypatch.setattr(rows.bounded_lines, "__defaults__", (sys.maxsize, 1000))

    assert kinds(to) == [("changed", SECOND)]


@pytest.mark.parametrize("what", ["pipe", "link"])
def test_file_that_an_archiver_would_append_to_must_be_a_regular_file(
    to: Path, embedded: RealServer, what: str
) -> None:
    """A pipe would stop the export, and a link would write elsewhere."""
    victim = to.parent / "victim"
    victim.write_text("mine")
    path = to / FOLDER / DAYS[-1]
    path.unlink()
    os.mkfifo(path) if what == "pipe" else path.symlink_to(victim)
    add_events(embedded.client(), "a", [41])

    with raises_code("archive-write"):
        export(embedded.client(), to)
    assert victim.read_text() == "mine"


def test_lock_that_is_a_pipe_is_an_error(to: Path) -> None:
    """Opening it would wait for a writer."""
    (to / "archive.lock").unlink()
    os.mkfifo(to / "archive.lock")

    with raises_code("file", match=r"archive\.lock`: it is not a regular file"), locked_archive(to):
        pass


def test_intact_archive_is_valid(to: Path) -> None:
    """The report counts files and entries, and has the last digest."""
    report = verify_archive(to)

    assert report.is_valid
    assert [(stream.stream, stream.files, stream.entries) for stream in report.streams] == [
        ("audit/a", 4, 40),
        ("audit/b", 1, 2),
    ]
    assert report.streams[0].chain == cursor(to, FOLDER).chain


def flip(lines: list[bytes], line: int, place: int) -> None:
    content = bytearray(lines[line])
    content[place] ^= 1
    lines[line] = bytes(content)


@pytest.mark.parametrize("name", [SECOND, DAYS[-1]])
@pytest.mark.parametrize(
    "edit",
    [
        *(partial(flip, line=line, place=place) for line in (0, 4, 9) for place in (0, 100, -2)),
        pytest.param(lambda lines: lines.pop(), id="last"),
        pytest.param(lambda lines: lines.pop(4), id="removed"),
        pytest.param(lambda lines: lines.insert(4, lines[4]), id="repeated"),
        pytest.param(lambda lines: lines.insert(4, lines.pop(5)), id="reordered"),
        pytest.param(lambda lines: lines.insert(4, b"{}\n"), id="added"),
        pytest.param(lambda lines: lines.clear(), id="emptied"),
    ],
)
def test_changed_removed_and_reordered_lines_are_found(
    to: Path, name: str, edit: Callable[[list[bytes]], Any]
) -> None:
    """In the middle and at the end of a stream."""
    change(to, name, edit)

    found = verify_archive(to).findings
    assert {str(item.kind) for item in found} & {"changed", "missing"}
    # A line is covered by the line after it.
    assert {item.file for item in found} <= {*DAYS[:3]} or name != SECOND


@pytest.mark.parametrize("name", [*DAYS, "cursor.json"])
def test_missing_day_or_cursor_is_found(to: Path, name: str) -> None:
    """The chain and the numbers break, and the cursor has the last line."""
    (to / FOLDER / name).unlink()

    found = verify_archive(to).findings
    assert FindingKind.MISSING in {item.kind for item in found}
    if name == SECOND:
        assert (11, 20) in {item.missing for item in found}


def test_missing_folder_is_found(to: Path) -> None:
    """The archive lists its streams."""
    shutil.rmtree(to / FOLDER)

    (found,) = verify_archive(to).findings
    assert (found.kind, found.stream) == ("missing", FOLDER)


def test_extra_files_are_found(to: Path) -> None:
    """Also an empty day before others, and a day under another name."""
    (to / FOLDER / DAYS[0]).rename(to / FOLDER / "1969-12-30.jsonl")
    assert kinds(to) == [("changed", "1969-12-30.jsonl")]
    (to / FOLDER / "notes.txt").touch()
    (to / FOLDER / "1969-12-31.jsonl").touch()
    (to / "elsewhere").mkdir()
    (to / "audit" / "stray").touch()

    assert {name for kind, name in kinds(to) if kind == "extra"} == {
        *("notes.txt", "1969-12-31.jsonl", "elsewhere", "audit/stray")
    }


def test_swapped_days_are_found(to: Path) -> None:
    """A name must be that of the day of its lines."""
    (to / FOLDER / DAYS[1]).rename(to / FOLDER / "x")
    (to / FOLDER / DAYS[2]).rename(to / FOLDER / DAYS[1])
    (to / FOLDER / "x").rename(to / FOLDER / DAYS[2])

    assert {("missing", DAYS[1]), ("missing", DAYS[2])} <= {*kinds(to)}


@pytest.mark.parametrize(
    "changed",
    [
        *({"id": "1-0"}, {"id": "x"}, {"id": 1}, {"count": 9}, {"chain": "0" * 64}, {"more": 1}),
        *({"file": "../b/cursor.json"}, {"offset": "1"}, {"offset": 9}, {"stream": "audit/b"}),
    ],
)
def test_cursor_that_contradicts_the_files_is_found(to: Path, changed: dict[str, Any]) -> None:
    """It is compared, and cannot lead out of its folder."""
    path = to / FOLDER / "cursor.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    assert kinds(to)


@pytest.mark.parametrize("streams", [["../b"], [1], 1, ["audit/.."]])
def test_streams_of_an_archive_cannot_lead_out_of_it(to: Path, streams: object) -> None:
    """Their names are paths."""
    about = json.loads((to / "archive.json").read_text())
    (to / "archive.json").write_text(json.dumps({**about, "streams": streams}))

    with raises_code("archive", match="cannot read"):
        verify_archive(to)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 3}', '{"version": 2}'])
def test_unreadable_cursor_is_found(to: Path, text: str) -> None:
    """It is a finding, and the lines of all streams are still checked."""
    (to / FOLDER / "cursor.json").write_text(text)

    report = verify_archive(to)
    assert kinds(to) == [("changed", "cursor.json")]
    assert [(stream.stream, stream.entries) for stream in report.streams] == [
        ("audit/a", 40),
        ("audit/b", 2),
    ]


@pytest.mark.parametrize(
    ("record", "remedy"),
    [
        ({"version": 2, "id": "x", "place": "here", "marks": {}}, "export to a new directory"),
        ({"format": 4}, "it was written by a newer keyleash"),
    ],
)
def test_archive_of_another_format_is_an_error(
    to: Path, embedded: RealServer, record: object, remedy: str
) -> None:
    """Export and verification name the format, and change nothing."""
    (to / "archive.json").write_text(json.dumps(record))
    add_events(embedded.client(), "a", [41])

    for work in (verify_archive, lambda folder: export(embedded.client(), folder)):
        with raises_code("archive", match=r"archive.json` has format [24], and .* 3") as caught:
            work(to)
        assert remedy in str(caught.value.help)
    assert cursor(to, FOLDER).count == 40


def forge(to: Path) -> None:
    """Change an entry, and compute all later digests again."""
    chain = "0" * 64
    for name in DAYS:
        lines = []
        for line in (to / FOLDER / name).read_text().replace("k:3", "k:4").splitlines():
            lines.append(json.dumps({**json.loads(line), "chain": chain}).encode() + b"\n")
            chain = digest_of(lines[-1])
        (to / FOLDER / name).write_bytes(b"".join(lines))
    size = (to / FOLDER / DAYS[-1]).stat().st_size
    path = to / FOLDER / "cursor.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chain": chain, "offset": size}))


def test_consistent_forgery_contradicts_the_record_on_the_server(
    to: Path, embedded: RealServer
) -> None:
    """A forger of the directory can recompute its digests, but not change the server."""
    client = embedded.client()
    assert verify_archive(to, recorded_by_server(Store(client))).is_valid
    forge(to)

    assert verify_archive(to).is_valid
    (found,) = verify_archive(to, recorded_by_server(Store(client))).findings
    assert (found.kind, found.stream) == ("changed", FOLDER)
    add_events(client, "a", [41])
    with raises_code("archive", match="does not have what was exported"):
        export(client, to)


def test_missing_or_newer_records_of_the_server_are_found(to: Path, embedded: RealServer) -> None:
    """Who asks for the comparison learns what could not be compared."""
    client: Any = embedded.client()
    records = client.hgetall(KEYS.exported)
    client.hdel(KEYS.exported, FOLDER)
    other = json.loads(records[b"audit/b"]) | {"id": "9999999999999-0"}
    client.hset(KEYS.exported, "audit/b", json.dumps(other))

    found = verify_archive(to, recorded_by_server(Store(client))).findings
    assert [(item.kind, item.stream) for item in found] == [
        ("missing", "audit/a"),
        ("missing", "audit/b"),
    ]


@pytest.mark.parametrize(
    ("record", "code"), [("{", "unreadable"), ("{}", "archive"), ('{"format": 3}', "unreadable")]
)
def test_unreadable_record_of_the_server_is_an_error(
    to: Path, embedded: RealServer, record: str, code: str
) -> None:
    """Nothing is exported on its ground."""
    embedded.client().hset(KEYS.exported, FOLDER, record)

    with raises_code(code, match="the record of the export of `audit/a`"):
        recorded_by_server(Store(embedded.client()))
    with raises_code(code, match="the record of the export of `audit/a`"):
        export(embedded.client(), to)


def test_directory_without_archive_is_an_error(tmp_path: Path) -> None:
    """An empty directory is not a valid archive."""
    with raises_code("archive", match="is not an archive"):
        verify_archive(tmp_path)
    with raises_code("archive", match="is not an archive"):
        verify_archive(tmp_path / "none")
