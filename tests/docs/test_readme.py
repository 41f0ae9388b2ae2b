"""The commands of the README, run as they stand there."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

from support.command_line import Cli
from support.servers import RealServer

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
TEN = re.compile(r"^## Ten commands$.*?^```bash\n(.*?)^```$", re.M | re.S)
WRONG = re.compile(r"^## When something went wrong\n\n((?:    keyleash .*\n)+)", re.M)
COMMAND = re.compile(r"^(?: *export \w+=\$\()? *(?:cat|keyleash) ", re.M)
TOLD = (
    "agents.yaml is valid",
    "2 cases passed, on the model and an embedded server; coverage 100 %",
    "+ agent-runner (machine)   [widens]",
    "activated generation 1: 1 identity",
    "\nOK\n",
    "SET  agents:jobs:42:state  ok",
    "revoked       identity",
    "error: TOKEN_REVOKED",
)
"""What the newcomer is told, in this order."""
KEY = "agents:jobs:42:state"


def run(
    server: RealServer, folder: Path, commands: str, answers: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run *commands* as one script, with a terminal on which *answers* are typed."""
    cli = Cli(server.url)
    keyleash = f'keyleash() {{ {" ".join(cli.command)} "$@"; }}'
    typed, terminal = pty.openpty()
    try:
        os.write(typed, answers.encode())
        return subprocess.run(
            ["bash", "-c", f"{keyleash}\n{commands}"],
            env=cli.process_env(), cwd=folder, check=False, stdin=terminal,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    finally:
        os.close(typed)
        os.close(terminal)


def assert_said(said: str, ran: subprocess.CompletedProcess[str], *wanted: str) -> None:
    """See that *said* has these words in their order."""
    at = 0
    for words in wanted:
        at = said.find(words, at)
        assert at >= 0, (words, ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr


def test_ten_commands_lead_a_newcomer_from_a_policy_to_a_revoked_token(
    embedded: RealServer, tmp_path: Path
) -> None:
    """Each works as written, and the call after the last is refused."""
    (commands,) = TEN.findall(README)
    assert len(COMMAND.findall(commands)) == 10

    ran = run(embedded, tmp_path, f"{commands}\nkeyleash exec GET {KEY} 2>&1")

    assert_said(ran.stdout, ran, *TOLD)


def test_commands_after_an_incident_restore_what_the_ten_commands_changed(
    embedded: RealServer, tmp_path: Path
) -> None:
    """The undo of the README works with the policy of the README."""
    (ten,), (wrong,) = TEN.findall(README), WRONG.findall(README)
    assert len(COMMAND.findall(wrong)) == 5
    admin = embedded.client(decode_responses=True)
    admin.set(KEY, "queued", ex=1000)
    assert run(embedded, tmp_path, ten).returncode == 0
    assert admin.get(KEY) == "running"

    ran = run(embedded, tmp_path, f"set -e\n{wrong}", "y\n")

    assert ran.returncode == 0, ran.stderr
    assert_said(ran.stdout + ran.stderr, ran, "1 key restored")
    assert admin.get(KEY) == "queued"
    assert 0 < admin.ttl(KEY) <= 1000
    assert "running" in (tmp_path / "incident.html").read_text(encoding="utf-8")
