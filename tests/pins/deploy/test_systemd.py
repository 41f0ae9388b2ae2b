"""The systemd unit: by `systemd-analyze`, where it is installed, and by its settings.

The unit is not started here: that needs systemd as the first process.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keyleash.gateway.serve import DRAIN_S
from support.deployment import DEPLOY, assert_accepted

UNIT = DEPLOY / "keyleash-gateway.service"
PROGRAM = "/opt/keyleash/bin/keyleash"
MOST_EXPOSED = 15  # tenths, of 100

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    """The settings of the service."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, encoding="utf-8")
    return parser["Service"]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with the program of this environment."""
    program = str(Path(sys.executable).with_name("keyleash"))
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text(encoding="utf-8").replace(PROGRAM, program))
    return path


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `systemd-analyze`."""
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)


@needs_systemd
def test_unit_is_valid(unit: Path) -> None:
    """Unknown settings and values are warnings, which the exit code has not."""
    done = analyze("verify", "--man=no", unit)

    assert unit.name not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


@needs_systemd
def test_unit_is_hardly_exposed(unit: Path) -> None:
    """Of 100, an unrestricted service has 96."""
    done = analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", unit)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_unit_has_options_of_the_program(service: configparser.SectionProxy) -> None:
    """An option that does not exist would be found at the first start."""
    program, *words = shlex.split(service["ExecStart"])

    assert program == PROGRAM
    assert_accepted(words)


def test_unit_reloads_certificates_and_gives_time_to_drain(
    service: configparser.SectionProxy,
) -> None:
    """The gateway reports no readiness to systemd, so the type is not `notify`."""
    assert service["Type"] == "exec"
    assert shlex.split(service["ExecReload"])[1:] == ["-HUP", "$MAINPID"]
    assert os.access(shlex.split(service["ExecReload"])[0], os.X_OK)
    assert int(service["TimeoutStopSec"].removesuffix("s")) > DRAIN_S


def test_unit_has_no_secret(service: configparser.SectionProxy) -> None:
    """Everyone may read units; the password is in a file that only root reads."""
    assert service["EnvironmentFile"] == "/etc/keyleash/gateway.env"
    assert "Environment" not in service
    assert not re.search(r"://\S*@", UNIT.read_text(encoding="utf-8"))
