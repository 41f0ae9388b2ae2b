"""Exporting trails: every entry, once, as it is."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from keyleash.audit.export import Archiver, FileFormat, archive, locked_archive, run, verify_archive
from keyleash.audit.export import archive as manifest_module
from keyleash.audit.export.groups import ConsumerGroup
from keyleash.audit.export.rows import ArchiveRow, id_order
from keyleash.errors import ArchiveError
from support.archives import KEYS, add_events, archived, export, manifest, stored, unacknowledged
from support.errors import raises_code
from support.servers import RealServer

TRAIL = "audit/a"
STREAM = KEYS.audit("a")


@pytest.fixture
def client(server: RealServer) -> Any:
    return server.client()


@pytest.fixture
def one(embedded: RealServer) -> Any:
    """A client of the embedded server, for what has nothing to do with the server."""
    return embedded.client()


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def odd_entries(client: Any) -> None:
    """Names that repeat, bytes that are no text, and an entry that no guard wrote."""
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
    )
    client.execute_command("XADD", STREAM, "*", *batch, "before", "k1", "image", b"\x00\xfe\xff\n")
    client.xadd(STREAM, {"of": "1-0", "item": 2, "error": "WRONGTYPE é\x1b[2J"})
    client.xadd(STREAM, {b"\xff\xfe": b"", "policy": "p \u00b2", "op": "\u2028"})
    client.xadd(STREAM, {"seq": 2, "op": "SET", "key": '{"base64": "x"}'})


@pytest.mark.parametrize("file_format", FileFormat)
def test_entries_are_archived_with_all_their_bytes(
    client: Any, to: Path, file_format: FileFormat
) -> None:
    """In every format, what is read back is what the stream has: names, order, bytes."""
    odd_entries(client)

    export(client, to, file_format=file_format)

    assert archived(to, TRAIL) == stored(client, STREAM)
    assert len(archived(to, TRAIL)) == 4
    assert verify_archive(to).is_valid


def test_line_says_what_a_reader_asks_for(one: Any, to: Path) -> None:
    """Time, identity and commands with their keys, beside the fields as they are."""
    odd_entries(one)
    export(one, to)
    (file,) = (to / TRAIL).glob("*.jsonl")
    first, of, *_ = map(json.loads, file.read_text().splitlines())

    assert (first["trail"], first["identity"], first["seq"]) == ("audit", "a", 1)
    assert first["time"].endswith("Z")
    assert first["commands"] == [
        {"op": "SET", "keys": ["k1"]},
        {"op": "SET", "keys": [{"base64": "a/8="}]},
        {"op": "MSET", "keys": ["a", "b"]},
    ]
    assert first["fields"][-1] == ["image", {"base64": "AP7/Cg=="}]
    assert (of["commands"], of["seq"]) == ([], None)


def test_every_trail_has_a_folder(client: Any, to: Path) -> None:
    """Also that of an identity that left the policy, of operators, and the control stream."""
    add_events(client, "a", [1])
    client.xadd(KEYS.denied("a"), {"seq": 1, "code": "KEY_DENIED", "op": "SET"})
    client.xadd(KEYS.audit("@operators"), {"seq": 1, "op": "RESTORE", "key": "k"})
    client.xadd(KEYS.control, {"event": "activate", "actor": "ops"})

    export(client, to)

    for stream in ("audit/a", "denied/a", "audit/@operators", "control"):
        assert len(archived(to, stream)) == 1


def test_next_run_adds_only_what_is_new(client: Any, to: Path) -> None:
    """Where nothing came, nothing is written."""
    add_events(client, "a", range(1, 6))
    export(client, to)
    add_events(client, "a", range(6, 8))
    (second,) = (done for done in export(client, to) if done.stream == TRAIL)

    assert second.file is not None
    assert (second.file.count, second.file.first_seq, second.file.last_seq) == (2, 6, 7)
    assert archived(to, TRAIL) == stored(client, STREAM)
    assert [done for done in export(client, to) if done.stream == TRAIL] == []
    assert unacknowledged(client, STREAM) == 0


def test_files_are_bounded_and_chained(one: Any, to: Path) -> None:
    """Each file's chain can be computed with nothing but SHA-256."""
    add_events(one, "a", range(1, 26))
    export(one, to, max_entries=10)

    files = manifest(to, TRAIL)["files"]
    assert [file["count"] for file in files] == [10, 10, 5]
    chain = "0" * 64
    for file in files:
        content = (to / TRAIL / file["name"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        chain = hashlib.sha256((chain + file["sha256"]).encode()).hexdigest()
        assert file["chain"] == chain


def test_file_of_large_entries_is_bounded_by_their_bytes(
    one: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images make entries large; neither a reply nor a file grows without bound."""
    monkeypatch.setattr(run, "MAX_BYTES", 1_000_000)
    add_events(one, "a", range(1, 101), image=b"\xff" * 50_000)
    export(one, to)

    files = manifest(to, TRAIL)["files"]
    assert len(files) > 1
    assert archived(to, TRAIL) == stored(one, STREAM)
    assert verify_archive(to).is_valid


def test_full_manifest_is_closed_and_gone_on_from(
    one: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest does not grow without end, and none of it is forgotten."""
    monkeypatch.setattr(manifest_module, "FILES_PER_MANIFEST", 3)
    for number in range(1, 9):
        add_events(one, "a", [number])
        export(one, to)

    closed = sorted(path.name for path in (to / TRAIL).glob("manifest-*"))
    assert closed == ["manifest-00000003.json", "manifest-00000006.json"]
    report = verify_archive(to)
    assert report.is_valid
    assert [
        (stream.files, stream.entries) for stream in report.streams if stream.stream == TRAIL
    ] == [(8, 8)]
    (to / TRAIL / closed[0]).unlink()
    assert not verify_archive(to).is_valid


def test_run_is_recorded_in_the_control_stream_once(one: Any, to: Path) -> None:
    """An event for each run with news; an export of nothing but such events is none."""
    add_events(one, "a", [1, 2])
    for _ in range(3):
        export(one, to, actor="ops")
    add_events(one, "a", [3])
    export(one, to, actor="ops")

    first, second = (fields for _, fields in one.xrange(KEYS.control))
    assert (first[b"event"], first[b"actor"]) == (b"export", b"ops")
    said = json.loads(first[b"trails"])
    assert said == {
        TRAIL: {
            "after": "0-0",
            "to": archived(to, TRAIL)[1][0],
            "count": 2,
            "files": 1,
            "chain": manifest(to, TRAIL)["files"][0]["chain"],
        }
    }
    assert json.loads(second[b"trails"])[TRAIL]["after"] == said[TRAIL]["to"]
    assert json.loads(second[b"trails"])[TRAIL]["count"] == 1


def test_export_that_was_not_recorded_is_so_by_the_next_run(one: Any, to: Path) -> None:
    """A crash between the last file and the control event leaves no hole in the record."""
    add_events(one, "a", [1, 2])
    with locked_archive(to) as archive:
        running = Archiver(one, KEYS, archive).run()
        next(running)
        running.close()
    export(one, to)

    ((_, event),) = one.xrange(KEYS.control)
    assert json.loads(event[b"trails"])[TRAIL]["count"] == 2


def test_second_archiver_on_a_directory_is_refused(one: Any, to: Path) -> None:
    """Two that write one manifest would lose files of each other."""
    with (
        locked_archive(to),
        raises_code("archive-busy", match=rf"\(pid {os.getpid()}\) is at work"),
        locked_archive(to),
    ):
        pass


def test_second_archive_is_refused_until_it_takes_over(one: Any, to: Path, tmp_path: Path) -> None:
    """Two archives would have half of the trail each; the one that takes over has all there is."""
    add_events(one, "a", [1, 2])
    export(one, to)
    with raises_code("archive-taken", match=f"begun at `.*{to}`"):
        export(one, tmp_path / "other")
    add_events(one, "a", [3])
    assert [done.stream for done in export(one, to)][-1] == TRAIL

    export(one, tmp_path / "other", take_over=True)
    assert archived(tmp_path / "other", TRAIL) == stored(one, STREAM)
    with raises_code("archive-taken"):
        export(one, to)


def test_archiver_that_was_taken_over_stops(one: Any, to: Path, tmp_path: Path) -> None:
    """It must not take entries away from the archive that goes on."""
    add_events(one, "a", range(1, 31))
    with locked_archive(to) as archive:
        running = Archiver(one, KEYS, archive, max_entries=10).run()
        assert next(running).stream == TRAIL
        export(one, tmp_path / "other", take_over=True)
        with raises_code("archive-taken", match="took it over"):
            list(running)
    assert len(archived(tmp_path / "other", TRAIL)) == 30


def test_archive_of_another_server_is_refused(one: Any, to: Path) -> None:
    """Its ids would pass for those of this one, and new events for exported ones."""
    add_events(one, "a", [1, 2])
    export(one, to)
    one.flushall()
    add_events(one, "a", [1])

    with raises_code("archive-taken", match="is not the source of"):
        export(one, to)
    (done,) = export(one, to, take_over=True)
    assert [str(found.kind) for found in done.breaks] == ["anew"]
    assert len(archived(to, TRAIL)) == 3


def test_directory_with_other_files_is_refused(one: Any, to: Path) -> None:
    """Nothing of somebody else's is ever removed or listed."""
    to.mkdir()
    (to / "precious").write_text("x")

    with raises_code("archive", match="is not empty, and not an archive"):
        export(one, to)
    assert [path.name for path in to.iterdir()] == ["precious"]


def test_trimmed_events_are_a_gap_that_is_said(client: Any, to: Path) -> None:
    """`retain: N` trims by itself: an archiver that is too slow says which numbers are gone."""
    add_events(client, "a", range(1, 4))
    export(client, to)
    add_events(client, "a", range(4, 11))
    client.xtrim(STREAM, maxlen=2, approximate=False)
    (done,) = (done for done in export(client, to) if done.stream == TRAIL)

    (found,) = done.breaks
    assert (found.kind, found.before, found.seq) == ("gap", 3, 9)
    (finding,) = verify_archive(to).findings
    assert (finding.kind, finding.missing) == ("gap", (4, 8))


def test_entries_that_were_trimmed_while_pending_are_said(client: Any, to: Path) -> None:
    """Delivered, then a crash, then trimmed: they are lost, and count as that."""
    add_events(client, "a", range(1, 6))
    with locked_archive(to) as archive:
        group = ConsumerGroup(client, STREAM, archive.id, archive.place)
        assert group.create()
        group.next_page(3)
    client.xtrim(STREAM, maxlen=4, approximate=False)
    (done,) = export(client, to)

    assert done.lost == 1
    assert archived(to, TRAIL) == stored(client, STREAM)
    assert unacknowledged(client, STREAM) == 0


def test_file_that_a_crash_left_unlisted_is_kept(
    one: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole, and what it has may have been trimmed since."""
    export(one, to)
    with monkeypatch.context() as patched:
        patched.setattr(archive, "add_file", crash)
        add_events(one, "a", range(1, 6))
        with pytest.raises(KeyboardInterrupt):
            export(one, to)
    before = stored(one, STREAM)
    assert [(finding.kind, finding.stream) for finding in verify_archive(to).findings] == [
        ("extra", TRAIL)
    ]
    one.xtrim(STREAM, maxlen=0, approximate=False)
    add_events(one, "a", [6])
    done = [done for done in export(one, to) if done.stream == TRAIL]

    assert archived(to, TRAIL) == [*before, *stored(one, STREAM)]
    assert [(item.lost, item.breaks) for item in done] == [(0, ())]
    assert verify_archive(to).is_valid


def crash(*_arguments: Any) -> None:
    raise KeyboardInterrupt


def test_file_that_no_crash_can_have_left_is_refused(one: Any, to: Path) -> None:
    """A manifest that is older than its folder, or a file of somebody's: a person has to look."""
    add_events(one, "a", range(1, 31))
    export(one, to, max_entries=10)
    said = manifest(to, TRAIL)
    (to / TRAIL / "manifest.json").write_text(json.dumps({**said, "files": said["files"][:1]}))

    with raises_code("archive", match="cannot be left from a crash"):
        export(one, to)
    for file in said["files"][1:]:
        (to / TRAIL / file["name"]).unlink()
    with raises_code("archive", match="has 1 files, but 3 were recorded"):
        export(one, to)


def test_trail_that_was_trimmed_before_its_first_export_is_a_note(one: Any, to: Path) -> None:
    """The archive claims nothing of the time before it; so it is no finding for ever."""
    add_events(one, "a", range(5, 8))
    (done,) = export(one, to)

    assert [str(found.kind) for found in done.breaks] == ["begins"]
    report = verify_archive(to)
    assert report.is_valid
    assert "begins at seq 5" in report.streams[0].notes[0]


def test_page_without_room_is_not_asked_for(one: Any) -> None:
    """A page is never larger than what a file still takes, nor empty."""
    add_events(one, "a", range(1, 4))
    group = ConsumerGroup(one, STREAM, "x", "here")
    group.create()

    assert [len(group.next_page(room).rows) for room in (1, 5)] == [1, 2]
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


@pytest.mark.parametrize("file_format", FileFormat)
def test_full_disk_at_any_step_leaves_no_half_file(
    one: Any, to: Path, monkeypatch: pytest.MonkeyPatch, file_format: FileFormat
) -> None:
    """Nothing of the file is acknowledged, and the next run exports all of it, once."""
    export(one, to, file_format=file_format)
    disk = _Disk(monkeypatch)
    said = set()
    for step in range(1, 100):
        add_events(one, "a", range(step * 10 - 9, step * 10 + 1))
        disk.left = step
        try:
            export(one, to, file_format=file_format)
        except (ArchiveError, OSError) as error:
            said.add(str(error))
        else:
            break
        finally:
            disk.left = 0
        names = {path.name for path in (to / TRAIL).glob("*")} - {"manifest.json"}
        listed = manifest(to, TRAIL)["files"] if names else []
        assert names == {file["name"] for file in listed}
        missing = len(stored(one, STREAM)) - len(archived(to, TRAIL))
        assert unacknowledged(one, STREAM) >= missing
        export(one, to, file_format=file_format)
        assert archived(to, TRAIL) == stored(one, STREAM)
        assert unacknowledged(one, STREAM) == 0
    assert 5 < step < 99
    assert any("no space left on device; its entries" in item for item in said)
    assert verify_archive(to).is_valid


def test_missing_pyarrow_names_the_extra(
    one: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is delivered."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with raises_code("missing-extra", match="not installed") as caught:
        export(one, to, file_format=FileFormat.PARQUET)

    assert "keyleash[parquet]" in str(caught.value.help)


def test_parquet_has_columns_for_queries(one: Any, to: Path) -> None:
    """What an analyst filters by is a column, and keys are bytes."""
    import pyarrow.parquet

    odd_entries(one)
    export(one, to, file_format=FileFormat.PARQUET)
    (file,) = (to / TRAIL).glob("*.parquet")
    table = pyarrow.parquet.read_table(file)

    assert table.column_names == ["id", "time", "trail", "identity", "seq", "commands", "fields"]
    assert table["seq"].to_pylist() == [1, None, None, 2]
    assert table["commands"].to_pylist()[0][1] == {"op": "SET", "keys": [b"k\xff"]}


def test_id_past_all_calendars_has_no_time() -> None:
    """Somebody may give an id; the export goes on."""
    row = ArchiveRow("18446744073709551615-7", ())

    assert row.time is None
    assert id_order("9-0") < id_order("10-0") < id_order(row.id)
