"""Progress bars: on a terminal only."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from support.command_line import Cli
from support.replication import PATIENCE_S
from support.terminals import on_a_terminal, read_all, read_until

WITH_DELAY = """\
import keyleash.cli.progress
keyleash.cli.progress.SOON_S = {}
keyleash.cli.main()
"""


class Eager(Cli):
    """The command, with a progress bar for the shortest work."""

    command = (sys.executable, "-c", WITH_DELAY.format(-1.0))


class Patient(Cli):
    """The command, with a progress bar for work of an hour."""

    command = (sys.executable, "-c", WITH_DELAY.format(3600.0))


def terminal_output(cli: Cli, *words: str | Path) -> str:
    with on_a_terminal(cli, *words) as (process, terminal):
        output = read_all(terminal)
        assert process.wait(timeout=PATIENCE_S) == 0, output
    return output


@pytest.fixture
def eager(cli: Cli) -> Cli:
    return Eager(cli.url)


def test_load_shows_how_many_guards_are_compiled_and_loaded(eager: Cli, example: Path) -> None:
    """The bar counts identities and is erased before the result."""
    output = terminal_output(eager, "load", example, "--yes")

    assert "compiling" in output
    assert "4/4" in output
    assert "loading" in output
    assert "activated generation 1" in output.rpartition("\x1b[2K")[2]


def test_export_shows_how_many_entries_it_has(eager: Cli, example: Path, tmp_path: Path) -> None:
    """The total is unknown."""
    eager.ok("load", example, "--yes")
    output = terminal_output(eager, "audit", "export", "--to", tmp_path / "archive")

    assert "entries" in output
    assert "1/?" in output
    assert "control/" in output


@pytest.mark.parametrize("words", [("load",), ("--json", "load")])
def test_output_to_a_pipe_or_as_json_has_no_bar(
    eager: Cli, example: Path, words: tuple[str, ...]
) -> None:
    """Programs that parse the output get no control sequences."""
    if "--json" in words:
        assert "compiling" not in terminal_output(eager, *words, example, "--yes")
    else:
        result = eager.process(*words, example, "--yes")
        assert "compiling" not in result.stdout + result.stderr


def test_short_work_shows_no_bar(cli: Cli, example: Path) -> None:
    """A bar that appears for a moment only distracts."""
    assert "compiling" not in terminal_output(Patient(cli.url), "load", example, "--yes")


def test_interrupted_tests_leave_no_server_and_no_traceback(
    eager: Cli, example: Path, tmp_path: Path
) -> None:
    """Ctrl-C ends the run with one line."""
    case = "identity: agent-reader, command: GET agents:context:1, expect: allow"
    cases = "".join(f"  - {{name: c{number}, {case}}}\n" for number in range(5000))
    file = tmp_path / "many.test.yaml"
    file.write_text(f"policy: {example}\ncases:\n{cases}")
    with on_a_terminal(eager, "test", file) as (process, terminal):
        read_until(terminal, "/5000")
        process.send_signal(signal.SIGINT)
        output = read_all(terminal)
        assert process.wait(timeout=PATIENCE_S) == 130

    assert "interrupted" in output
    assert "Traceback" not in output
