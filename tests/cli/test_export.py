"""`keyleash audit export` and `audit verify`."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.archives import KEYS, add_events, archived, stored, unacknowledged
from support.command_line import Cli
from support.replication import PATIENCE_S
from support.servers import RealServer

RUNNER = "agent-runner"
TRAIL = f"audit/{RUNNER}"


@pytest.fixture
def admin(embedded: RealServer) -> Any:
    return embedded.client()


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def test_export_prints_files_and_verify_prints_streams(loaded: Cli, admin: Any, to: Path) -> None:
    """A second run has nothing to export."""
    add_events(admin, RUNNER, range(1, 4))

    lines = loaded.ok("audit", "export", "--to", to).splitlines()
    assert lines[0].split() == ["file", "entries", "to"]
    assert [line.split()[1] for line in lines if TRAIL in line] == ["3"]
    loaded.ok("audit", "export", "--to", to)
    assert loaded.run("audit", "export", "--to", to).stderr == "there is nothing new\n"

    result = loaded.run("audit", "verify", to)
    assert result.exit_code == 0
    assert result.stderr == "the archive is valid\n"
    assert [line.split()[:4] for line in result.stdout.splitlines() if TRAIL in line] == [
        [TRAIL, "1", "3", "ok"]
    ]


def test_export_and_verify_as_json_have_ids_hashes_and_breaks(
    loaded: Cli, admin: Any, to: Path
) -> None:
    """Scripts get names, ids, hashes, and breaks as numbers."""
    add_events(admin, RUNNER, range(5, 8))

    exported = loaded.json("audit", "export", "--to", to)["exported"]
    (runner,) = (item for item in exported if item["stream"] == TRAIL)
    assert (runner["count"], runner["last"]) == (3, stored(admin, KEYS.audit(RUNNER))[-1][0])
    assert [(found["kind"], found["seq"]) for found in runner["breaks"]] == [("begins", 5)]

    report = loaded.json("audit", "verify", to)
    (stream,) = (stream for stream in report["streams"] if stream["stream"] == TRAIL)
    assert (report["valid"], report["findings"]) == (True, [])
    assert stream["chain"] == runner["chain"]


def test_verify_of_a_damaged_archive_exits_with_1(loaded: Cli, admin: Any, to: Path) -> None:
    """The output names the file and the failed check."""
    add_events(admin, RUNNER, [1, 2, 5])
    result = loaded.run("audit", "export", "--to", to)
    assert f"warning: `{TRAIL}`: seq 3 to 4 are missing, before " in result.stderr
    (file,) = (to / "control").glob("*.jsonl")
    file.unlink()

    result = loaded.run("audit", "verify", to)
    assert result.exit_code == 1
    assert "seq 3 to 4 are missing" in result.stderr
    assert f"missing: `control/{file.name}`" in result.stderr
    assert result.stderr.endswith("2 findings\n")
    found = loaded.json("audit", "verify", to, exit_code=1)["findings"]
    assert [item["missing"] for item in found if item["kind"] == "gap"] == [[3, 4]]


def test_verify_needs_no_server(loaded: Cli, offline: Cli, to: Path) -> None:
    """It may run where the archive is."""
    loaded.ok("audit", "export", "--to", to)

    assert offline.run("audit", "verify", to).exit_code == 0
    result = offline.run("audit", "verify", to.parent)
    assert result.exit_code == 1
    assert "is not an archive" in result.stderr


def test_verify_of_an_archive_without_files_notes_it(loaded: Cli, to: Path, tmp_path: Path) -> None:
    """An archive whose export was denied is valid but empty."""
    loaded.ok("audit", "export", "--to", to)
    denied = loaded.run("audit", "export", "--to", tmp_path / "second")
    result = loaded.run("audit", "verify", tmp_path / "second")

    assert (denied.exit_code, result.exit_code) == (1, 0)
    assert "nothing was exported to it yet" in result.stderr


def test_export_of_one_identity_does_not_acknowledge_others(
    loaded: Cli, admin: Any, to: Path
) -> None:
    """A run without the option exports them."""
    add_events(admin, RUNNER, [1])
    add_events(admin, "human-admin", [1])
    loaded.ok("audit", "export", "--to", to, "--identity", RUNNER)

    assert [path.name for path in (to / "audit").iterdir()] == [RUNNER]
    assert not (to / "control").exists()
    assert loaded.run("audit", "export", "--to", to, "--identity", "unknown").exit_code == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_follow_exports_new_entries_until_a_signal(
    loaded: Cli, admin: Any, to: Path, number: signal.Signals
) -> None:
    """The open file is finished, and all its entries are acknowledged."""
    add_events(admin, RUNNER, range(1, 11))
    words = ("--json", "audit", "export", "--to", to, "--follow", "--every", "1s")
    with loaded.spawn(words) as following:
        assert following.stdout is not None
        exported = 0
        add_events(admin, RUNNER, range(11, 21))
        while exported < 30:
            item = json.loads(following.stdout.readline())
            exported += item["count"] if item["stream"] == TRAIL else 0
            if exported == 20:
                add_events(admin, RUNNER, range(21, 31))
        following.send_signal(number)
        _, errors = following.communicate(timeout=PATIENCE_S)

    assert following.returncode == 0
    assert errors.endswith("stopped: what was exported is acknowledged\n")
    assert archived(to, TRAIL) == stored(admin, KEYS.audit(RUNNER))
    assert unacknowledged(admin, KEYS.audit(RUNNER)) == 0
    assert admin.xrevrange(KEYS.control, count=1)[0][1][b"event"] == b"export"


def test_follow_with_a_full_file_waiting_exports_at_once(loaded: Cli, admin: Any, to: Path) -> None:
    """The interval does not delay a whole file."""
    add_events(admin, RUNNER, [1])
    words = ("--json", "audit", "export", "--to", to, "--follow", "--every", "1d")
    with loaded.spawn(words) as following:
        assert following.stdout is not None
        files = [json.loads(following.stdout.readline()) for _ in range(2)]
        for start in range(2, 20_002, 1000):
            add_events(admin, RUNNER, range(start, start + 1000))
        files.append(json.loads(following.stdout.readline()))
        following.terminate()
        following.communicate(timeout=PATIENCE_S)

    assert [file["stream"] for file in files] == ["control", TRAIL, TRAIL]
    assert files[-1]["count"] == 20_000


def test_full_disk_exits_with_1_and_the_next_run_continues(
    loaded: Cli, admin: Any, to: Path
) -> None:
    """A file-size limit of 20 kB simulates a full disk; no file is partial."""
    add_events(admin, RUNNER, range(1, 501))
    words = [*loaded.command, "audit", "export", "--to", str(to)]

    done = subprocess.run(
        words,
        env=loaded.process_env(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )

    assert done.returncode == 1
    assert f"error: cannot write in `{to / TRAIL}`: file too large; its entries" in done.stderr
    assert "help: free some space" in done.stderr
    assert list((to / TRAIL).iterdir()) == []
    assert unacknowledged(admin, KEYS.audit(RUNNER)) == 500
    loaded.ok("audit", "export", "--to", to)
    assert archived(to, TRAIL) == stored(admin, KEYS.audit(RUNNER))
    assert loaded.run("audit", "verify", to).exit_code == 0


def test_second_export_to_a_locked_directory_fails(loaded: Cli, to: Path) -> None:
    """The first one follows, and holds the lock."""
    with loaded.spawn(("audit", "export", "--to", to, "--follow")) as following:
        assert following.stdout is not None
        assert following.stdout.readline().startswith("control/")
        result = loaded.run("audit", "export", "--to", to)
        following.terminate()
        following.communicate(timeout=PATIENCE_S)

    assert result.exit_code == 1
    assert f"another archiver (pid {following.pid}) is at work" in result.stderr


def test_directory_that_cannot_be_created_is_an_error(loaded: Cli, tmp_path: Path) -> None:
    """The message has no traceback."""
    (tmp_path / "file").touch()
    result = loaded.run("audit", "export", "--to", tmp_path / "file" / "archive")

    assert result.exit_code == 1
    assert result.stderr.startswith("error: cannot use `")


def test_export_without_a_directory_is_a_usage_error(loaded: Cli) -> None:
    """There is no default directory."""
    assert loaded.run("audit", "export").exit_code == 2
    assert loaded.run("audit", "export", "--to", "x", "--format", "csv").exit_code == 2
