"""Verifying an archive: whatever was done to it is found."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyleash.audit.export import FindingKind, locked_archive, recorded_by_server, verify_archive
from support.archives import KEYS, add_events, export, manifest
from support.errors import raises_code
from support.servers import RealServer

TRAIL = "audit/a"


@pytest.fixture
def to(embedded: RealServer, tmp_path: Path) -> Path:
    """An archive of four files with ten entries each, and another trail."""
    client = embedded.client()
    add_events(client, "a", range(1, 41))
    add_events(client, "b", range(1, 3))
    export(client, tmp_path / "archive", max_entries=10)
    return tmp_path / "archive"


def names(to: Path) -> list[str]:
    return [file["name"] for file in manifest(to, TRAIL)["files"]]


def rewrite(to: Path, change: Callable[[Any], None]) -> None:
    said = manifest(to, TRAIL)
    change(said)
    (to / TRAIL / "manifest.json").write_text(json.dumps(said))


def kinds(to: Path) -> list[tuple[str, str]]:
    return [(str(finding.kind), finding.file) for finding in verify_archive(to).findings]


def test_whole_archive_is_well(to: Path) -> None:
    """And the report says what is in it."""
    report = verify_archive(to)

    assert report.is_valid
    assert [(stream.stream, stream.files, stream.entries) for stream in report.streams] == [
        ("audit/a", 4, 40),
        ("audit/b", 1, 2),
    ]
    assert report.streams[0].chain == manifest(to, TRAIL)["files"][-1]["chain"]


@pytest.mark.parametrize("place", [0, 100, -2])
def test_changed_byte_is_found(to: Path, place: int) -> None:
    """Wherever it is, and only its file is named."""
    path = to / TRAIL / names(to)[1]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)

    assert kinds(to) == [("changed", path.name)]


def test_missing_file_is_found(to: Path) -> None:
    """With what was in it; the numbers in it are not reported once more."""
    name = names(to)[1]
    (to / TRAIL / name).unlink()

    assert kinds(to) == [("missing", name)]


def test_file_that_is_taken_out_of_the_manifest_too_is_found(to: Path) -> None:
    """The chain breaks, and so do the sequence numbers."""
    name = names(to)[1]
    (to / TRAIL / name).unlink()
    rewrite(to, lambda said: said["files"].pop(1))

    found = verify_archive(to).findings
    assert {item.kind for item in found} == {*FindingKind} - {FindingKind.EXTRA}
    assert [item.missing for item in found if item.kind is FindingKind.GAP] == [(11, 20)]


def test_end_that_is_cut_off_is_found(to: Path) -> None:
    """What was recorded says how much there was."""
    (to / TRAIL / names(to)[-1]).unlink()
    rewrite(to, lambda said: said["files"].pop())

    ((kind, _),) = kinds(to)
    assert kind == "missing"


def test_folder_that_is_gone_is_found(to: Path) -> None:
    """A whole trail does not vanish unnoticed."""
    shutil.rmtree(to / TRAIL)

    (found,) = verify_archive(to).findings
    assert (found.kind, found.stream) == ("missing", TRAIL)


def test_extra_files_are_found(to: Path) -> None:
    """In a folder, beside the folders, and one that passes for the next."""
    (to / TRAIL / "notes.txt").touch()
    (to / TRAIL / "00000005_99-0.jsonl").touch()
    (to / "elsewhere").mkdir()
    (to / "audit" / "stray").touch()

    assert {name for kind, name in kinds(to) if kind == "extra"} == {
        *("notes.txt", "00000005_99-0.jsonl", "elsewhere", "audit/stray")
    }


def test_files_that_change_places_are_found(to: Path) -> None:
    """The order is part of what is recorded."""

    def swap(said: Any) -> None:
        files = said["files"]
        files[1], files[2] = files[2], files[1]

    rewrite(to, swap)

    assert {kind for kind, _ in kinds(to)} >= {"changed"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("first", "1-0"), ("last", "9999999999999-0"), ("count", 9), ("last_seq", 7)],
)
def test_manifest_that_says_something_else_than_the_file_is_found(
    to: Path, name: str, value: Any
) -> None:
    """Though the file's own hash is right."""
    rewrite(to, lambda said: said["files"][1].update({name: value}))

    assert ("changed", names(to)[1]) in kinds(to)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "trail": "audit/b", "files": []}']
)
def test_manifest_that_is_none_is_found(to: Path, text: str) -> None:
    """A broken manifest is a finding, and the other trails are checked all the same."""
    (to / TRAIL / "manifest.json").write_text(text)

    report = verify_archive(to)
    assert ("changed", "manifest.json") in kinds(to)
    assert [stream.stream for stream in report.streams] == ["audit/a", "audit/b"]


def test_manifest_cannot_lead_out_of_its_folder(to: Path) -> None:
    """A name in a manifest is no path."""

    def lead_out(said: Any) -> None:
        said["files"][0]["name"] = "../b/manifest.json"
        said["before"]["manifest"] = "../b/manifest.json"

    rewrite(to, lead_out)

    assert ("changed", "../b/manifest.json") in kinds(to)
    assert ("changed", "manifest.json") in kinds(to)


def test_forgery_that_fits_itself_is_found_by_what_the_server_recorded(
    to: Path, embedded: RealServer
) -> None:
    """Whoever can write to the directory can make it fit itself, but not the control stream."""
    client = embedded.client()
    export(client, to)
    (to / TRAIL / names(to)[0]).write_text(
        (to / TRAIL / names(to)[0]).read_text().replace("k:3", "k:4")
    )

    def forge(said: Any) -> None:
        chain = "0" * 64
        for file in said["files"]:
            content = (to / TRAIL / file["name"]).read_bytes()
            file["sha256"] = hashlib.sha256(content).hexdigest()
            chain = hashlib.sha256((chain + file["sha256"]).encode()).hexdigest()
            file["chain"] = chain

    rewrite(to, forge)
    about = json.loads((to / "archive.json").read_text())
    about["marks"] = {}
    (to / "archive.json").write_text(json.dumps(about))

    assert verify_archive(to).is_valid
    (found,) = verify_archive(to, recorded_by_server(client, KEYS)).findings
    assert (found.kind, found.stream) == ("changed", TRAIL)


def test_archive_may_be_written_to_meanwhile(to: Path) -> None:
    """A draft, and a file that its manifest does not list yet, are an archiver's at work."""
    (to / TRAIL / "draft.tmp").touch()
    (to / TRAIL / "00000005_99-0.jsonl").touch()

    with locked_archive(to):
        assert verify_archive(to).is_valid
    assert kinds(to) == [("extra", "00000005_99-0.jsonl")]


def test_what_is_no_archive_is_an_error(tmp_path: Path) -> None:
    """All is well with nothing would be the wrong answer."""
    with raises_code("archive", match="is not an archive"):
        verify_archive(tmp_path)
    with raises_code("archive", match="is not an archive"):
        verify_archive(tmp_path / "none")
