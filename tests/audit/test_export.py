"""Export of audit streams: each entry once, with all its bytes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from keyleash.addons.export import run
from keyleash.addons.export.archive import locked_archive
from keyleash.addons.export.rows import ArchiveRow
from keyleash.addons.export.verify import verify_archive
from keyleash.audit.streams import id_order
from keyleash.errors import ArchiveError
from keyleash.store.exports import ExportRecord, claim_export
from keyleash.store.store import Store
from keyleash.store.streams import AuditStream
from support.archives import KEYS, add_events, archived, cursor, export, stored, unrecorded
from support.errors import raises_code
from support.servers import RealServer
from support.streams import packed_keys

FOLDER = "audit/a"
STREAM = KEYS.audit("a")
DAY_MS = 86_400_000


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

    assert (first["format"], first["chain"]) == (3, "0" * 64)
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
    """They are appended to the file of the day; without new entries, nothing is written."""
    add_events(client, "a", range(1, 6))
    export(client, to)
    add_events(client, "a", range(6, 8))
    (second,) = export(client, to)

    assert (second.stream, second.count) == (FOLDER, 2)
    assert second.file in {path.name for path in (to / FOLDER).iterdir()}
    assert archived(to, FOLDER) == stored(client, STREAM)
    assert export(client, to) == []
    assert unrecorded(client, FOLDER, STREAM) == 0


def test_each_day_has_a_file_and_the_chain_goes_over_all(embedded_client: Any, to: Path) -> None:
    """Each line has the SHA-256 of the line before it, which can be recomputed by other means."""
    embedded_client.hset(KEYS.layouts, "a", "{}")
    for number, time_ms in enumerate((DAY_MS - 1, DAY_MS, DAY_MS, 4 * DAY_MS), 1):
        embedded_client.xadd(STREAM, {"seq": number, "SET": "k"}, id=f"{time_ms}-{number}")
    done = export(embedded_client, to)

    assert [(item.file, item.count) for item in done] == [
        ("1970-01-01.jsonl", 1),
        ("1970-01-02.jsonl", 2),
        ("1970-01-05.jsonl", 1),
    ]
    chain = "0" * 64
    for item in done:
        for line in (to / FOLDER / item.file).read_bytes().splitlines(keepends=True):
            assert json.loads(line)["chain"] == chain
            chain = hashlib.sha256(line).hexdigest()
        assert item.chain == chain
    assert cursor(to, FOLDER).chain == chain


def test_entries_written_at_once_are_bounded(
    embedded_client: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their number, and by their bytes, since before-images make entries large."""
    add_events(embedded_client, "a", range(1, 26))
    assert [item.count for item in export(embedded_client, to, max_entries=10)] == [10, 10, 5]
    monkeypatch.setattr(run, "MAX_BYTES", 1_000_000)
    add_events(embedded_client, "a", range(26, 126), image=b"\xff" * 50_000)
    done = export(embedded_client, to)

    assert [item.count for item in done] == [19] * 5 + [5]
    assert archived(to, FOLDER) == stored(embedded_client, STREAM)
    assert verify_archive(to).is_valid


def test_what_a_crash_left_after_the_cursor_is_written_again(
    embedded_client: Any, to: Path
) -> None:
    """Part of a line, whole lines and files of later days; `verify` notes them."""
    add_events(embedded_client, "a", range(1, 4))
    (done,) = export(embedded_client, to)
    with (to / FOLDER / done.file).open("ab") as file:
        file.write(b'{"format":3,"chain":"')
    (to / FOLDER / "9999-01-01.jsonl").write_text("{}\n")
    report = verify_archive(to)
    assert report.is_valid
    assert len(report.streams[0].notes) == 2

    add_events(embedded_client, "a", [4])
    export(embedded_client, to)

    assert archived(to, FOLDER) == stored(embedded_client, STREAM)
    assert not (to / FOLDER / "9999-01-01.jsonl").exists()
    assert verify_archive(to).streams[0].notes == ()


def test_second_archiver_on_a_directory_is_an_error(embedded_client: Any, to: Path) -> None:
    """Two writers of one file would mix their lines."""
    with (
        locked_archive(to),
        raises_code("archive-busy", match=rf"\(pid {os.getpid()}\) is at work"),
        locked_archive(to),
    ):
        pass


def test_second_archive_needs_the_record_of_the_first_removed(
    embedded_client: Any, to: Path, tmp_path: Path
) -> None:
    """Each would trim entries that the other lacks."""
    add_events(embedded_client, "a", [1, 2])
    export(embedded_client, to)
    with raises_code("archive-taken", match=f"begun at `.*{to}`") as caught:
        export(embedded_client, tmp_path / "other")
    assert str(caught.value.help).endswith(f"`DEL {KEYS.exported}`")
    add_events(embedded_client, "a", [3])
    assert [done.stream for done in export(embedded_client, to)] == [FOLDER]

    embedded_client.delete(KEYS.exported)
    export(embedded_client, tmp_path / "other")
    assert archived(tmp_path / "other", FOLDER) == stored(embedded_client, STREAM)
    with raises_code("archive-taken"):
        export(embedded_client, to)


def test_archives_that_begin_at_once_do_not_share_a_stream(
    embedded_client: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server records only the first."""
    add_events(embedded_client, "a", [1])

    def claim_second(store: Store, stream: AuditStream, record: ExportRecord) -> bool:
        claim_export(store, stream, ExportRecord("first", "host:/first"))
        return claim_export(store, stream, record)

    monkeypatch.setattr(run, "claim_export", claim_second)
    with raises_code("archive-taken", match="begun at `host:/first`"):
        export(embedded_client, to)
    assert archived(to, FOLDER) == []


def test_archive_of_another_server_is_an_error(embedded_client: Any, to: Path) -> None:
    """New events could otherwise count as exported, because their ids are older."""
    add_events(embedded_client, "a", [1, 2])
    export(embedded_client, to)
    embedded_client.flushall()
    add_events(embedded_client, "a", [1])

    with raises_code("archive-taken", match="is not the source of"):
        export(embedded_client, to)
    assert len(archived(to, FOLDER)) == 2


def lose(client: Any, ids: list[str], record: bytes) -> None:
    """Make the server forget entries and the newest record, as a failover may."""
    client.xdel(STREAM, *ids)
    client.hset(KEYS.exported, FOLDER, record)


def test_export_continues_after_the_server_lost_entries(embedded_client: Any, to: Path) -> None:
    """The archive keeps them, and the repeated numbers are reported."""
    add_events(embedded_client, "a", range(1, 4))
    export(embedded_client, to)
    record = embedded_client.hget(KEYS.exported, FOLDER)
    add_events(embedded_client, "a", range(4, 7))
    export(embedded_client, to)
    ids = [entry_id for entry_id, _ in archived(to, FOLDER)]
    lose(embedded_client, ids[4:], record)

    assert export(embedded_client, to) == []
    # The server may still get entries with ids before the last one of the archive.
    assert json.loads(embedded_client.hget(KEYS.exported, FOLDER))["id"] == ids[3]
    add_events(embedded_client, "a", range(5, 8))
    (done,) = export(embedded_client, to)

    assert [str(found.kind) for found in done.breaks] == ["back"]
    assert [entry_id for entry_id, _ in archived(to, FOLDER)][:6] == ids
    assert unrecorded(embedded_client, FOLDER, STREAM) == 0


def test_entry_that_the_archive_lacks_is_an_error_even_if_it_is_older(
    embedded_client: Any, to: Path
) -> None:
    """Clocks differ: after a failover an entry may have an id before exported ones."""
    add_events(embedded_client, "a", range(1, 4))
    export(embedded_client, to)
    record = embedded_client.hget(KEYS.exported, FOLDER)
    add_events(embedded_client, "a", [4])
    export(embedded_client, to)
    lose(embedded_client, [archived(to, FOLDER)[3][0]], record)
    last = json.loads((to / FOLDER / "cursor.json").read_text())
    (to / FOLDER / "cursor.json").write_text(
        json.dumps({**last, "id": "253402300799999-0", "file": "9999-12-31.jsonl"})
    )
    add_events(embedded_client, "a", [4])

    with raises_code("archive", match="lacks the entry"):
        export(embedded_client, to)
    assert embedded_client.hget(KEYS.exported, FOLDER) == record


def test_folder_from_a_backup_is_an_error(embedded_client: Any, to: Path) -> None:
    """The server records what it lacks; nothing in it is changed."""
    add_events(embedded_client, "a", range(1, 4))
    (done,) = export(embedded_client, to)
    shutil.copytree(to / FOLDER, to.parent / "backup")
    add_events(embedded_client, "a", range(4, 7))
    export(embedded_client, to)
    newest = to.parent / "newest"
    (to / FOLDER).rename(newest)
    (to.parent / "backup").rename(to / FOLDER)

    with raises_code("archive", match="does not have what was exported to it, up to"):
        export(embedded_client, to)
    shutil.rmtree(to / FOLDER)
    newest.rename(to / FOLDER)
    assert export(embedded_client, to) == []
    path = to / FOLDER / done.file
    path.write_bytes(path.read_bytes()[:-1])
    add_events(embedded_client, "a", [7])
    with raises_code("archive", match="bytes, and had"):
        export(embedded_client, to)


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
    (done,) = export(client, to)

    (found,) = done.breaks
    assert (found.kind, found.before, found.seq) == ("gap", 3, 9)
    (finding,) = verify_archive(to).findings
    assert (finding.kind, finding.missing) == ("gap", (4, 8))


def test_stream_trimmed_before_its_first_export_is_a_note(embedded_client: Any, to: Path) -> None:
    """The archive does not cover the time before it, so this is not a finding."""
    add_events(embedded_client, "a", range(5, 8))
    (done,) = export(embedded_client, to)

    assert [str(found.kind) for found in done.breaks] == ["begins"]
    report = verify_archive(to)
    assert report.is_valid
    assert "begins at seq 5" in report.streams[0].notes[0]


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


def test_full_disk_at_any_step_loses_nothing(
    embedded_client: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only written entries are recorded, and the next run exports each entry once."""
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
        assert verify_archive(to).is_valid
        missing = len(stored(embedded_client, STREAM)) - len(archived(to, FOLDER))
        assert unrecorded(embedded_client, FOLDER, STREAM) >= missing
        export(embedded_client, to)
        assert archived(to, FOLDER) == stored(embedded_client, STREAM)
        assert unrecorded(embedded_client, FOLDER, STREAM) == 0
    assert 5 < step < 99
    assert any("no space left on device; its entries" in item for item in messages)
    assert verify_archive(to).is_valid


def test_id_past_the_calendar_has_no_time() -> None:
    """An operator may append an entry with any id; the export continues."""
    row = ArchiveRow("18446744073709551615-7", ())

    assert row.time is None
    assert id_order("9-0") < id_order("10-0") < id_order(row.id)
