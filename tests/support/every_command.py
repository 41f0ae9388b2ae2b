"""Every command of the command line that talks to a server, and how a test runs one."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result

from support.command_line import Cli

TOKEN = "kl_agent-runner_" + "A" * 32

ONLINE: tuple[tuple[str, ...], ...] = (
    ("plan", "FILE"),
    ("load", "FILE", "--yes"),
    ("rollback", "--yes"),
    ("doctor",),
    ("status",),
    ("metrics",),
    ("policy", "show"),
    ("policy", "history"),
    ("token", "issue", "agent-runner"),
    ("token", "list"),
    ("token", "show", "abc"),
    ("token", "revoke", "abc"),
    ("token", "rotate", "agent-runner"),
    ("freeze", "agent-runner", "--reason", "x"),
    ("thaw", "agent-runner"),
    ("limits", "reset", "agent-runner", "--reason", "x"),
    ("audit", "log"),
    ("audit", "show", "1-1"),
    ("audit", "stats"),
    ("audit", "timeline", "k"),
    ("audit", "as-of", "1h", "k"),
    ("audit", "follow"),
    ("audit", "report", "--since", "1h", "-o", "FOLDER/report.html"),
    ("audit", "export", "--to", "FOLDER/archive"),
    ("undo", "--correlation", "req-1", "--yes"),
    ("explain", "agent-runner", "--", "GET", "k"),
    ("can-i", "agent-runner", "GET", "k"),
    ("whoami",),
    ("exec", "GET", "k"),
)
"""Every command that talks to the server of `--url`."""


def run_online(cli: Cli, words: tuple[str, ...], example: Path, folder: Path, **env: str) -> Result:
    """Run one of them, with files of the test's own."""
    filled = [word.replace("FILE", str(example)).replace("FOLDER", str(folder)) for word in words]
    return cli.run(*filled, **{"KEYLEASH_TOKEN": TOKEN, **env})
