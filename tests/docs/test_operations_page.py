"""The page on operations: a section for each code of the doctor."""

from __future__ import annotations

import re
from pathlib import Path

from keyleash.doctor import CODES
from keyleash.servers import EmbeddedServer
from support.command_line import Cli

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "how-to" / "operate.md").read_text("utf-8")
CODES_PAGE = (DOCS / "reference" / "doctor.md").read_text("utf-8")
SECTIONS = re.split(r"^## (.*)$", CODES_PAGE, flags=re.M)[1:]


def test_every_code_has_a_section_and_every_section_a_code() -> None:
    """Whoever meets a code finds what it means, in the order of the checks."""
    assert SECTIONS[::2] == list(CODES)


def test_every_section_says_something() -> None:
    """A heading alone helps nobody."""
    assert all(len(text.split()) >= 10 for text in SECTIONS[1::2])


def test_doctor_finds_nothing_that_recommended_settings_leave_open(tmp_path: Path) -> None:
    """The block is a configuration file as it stands; the default user and flaws are not in it."""
    (block,) = re.findall(
        r"^### Settings of the server$.*?\n\n((?:    [^\n]*\n)+)", PAGE, re.M | re.S
    )
    settings = dict(line.split(maxsplit=1) for line in block.splitlines())
    del settings["sanitize-dump-payload"]  # The embedded release has no such setting.
    with EmbeddedServer(data=tmp_path / "data", settings=settings) as server:
        findings = Cli(server.url).json("doctor", exit_code=1)["findings"]

    assert {finding["code"] for finding in findings} <= {
        "open-default-user",
        "vulnerable-version",
        "no-policy",
    }
