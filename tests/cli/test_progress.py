"""How far long work is: a bar on a terminal, and nothing anywhere else."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from support.command_line import Cli
from support.terminals import on_a_terminal, read_all, read_until

AT_ONCE = """\
import keyleash.cli.load
keyleash.cli.load.SOON_S = -1.0
keyleash.cli.main()
"""


class Eager(Cli):
    """The command, which shows a bar also of what takes no time."""

    command = (sys.executable, "-c", AT_ONCE)


def said_on_a_terminal(cli: Cli, *words: str | Path) -> str:
    with on_a_terminal(cli, *words) as (process, terminal):
        said = read_all(terminal)
        assert process.wait(timeout=60) == 0, said
    return said


@pytest.fixture
def eager(cli: Cli) -> Cli:
    return Eager(cli.url)


def test_load_shows_how_many_guards_are_compiled_and_loaded(eager: Cli, example: Path) -> None:
    """Of so many identities; and the bar is gone when the answer comes."""
    said = said_on_a_terminal(eager, "load", example, "--yes")

    assert "compiling" in said
    assert "4/4" in said
    assert "loading" in said
    assert "activated generation 1" in said.rpartition("\x1b[2K")[2]


def test_export_shows_how_many_entries_it_has(eager: Cli, example: Path, tmp_path: Path) -> None:
    """How many there are nobody knows before."""
    eager.ok("load", example, "--yes")
    said = said_on_a_terminal(eager, "audit", "export", "--to", tmp_path / "archive")

    assert "entries" in said
    assert "1/?" in said
    assert "control/" in said


@pytest.mark.parametrize("words", [("load",), ("--json", "load")])
def test_nobody_who_only_reads_the_output_sees_a_bar(
    eager: Cli, example: Path, words: tuple[str, ...]
) -> None:
    """Neither in a file, nor with --json on a terminal."""
    if "--json" in words:
        assert "compiling" not in said_on_a_terminal(eager, *words, example, "--yes")
    else:
        result = eager.process(*words, example, "--yes")
        assert "compiling" not in result.stdout + result.stderr


def test_what_is_done_soon_shows_no_bar(cli: Cli, example: Path) -> None:
    """A bar that comes and goes in a blink is only unrest."""
    assert "compiling" not in said_on_a_terminal(cli, "load", example, "--yes")


def test_tests_that_are_interrupted_leave_no_server_and_no_traceback(
    eager: Cli, example: Path, tmp_path: Path
) -> None:
    """Somebody who has seen enough presses Ctrl-C."""
    case = "identity: agent-reader, command: GET agents:context:1, expect: allow"
    cases = "".join(f"  - {{name: c{number}, {case}}}\n" for number in range(5000))
    file = tmp_path / "many.test.yaml"
    file.write_text(f"policy: {example}\ncases:\n{cases}")
    with on_a_terminal(eager, "test", file) as (process, terminal):
        read_until(terminal, "/5000")
        process.send_signal(signal.SIGINT)
        said = read_all(terminal)
        assert process.wait(timeout=60) == 130

    assert "interrupted" in said
    assert "Traceback" not in said
