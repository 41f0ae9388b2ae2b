"""The how-to pages, whose policies and programs run as written."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from support.command_line import Cli

PAGES = Path(__file__).resolve().parents[2] / "docs" / "how-to"


class HowTo:
    """The policies and the programs of a page, in its order."""

    def __init__(self, name: str, cli: Cli, folder: Path) -> None:
        self.text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        self.cli = cli
        self._name = name
        self._folder = folder

    def load(self, number: int = 0, *options: str) -> None:
        """Load a policy."""
        path = self._folder / "agents.yaml"
        path.write_text(self._blocks("yaml")[number])
        self.cli.ok("load", path, *options or ("--yes",))

    def home(self, identity: str) -> Path:
        """Return a home directory with a token where the page on MCP has it, and `keyleash`."""
        token, program = (
            self._folder / name for name in (".keyleash/token", ".local/bin/keyleash")
        )
        for file in (token, program):
            file.parent.mkdir(parents=True)
        token.write_text(self.cli.token(identity))
        path, words = self.cli.process_env()["PYTHONPATH"], " ".join(self.cli.command)
        program.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {words} "$@"\n')
        program.chmod(0o700)
        return self._folder

    def run(self, number: int = 0) -> list[str]:
        """Run a program; return the lines that it prints."""
        program = self._blocks("python")[number]
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(program, self._name, "exec"), {"__name__": "example"})  # noqa: S102
        return output.getvalue().splitlines()

    def _blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.M | re.S)
