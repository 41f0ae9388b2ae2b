"""The table of known vulnerabilities by release."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from keyleash.addons.doctor.advisories import advisories, parse_version

OCTOBER = "CVE-2025-49844"
MAY = "CVE-2026-23631"
HYPERLOGLOG = "CVE-2025-32023"
XACKDEL = "CVE-2025-62507"
EMPTY_REQUEST = "CVE-2026-27623"
SHARED_NACK = "CVE-2026-66373"
EVICTION = "CVE-2026-130822"
BY_NAME = {advisory.name: advisory for advisory in advisories()}


@pytest.mark.parametrize(
    ("name", "product", "version", "concerned"),
    [
        (OCTOBER, "redis", "6.2.19", True),
        (OCTOBER, "redis", "6.2.20", False),
        (OCTOBER, "redis", "7.0.15", True),
        (OCTOBER, "redis", "7.2.10", True),
        (OCTOBER, "redis", "7.2.11", False),
        (OCTOBER, "redis", "7.4.5", True),
        (OCTOBER, "redis", "7.4.6", False),
        (OCTOBER, "redis", "8.0.2", True),
        (OCTOBER, "redis", "8.0.4", False),
        (OCTOBER, "redis", "8.2.1", True),
        (OCTOBER, "redis", "8.2.2", False),
        (OCTOBER, "redis", "8.4.0", False),
        (OCTOBER, "redis", "5.0.14", True),
        (OCTOBER, "valkey", "8.0.5", True),
        (OCTOBER, "valkey", "8.0.6", False),
        (OCTOBER, "valkey", "8.1.1", True),
        (OCTOBER, "valkey", "8.1.4", False),
        (OCTOBER, "valkey", "9.0.0", False),
        (MAY, "redis", "6.2.22", False),
        (MAY, "redis", "8.0.6", True),
        (MAY, "redis", "8.6.2", True),
        (MAY, "redis", "8.8.0", False),
        (MAY, "valkey", "9.0.3", True),
        (MAY, "valkey", "9.1.2", False),
        (HYPERLOGLOG, "redis", "8.0.2", True),
        (HYPERLOGLOG, "redis", "8.0.3", False),
        (HYPERLOGLOG, "redis", "8.2.0", False),
        (HYPERLOGLOG, "valkey", "8.1.1", True),
        (HYPERLOGLOG, "valkey", "9.0.0", False),
        (XACKDEL, "redis", "8.0.2", False),
        (XACKDEL, "redis", "8.2.2", True),
        (XACKDEL, "redis", "8.2.3", False),
        (XACKDEL, "valkey", "8.1.1", False),
        (EMPTY_REQUEST, "valkey", "8.1.1", False),
        (EMPTY_REQUEST, "valkey", "9.0.2", True),
        (EMPTY_REQUEST, "redis", "8.0.2", False),
        (SHARED_NACK, "redis", "8.0.6", True),
        (SHARED_NACK, "redis", "8.6.5", False),
        (SHARED_NACK, "redis", "8.8.0", False),
        (EVICTION, "valkey", "9.1.2", True),
        (EVICTION, "valkey", "9.1.4", False),
    ],
)
def test_release_is_vulnerable_until_its_line_has_the_fix(
    name: str, product: str, version: str, concerned: bool
) -> None:
    """Older lines without a fix never got it; later lines always had it."""
    parsed = parse_version(version)
    assert parsed is not None

    assert BY_NAME[name].concerns(product, parsed) is concerned


@pytest.mark.parametrize(
    ("version", "target"), [("8.0.2", "8.0.4"), ("7.0.15", "7.2.11"), ("5.0.14", "6.2.20")]
)
def test_upgrade_is_to_the_nearest_release_with_the_fix(version: str, target: str) -> None:
    """In the same line, if it has one."""
    parsed = parse_version(version)
    assert parsed is not None

    assert str(BY_NAME[OCTOBER].upgrade("redis", parsed)) == target


@pytest.mark.parametrize("text", ["255.255.255", "unstable", "8.0", ""])
def test_development_build_has_no_version(text: str) -> None:
    """It may have any of the fixes."""
    assert parse_version(text) is None


def test_vendor_suffix_is_ignored() -> None:
    """Some vendors append their own suffix."""
    assert parse_version("8.1.4-vendor1") == (8, 1, 4)


@pytest.mark.parametrize("name", BY_NAME)
def test_table_is_in_order(name: str) -> None:
    """One release per line, ascending, as the search requires."""
    fixed = BY_NAME[name].fixed

    assert set(fixed) == {"redis", "valkey"}
    for versions in fixed.values():
        assert list(versions) == sorted(versions)
        assert len({version[:2] for version in versions}) == len(versions)


def test_every_advisory_has_a_source() -> None:
    """The table can be reviewed."""
    text = files("keyleash.addons.doctor").joinpath("advisories.json").read_text(encoding="utf-8")

    assert len(re.findall(r'"source": "https://', text)) == len(advisories())
