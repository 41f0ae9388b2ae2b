"""The dependencies of all extras: bounds of versions, and the packages to import."""

from __future__ import annotations

import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from keyleash import extras

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
ALL = [*PROJECT["dependencies"], *(item for extra in EXTRAS.values() for item in extra)]
DATA = {"tzdata"}
"""Packages of data, without an upper bound: it would only exclude corrections."""


def test_dependencies_have_a_lower_and_an_upper_bound() -> None:
    """A new major version is tested before users get it; what generates pages is exact."""
    for text in ALL:
        requirement = Requirement(text)
        operators = {item.operator for item in requirement.specifier}
        if requirement.name != "keyleash" and text in EXTRAS["docs"]:
            assert operators == {"=="}, text
        elif requirement.name != "keyleash":
            assert ">=" in operators, text
            assert "<" in operators or requirement.name in DATA, text


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_missing_package_of_an_extra_leads_to_that_extra(extra: str) -> None:
    """Each requirement of the extra has a package by which the error finds the extra."""
    for requirement in map(Requirement, EXTRAS[extra]):
        is_needed = requirement.marker is None or requirement.marker.evaluate()
        if is_needed and requirement.name != "keyleash":
            files = distribution(requirement.name).files or ()
            assert {file.parts[0] for file in files} & set(extras.EXTRAS[extra]), requirement
