"""Every command with standard output to a full device, a closed pipe, 60 columns and 5,000 rows."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click
import pytest

import keyleash
from keyleash.cli import main, program
from keyleash.cli.failures import BUG
from keyleash.cli.render import audit, table
from keyleash.store.keyspace import Keyspace
from support.command_line import Cli
from support.servers import RealServer, RealServers, embedded_label

ROWS = 5000
CLASSES = ["read", "write", "delete"]
POLICY = {
    "version": 1,
    "defaults": {"token": {"bound": True}, "audit": {"before_images": {"max_bytes": "1kb"}}},
    "identities": {
        f"agent-{number}": {
            "kind": "machine",
            "budget": {"writes": "1000000/day"},
            "grants": [{"allow": CLASSES, "keys": [f"a{number}:*"]}],
        }
        for number in range(20)
    },
}
WITHOUT_END = {"serve", "demo", "audit follow", "metrics --serve", "gateway", "mcp"}
ARGUMENTS = {
    "check": "WARNED",
    "test": "FILE --no-server",
    "plan": "CHANGED",
    "load": "FILE --yes",
    "rollback": "--yes",
    "explain": "agent-0 -- GET a0:1",
    "can-i": "agent-0 GET a0:1",
    "compile": "FILE",
    "token issue": "agent-1",
    "token renew": "ID",
    "token rotate": "agent-1",
    "token show": "ID",
    "token tree": "ID",
    "token revoke": "--identity agent-2",
    "exec": "MGET a0:1 a0:2",
    "freeze": "--yes --reason x --for 1s",
    "thaw": "--yes",
    "audit log": "--limit 5000",
    "audit show": "1-1",
    "audit timeline": "a0:1",
    "audit as-of": "1h a0:1",
    "audit report": "--identity agent-5 --since 1h -o FOLDER/report.html",
    "audit export": "--to FOLDER/archive",
    "audit verify": "FOLDER/archive",
    "undo": "--correlation many --dry-run",
    "limits reset": "agent-3 --reason x",
    "acl": "reader",
}
"""Arguments of the commands that need some; a new command is run without any."""
FURTHER = (
    "audit log --control",
    "audit log --denied",
    "undo --key a0:* --since 1h --full --dry-run",
)
LISTS = {
    "token list": ROWS,
    "audit log --limit": ROWS,
    "undo --key": 2 * ROWS,
    "plan": 20 * 12,
    "metrics": 20 * 30,
    "policy show": 20 * 40,
    "schema": ROWS,
    "compile": ROWS,
}
"""Commands that print all of something, with a bound of its lines."""
WITHOUT_TABLE = ("audit report", "audit export", "audit verify", "compile", "schema", "test")
ONCE = ("audit export",)
"""Commands that print nothing the second time."""


@dataclass(frozen=True)
class Stage:
    """A server with much to print, and the files that commands read."""

    cli: Cli
    words: dict[str, str]

    def filled(self, line: str) -> list[str]:
        words = line.split()
        for name, text in self.words.items():
            words = [word.replace(name, text) for word in words]
        return words


@pytest.fixture(scope="module")
def stage(real_servers: RealServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """5,000 keys and tokens, 1,000 denials, 20 identities."""
    folder = tmp_path_factory.mktemp("output")
    file, changed, warned = (
        folder / name for name in ("policy.json", "changed.json", "warned.json")
    )
    text = json.dumps(POLICY, indent=1)
    file.write_text(text)
    changed.write_text(text.replace("1000000/day", "999999/day").replace(':*"', ':x:*"'))
    warned.write_text(text.replace('"budget"', '"bugdet"'))
    with real_servers.lend(embedded_label()) as server:
        cli = Cli(server.url)
        cli.ok("load", file, "--yes")
        operator = keyleash.Operator.from_url(server.url)
        issued = operator.tokens.issue_many("agent-2", ROWS)
        token = cli.token("agent-0")
        agent: Any = keyleash.Redis.from_url(server.url, token=token)
        with keyleash.correlation("many"):
            for start in range(0, ROWS, 500):
                with agent.batch() as batch:
                    for number in range(start, start + 500):
                        batch.set(f"a0:{number}", "x")
        client = server.client()
        with client.pipeline(transaction=False) as pipe:
            for number in range(ROWS // 5):
                pipe.xadd(
                    Keyspace().denied("agent-5"),
                    {"code": "KEY_DENIED", "token": f"{number}" * 99, "op": "x" * 999},
                )
            # Each key is a conflict.
            for number in range(0, ROWS, 2):
                pipe.set(f"a0:{number}", "other")
            pipe.execute()
        agent.close()
        cli.env["KEYLEASH_TOKEN"] = token
        words = {
            "WARNED": str(warned), "CHANGED": str(changed), "FILE": str(file),
            "FOLDER": str(folder), "ID": issued[0].id,
        }  # fmt: skip
        yield Stage(cli, words)


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command that is no group."""
    if not isinstance(command, click.Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*path, name))


NAMES = [name for path in leaves(main) if (name := " ".join(path)) not in WITHOUT_END]
LINES = [f"{name} {ARGUMENTS.get(name, '')}".strip() for name in NAMES] + [*FURTHER]


def full(stack: contextlib.ExitStack) -> TextIO:
    """A file to which nothing can be written."""
    return stack.enter_context(Path("/dev/full").open("w"))


def closed_pipe(stack: contextlib.ExitStack) -> TextIO:
    """A pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    return stack.enter_context(os.fdopen(writer, "w"))


OUTPUTS: dict[str, Callable[[contextlib.ExitStack], TextIO]] = {"full": full, "closed": closed_pipe}


def run_into(
    stage: Stage, words: list[str], output: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """Run a command in this process; return its exit code and standard error."""
    monkeypatch.setattr(program, "_discard_output", lambda: program.BROKEN_PIPE)
    for name, value in stage.cli.env.items():
        monkeypatch.setenv(name, value)
    errors = io.StringIO()
    # What could not be written is tried again when the file is closed.
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(OUTPUTS[output](stack)))
        stack.enter_context(contextlib.redirect_stderr(errors))
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            main(words, prog_name="keyleash")
    return int(ended.value.code or 0), errors.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_output_that_fails_is_one_line_of_error(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """And much output has bounded lines, and no more of them than there are items."""
    monkeypatch.chdir(tmp_path)
    words = stage.filled(line)

    printed = stage.cli.run(*words)

    assert printed.exit_code != BUG.exit_code
    assert "\x1b" not in printed.output
    lines = printed.output.splitlines()
    most = next((count + 200 for name, count in LISTS.items() if line.startswith(name)), 200)
    assert len(lines) <= most, printed.output[:9000]
    assert max(map(len, lines), default=0) <= 1000 or line.startswith(("compile", "schema"))
    for output, options in (("full", []), ("full", ["--json"]), ("closed", [])):
        code, errors = run_into(stage, [*options, *words], output, monkeypatch)
        about = (output, options, code, errors)
        assert "Traceback" not in errors, about
        assert errors.count("error: ") <= 1, about
        assert code != BUG.exit_code, about
        if printed.stdout and printed.exit_code == 0 and not line.startswith(ONCE):
            assert code != 0, about


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith(WITHOUT_TABLE)])
def test_narrow_terminal_gets_bounded_lines(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """A line that is too long for the terminal is broken by it, and not padded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "is_terminal", lambda: True)
    monkeypatch.setattr(audit, "is_terminal", lambda: True)

    result = stage.cli.run(*stage.filled(line), COLUMNS="60")

    assert result.exit_code != BUG.exit_code
    assert max(map(len, result.output.splitlines()), default=0) <= 1000


def shell(loaded: Cli, words: str) -> subprocess.CompletedProcess[str]:
    """Run the program by a shell, with redirections."""
    command = " ".join((*loaded.command, words))
    return subprocess.run(
        ["sh", "-c", command], env=loaded.process_env(), capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "redirection"),
    [
        ("token issue agent-runner", ">/dev/full"),
        ("--json token issue agent-runner", ">/dev/full"),
        ("token rotate agent-runner", ">/dev/full"),
        ("--json token rotate agent-runner", ">&-"),
    ],
)
def test_token_that_cannot_be_printed_is_revoked_and_named(
    loaded: Cli, words: str, redirection: str
) -> None:
    """No program has it, and it would be live."""
    result = shell(loaded, f"{words} {redirection}")

    assert result.returncode == 1
    tokens = loaded.json("token", "list")["tokens"]
    assert [token["state"] for token in tokens] == ["revoked"] * len(tokens)
    if redirection == ">&-":
        assert (result.stderr, tokens) == (
            "error: standard output is closed\nhelp: redirect it\n",
            [],
        )
    else:
        (token,) = tokens
        assert result.stderr == (
            f"server     {loaded.url}\n"
            * ("--json" not in words)
            + f"error: the token `{token['id']}` could not be printed: no space left on device\n"
            "help: it was revoked\n"
        )


def test_rotation_that_cannot_be_printed_says_what_is_left(loaded: Cli) -> None:
    """Replaced tokens end all the same."""
    loaded.ok("token", "issue", "agent-runner")
    result = shell(loaded, "token rotate agent-runner > /dev/full")

    assert result.returncode == 1
    assert "\nhelp: it was revoked; those that it replaces end at 20" in result.stderr
    assert result.stderr.endswith(
        "Z at the latest: run `keyleash token rotate` again before that,"
        " or `token issue agent-runner`\n"
    )


@pytest.mark.parametrize("words", ["acl admin", "status"])
def test_full_standard_output_is_named(loaded: Cli, words: str) -> None:
    """A full disk elsewhere has the name of the file."""
    result = shell(loaded, f"{words} > /dev/full")
    reason = "standard output could not be written: no space left on device"
    assert (result.returncode, result.stderr) == (1, f"error: {reason}\n")


def test_words_of_agents_reach_no_terminal(server: RealServer, example: Path) -> None:
    """Names of commands, keys and correlation ids do not control a terminal."""
    cli = Cli(server.url)
    cli.ok("load", example, "--yes")
    client, words = server.client(), "agents:jobs:1:state\x1b]0;1\x07\u202e"
    key = "agents:jobs:1:state"
    denial: dict[Any, Any] = {"seq": 1, "code": "KEY_DENIED"}
    denial |= dict.fromkeys(("op", "key", "reason", "correlation", "source"), words)
    client.xadd(Keyspace().denied("agent-runner"), denial)
    event: dict[Any, Any] = dict.fromkeys(("correlation", "source", "actor", "script"), words)
    client.xadd(Keyspace().audit("agent-runner"), event | {words: words, "SET": key})

    event_id = cli.lines("audit", "log")[0]["id"]
    denial_id = cli.lines("audit", "log", "--denied")[0]["id"]
    commands = (
        "status", "metrics", "audit log", "audit log --denied", "audit stats", "token list",
        f"audit timeline {key}", "audit report --since 1h -o -", "--json audit log",
        "--json audit log --denied",
        f"audit show audit:agent-runner/{event_id}", f"audit show denied:agent-runner/{denial_id}",
    )  # fmt: skip
    shown = {line: cli.ok(*line.split()) for line in commands}

    for line, text in shown.items():
        assert not {"\x1b", "\x07", "\u202e"} & {*text}, line
