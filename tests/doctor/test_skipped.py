"""What the doctor may not look at, it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from doctor.patients import Patient

RIGHTS = {
    "-config": {"snapshots", "appendfsync", "client limits", "payload validation"},
    "-acl": {"default user"},
    "-info": {"version", "eviction", "persistence", "client limits", "payload validation"},
    "-script": {"scripts"},
}


def as_user(patient: Patient, *rights: str) -> Any:
    words = ("on", ">less", "~*", "&*", "+@all", *rights)
    patient.admin.execute_command("ACL", "SETUSER", "less", "reset", *words)
    url = f"redis://less:less@127.0.0.1:{patient.server.port}"
    result = patient.cli.run("doctor", "--json", KEYLEASH_URL=url)
    text = patient.cli.run("doctor", KEYLEASH_URL=url)
    return result, text


@pytest.mark.parametrize("right", ["-config", "-acl", "-script"])
def test_what_may_not_be_looked_at_is_listed(patient: Patient, right: str) -> None:
    """Silence is no health: the summary counts what is missing, and each line says why."""
    result, text = as_user(patient, right)
    said = json.loads(result.stdout)

    assert (result.exit_code, said["findings"]) == (0, [])
    assert {item["check"] for item in said["skipped"]} <= RIGHTS[right]
    assert said["skipped"]
    assert all("permission" in item["reason"] for item in said["skipped"])
    assert f"{patient.node}: not checked: " in text.stdout
    count = len(said["skipped"])
    assert f"no finding; {count} check{'s' * (count > 1)} could not be made" in text.stderr


def test_user_without_info_learns_that_nothing_was_seen(patient: Patient) -> None:
    """Managed servers may refuse even that."""
    result, text = as_user(patient, "-info")

    assert [load["check"] for load in json.loads(result.stdout)["skipped"]] == ["everything"]
    assert (result.exit_code, text.exit_code) == (77, 77)


def test_user_without_ping_is_no_end_of_the_examination(patient: Patient) -> None:
    """A server that refuses it is within reach; one that scrapes metrics needs no PING either."""
    result, _ = as_user(patient, "-ping")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["findings"] == []


def test_user_who_may_not_read_the_records_is_not_permitted(patient: Patient) -> None:
    """Exit code 77: there is nothing to say about this deployment."""
    result, _ = as_user(patient, "resetkeys")

    assert result.exit_code == 77
