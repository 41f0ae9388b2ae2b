"""The commands with which the README begins, run as they stand there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from support.command_line import Cli
from support.servers import RealServer

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
TEN = re.compile(r"^## Ten commands$.*?^```bash\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"^(?:export \w+=\$\()?(?:cat|keyleash) ", re.M)
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


def test_ten_commands_lead_a_newcomer_from_a_policy_to_a_revoked_token(
    embedded: RealServer, tmp_path: Path
) -> None:
    """Each works as written, and the call after the last is refused."""
    (commands,) = TEN.findall(README)
    assert len(COMMAND.findall(commands)) == 10
    again = "keyleash exec GET agents:jobs:42:state 2>&1"
    cli = Cli(embedded.url)
    keyleash = f'keyleash() {{ {" ".join(cli.command)} "$@"; }}'
    ran = subprocess.run(
        ["bash", "-c", f"{keyleash}\n{commands}\n{again}"],
        env=cli.process_env(), cwd=tmp_path, check=False,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    at = 0
    for words in TOLD:
        at = ran.stdout.find(words, at)
        assert at >= 0, (words, ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr
