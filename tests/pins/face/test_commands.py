"""Help of every command, and what command lines print: text, JSON, errors and exit codes."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import keyleash
from keyleash.addons.servers import EmbeddedServer
from keyleash.cli import main
from support.command_line import Cli
from support.golden import GOLDEN, assert_golden

HERE = Path(__file__).parent
CALLS = (
    "HSET agents:jobs:1:fields a 1",
    "SET agents:jobs:1:state new",
    "SET agents:jobs:1:state done",
    "SET agents:jobs:1:state denied",
    "GET other",
    "FLUSHALL",
)
MASKS = {
    r"kl_([a-z]+)_[\w-]{20,}": r"kl_\1_<secret>",
    r"(?<= )[\w-]{43}$": "<password>",
    r"(?<!\d)\d{13}-\d+": "<event>",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?": "<time>",
    r"\d{4}-\d\d-\d\d(?=\.jsonl)": "<day>",
    r"(?<![.\w])[0-9a-f]{12,64}\b": "<digest>",
    r"(?<=<digest>)-\d+": "-<number>",
    r"\b1[789]\d{8}(\.\d+|\d{3}|\d{6})?\b": "<time>",
    r"Valkey \d+\.\d+\.\d+": "Valkey <version>",
    r"(\"bytes\": )\d{5,}": r"\1<size>",
    r"\bin \d+[dhms]\w*": "in <time>",
    r"\b\d+[dhms]\w*(?= ago| old)": "<time>",
    r"(?<=  )\d+[dhms]\w*(?=  )": "<time>",
    r"(retry_after_ms\W+|age_seconds{.*} |timestamp_seconds )\d[\d.e+]+": r"\1<time>",
    r"(?<=\S) {2,}": "  ",
}
"""What differs from run to run, with what is printed in its place."""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """The command in a folder and with a server of its own, with tokens, events and denials.

    `doctor` shows what other tests left on a server.
    """
    for name in ("policy.yaml", "policy.test.yaml"):
        shutil.copy(HERE / name, tmp_path)
    text = (HERE / "policy.yaml").read_text()
    changes = {"bad": ("3/hour", "3/moment"), "wider": ("3/hour", "9/hour")}
    for name, change in changes.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace(*change))
    fewer = text.partition("  reader:")[0]
    (tmp_path / "fewer.yaml").write_text(fewer)
    (tmp_path / "both.yaml").write_text(fewer.replace(*changes["wider"]))
    (tmp_path / "lua").mkdir()
    (tmp_path / "lua" / "take.lua").write_text("return redis.call('LPOP', KEYS[1])")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    with EmbeddedServer() as server:
        cli = Cli(server.url)
        cli.ok("load", "policy.yaml", "--yes")
        prepare(server.url, cli.token("worker"))
        yield cli


def prepare(url: str, token: str) -> None:
    """Make the calls of an agent."""
    agent = keyleash.Redis.from_url(url, token=token, decode_responses=True)
    with agent, keyleash.correlation("r-1"):
        for words in CALLS:
            time.sleep(0.002)  # Events of the same millisecond have no order.
            with contextlib.suppress(keyleash.LeashError):
                agent.execute_command(*words.split())


class Session:
    """Runs command lines, and replaces what differs from run to run."""

    def __init__(self, cli: Cli, folder: Path) -> None:
        self.cli = cli
        self.token = cli.token("worker")
        self.known = {
            str(folder): "<folder>",
            cli.url.rpartition(":")[2].partition("/")[0]: "<port>",
        }

    def values(self) -> dict[str, str]:
        """Return what the names in braces are now."""
        tokens = self.cli.json("token", "list", "worker")["tokens"]
        event = self.cli.lines("audit", "log", "worker", "--limit", "1")[0]
        return {"id": tokens[0]["id"], "event": event["id"], "token": self.token}

    def masked(self, text: str) -> str:
        for token in self.cli.json("token", "list")["tokens"]:
            self.known[token["id"]] = "<id>"
        for value, name in self.known.items():
            text = text.replace(value, name)
        for pattern, name in MASKS.items():
            text = re.sub(pattern, name, text, flags=re.MULTILINE)
        return text

    def run(self, line: str) -> str:
        words = shlex.split(line.format_map(self.values()) if "{" in line else line)
        env = dict(word.split("=", 1) for word in words if word.startswith("KEYLEASH_"))
        result = self.cli.run(*words[len(env) :], **env)
        parts = [("", result.stdout), ("stderr:\n", result.stderr)]
        shown = "".join(f"{title}{text.rstrip()}\n" for title, text in parts if text)
        return f"$ keyleash {line}\n{self.masked(shown)}exit code: {result.exit_code}\n"


def paths(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of a command and of all below it."""
    # click keeps the option of the context that asked first, maybe one of another test.
    command._help_option = None
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from paths(inner, (*path, name))


def test_help_of_every_command_is_that_of_the_golden_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options, arguments, defaults and texts."""
    monkeypatch.setenv("COLUMNS", "100")
    offline = Cli("redis://127.0.0.1:1")
    pages = [
        f"$ keyleash {' '.join(words)}\n{offline.ok(*words, '--help')}" for words in paths(main)
    ]

    assert_golden(GOLDEN / "face" / "help.txt", "\n".join(pages))


def test_command_lines_print_what_is_in_the_golden_file(cli: Cli, tmp_path: Path) -> None:
    """Half of them are errors, whose sentences users search for and whose codes scripts read."""
    session = Session(cli, tmp_path)
    lines = (HERE / "commands.txt").read_text().splitlines()
    outputs = [session.run(line) for line in lines if line and not line.startswith("#")]

    assert_golden(GOLDEN / "face" / "commands.txt", "\n".join(outputs))
