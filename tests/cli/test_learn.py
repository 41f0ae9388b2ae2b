"""`keyleash learn`: files and captures."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import keyleash
from support.command_line import Cli
from support.servers import RealServer

POLICY = """\
version: 1
identities:
  worker:
    kind: machine
    grants: [{allow: [read, write, delete], keys: ["*"]}]
    audit: {reads: true}
"""


@pytest.fixture
def cli(embedded: RealServer, tmp_path: Path) -> Cli:
    """The command, with a log of one identity."""
    cli = Cli(embedded.url)
    (tmp_path / "broad.yaml").write_text(POLICY)
    cli.ok("load", tmp_path / "broad.yaml", "--yes")
    client = keyleash.Redis.from_url(embedded.url, token=cli.token("worker"))
    for number in range(20):
        for key in (f"jobs:{number}", "tmp:a", f"other:{number % 2}"):
            client.set(key, "x")
    return cli


def test_learn_writes_policy_and_tests_that_pass(cli: Cli, tmp_path: Path) -> None:
    """Without a terminal nothing is asked; existing files are not overwritten."""
    learned = tmp_path / "learned.yaml"

    output = cli.ok("learn", "worker", "--since", "1h", "-o", learned)
    again = cli.run("learn", "-o", learned)

    assert output.splitlines() == [str(learned), str(tmp_path / "learned.test.yaml")]
    assert '"jobs:{job_id}"' in learned.read_text()
    cli.ok("check", learned)
    cli.ok("test", tmp_path / "learned.test.yaml")
    assert "widens access: none" in cli.ok("plan", learned)
    assert learned.stat().st_mode & 0o777 == 0o600
    assert again.exit_code == 1
    assert f"`{learned}` exists" in again.output


def test_learn_prints_without_a_file(cli: Cli, tmp_path: Path) -> None:
    """JSON has the policy too; an archive needs no server; too few calls are an error."""
    assert cli.ok("learn").startswith("# Learned by `keyleash learn` from the audit log.")
    found = cli.json("learn")
    assert found["policy"].startswith("# Learned by")
    assert found["identities"][0]["coverage"]["calls"] == 60
    few = cli.run("learn", "--min", "500")
    cli.ok("audit", "export", "--to", tmp_path / "archive")
    offline = {"KEYLEASH_URL": "redis://127.0.0.1:1"}
    archived = cli.ok("learn", "worker", "--archive", tmp_path / "archive", **offline)
    unknown = cli.run("learn", "missing", "--archive", tmp_path / "archive", **offline)

    assert '"jobs:{job_id}"  # 20 calls, 20 jobs' in archived
    assert "the archive has no identity `missing`" in unknown.output
    assert few.exit_code == 1
    assert "60 calls of `worker`, and 2500 are needed, 500 of them for a class" in few.output


def test_capture_asks_and_is_learned_from(cli: Cli, embedded: RealServer, tmp_path: Path) -> None:
    """Its file is only for its owner, and has the names of clients that were connected."""
    file = tmp_path / "capture.txt"
    refused = cli.run("learn", "--capture", "1s", "-o", file)
    assert refused.exit_code == 2
    assert "add `--yes`" in refused.output
    client, is_over = embedded.client(client_name="Worker@7"), threading.Event()
    client.ping()

    def work() -> None:
        number = 0
        while not is_over.wait(0.01):
            number += 1
            client.set(f"cap:{number}", "x")

    worker = threading.Thread(target=work)
    worker.start()
    try:
        cli.ok("learn", "--capture", "2s", "-o", file, "--yes")
    finally:
        is_over.set()
        worker.join()
    text = cli.ok("learn", "--monitor", file, KEYLEASH_URL="redis://127.0.0.1:1")

    assert file.stat().st_mode & 0o777 == 0o600
    assert "  worker-7:" in text
    assert '"cap:{cap_id}"' in text
    assert cli.run("learn", "--capture", "1s").exit_code == 2
    assert cli.run("learn", "--monitor", file, "--since", "1d").exit_code == 2
