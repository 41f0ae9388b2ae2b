"""What the doctor may not look at, it says."""

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
def test_what_may_not_be_looked_at_is_listed(target: DoctorTarget, right: str) -> None:
    """Silence is no health: the summary counts what is missing, and each line says why."""
    result, text = as_user(target, right)
    said = json.loads(result.stdout)

    assert (result.exit_code, said["findings"]) == (0, [])
    assert {item["check"] for item in said["skipped"]} <= RIGHTS[right]
    assert said["skipped"]
    assert all("permission" in item["reason"] for item in said["skipped"])
    assert f"{target.node}: not checked: " in text.stdout
    count = len(said["skipped"])
    assert f"no finding; {count} check{'s' * (count > 1)} could not be made" in text.stderr


def test_user_without_info_learns_that_nothing_was_seen(target: DoctorTarget) -> None:
    """Managed servers may refuse even that."""
    result, text = as_user(target, "-info")

    assert [load["check"] for load in json.loads(result.stdout)["skipped"]] == ["everything"]
    assert (result.exit_code, text.exit_code) == (77, 77)


def test_user_without_ping_is_no_end_of_the_examination(target: DoctorTarget) -> None:
    """A server that refuses it is within reach; one that scrapes metrics needs no PING either."""
    result, _ = as_user(target, "-ping")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["findings"] == []


def test_user_who_may_not_read_the_records_is_not_permitted(target: DoctorTarget) -> None:
    """Exit code 77: there is nothing to say about this deployment."""
    result, _ = as_user(target, "resetkeys")

    assert result.exit_code == 77
