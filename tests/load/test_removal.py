"""A load that lacks an identity stops its old guard, whatever was deleted or damaged before."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.errors import RemovalError
from keyleash.operator.load.compile import prepare_policy
from keyleash.operator.load.preview import preview_load
from keyleash.operator.suspension import freeze
from support.leash import NAMES, Leash, grant, policy
from support.loading import load_policy
from support.servers import RealServer

RULES: dict[str, Any] = {"grants": [grant("read", "write", keys="*")]}
DAMAGE: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "guard record": ("DEL guard",),
    "guard record damaged": ("HDEL guard digest",),
    "field of layouts": ("HDEL layouts victim",),
    "layouts": ("DEL layouts",),
    "guard record and field": ("DEL guard", "HDEL layouts victim"),
    "guard record and layouts": ("DEL guard", "DEL layouts"),
    "policy": ("DEL policy",),
    "policy and field": ("DEL policy", "HDEL layouts victim"),
    "policy, guard record and layouts": ("DEL policy", "DEL guard", "DEL layouts"),
}
KEYS = {"guard": NAMES.guard("victim"), "layouts": NAMES.layouts, "policy": NAMES.policy}


@pytest.fixture
def leash(server: RealServer) -> Leash:
    return Leash(server)


def damage(leash: Leash, commands: tuple[str, ...]) -> None:
    for command in commands:
        leash.admin.execute_command(*(KEYS.get(word, word) for word in command.split()))


@pytest.mark.parametrize("commands", DAMAGE.values(), ids=list(DAMAGE))
def test_removal_after_damage_needs_consent_and_stops_the_old_guard(
    leash: Leash, commands: tuple[str, ...]
) -> None:
    """The plan lists the identity, a load without consent changes nothing, one with it denies."""
    leash.load(keep=RULES, victim=RULES)
    token, digest = leash.issue("victim").token, leash.digest("victim")

    def call() -> Any:
        return leash.raw("victim", ["k"], token, "c", "SET", "k", "v", digest=digest)

    assert call() == b"OK"
    damage(leash, commands)
    prepared = prepare_policy(leash.store, policy(keep=RULES))
    plan = preview_load(leash.store, prepared)

    assert plan.removed == ("victim",)
    with pytest.raises(RemovalError, match="removes 1 identity"):
        load_policy(leash.store, policy(keep=RULES))
    assert call() == b"OK"
    assert leash.load(keep=RULES).removed == ("victim",)
    assert call() in ("LEASH POLICY_STALE", "LEASH NOT_ACTIVE")
    assert leash.admin.exists(NAMES.guard("victim")) == 0


def test_load_of_the_active_policy_removes_an_identity_that_came_back(leash: Leash) -> None:
    """A state that is restored from a backup has a live stamp; loading the same policy ends it."""
    leash.load(keep=RULES, victim=RULES)
    token, digest = leash.issue("victim").token, leash.digest("victim")
    state = leash.state("victim")
    leash.load(keep=RULES)
    leash.admin.set(NAMES.state("victim"), state)

    result = leash.load(keep=RULES)

    assert result.removed == ("victim",)
    assert leash.raw("victim", ["k"], token, "c", "GET", "k", digest=digest) == (
        "LEASH POLICY_STALE"
    )


def test_load_of_the_active_policy_writes_missing_layouts(leash: Leash) -> None:
    """Otherwise operators could not find the identity by its layout."""
    leash.load(keep=RULES, victim=RULES)
    layouts = leash.admin.hgetall(NAMES.layouts)
    leash.admin.hdel(NAMES.layouts, "victim")

    assert leash.load(keep=RULES, victim=RULES).changed
    assert leash.admin.hgetall(NAMES.layouts) == layouts
    assert not leash.load(keep=RULES, victim=RULES).changed


def test_freeze_of_all_stops_a_guard_whose_record_was_deleted(leash: Leash) -> None:
    """The guard remains callable, so it is suspended like others; a removed identity is not."""
    leash.load(keep=RULES, victim=RULES, gone=RULES)
    leash.load(keep=RULES, victim=RULES)
    token, digest = leash.issue("victim").token, leash.digest("victim")
    leash.admin.delete(NAMES.guard("victim"))

    frozen = freeze(leash.store, reason="incident")

    assert [item.identity for item in frozen.identities] == ["keep", "victim"]
    reply = leash.raw("victim", ["k"], token, "c", "GET", "k", digest=digest)
    assert str(reply).startswith("LEASH SUSPENDED")


def test_first_load_of_a_server_with_data_reads_its_keys_once(leash: Leash) -> None:
    """Later loads do not list the keys, since policy and layouts agree."""
    leash.admin.mset({f"data:{number}": "x" for number in range(3000)})

    def scans(load: Any) -> int:
        leash.admin.config_resetstat()
        load()
        stats: dict[str, Any] = leash.admin.info("commandstats")
        return int(stats.get("cmdstat_scan", {"calls": 0})["calls"])

    assert scans(lambda: leash.load(keep=RULES)) > 0
    assert scans(lambda: leash.load(keep=RULES, other=RULES)) == 0
