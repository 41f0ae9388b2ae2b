"""Verification of an archive finds every change to its files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyleash.audit.export.archive import locked_archive
from keyleash.audit.export.run import recorded_by_server
from keyleash.audit.export.verify import FindingKind, verify_archive
from keyleash.errors import OperationError
from keyleash.store.store import Store
from support.archives import KEYS, add_events, export, manifest
from support.errors import raises_code
from support.servers import RealServer

FOLDER = "audit/a"


@pytest.fixture
def to(embedded: RealServer, tmp_path: Path) -> Path:
    """An archive of four files with ten entries each, and another stream."""
    client = embedded.client()
    add_events(client, "a", range(1, 41))
    add_events(client, "b", range(1, 3))
    export(client, tmp_path / "archive", max_entries=10)
    return tmp_path / "archive"


def names(to: Path) -> list[str]:
    return [file["name"] for file in manifest(to, FOLDER)["files"]]


def rewrite(to: Path, change: Callable[[Any], None]) -> None:
    content = manifest(to, FOLDER)
    change(content)
    (to / FOLDER / "manifest.json").write_text(json.dumps(content))


def kinds(to: Path) -> list[tuple[str, str]]:
    return [(str(finding.kind), finding.file) for finding in verify_archive(to).findings]


def plant(path: Path, what: str) -> None:
    """Put something in the place of a file that never ends, or that exhausts a parser."""
    path.unlink()
    if what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("[" * 200_000)


@pytest.mark.parametrize("what", ["device", "brackets"])
def test_planted_files_are_findings(to: Path, what: str) -> None:
    """Who may write to the archive must not stop its verification."""
    planted = names(to)[1]
    plant(to / FOLDER / planted, what)
    plant(to / "audit/b/manifest.json", what)

    found = kinds(to)

    assert ("changed", planted) in found
    assert ("changed", "manifest.json") in found
    plant(to / "archive.json", what)
    with pytest.raises(OperationError, match=r"cannot read `.*archive\.json`"):
        verify_archive(to)


def test_lock_that_is_a_pipe_is_an_error(to: Path) -> None:
    """Opening it would wait for a writer, and no archiver locks it."""
    (to / "archive.lock").unlink()
    os.mkfifo(to / "archive.lock")

    for read in (verify_archive, lambda folder: locked_archive(folder).__enter__()):
        with raises_code("file", match=r"archive\.lock`: it is not a regular file"):
            read(to)


def test_intact_archive_is_valid(to: Path) -> None:
    """The report counts files and entries, and has the last chain."""
    report = verify_archive(to)

    assert report.is_valid
    assert [(stream.stream, stream.files, stream.entries) for stream in report.streams] == [
        ("audit/a", 4, 40),
        ("audit/b", 1, 2),
    ]
    assert report.streams[0].chain == manifest(to, FOLDER)["files"][-1]["chain"]


@pytest.mark.parametrize("place", [0, 100, -2])
def test_changed_byte_is_found(to: Path, place: int) -> None:
    """Only the file with the changed byte is reported."""
    path = to / FOLDER / names(to)[1]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)

    assert kinds(to) == [("changed", path.name)]


def test_missing_file_is_found(to: Path) -> None:
    """Its sequence numbers are not reported again as a gap."""
    name = names(to)[1]
    (to / FOLDER / name).unlink()

    assert kinds(to) == [("missing", name)]


def test_file_removed_from_folder_and_manifest_is_found(to: Path) -> None:
    """The chain and the sequence numbers break."""
    name = names(to)[1]
    (to / FOLDER / name).unlink()
    rewrite(to, lambda content: content["files"].pop(1))

    found = verify_archive(to).findings
    assert {item.kind for item in found} == {*FindingKind} - {FindingKind.EXTRA}
    assert [item.missing for item in found if item.kind is FindingKind.GAP] == [(11, 20)]


def test_removed_last_file_is_found(to: Path) -> None:
    """The recorded extent has more files."""
    (to / FOLDER / names(to)[-1]).unlink()
    rewrite(to, lambda content: content["files"].pop())

    ((kind, _),) = kinds(to)
    assert kind == "missing"


def test_missing_folder_is_found(to: Path) -> None:
    """A recorded stream needs a folder."""
    shutil.rmtree(to / FOLDER)

    (found,) = verify_archive(to).findings
    assert (found.kind, found.stream) == ("missing", FOLDER)


def test_extra_files_are_found(to: Path) -> None:
    """This includes a file that is named like the next one."""
    (to / FOLDER / "notes.txt").touch()
    (to / FOLDER / "00000005_99-0.jsonl").touch()
    (to / "elsewhere").mkdir()
    (to / "audit" / "stray").touch()

    assert {name for kind, name in kinds(to) if kind == "extra"} == {
        *("notes.txt", "00000005_99-0.jsonl", "elsewhere", "audit/stray")
    }


def test_swapped_files_are_found(to: Path) -> None:
    """The manifest fixes the order of the files."""

    def swap(content: Any) -> None:
        files = content["files"]
        files[1], files[2] = files[2], files[1]

    rewrite(to, swap)

    assert {kind for kind, _ in kinds(to)} >= {"changed"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("first", "1-0"), ("last", "9999999999999-0"), ("count", 9), ("last_seq", 7)],
)
def test_manifest_that_contradicts_its_file_is_found(to: Path, name: str, value: Any) -> None:
    """The values are compared even if the hash of the file is right."""
    rewrite(to, lambda content: content["files"][1].update({name: value}))

    assert ("changed", names(to)[1]) in kinds(to)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 1}', '{"version": 2, "stream": "audit/b", "files": []}']
)
def test_unreadable_manifest_is_found(to: Path, text: str) -> None:
    """A corrupt manifest is a finding, and the other streams are still checked."""
    (to / FOLDER / "manifest.json").write_text(text)

    report = verify_archive(to)
    assert ("changed", "manifest.json") in kinds(to)
    assert [stream.stream for stream in report.streams] == ["audit/a", "audit/b"]


@pytest.mark.parametrize("version", [1, 3, "2", None])
def test_archive_of_another_version_is_an_error(
    to: Path, embedded: RealServer, version: object
) -> None:
    """Export and verification name the version, and change nothing."""
    content = json.loads((to / "archive.json").read_text())
    (to / "archive.json").write_text(json.dumps({**content, "version": version}))

    with raises_code("archive", match="an archive of another version"):
        verify_archive(to)
    add_events(embedded.client(), "a", [41])
    with raises_code("archive", match="an archive of another version"):
        export(embedded.client(), to)
    assert len(names(to)) == 4


@pytest.mark.parametrize(
    "fields", [{}, {"streams": "{"}, {"streams": "[]"}, {"streams": '{"audit/a": {"files": 1}}'}]
)
def test_unreadable_control_event_is_one_finding(
    to: Path, embedded: RealServer, fields: dict[str, str]
) -> None:
    """Someone wrote it; the other records are still compared."""
    client = embedded.client()
    archive = json.loads((to / "archive.json").read_text())["id"]
    event: Any = {"event": "export", "actor": "ops", "archive": archive, **fields}
    entry: Any = client.xadd(KEYS.control, event)

    (found,) = verify_archive(to, recorded_by_server(Store(client))).findings
    assert found.kind is FindingKind.CHANGED
    assert f"`{entry.decode()}`" in found.message


def test_manifest_cannot_lead_out_of_its_folder(to: Path) -> None:
    """A name or a number in a manifest cannot be a path."""

    rewrite(to, lambda content: content["files"][0].update(name="../b/manifest.json"))
    assert ("changed", "../b/manifest.json") in kinds(to)

    rewrite(to, lambda content: content["before"].update(files="/../../b/manifest"))
    assert ("changed", "manifest.json") in kinds(to)


def test_consistent_forgery_contradicts_the_chain_on_the_server(
    to: Path, embedded: RealServer
) -> None:
    """A forger of the directory can recompute its chain, but not change the control stream."""
    client = embedded.client()
    export(client, to)
    (to / FOLDER / names(to)[0]).write_text(
        (to / FOLDER / names(to)[0]).read_text().replace("k:3", "k:4")
    )

    def forge(content: Any) -> None:
        chain = "0" * 64
        for file in content["files"]:
            data = (to / FOLDER / file["name"]).read_bytes()
            file["sha256"] = hashlib.sha256(data).hexdigest()
            chain = hashlib.sha256((chain + file["sha256"]).encode()).hexdigest()
            file["chain"] = chain

    rewrite(to, forge)
    about = json.loads((to / "archive.json").read_text())
    about["marks"] = {}
    (to / "archive.json").write_text(json.dumps(about))

    assert verify_archive(to).is_valid
    (found,) = verify_archive(to, recorded_by_server(Store(client, KEYS))).findings
    assert (found.kind, found.stream) == ("changed", FOLDER)


def test_archive_being_written_is_valid(to: Path) -> None:
    """A running archiver may have a draft, and a file that its manifest does not list yet."""
    (to / FOLDER / "draft.tmp").touch()
    (to / FOLDER / "00000005_99-0.jsonl").touch()

    with locked_archive(to):
        assert verify_archive(to).is_valid
    assert kinds(to) == [("extra", "00000005_99-0.jsonl")]


def test_directory_without_archive_is_an_error(tmp_path: Path) -> None:
    """An empty directory is not a valid archive."""
    with raises_code("archive", match="is not an archive"):
        verify_archive(tmp_path)
    with raises_code("archive", match="is not an archive"):
        verify_archive(tmp_path / "none")
