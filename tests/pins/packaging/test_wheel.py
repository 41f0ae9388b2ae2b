"""The built wheel: its content, and what a bare install can do in an empty folder."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import PathDistribution, distribution
from pathlib import Path

import pytest

from support.leash import Leash, grant
from support.servers import RealServer

REPOSITORY = "https://github.com/keyleash/keyleash"
CLIENT_REQUIREMENTS = ("redis", "hiredis")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel."""
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel and its requirements, without extras.

    The requirements are those of this environment, so that no index is needed.
    """
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for requirement in CLIENT_REQUIREMENTS:
        for file in distribution(requirement).files or ():
            if file.parts[0] != "..":
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(str(file.locate()))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)],
        check=True,
        capture_output=True,
    )
    return folder / "bin"


def run(unpacked: Path, empty: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(unpacked)!r}); "
    return subprocess.run(
        [sys.executable, "-c", code + arguments[0], *arguments[1:]],
        cwd=empty,
        capture_output=True,
        text=True,
        check=False,
    )


def run_bare(
    bare: Path, empty: Path, program: str, *arguments: str, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bare / program, *arguments],
        cwd=empty,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_wheel_contains_all_lua_sources_tables_templates_and_examples(unpacked: Path) -> None:
    """A guard can be compiled without the checkout."""
    shipped = {path.relative_to(unpacked / "keyleash" / "lua") for path in unpacked.rglob("*.lua")}

    assert shipped == {path.relative_to(ROOT / "lua") for path in (ROOT / "lua").rglob("*.lua")}
    page = ("addons/report/page.html.jinja", "addons/report/page.css")
    for name in (
        "commands/table.json",
        "commands/modules.json",
        "examples/agents.yaml",
        "py.typed",
        *page,
    ):
        assert (unpacked / "keyleash" / name).is_file()


def test_wheel_compiles_the_example_from_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    """The wheel uses its own Lua sources."""
    code = (
        "import keyleash, keyleash.compiler.render as t; from keyleash.cli import main; "
        "assert str(t.lua_root()).startswith(sys.path[0]), t.lua_root(); "
        "main(['compile', str(t.examples_root() / 'agents.yaml')])"
    )
    done = run(unpacked, tmp_path, code)

    assert done.returncode == 0, done.stderr
    assert "agent-runner" in done.stdout


def test_wheel_requires_redis_py_with_hiredis_alone(unpacked: Path) -> None:
    """An agent's image installs nothing else."""
    (metadata,) = unpacked.glob("*.dist-info")
    requires = PathDistribution(metadata).requires or []

    (required,) = (line for line in requires if "extra ==" not in line)
    assert required.startswith("redis[hiredis]")


def test_import_in_a_bare_install_needs_redis_py_and_the_standard_library(
    bare: Path, tmp_path: Path
) -> None:
    """Nothing else is imported, and no module of keyleash that an agent does not need."""
    code = (
        "import sys; before = set(sys.modules); import keyleash; "
        "keyleash.Redis, keyleash.asyncio; print(*sorted(set(sys.modules) - before))"
    )
    done = run_bare(bare, tmp_path, "python", "-c", code)
    modules = done.stdout.split()

    packages = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    # Of the standard library, under a name of the platform.
    packages = {name for name in packages if not name.startswith("_sysconfigdata")}
    assert packages == {"hiredis", "keyleash", "redis"}
    assert {name.split(".")[1] for name in modules if name.startswith("keyleash.")} == {
        *(
            "asyncio",
            "client",
            "commands",
            "doubles",
            "errors",
            "extras",
            "results",
            "store",
            "text",
        )
    }


def test_guarded_set_works_in_a_bare_install(
    bare: Path, tmp_path: Path, embedded: RealServer
) -> None:
    """The client alone is enough for an agent."""
    leash = Leash(embedded)
    leash.load(agent={"grants": [grant("read", "write", keys="jobs:*")]})
    code = (
        "import os, keyleash; r = keyleash.Redis.from_url(os.environ['URL'], "
        "token=os.environ['TOKEN']); print(r.set('jobs:1', 'x'), r.get('jobs:1'))"
    )
    done = run_bare(
        bare, tmp_path, "python", "-c", code, URL=embedded.url, TOKEN=leash.issue("agent").token
    )

    assert done.stdout == "True b'x'\n", done.stderr


@pytest.mark.parametrize("command", [("keyleash", "--help"), ("python", "-m", "keyleash")])
def test_command_of_a_bare_install_names_the_extra(
    bare: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The installed script ends with a sentence and not with a traceback."""
    done = run_bare(bare, tmp_path, *command)

    assert done.returncode == 1
    assert done.stderr == (
        "error: the package `click` is not installed\n"
        "help: install it with `pip install 'keyleash[cli]'`\n"
    )


def test_pytest_finds_the_plugin_of_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    """The fixtures need no configuration."""
    code = (
        "import pytest; status = pytest.main(['--fixtures']); "
        "import keyleash.addons.testing.plugin as p; "
        "assert p.__file__.startswith(sys.path[0]), p.__file__; sys.exit(status)"
    )
    done = run(unpacked, tmp_path, code)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nleash_server -- " in done.stdout
    assert "\nfake_leash -- " in done.stdout


def test_description_of_the_wheel_links_to_files_of_the_repository(unpacked: Path) -> None:
    """The page of a package index has no files beside it."""
    (metadata,) = unpacked.glob("*.dist-info")
    text = (metadata / "METADATA").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)

    assert targets
    for target in targets:
        assert target.startswith("https://"), target
        file = re.fullmatch(re.escape(REPOSITORY) + "/(blob|raw)/main/([^#]+)(#.*)?", target)
        assert file is None or (ROOT / file[2]).is_file(), target
    assert f"({REPOSITORY}/raw/main/docs/images/demo.svg)" in text
