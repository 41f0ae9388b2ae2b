"""The commands of docs/how-to/export-audit.md that verify an archive by hand."""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from support.archives import add_events, export
from support.servers import RealServer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "export-audit.md"


@pytest.fixture
def folder(embedded: RealServer, tmp_path: Path) -> Path:
    add_events(embedded.client(), "a", range(1, 31))
    export(embedded.client(), tmp_path / "archive", max_entries=10)
    return tmp_path / "archive" / "audit" / "a"


@pytest.mark.skipif(not shutil.which("jq"), reason="needs jq")
def test_commands_of_the_page_verify_an_archive_and_find_a_changed_file(folder: Path) -> None:
    """An archive can be verified without keyleash."""
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(r"To\sverify\sby\shand,\sin\sa\sfolder:\n\n((?:    .*\n)+)", text)
    script = textwrap.dedent(block)

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False
        )

    lines = run().stdout.splitlines()
    assert [line.endswith(": OK") for line in lines] == [True, True, True, False]
    assert lines[-1] == "the chain holds"
    file = sorted(folder.glob("*.jsonl"))[1]
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file.name}: FAILED" in run().stdout
