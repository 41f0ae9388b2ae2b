"""The commands of docs/how-to/export-audit.md that verify an archive by hand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.archives import add_events, export
from support.servers import RealServer

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "export-audit.md"


def test_script_of_the_page_verifies_an_archive_and_finds_a_changed_file(
    embedded: RealServer, tmp_path: Path
) -> None:
    """An archive can be verified without keyleash."""
    add_events(embedded.client(), "a", range(1, 31))
    export(embedded.client(), tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    block = r"To\sverify\sby\shand,\sin\sa\sfolder:\n\n```bash\npython - <<'END'\n(.*?)END\n```"
    (script,) = re.findall(block, text, re.DOTALL)
    words = [sys.executable, "-c", script]

    def run() -> str:
        done = subprocess.run(
            words, cwd=tmp_path / "audit" / "a", capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    assert run() == "the chain holds\n"
    (file,) = (tmp_path / "audit" / "a").glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))
    assert run() == "the end is missing\n"
    file.write_bytes(b"".join([*lines[:9], *lines[10:]]))
    assert run() == f"{file.name}, line 10: does not follow the line before it\n"
