"""The wheel, installed in an environment of its own and used from an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from keyleash.cli import main
from pins.docs.test_readme import README, README_OUTPUT, assert_printed

pytestmark = pytest.mark.slow

EXAMPLE = re.compile(r"^example: +(.*)$", re.M)

WITHOUT_SERVER = {
    "keyleash",
    "keyleash check",
    "keyleash test",
    "keyleash explain",
    "keyleash schema",
    "keyleash compile",
    "keyleash init",
    "keyleash examples",
    "keyleash demo",
}
"""The commands whose examples need no server."""
ENDLESS = {
    "keyleash audit follow",
    "keyleash gateway",
    "keyleash mcp",
    "keyleash metrics",
    "keyleash serve",
    "keyleash status",
}
"""The commands whose examples run until they are stopped."""
PLACEHOLDERS = re.compile(
    r"redis-cli|3f9ac2d81b07|7k2mq9xw4tbn|1769860800000-0|10\.0\.0\.\d|budget|…|learn |node_modules"
)
"""Names of things that a new server, or this machine, may not have, such as calls to learn from;
budgets of clusters."""
ENDS_ACCESS = re.compile("revoke")
"""The examples that come last, since others need the token."""
PREPARE = [
    "keyleash init",
    "keyleash load agents.yaml --yes",
    "keyleash token issue agent-runner > token-file",
    "keyleash exec --token token-file --correlation req-7f3a SET agents:jobs:42:state x",
]

RUN_LINES = """
import os, shlex, subprocess, sys
import click
from keyleash.__main__ import main
from keyleash.cli import main as program

def import_commands(group):
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            import_commands(command)

import_commands(program)
for line in sys.argv[1:]:
    if set(line) & set(">$|"):
        code = subprocess.call(["bash", "-c", line])
    elif child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    else:
        sys.argv = shlex.split(line)
        try:
            main()
        except SystemExit as ended:
            sys.stderr.flush()
            os._exit(ended.code or 0)  # to free all modules takes longer than most commands
    if code:
        print("FAILED:", line, flush=True)
"""
"""A program that runs command lines, each in a process of its own, but imports modules once."""


def examples(command: click.Command = main, path: str = "keyleash") -> Iterator[tuple[str, str]]:
    """Return the example in the help of each command, by the command's name."""
    (line,) = EXAMPLE.findall(command.epilog or "")
    yield path, line
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from examples(inner, f"{path} {name}")


EXAMPLES = dict(examples())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and the dependencies of this one."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home)
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
    offline = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, *offline, wheel], check=True, capture_output=True)
    # A folder of a .pth file is searched, but its own .pth files, such as that of an editable
    # install of this checkout, are not run.
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return home / "bin"


def shell(
    installed: Path, folder: Path, script: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with the installed `keyleash`, and no settings but *env*."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("KEYLEASH", "PYTHON"))
    }
    path = f"{installed}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", script],
        env={**inherited, **env, "PATH": path},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_lines(
    installed: Path, folder: Path, lines: list[str], **env: str
) -> subprocess.CompletedProcess[str]:
    """Run command lines in their order; the output names those that fail."""
    return shell(installed, folder, shlex.join(["python", "-c", RUN_LINES, *lines]), **env)


@pytest.fixture
def served(installed: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of a server started by the installed `keyleash serve`."""
    with subprocess.Popen(
        [installed / "keyleash", "serve", "--port", "0", "--data", tmp_path / "data"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as serving:
        assert serving.stdout is not None
        try:
            yield serving.stdout.readline().strip()
        finally:
            serving.terminate()


def test_wheel_is_used_in_place_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    """The other tests would pass with the checkout too."""
    ran = shell(installed, tmp_path, "python -c 'import keyleash; print(keyleash.__file__)'")

    assert Path(ran.stdout).is_relative_to(installed.parent)


def test_examples_that_need_no_server_work_after_init(installed: Path, tmp_path: Path) -> None:
    """A user who copies the line from the help gets no error."""
    lines = [line for name, line in EXAMPLES.items() if name in WITHOUT_SERVER]
    assert len(lines) == len(WITHOUT_SERVER)
    in_order = sorted(dict.fromkeys(lines), key=lambda line: line != "keyleash init")

    ran = run_lines(installed, tmp_path, in_order)

    assert "FAILED" not in ran.stdout, ran.stdout + ran.stderr
    assert ran.returncode == 0, ran.stderr


def test_examples_that_need_a_server_work_on_a_served_one(
    installed: Path, tmp_path: Path, served: str
) -> None:
    """Examples on the identity, keys and files of the policy that `init` writes."""
    # A group has the example of one of its commands.
    lines = dict.fromkeys(
        line
        for name, line in EXAMPLES.items()
        if name not in WITHOUT_SERVER | ENDLESS and not PLACEHOLDERS.search(line)
    )
    assert len(lines) > 20
    in_order = sorted(lines, key=lambda line: bool(ENDS_ACCESS.search(line)))
    (tmp_path / "work").mkdir()

    ran = run_lines(installed, tmp_path / "work", [*PREPARE, *in_order], KEYLEASH_URL=served)

    assert "FAILED" not in ran.stdout, ran.stdout + ran.stderr
    assert ran.returncode == 0, ran.stderr


def test_readme_commands_lead_from_init_to_a_revoked_token(
    installed: Path, tmp_path: Path, served: str
) -> None:
    """The first commands of a new user, as written."""
    (tmp_path / "work").mkdir()

    ran = shell(
        installed,
        tmp_path / "work",
        f"{README}\nkeyleash exec GET agents:jobs:42:state 2>&1",
        KEYLEASH_URL=served,
    )

    assert_printed(ran.stdout, ran, README_OUTPUT)
