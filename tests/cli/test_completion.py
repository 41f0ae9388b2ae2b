"""Completion in a shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.command_line import Cli
from support.replication import PATIENCE_S

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "completion.md"


@pytest.fixture
def shell(loaded: Cli, tmp_path: Path) -> dict[str, str]:
    """An environment in which `keyleash` is the command of this checkout."""
    program = tmp_path / "keyleash"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m keyleash "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return {**loaded.process_env(), "PATH": path, "HOME": str(tmp_path)}


def line_of(name: str) -> str:
    """Return the line that the page adds to the shell's file."""
    lines = re.findall(rf"^    (.*keyleash completion {name}\b.*)$", PAGE.read_text(), re.M)
    return str(lines[0])


def run(shell: list[str], env: dict[str, str]) -> list[str]:
    done = subprocess.run(
        shell, env=env, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    return done.stdout.splitlines()


def test_bash_completes_commands_and_identities(shell: dict[str, str]) -> None:
    """The shell is set up as documented."""
    script = f"""{line_of("bash")}
tab() {{ COMPREPLY=(); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _keyleash_completion keyleash
  printf '%s\\n' "${{COMPREPLY[@]}}"; }}
tab keyleash sta
tab keyleash freeze agent-re
tab keyleash limits reset agent-runner --limit budget.
tab keyleash acl rea
tab keyleash examples fl
tab keyleash token issue agent-runner --allow read,wr
"""
    assert run(["bash", "-c", script], shell) == [
        *("status", "agent-reader", "agent-recovery"),
        *("budget.requests", "budget.writes"),
        "reader",
        "fleet",
        "read,write",
    ]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        *((f"{command} x", "file") for command in ("check", "plan", "load", "test", "compile")),
        *((f"{command} --token x", "file") for command in ("whoami", "exec")),
        ("explain a --policy x", "file"),
        ("serve --data x", "dir"),
        ("audit export --to x", "dir"),
        ("audit report -o x", "file"),
    ],
)
def test_argument_of_type_file_completes_files(offline: Cli, words: str, kind: str) -> None:
    """Completion of files is left to the shell."""
    completed = offline.ok(
        _KEYLEASH_COMPLETE="bash_complete",
        COMP_WORDS=f"keyleash {words}",
        COMP_CWORD=str(len(words.split())),
    )

    assert completed == f"{kind},x\n"


def test_token_ids_are_completed(loaded: Cli) -> None:
    """Where a command takes one; `rotate` takes identities as well."""
    token_id = loaded.json("token", "issue", "agent-runner")["id"]

    def completed(words: str) -> str:
        env = {"COMP_WORDS": f"keyleash {words}", "COMP_CWORD": str(len(words.split()))}
        return loaded.ok(_KEYLEASH_COMPLETE="bash_complete", **env)

    for command in ("revoke", "show", "tree", "renew", "rotate"):
        assert completed(f"token {command} {token_id[:4]}") == f"plain,{token_id}\n"
    assert completed("token rotate agent-run") == "plain,agent-runner\n"
    assert completed("token revoke agent-run") == "\n"


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes_commands_and_identities(shell: dict[str, str]) -> None:
    """The shell is set up as documented."""
    script = f"""{line_of("fish")}
complete -C "keyleash freeze agent-re"
"""
    assert run(["fish", "-c", script], shell) == ["agent-reader", "agent-recovery"]


def test_completion_without_a_server_has_no_names_and_no_error(shell: dict[str, str]) -> None:
    """An error message would be printed into the line that is being typed."""
    env = {
        **shell,
        "KEYLEASH_URL": "redis://127.0.0.1:1",
        "_KEYLEASH_COMPLETE": "bash_complete",
        "COMP_WORDS": "keyleash freeze a",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(["keyleash"], env=env, capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.stderr) == ("", "")
