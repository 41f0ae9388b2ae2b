"""`keyleash init` and `keyleash examples`."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyleash.operator.examples import EXAMPLES
from support.command_line import Cli

FILES = {"agents.yaml", "agents.test.yaml", ".env.example"}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", EXAMPLES)
def test_copied_policy_passes_check_and_its_tests_cover_every_pattern(
    offline: Cli, name: str
) -> None:
    """An example needs no change before its first load."""
    offline.ok("examples", name, "--to", "copy")

    offline.ok("check", "copy/agents.yaml", "--strict")
    offline.ok("test", "copy/agents.test.yaml", "--no-server", "--min-coverage", "100")


def test_init_writes_policy_tests_and_settings(offline: Cli, tmp_path: Path) -> None:
    """The directory is created."""
    assert offline.json("init", "new/project") == {
        "written": [f"new/project/{name}" for name in EXAMPLES["starter"].files]
    }
    assert {path.name for path in (tmp_path / "new/project").iterdir()} == FILES


def test_settings_of_init_name_variables_that_exist(offline: Cli, tmp_path: Path) -> None:
    """A misspelt variable would have no effect."""
    offline.ok("init")
    lines = (tmp_path / ".env.example").read_text().replace("# KEYLEASH", "KEYLEASH").splitlines()

    names = [line.partition("=")[0] for line in lines if line.startswith("KEYLEASH")]
    assert names == ["KEYLEASH_URL", "KEYLEASH_ACTOR", "KEYLEASH_TOKEN"]


def test_existing_file_stops_init_before_anything_is_written(offline: Cli, tmp_path: Path) -> None:
    """A policy of the user is not lost."""
    (tmp_path / "agents.yaml").write_text("mine")

    result = offline.run("init")

    assert result.exit_code == 1
    assert "error: `agents.yaml` exists, and nothing was written" in result.stderr
    assert "--force" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["agents.yaml"]
    assert (tmp_path / "agents.yaml").read_text() == "mine"


def test_force_overwrites_existing_files(offline: Cli, tmp_path: Path) -> None:
    """All files are written again."""
    (tmp_path / "agents.yaml").write_text("mine")

    offline.ok("init", "--force")

    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert "agent-runner" in (tmp_path / "agents.yaml").read_text()


def test_force_does_not_write_through_a_link(offline: Cli, tmp_path: Path) -> None:
    """A link may lead to a file of another program."""
    (tmp_path / "target").write_text("mine")
    (tmp_path / "agents.yaml").symlink_to("target")

    result = offline.run("init", "--force")

    assert result.exit_code == 1
    assert "is a symbolic link" in result.stderr
    assert (tmp_path / "target").read_text() == "mine"


def test_copies_name_no_schema_of_a_checkout(offline: Cli) -> None:
    """An editor would report a schema that it cannot find."""
    for name in EXAMPLES:
        offline.ok("examples", name, "--to", name)

    assert not [path for path in Path().rglob("agents.yaml") if "$schema" in path.read_text()]
