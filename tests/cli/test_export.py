"""`keyleash audit export` and `audit verify`."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.archives import KEYS, add_events, archived, stored, unrecorded
from support.command_line import Cli
from support.replication import PATIENCE_S
from support.servers import RealServer

RUNNER = "agent-runner"
TRAIL = f"audit/{RUNNER}"
RETAINED = f"""
version: 1
identities:
  {RUNNER}:
    kind: machine
    grants: [{{allow: [write], keys: ["k:*"]}}]
    audit: {{retain: {{until: exported, hard_max: 40}}}}
"""


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


def test_second_archive_is_denied_and_stays_empty(loaded: Cli, to: Path, tmp_path: Path) -> None:
    """The message has the place of the first one."""
    loaded.ok("audit", "export", "--to", to)
    denied = loaded.run("audit", "export", "--to", tmp_path / "second")
    result = loaded.run("audit", "verify", tmp_path / "second")

    assert (denied.exit_code, result.exit_code) == (1, 0)
    assert f":{to}`\nhelp: export to that archive" in denied.stderr
    assert "nothing was exported to it yet" in result.stderr


def test_export_of_one_identity_does_not_export_others(loaded: Cli, admin: Any, to: Path) -> None:
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
    """Entries that were read are written, and the server has the record."""
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
    assert errors.endswith("stopped: the server has the record of what was exported\n")
    assert archived(to, TRAIL) == stored(admin, KEYS.audit(RUNNER))
    assert unrecorded(admin, TRAIL, KEYS.audit(RUNNER)) == 0


def test_follow_exports_at_once_when_a_quarter_of_hard_max_waits(
    loaded: Cli, admin: Any, to: Path, tmp_path: Path
) -> None:
    """The interval does not stop an agent."""
    policy = tmp_path / "retained.yaml"
    policy.write_text(RETAINED)
    loaded.ok("load", policy, "--yes", "--allow-removal", "--allow-widening")
    words = ("--json", "audit", "export", "--to", to, "--follow", "--every", "1d")
    with loaded.spawn(words) as following:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        add_events(admin, RUNNER, range(1, 11))
        second = json.loads(following.stdout.readline())
        following.terminate()
        following.communicate(timeout=PATIENCE_S)

    assert (first["stream"], second["stream"], second["count"]) == ("control", TRAIL, 10)
    assert stored(admin, KEYS.audit(RUNNER)) == []


def test_full_disk_exits_with_1_and_the_next_run_continues(
    loaded: Cli, admin: Any, to: Path
) -> None:
    """A file-size limit of 20 kB simulates a full disk."""
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
    assert unrecorded(admin, TRAIL, KEYS.audit(RUNNER)) == 500
    loaded.ok("audit", "export", "--to", to)
    assert archived(to, TRAIL) == stored(admin, KEYS.audit(RUNNER))
    assert loaded.run("audit", "verify", to).exit_code == 0
