"""Export of audit streams: each entry once, with all its bytes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from keyleash.audit.export import archive, run
from keyleash.audit.export import archive as manifest_module
from keyleash.audit.export.archive import locked_archive
from keyleash.audit.export.groups import Pager
from keyleash.audit.export.rows import ArchiveRow
from keyleash.audit.export.run import Archiver
from keyleash.audit.export.verify import verify_archive
from keyleash.audit.streams import id_order
from keyleash.errors import ArchiveError
from keyleash.store.groups import ConsumerGroup
from keyleash.store.store import Store
from keyleash.store.streams import audit_streams
from support.archives import KEYS, add_events, archived, export, manifest, stored, unacknowledged
from support.errors import raises_code
from support.servers import RealServer
from support.streams import packed_keys

FOLDER = "audit/a"
STREAM = KEYS.audit("a")


def group_of(client: Any, archive: str, place: str) -> ConsumerGroup:
    store = Store(client, KEYS)
    (stream,) = audit_streams(store, ["a"])
    return ConsumerGroup(store, stream, archive, place)


@pytest.fixture
def client(server: RealServer) -> Any:
    return server.client()


@pytest.fixture
def embedded_client(embedded: RealServer) -> Any:
    """A client of the embedded server, for tests that do not depend on the kind of server."""
    return embedded.client()


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def odd_entries(client: Any) -> None:
    """Append repeated names, bytes that are not UTF-8, and an entry that no guard wrote."""
    client.hset(KEYS.layouts, "a", "{}")
    batch = (
        "seq",
        1,
        "token",
        "t",
        "policy",
        "p 2,2w",
        "SET",
        "k1",
        "SET",
        b"k\xff",
        "MSET:2",
        "1:a,1:b,",
        "DEL*2",
        packed_keys([b"c", b"\xff"]),
    )
    client.execute_command("XADD", STREAM, "*", *batch, "before", "k1", "image", b"\x00\xfe\xff\n")
    client.xadd(STREAM, {"of": "1-0", "item": 2, "error": "WRONGTYPE é\x1b[2J"})
    client.xadd(STREAM, {b"\xff\xfe": b"", "policy": "p \u00b2", "\u2028": ""})
    client.xadd(STREAM, {"seq": 2, "SET": '{"base64": "x"}'})


def test_entries_are_archived_with_all_their_bytes(client: Any, to: Path) -> None:
    """The rows that are read back equal the entries of the stream."""
    odd_entries(client)

    export(client, to)

    assert archived(to, FOLDER) == stored(client, STREAM)
    assert len(archived(to, FOLDER)) == 4
    assert verify_archive(to).is_valid


def test_json_line_has_time_identity_and_commands(embedded_client: Any, to: Path) -> None:
    """Derived members stand beside the fields of the entry, which are unchanged."""
    odd_entries(embedded_client)
    export(embedded_client, to)
    (file,) = (to / FOLDER).glob("*.jsonl")
    first, of, *_ = map(json.loads, file.read_text().splitlines())

    assert (first["stream"], first["identity"], first["seq"]) == ("audit", "a", 1)
    assert first["time"].endswith("Z")
    assert first["commands"] == [
        {"op": "SET", "keys": ["k1"]},
        {"op": "SET", "keys": [{"base64": "a/8="}]},
        {"op": "MSET", "keys": ["a", "b"]},
        {"op": "DEL", "keys": ["c"]},
        {"op": "DEL", "keys": [{"base64": "/w=="}]},
    ]
    assert first["fields"][-1] == ["image", {"base64": "AP7/Cg=="}]
    assert (of["commands"], of["seq"]) == ([], None)


def test_every_stream_has_a_folder(client: Any, to: Path) -> None:
    """This includes identities that left the policy, operators, and the control stream."""
    add_events(client, "a", [1])
    client.xadd(KEYS.denied("a"), {"seq": 1, "code": "KEY_DENIED", "op": "SET"})
    client.xadd(KEYS.audit("@operators"), {"seq": 1, "RESTORE": "k"})
    client.xadd(KEYS.control, {"event": "activate", "actor": "ops"})

    export(client, to)

    for stream in ("audit/a", "denied/a", "audit/@operators", "control"):
        assert len(archived(to, stream)) == 1


def test_next_run_adds_only_new_entries(client: Any, to: Path) -> None:
    """Without new entries, no file is written."""
    add_events(client, "a", range(1, 6))
    export(client, to)
    add_events(client, "a", range(6, 8))
    (second,) = (done for done in export(client, to) if done.stream == FOLDER)

    assert second.file is not None
    assert (second.file.count, second.file.first_seq, second.file.last_seq) == (2, 6, 7)
    assert archived(to, FOLDER) == stored(client, STREAM)
    assert [done for done in export(client, to) if done.stream == FOLDER] == []
    assert unacknowledged(client, STREAM) == 0


def test_files_are_bounded_and_chained(embedded_client: Any, to: Path) -> None:
    """The chain of each file can be recomputed with SHA-256 alone."""
    add_events(embedded_client, "a", range(1, 26))
    export(embedded_client, to, max_entries=10)

    files = manifest(to, FOLDER)["files"]
    assert [file["count"] for file in files] == [10, 10, 5]
    chain = "0" * 64
    for file in files:
        content = (to / FOLDER / file["name"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        chain = hashlib.sha256((chain + file["sha256"]).encode()).hexdigest()
        assert file["chain"] == chain


def test_file_of_large_entries_is_bounded_by_their_bytes(
    embedded_client: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before-images make entries large, but replies and files stay bounded."""
    monkeypatch.setattr(run, "MAX_BYTES", 1_000_000)
    add_events(embedded_client, "a", range(1, 101), image=b"\xff" * 50_000)
    export(embedded_client, to)

    files = manifest(to, FOLDER)["files"]
    assert len(files) > 1
    assert archived(to, FOLDER) == stored(embedded_client, STREAM)
    assert verify_archive(to).is_valid


def test_full_manifest_is_closed_and_linked_from_the_next(
    embedded_client: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifests stay short, and verification reads the closed ones too."""
    monkeypatch.setattr(manifest_module, "FILES_PER_MANIFEST", 3)
    for number in range(1, 9):
        add_events(embedded_client, "a", [number])
        export(embedded_client, to)

    closed = sorted(path.name for path in (to / FOLDER).glob("manifest-*"))
    assert closed == ["manifest-00000003.json", "manifest-00000006.json"]
    report = verify_archive(to)
    assert report.is_valid
    assert [
        (stream.files, stream.entries) for stream in report.streams if stream.stream == FOLDER
    ] == [(8, 8)]
    (to / FOLDER / closed[0]).unlink()
    assert not verify_archive(to).is_valid


def test_run_is_recorded_in_the_control_stream_once(embedded_client: Any, to: Path) -> None:
    """Each run with new entries appends an event; a run that finds only such events does not."""
    add_events(embedded_client, "a", [1, 2])
    for _ in range(3):
        export(embedded_client, to, actor="ops")
    add_events(embedded_client, "a", [3])
    export(embedded_client, to, actor="ops")

    first, second = (fields for _, fields in embedded_client.xrange(KEYS.control))
    assert (first[b"event"], first[b"actor"]) == (b"export", b"ops")
    progress = json.loads(first[b"streams"])
    assert progress == {
        FOLDER: {
            "after": "0-0",
            "to": archived(to, FOLDER)[1][0],
            "count": 2,
            "files": 1,
            "chain": manifest(to, FOLDER)["files"][0]["chain"],
        }
    }
    assert json.loads(second[b"streams"])[FOLDER]["after"] == progress[FOLDER]["to"]
    assert json.loads(second[b"streams"])[FOLDER]["count"] == 1


def test_unrecorded_export_is_recorded_by_the_next_run(embedded_client: Any, to: Path) -> None:
    """A crash between the last file and the control event does not lose the record."""
    add_events(embedded_client, "a", [1, 2])
    with locked_archive(to) as archive:
        running = Archiver(Store(embedded_client), archive).run()
        next(running)
        running.close()
    export(embedded_client, to)

    ((_, event),) = embedded_client.xrange(KEYS.control)
    assert json.loads(event[b"streams"])[FOLDER]["count"] == 2


def test_second_archiver_on_a_directory_is_an_error(embedded_client: Any, to: Path) -> None:
    """Two writers of one manifest would lose each other's files."""
    with (
        locked_archive(to),
        raises_code("archive-busy", match=rf"\(pid {os.getpid()}\) is at work"),
        locked_archive(to),
    ):
        pass


def test_second_archive_needs_take_over(embedded_client: Any, to: Path, tmp_path: Path) -> None:
    """Two archives would each have half of the stream; after a take-over, one has all of it."""
    add_events(embedded_client, "a", [1, 2])
    export(embedded_client, to)
    with raises_code("archive-taken", match=f"begun at `.*{to}`"):
        export(embedded_client, tmp_path / "other")
    add_events(embedded_client, "a", [3])
    assert [done.stream for done in export(embedded_client, to)][-1] == FOLDER

    export(embedded_client, tmp_path / "other", take_over=True)
    assert archived(tmp_path / "other", FOLDER) == stored(embedded_client, STREAM)
    with raises_code("archive-taken"):
        export(embedded_client, to)


def test_archiver_stops_after_another_takes_over(
    embedded_client: Any, to: Path, tmp_path: Path
) -> None:
    """It must not take entries that the other archive exports."""
    add_events(embedded_client, "a", range(1, 31))
    with locked_archive(to) as archive:
        running = Archiver(Store(embedded_client), archive, max_entries=10).run()
        assert next(running).stream == FOLDER
        export(embedded_client, tmp_path / "other", take_over=True)
        with raises_code("archive-taken", match="took it over"):
            list(running)
    assert len(archived(tmp_path / "other", FOLDER)) == 30


def test_archive_of_another_server_needs_take_over(embedded_client: Any, to: Path) -> None:
    """New events could otherwise count as exported, because their ids are older."""
    add_events(embedded_client, "a", [1, 2])
    export(embedded_client, to)
    embedded_client.flushall()
    add_events(embedded_client, "a", [1])

    with raises_code("archive-taken", match="is not the source of"):
        export(embedded_client, to)
    (done,) = export(embedded_client, to, take_over=True)
    assert [str(found.kind) for found in done.breaks] == ["restarted"]
    assert len(archived(to, FOLDER)) == 3


def test_directory_with_other_files_is_an_error(embedded_client: Any, to: Path) -> None:
    """Files that keyleash did not write are neither removed nor listed."""
    to.mkdir()
    (to / "precious").write_text("x")

    with raises_code("archive", match="is not empty, and not an archive"):
        export(embedded_client, to)
    assert [path.name for path in to.iterdir()] == ["precious"]


def test_trimmed_events_are_reported_as_a_gap(client: Any, to: Path) -> None:
    """If `retain: N` trims events before their export, their numbers are reported."""
    add_events(client, "a", range(1, 4))
    export(client, to)
    add_events(client, "a", range(4, 11))
    client.xtrim(STREAM, maxlen=2, approximate=False)
    (done,) = (done for done in export(client, to) if done.stream == FOLDER)

    (found,) = done.breaks
    assert (found.kind, found.before, found.seq) == ("gap", 3, 9)
    (finding,) = verify_archive(to).findings
    assert (finding.kind, finding.missing) == ("gap", (4, 8))


def test_entries_trimmed_while_pending_are_reported_as_lost(client: Any, to: Path) -> None:
    """An entry that was delivered before a crash and then trimmed counts as lost."""
    add_events(client, "a", range(1, 6))
    with locked_archive(to) as archive:
        group = group_of(client, archive.id, archive.place)
        assert group.create()
        Pager(group).next_page(3)
    client.xtrim(STREAM, maxlen=4, approximate=False)
    (done,) = export(client, to)

    assert done.lost == 1
    assert archived(to, FOLDER) == stored(client, STREAM)
    assert unacknowledged(client, STREAM) == 0


def test_file_left_unlisted_by_a_crash_is_listed(
    embedded_client: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is complete, and its entries may have been trimmed since."""
    export(embedded_client, to)
    with monkeypatch.context() as patched:
        patched.setattr(archive, "add_file", crash)
        add_events(embedded_client, "a", range(1, 6))
        with pytest.raises(KeyboardInterrupt):
            export(embedded_client, to)
    before = stored(embedded_client, STREAM)
    assert [(finding.kind, finding.stream) for finding in verify_archive(to).findings] == [
        ("extra", FOLDER)
    ]
    embedded_client.xtrim(STREAM, maxlen=0, approximate=False)
    add_events(embedded_client, "a", [6])
    done = [done for done in export(embedded_client, to) if done.stream == FOLDER]

    assert archived(to, FOLDER) == [*before, *stored(embedded_client, STREAM)]
    assert [(item.lost, item.breaks) for item in done] == [(0, [])]
    assert verify_archive(to).is_valid


def crash(*_arguments: Any) -> None:
    raise KeyboardInterrupt


def test_unlisted_file_not_left_by_a_crash_is_an_error(embedded_client: Any, to: Path) -> None:
    """An old manifest or a foreign file needs an operator's decision."""
    add_events(embedded_client, "a", range(1, 31))
    export(embedded_client, to, max_entries=10)
    content = manifest(to, FOLDER)
    (to / FOLDER / "manifest.json").write_text(
        json.dumps({**content, "files": content["files"][:1]})
    )

    with raises_code("archive", match="cannot be left from a crash"):
        export(embedded_client, to)
    for file in content["files"][1:]:
        (to / FOLDER / file["name"]).unlink()
    with raises_code("archive", match="has 1 files, but 3 were recorded"):
        export(embedded_client, to)


def test_stream_trimmed_before_its_first_export_is_a_note(embedded_client: Any, to: Path) -> None:
    """The archive does not cover the time before it, so this is not a finding."""
    add_events(embedded_client, "a", range(5, 8))
    (done,) = export(embedded_client, to)

    assert [str(found.kind) for found in done.breaks] == ["begins"]
    report = verify_archive(to)
    assert report.is_valid
    assert "begins at seq 5" in report.streams[0].notes[0]


def test_page_is_bounded_by_the_room_of_the_file(embedded_client: Any) -> None:
    """A page is not larger than the remaining room of a file."""
    add_events(embedded_client, "a", range(1, 4))
    group = group_of(embedded_client, "x", "here")
    group.create()
    pager = Pager(group)

    assert [len(pager.next_page(room).rows) for room in (1, 5)] == [1, 2]
    assert group.lag() == 0


class _Disk:
    """Fails at a chosen step with a chosen error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        for place, name in ((os, "fsync"), (os, "mkdir"), (os, "open"), (Path, "rename")):
            monkeypatch.setattr(place, name, self._failing(getattr(place, name)))

    def _failing(self, function: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **options)

        return step


def test_full_disk_at_any_step_leaves_no_incomplete_file(
    embedded_client: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No entry of the file is acknowledged, and the next run exports each entry once."""
    export(embedded_client, to)
    disk = _Disk(monkeypatch)
    messages = set()
    for step in range(1, 100):
        add_events(embedded_client, "a", range(step * 10 - 9, step * 10 + 1))
        disk.left = step
        try:
            export(embedded_client, to)
        except (ArchiveError, OSError) as error:
            messages.add(str(error))
        else:
            break
        finally:
            disk.left = 0
        names = {path.name for path in (to / FOLDER).glob("*")} - {"manifest.json"}
        listed = manifest(to, FOLDER)["files"] if names else []
        assert names == {file["name"] for file in listed}
        missing = len(stored(embedded_client, STREAM)) - len(archived(to, FOLDER))
        assert unacknowledged(embedded_client, STREAM) >= missing
        export(embedded_client, to)
        assert archived(to, FOLDER) == stored(embedded_client, STREAM)
        assert unacknowledged(embedded_client, STREAM) == 0
    assert 5 < step < 99
    assert any("no space left on device; its entries" in item for item in messages)
    assert verify_archive(to).is_valid


def test_id_past_the_calendar_has_no_time() -> None:
    """An operator may append an entry with any id; the export continues."""
    row = ArchiveRow("18446744073709551615-7", ())

    assert row.time is None
    assert id_order("9-0") < id_order("10-0") < id_order(row.id)
