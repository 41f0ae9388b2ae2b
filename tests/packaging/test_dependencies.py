"""What keyleash is installed with: versions that are known to do, and none beyond."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
ALL = [*PROJECT["dependencies"], *(item for extra in EXTRAS.values() for item in extra)]
DATA = {"tzdata"}
"""Data without an interface: an upper bound would only keep corrections out."""


@pytest.mark.parametrize(
    "written", [item for item in ALL if not item.startswith("keyleash[")], ids=str
)
def test_dependency_has_a_lower_and_an_upper_bound(written: str) -> None:
    """The next major version of somebody else is looked at before users get it."""
    requirement = Requirement(written)
    operators = {item.operator for item in requirement.specifier}

    assert ">=" in operators
    assert "<" in operators or requirement.name in DATA
