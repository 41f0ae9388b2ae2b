"""Record a short session of the `keyleash` command as an SVG: `python tools/demo_svg.py FILE`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from click.testing import CliRunner
from rich.console import Console
from rich.text import Text

from keyleash.cli import main as program
from keyleash.servers import EmbeddedServer

WIDTH = 124
STATE = "agents:jobs:42:state"
SESSION = (
    "keyleash load examples/agents.yaml --yes",
    "export KEYLEASH_TOKEN=$(keyleash token issue agent-runner --ttl 2h)",
    f"keyleash exec SET {STATE} running",
    "keyleash exec SET agents:jobs:42:lock mine",
    "keyleash exec FLUSHALL",
    'keyleash freeze agent-runner --reason "incident 4107"',
    f"keyleash exec GET {STATE}",
    "keyleash thaw agent-runner",
    "keyleash audit timeline agents:jobs:42:state",
    "keyleash undo --identity agent-runner --since 1h --yes",
)
QUIET = ("keyleash load", "keyleash freeze", "keyleash thaw")
"""Commands of which only standard output is shown."""


def record(console: Console, url: str) -> None:
    """Run the session against the server at *url* and print it on *console*."""
    env = {"KEYLEASH_URL": url, "KEYLEASH_ACTOR": "alice"}
    for line in SESSION:
        console.print(Text.assemble(("$ ", "bold green"), (line, "bold")))
        issues = line.startswith("export ")
        command = line.partition("$(")[2].rstrip(")") if issues else line
        result = CliRunner().invoke(program, shlex.split(command)[1:], env=env, color=True)
        if issues:
            env["KEYLEASH_TOKEN"] = result.stdout.strip()
        shown = result.stderr if issues else result.stdout
        if not issues and not line.startswith(QUIET):
            shown += result.stderr
        console.print(Text.from_ansi(shown.rstrip("\n")), soft_wrap=False)


def main(path: Path) -> None:
    """Write the recording to *path*."""
    with EmbeddedServer() as server, Path(os.devnull).open("w") as nothing:
        console = Console(record=True, width=WIDTH, file=nothing, force_terminal=True)
        record(console, server.url)
    path.write_text(console.export_svg(title="keyleash"), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
