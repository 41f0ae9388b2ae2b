"""Checks that the doctor may not make are listed as skipped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from doctor.targets import DoctorTarget

RIGHTS = {
    "-config": {"persistence", "client limits", "payload validation"},
    "-acl": {"default user"},
    "-info": {"version", "eviction", "persistence", "client limits", "payload validation"},
    "-script": {"scripts"},
}


def as_user(target: DoctorTarget, *rights: str) -> Any:
    words = ("on", ">less", "~*", "&*", "+@all", *rights)
    target.admin.execute_command("ACL", "SETUSER", "less", "reset", *words)
    url = f"redis://less:less@127.0.0.1:{target.server.port}"
    result = target.cli.run("doctor", "--json", KEYLEASH_URL=url)
    text = target.cli.run("doctor", KEYLEASH_URL=url)
    return result, text


@pytest.mark.parametrize("right", ["-config", "-acl", "-script"])
def test_denied_check_is_listed_as_skipped(target: DoctorTarget, right: str) -> None:
    """The summary counts skipped checks, and each line has the reason."""
    result, text = as_user(target, right)
    document = json.loads(result.stdout)

    codes = ["command-denied"] if right == "-script" else []
    assert [item["code"] for item in document["findings"]] == codes
    assert result.exit_code == len(codes)
    assert {item["check"] for item in document["skipped"]} <= RIGHTS[right]
    assert document["skipped"]
    assert all("permission" in item["reason"] for item in document["skipped"])
    assert f"{target.node}: not checked: " in text.stdout
    count = len(document["skipped"])
    found = "1 warning" if codes else "no finding"
    assert f"{found}; {count} check{'s' * (count > 1)} could not be made" in text.stderr


def test_user_without_info_exits_with_77(target: DoctorTarget) -> None:
    """Managed servers may deny INFO."""
    result, text = as_user(target, "-info")

    assert [load["check"] for load in json.loads(result.stdout)["skipped"]] == ["everything"]
    assert (result.exit_code, text.exit_code) == (77, 77)


def test_user_without_ping_can_examine(target: DoctorTarget) -> None:
    """A server that denies PING is reachable."""
    result, _ = as_user(target, "-ping")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["findings"] == []


def test_user_without_access_to_records_exits_with_77(target: DoctorTarget) -> None:
    """Nothing can be checked."""
    result, _ = as_user(target, "resetkeys")

    assert result.exit_code == 77


def test_user_of_a_role_lists_all_checks_that_it_may_not_make(target: DoctorTarget) -> None:
    """It does not end at the first; what the role may read is checked."""
    *_, rules = target.cli.ok("acl", "issuer").strip().partition("keyleash-issuer ")
    target.admin.execute_command("ACL", "SETUSER", "issuer", *rules.split(), ">less")
    url = f"redis://issuer:less@127.0.0.1:{target.server.port}"

    result = target.cli.run("doctor", "--json", KEYLEASH_URL=url)

    document = json.loads(result.stdout)
    checks = {item["check"] for item in document["skipped"]}
    assert {item["code"] for item in document["findings"]} == {"command-denied"}
    assert {"users of agents", "scripts", "guards and users"} <= checks
    assert "tokens" not in checks
