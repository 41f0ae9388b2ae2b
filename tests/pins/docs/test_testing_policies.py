"""The commands of `docs/how-to/test-a-policy.md` and their output."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from support.command_line import Cli

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "how-to" / "test-a-policy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command", ["explain", "test examples/agents", "test examples/jobs", "can-i --list"]
)
def test_output_on_the_page_equals_that_of_the_command(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page quotes the output for the example policies line by line."""
    monkeypatch.chdir(ROOT)
    found = re.search(rf"^    \$ keyleash ({command}.*)\n((?:    .*\n)+)", PAGE, re.M)
    assert found is not None

    output = Cli("redis://127.0.0.1:1").run(*shlex.split(found[1])).stdout

    assert output == re.sub(r"^    ", "", found[2], flags=re.M)


def test_test_file_on_the_page_passes(tmp_path: Path) -> None:
    """Readers copy the test file of the page."""
    found = re.search(r"```yaml\n(policy: .*?)```", PAGE, re.S)
    assert found is not None
    shutil.copy(ROOT / "examples" / "agents.yaml", tmp_path)
    file = tmp_path / "policy.test.yaml"
    file.write_text(found[1])

    assert "2 cases passed" in Cli("redis://127.0.0.1:1").ok("test", file)


def test_case_with_a_bound_token_on_the_page_passes(tmp_path: Path) -> None:
    """It belongs to the second example."""
    found = re.search(r"```yaml\n(  - name: a token of one job.*?)```", PAGE, re.S)
    assert found is not None
    shutil.copy(ROOT / "examples" / "jobs.yaml", tmp_path)
    file = tmp_path / "jobs.test.yaml"
    file.write_text(f"policy: jobs.yaml\ncases:\n{found[1]}")

    assert "1 case passed" in Cli("redis://127.0.0.1:1").ok("test", file)
