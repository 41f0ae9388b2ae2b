"""The commands of the README, the tutorial and the incident guide, run as written."""

from __future__ import annotations

import os
import pty
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.command_line import Cli
from support.servers import RealServer

ROOT = Path(__file__).resolve().parents[3]
SHELL = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"^((?:    keyleash .*\n)+)", re.M)
COMMAND = re.compile(r"^(?: *export \w+=\$\()? *keyleash ", re.M)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
SERVE = "keyleash serve --data ./data &                   # a server for development\n"
README_PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIAL_PAGE = (ROOT / "docs" / "tutorial" / "first-ten-minutes.md").read_text(encoding="utf-8")
(README,) = (text.removeprefix(SERVE) for text in SHELL.findall(README_PAGE))
TUTORIAL = "".join(SHELL.findall(TUTORIAL_PAGE))
INCIDENT, *_ = INDENTED.findall(
    (ROOT / "docs" / "how-to" / "respond-to-an-incident.md").read_text(encoding="utf-8")
)
README_OUTPUT = (
    "agents.yaml is valid",
    "activated generation 1: 1 identity",
    "\nOK\n",
    "SET  agents:jobs:42:state  ok",
    "revoked       identity",
    "error: TOKEN_REVOKED",
)
TUTORIAL_OUTPUT = (
    README_OUTPUT[0],
    "2 cases passed, on the model and an embedded server; coverage 100 %",
    "+ agent-runner (machine)   [widens]",
    *README_OUTPUT[1:4],
    'restore  string "running"  string "broken"',
    "\nrunning\n",
    *README_OUTPUT[4:],
)
"""Parts of the output, in their order."""
KEY = "agents:jobs:42:state"


def run(
    server: RealServer, folder: Path, commands: str, answers: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run *commands* as one script, with *answers* typed on its terminal."""
    cli = Cli(server.url)
    keyleash = f'keyleash() {{ {" ".join(cli.command)} "$@"; }}'
    typed, terminal = pty.openpty()
    try:
        os.write(typed, answers.encode())
        return subprocess.run(
            ["bash", "-c", f"{keyleash}\n{commands}"],
            env=cli.process_env(), cwd=folder, check=False, stdin=terminal,
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
    finally:
        os.close(typed)
        os.close(terminal)


def assert_printed(
    output: str, ran: subprocess.CompletedProcess[str], parts: tuple[str, ...]
) -> None:
    """Assert that *output* has the parts in their order."""
    at = 0
    for part in parts:
        at = output.find(part, at)
        assert at >= 0, (part, ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr


def with_example(page: str, commands: str, server: RealServer, folder: Path) -> tuple[str, str]:
    """Return the commands up to the revocation and then the example of a page, and the rest."""
    (example,) = PYTHON.findall(page)
    file = folder / "agent.py"
    file.write_text(example.replace("redis://localhost:6379", server.url), encoding="utf-8")
    before, revoke, after = commands.partition("keyleash token revoke")
    return f"{before}\n{sys.executable} {file}\n", revoke + after


def test_readme_leads_from_a_policy_to_a_revoked_token(
    embedded: RealServer, tmp_path: Path
) -> None:
    """Each of the seven commands and the example work as written, and the next call is denied."""
    assert len(COMMAND.findall(README)) == 7

    first, rest = with_example(README_PAGE, README, embedded, tmp_path)
    ran = run(embedded, tmp_path, f"{first}{rest}\nkeyleash exec GET {KEY} 2>&1")

    printed = (*README_OUTPUT[:4], "KEY_NOT_GRANTED\n[True, 'done']\n", *README_OUTPUT[4:])
    assert_printed(ran.stdout, ran, printed)


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="needs redis-cli")
def test_gateway_of_the_readme_serves_when_the_block_is_pasted(
    embedded: RealServer, tmp_path: Path
) -> None:
    """The lines wait for the gateway, which begins to listen after a second or two."""
    # Below those that the system gives to others.
    port = random.randrange(20_000, 30_000)
    _, _, block = README_PAGE.partition("    pip install '.[gateway]'\n")
    block = block.partition("\n\n")[0].replace("6380", str(port))
    # As a program, which `kill` reaches: a function would run in a shell of its own.
    program = f"{' '.join(Cli.command)} gateway --listen 127.0.0.1:{port}"
    block = block.replace("keyleash gateway", program)
    policy = "keyleash init && keyleash load agents.yaml --yes"

    ran = run(embedded, tmp_path, f"trap 'kill $!' EXIT\n{policy} >policy.log 2>&1\n{block}")

    assert (ran.stdout.splitlines()[-1], ran.returncode) == ("OK", 0), ran
    assert embedded.client().get(KEY) == b"done"


def test_policy_of_the_readme_is_that_of_init() -> None:
    """The README shows it without comments."""
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", README_PAGE, re.M | re.S)
    starter = (ROOT / "examples" / "starter.yaml").read_text(encoding="utf-8")

    assert yaml.safe_load(shown) == yaml.safe_load(starter)


@pytest.mark.slow
def test_python_example_of_the_tutorial_runs_as_written(
    embedded: RealServer, tmp_path: Path
) -> None:
    """The example needs only the token that the commands before it issue."""
    before, _ = with_example(TUTORIAL_PAGE, TUTORIAL, embedded, tmp_path)

    ran = run(embedded, tmp_path, before)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("[True, b'done']\n")


@pytest.mark.slow
def test_tutorial_and_incident_guide_lead_from_a_policy_to_a_restored_value(
    embedded: RealServer, tmp_path: Path
) -> None:
    """Each command works as written, on SET for DEL; undo restores what the tutorial changed."""
    assert len(COMMAND.findall(INCIDENT)) == 8
    admin = embedded.client(decode_responses=True)
    admin.set(KEY, "queued", ex=1000)

    ran = run(embedded, tmp_path, f"{TUTORIAL}\nkeyleash exec GET {KEY} 2>&1")

    assert_printed(ran.stdout, ran, TUTORIAL_OUTPUT)
    assert admin.get(KEY) == "running"

    ran = run(embedded, tmp_path, f"set -e\n{INCIDENT.replace('--op DEL', '--op SET')}", "y\n")

    assert ran.returncode == 0, ran.stderr
    assert_printed(ran.stdout + ran.stderr, ran, ("1 key restored",))
    assert admin.get(KEY) == "queued"
    assert 0 < admin.ttl(KEY) <= 1000
    assert KEY in (tmp_path / "incident.html").read_text(encoding="utf-8")
