"""docs/reference/doctor.md and the recommended settings of docs/how-to/operate.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyleash.addons.doctor.findings import CODES, FINDINGS, Severity
from keyleash.addons.servers import EmbeddedServer
from support.command_line import Cli

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "how-to" / "operate.md").read_text("utf-8")
CODES_PAGE = (DOCS / "reference" / "doctor.md").read_text("utf-8")
SECTIONS = re.split(r"^## (.*)$", CODES_PAGE, flags=re.M)[1:]


def test_every_code_has_a_section_and_every_section_a_code() -> None:
    """The page explains all codes, in the order of the checks."""
    assert SECTIONS[::2] == list(CODES)


@pytest.mark.parametrize(
    ("code", "text"), [*zip(SECTIONS[::2], SECTIONS[1::2], strict=True)], ids=SECTIONS[::2]
)
def test_section_begins_with_the_severity_and_has_a_remedy(code: str, text: str) -> None:
    """Some findings have several severities; the usual one is among them."""
    severities = re.match(r"\s*\*\*(\w+(?:, \w+)?(?: or \w+)?)\.\*\* \S", text)

    assert severities is not None
    named = set(re.split(r", | or ", severities[1].lower()))
    assert FINDINGS[code].severity in named <= {*Severity}
    assert len(re.findall(r"^Fix: ", text, re.M)) == 1


def test_recommended_settings_leave_only_findings_about_users_versions_and_policies(
    tmp_path: Path,
) -> None:
    """The block of the page is a valid configuration file."""
    (block,) = re.findall(
        r"^### Settings of the server$.*?\n\n((?:    [^\n]*\n)+)", PAGE, re.M | re.S
    )
    settings = dict(line.split(maxsplit=1) for line in block.splitlines())
    del settings["sanitize-dump-payload"]  # The embedded release has no such setting.
    with EmbeddedServer(data=tmp_path / "data", settings=settings) as server:
        findings = Cli(server.url).json("doctor", exit_code=1)["findings"]

    assert {finding["code"] for finding in findings} <= {"open-default-user", "no-policy"}
