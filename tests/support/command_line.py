"""The command as a person or a script calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

import keyleash
from keyleash.cli import main


class Spawned(subprocess.Popen[str]):
    """A process that a failing test ends, where `Popen` would wait for it."""

    def __exit__(self, kind: Any, *raised: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *raised)


class Cli:
    """Runs the command in this process, or in one of its own."""

    command = (sys.executable, "-m", "keyleash")

    def __init__(self, url: str, extra: dict[str, str] | None = None) -> None:
        self.url = url
        self.env = {"KEYLEASH_URL": url, "KEYLEASH_ACTOR": "tester", **(extra or {})}

    def run(self, *words: str | Path, stdin: str | bytes | None = None, **env: str) -> Result:
        """Run in this process; standard input is no terminal."""
        result = CliRunner().invoke(
            main,
            [str(word) for word in words],
            input=stdin,
            env={**self.env, **env},
            prog_name="keyleash",
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def ok(self, *words: str | Path, stdin: str | bytes | None = None, **env: str) -> str:
        """Run what must succeed and return standard output."""
        result = self.run(*words, stdin=stdin, **env)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *words: str | Path, exit_code: int = 0, **env: str) -> Any:
        """Run with `--json` in front and return the one document on standard output."""
        result = self.run("--json", *words, **env)
        assert result.exit_code == exit_code, result.output
        return json.loads(result.stdout)

    def lines(self, *words: str | Path, **env: str) -> list[Any]:
        """Run with `--json` what prints one object a line, and must succeed."""
        return [json.loads(line) for line in self.ok("--json", *words, **env).splitlines()]

    def token(self, identity: str, *options: str) -> str:
        """Issue a token."""
        return self.ok("token", "issue", identity, *options).strip()

    def spawn(self, words: Sequence[str | Path], **options: Any) -> Spawned:
        """Start it as a process of its own."""
        return Spawned(
            [*self.command, *map(str, words)],
            env=self.process_env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def process(
        self, *words: str | Path, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it as a process of its own."""
        return subprocess.run(
            [*self.command, *map(str, words)],
            env=self.process_env(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def process_env(self) -> dict[str, str]:
        source_root = str(Path(keyleash.__file__).resolve().parents[1])
        return {**os.environ, "PYTHONPATH": source_root, **self.env}
