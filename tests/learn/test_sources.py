"""Recorded calls: the same calls from the server, from an archive and from MONITOR."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import keyleash
from keyleash.addons.learn.calls import CallLog, RecordedCall
from keyleash.addons.learn.sources import open_log
from keyleash.errors import ArgumentError
from keyleash.store.store import Store
from support.errors import raises_code
from support.servers import RealServer

POLICY = """\
version: 1
identities:
  worker:
    kind: machine
    grants:
      - {allow: [read, write, delete, scan, publish, subscribe], keys: ["*"], channels: ["*"]}
    audit: {reads: true}
  quiet:
    kind: machine
    grants: [{allow: [read, write], keys: ["*"]}]
"""


def log_of(server: RealServer | None, *names: str, **options: Any) -> CallLog:
    """Return a log of a server, or of files."""

    def store() -> Store:
        assert server is not None
        return Store(server.client())

    return open_log(store, names, options)


def shown(call: RecordedCall) -> tuple[Any, ...]:
    classes = ["".join(cls[0] for cls in use.needs) for use in call.uses()]
    return call.command, call.keys, classes, call.is_variant


def agent(server: RealServer, name: str) -> keyleash.Redis:
    token = keyleash.Operator(server.client()).tokens.issue(name)
    return keyleash.Redis.from_url(server.url, token=token.token)


def run_calls(client: Any) -> None:
    client.set("a:1", "x")
    client.set("a:1", "y", get=True)
    client.copy("a:1", "b:1")
    client.mset({"m:1": 1, "m:2": 2})
    client.get("a:1")
    list(client.scan(0, match="a:*"))
    client.publish("events:1", "x")
    client.xgroup_create("s", "g", mkstream=True)
    with client.pipeline() as pipe:
        pipe.set("a:2", "x").get("a:2").execute()


EXPECTED = [
    ("SET", (b"a:1",), ["w"], False),
    ("SET", (b"a:1",), ["rw"], True),
    ("COPY", (b"a:1", b"b:1"), ["r", "w"], False),
    ("MSET", (b"m:1", b"m:2"), ["w", "w"], False),
    ("GET", (b"a:1",), ["r"], False),
    ("SCAN", (b"a:*",), [], False),
    ("PUBLISH", (b"events:1",), [], False),
    ("XGROUP CREATE", (b"s",), ["w"], False),
    ("SET", (b"a:2",), ["w"], False),
    ("GET", (b"a:2",), ["r"], False),
]


def test_calls_of_a_guard_are_read_from_server_and_archive(
    server: RealServer, tmp_path: Path
) -> None:
    """Both sources yield the same commands, keys, classes and denials."""
    operator = keyleash.Operator(server.client())
    operator.load(keyleash.Policy(POLICY))
    run_calls(agent(server, "worker"))
    with pytest.raises(keyleash.CommandRefusedError):
        agent(server, "worker").execute_command("FLUSHALL")
    operator.audit.export(tmp_path / "archive")

    of_server = log_of(server, "worker")
    of_archive = log_of(None, "worker", archive=tmp_path / "archive")

    calls = list(of_server)
    assert [shown(call) for call in calls if not call.code] == EXPECTED
    assert list(of_archive) == calls
    assert calls[-1].code == "COMMAND_REFUSED"
    assert of_server.coverage["worker"].calls == len(EXPECTED)
    assert of_server.coverage["worker"].reads_since_ms is not None
    assert of_archive.coverage["worker"].reads_since_ms == calls[4].time_ms


def test_a_capture_of_monitor_has_the_same_calls(server: RealServer, tmp_path: Path) -> None:
    """A name that a client gives itself becomes the identity."""
    lines: list[str] = []
    with server.client().monitor() as monitor:
        run_calls(server.client(client_name="Worker@7"))
        while not lines or '"EXEC"' not in lines[-1]:
            lines.append(monitor.connection.read_response().decode("latin-1") + "\n")
    file = tmp_path / "monitor.txt"
    file.write_text("".join(lines), "latin-1")

    log = log_of(None, monitor=file)

    assert [shown(call) for call in log] == EXPECTED
    assert set(log.coverage) == {"worker-7"}
    assert log.not_understood.count == 0


def test_lines_that_are_not_understood_are_located_and_the_rest_is_used(tmp_path: Path) -> None:
    """Another version, a cut line and text are counted; binary keys and scripts are read."""
    file = tmp_path / "monitor.txt"
    digest = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
    file.write_text(
        '1339518083.107412 "keys" "*"\n'
        '1700000000.000001 [0 10.0.0.5:5000] "set" "bin\\xff\\"" "1"\n'
        '1700000001.000000 [0 [::1]:5001] "CLIENT" "SETNAME" "714aca3a644c40eabc81dcb0bb8f11f1"\n'
        '1700000001.000000 [0 [::1]:5001] "SCRIPT" "LOAD" "return 1"\n'
        f'1700000001.000001 [0 [::1]:5001] "evalsha" "{digest}" "1" "k" "x"\n'
        '1700000001.000002 [0 lua] "get" "k"\n'
        "hello\n"
        '1700000002.000001 [0 10.0.0.5:5000] "SORT" "l" "BY" "nosort" "STORE" "d"\n'
        '1700000002.000001 [0 10.0.0.5:5000] "COPY" "a" "b" "DB" "2"\n'
        '1700000003.000001 [0 10.0.0.5:5000] "SET" "cut'
    )

    log = log_of(None, monitor=file)
    calls = list(log)

    assert [(call.identity, call.command, call.keys, call.script) for call in calls] == [
        ("client-10-0-0-5", "SET", (b'bin\xff"',), ""),
        ("client-0-1", "EVALSHA", (b"k",), digest),
        ("client-0-1", "GET", (b"k",), digest),
        ("client-10-0-0-5", "SORT", (b"l", b"d"), ""),
    ]
    assert log.not_understood.count == 4
    assert log.not_understood.examples[0] == "line 1: not a complete line of MONITOR"
    assert "line 9: " in log.not_understood.examples[1]
    # A random name is no identity.
    assert log.scripts == {"e0e1f9fabfc9d4800c877a703b823ac0578ff8db": "return 1"}


def test_endless_and_overlong_files_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device is an error, and a line without an end is left out as a whole."""
    monkeypatch.setattr("keyleash.addons.learn.monitor.MAX_LINE_BYTES", 200)
    file = tmp_path / "monitor.txt"
    line = '1700000000.000000 [0 10.0.0.9:7] "SET" "a" "{}"'
    file.write_text("\n".join(line.format("x" * size) for size in (1, 1000, 150, 200, 1)))

    log = log_of(None, monitor=file)

    assert [call.argv and len(call.argv[2]) for call in log] == [1, 150, 1]
    assert (log.not_understood.count, log.not_understood.examples) == (
        2, ["line 2: not a complete line of MONITOR"],
    )  # fmt: skip
    with raises_code("file") as raised:
        log_of(None, monitor="/dev/zero")
    assert "cannot read `/dev/zero`: it is not a regular file" in str(raised.value)


def test_a_log_says_from_when_it_speaks(embedded: RealServer) -> None:
    """Reads count from the policy that records them; a trimmed stream begins at its first entry."""
    operator = keyleash.Operator(embedded.client())
    operator.load(keyleash.Policy(POLICY))
    client = agent(embedded, "quiet")
    for _ in range(10):
        client.set("k", "x")
    admin: Any = embedded.client()
    stream = "keyleash:audit:quiet"
    admin.xtrim(stream, maxlen=5, approximate=False)
    admin.xdel(stream, admin.xrange(stream)[2][0])

    log = log_of(embedded)
    calls = list(log)

    quiet, worker = log.coverage["quiet"], log.coverage["worker"]
    # The second one follows what is missing.
    assert quiet.since_ms == calls[2].time_ms
    assert quiet.begun_ms == calls[0].time_ms
    assert quiet.reads_since_ms is None
    assert worker.since_ms == worker.reads_since_ms
    assert worker.calls == 0
    assert ["trimmed" in quiet.holes[0], "seq 8 is missing" in quiet.holes[1]] == [True, True]


def test_an_archive_with_a_hole_speaks_from_after_it(server: RealServer, tmp_path: Path) -> None:
    """Rows that cannot be read are counted, and located, and all others are used."""
    operator = keyleash.Operator(server.client())
    operator.load(keyleash.Policy(POLICY))
    client = agent(server, "worker")
    for number in range(10):
        client.set(f"k:{number}", "x")
        client.get(f"k:{number}")
    with pytest.raises(keyleash.CommandRefusedError):
        client.execute_command("FLUSHALL")
    operator.audit.export(tmp_path / "archive")
    rows: dict[Path, list[str]] = {}
    for kind in ("audit", "denied"):
        (file,) = (tmp_path / "archive" / kind / "worker").glob("*.jsonl")
        lines = file.read_text().splitlines(keepends=True)
        rows[file] = [
            re.sub(r'(?<="id":")[^"]*', f"{number}000-0", line)
            for number, line in enumerate(lines, 1)
        ]
        file.write_text("".join(rows[file]))
    whole = [call for call in log_of(None, archive=tmp_path / "archive") if not call.code]
    for file, lines in rows.items():
        lines[4:7] = [
            "{\n",
            '{"id": "x", "fields": [["a", "b"]]}\n',
            '{"id": "1-1", "fields": []}\n',
        ]
        file.write_text("".join([*lines[:11], "\n", *lines[12:]]))
        cursor = file.with_name("cursor.json")
        offset = {"offset": file.stat().st_size}
        cursor.write_text(json.dumps({**json.loads(cursor.read_text()), **offset}))

    # Without it, it is not known which policies recorded reads.
    shutil.rmtree(tmp_path / "archive" / "control")
    log = log_of(None, archive=tmp_path / "archive")
    calls = [call for call in log if not call.code]

    coverage = log.coverage["worker"]
    assert log.gaps_ms == {"worker": 4000}
    assert calls == [*whole[:4], *whole[7:11], *whole[12:]]
    assert coverage.denied == 1
    assert log.not_understood.count == 4 + 4
    assert log.not_understood.examples[0].endswith(".jsonl, line 2: not an entry")
    assert [hole for hole in coverage.holes if "missing" in hole] == [
        "events of worker: seq 5 to 7 are missing, before 8000-0",
        "events of worker: seq 12 is missing, before 13000-0",
    ]
    assert coverage.since_ms == coverage.reads_since_ms == 13_000
    assert coverage.begun_ms == 1_000
    assert coverage.is_cut
    late = log_of(None, archive=tmp_path / "archive", since=datetime.fromtimestamp(6, UTC))
    assert [call for call in late if not call.code] == calls[4:]
    assert "seq 5 to 7 are missing" in str(late.coverage["worker"].holes)


def test_a_hole_at_the_beginning_of_the_range_is_found(embedded: RealServer) -> None:
    """The entry before the range has the number that its first one follows."""
    client: Any = embedded.client()
    keyleash.Operator(client).load(keyleash.Policy(POLICY))
    for number, days in ((1, 40), (9, 10)):
        entry = {"seq": number, "token": "t", "SET": "k"}
        time_ms = Store(client).now_ms() - days * 86_400_000
        client.xadd("keyleash:audit:quiet", entry, id=f"{time_ms}-0")

    log = log_of(embedded, "quiet", since="30d")

    assert len([*log]) == 1
    assert "seq 2 to 8 are missing" in log.coverage["quiet"].holes[0]


def test_a_capture_speaks_from_its_earliest_call(tmp_path: Path) -> None:
    """The clock of a server may be set back."""
    file = tmp_path / "monitor.txt"
    file.write_text("".join(f'{time}.000001 [0 10.0.0.5:1] "GET" "k"\n' for time in (20, 10, 30)))

    log = log_of(None, monitor=file)

    assert len([*log]) == 3
    coverage = log.coverage["client-10-0-0-5"]
    assert (coverage.since_ms, coverage.reads_since_ms) == (10_000, 10_000)
    assert coverage.until_ms == 30_000


def test_an_archive_without_its_last_or_first_entries_says_so(
    embedded: RealServer, tmp_path: Path
) -> None:
    """Its cursors count them."""
    operator = keyleash.Operator(embedded.client())
    operator.load(keyleash.Policy(POLICY))
    client = agent(embedded, "worker")
    for number in range(6):
        client.set(f"k:{number}", "x")
    operator.audit.export(tmp_path)
    (file,) = (tmp_path / "audit" / "worker").glob("*.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    for kept, lost in ((lines, []), (lines[:-2], ["audit/worker"]), (lines[2:], ["audit/worker"])):
        file.write_text("".join(kept))
        log = log_of(None, archive=tmp_path)

        assert len([*log]) == len(kept)
        places = [example.partition(":")[0] for example in log.not_understood.examples]
        assert places == lost
    assert log_of(None, archive=tmp_path, since="1h").not_understood.count == 0
    shutil.rmtree(file.parent)
    log = log_of(None, archive=tmp_path)
    assert [*log] == []
    assert log.not_understood.examples[0].startswith("audit/worker: cannot read")


def test_two_sources_are_an_error(tmp_path: Path) -> None:
    """A capture has no time range, and is no archive."""
    with pytest.raises(ArgumentError, match="`monitor` and `since` exclude each other"):
        log_of(None, monitor=tmp_path / "x", since="1d")
    with raises_code("file"):
        log_of(None, monitor=tmp_path / "x")
