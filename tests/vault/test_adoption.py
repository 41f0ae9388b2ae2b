"""Moving keys into the vault and out of it while agents run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from keyleash.errors import PolicyError, VaultConflictError
from keyleash.store.store import Store
from keyleash.vault.change import adopt_keys, release_keys
from support.errors import raises_code
from support.leash import Leash


def test_adopted_key_has_its_value_and_expiry(sealed: Leash) -> None:
    """For every type; other clients do not find it any more."""
    agent, admin = sealed.agent("one"), sealed.admin
    admin.set("a:1", "x", ex=1000)
    admin.rpush("a:2", "x", "y")
    admin.xadd("a:3", {"f": "v"}, id="1-1")
    admin.set("b:1", "x")

    assert adopt_keys(Store.open(admin), "a:*") == 3

    assert 990 < agent.ttl("a:1") <= 1000
    assert agent.lrange("a:2", 0, -1) == [b"x", b"y"]
    assert agent.xlen("a:3") == 1
    assert admin.exists("a:1", "a:2", "a:3") == 0
    assert admin.get("b:1") == b"x"


def test_patterns_are_those_of_policies(sealed: Leash) -> None:
    """Keys are moved by the same patterns that grant them."""
    for name in ("a:1:state", "a:1:2:state", "a:1:lock", "a:x"):
        sealed.admin.set(name, "x")

    assert adopt_keys(sealed.store, "a:{job}:state", "a:x") == 2
    assert sealed.admin.exists("a:1:2:state", "a:1:lock") == 2
    assert release_keys(sealed.store, "a:{job}:state") == 1
    assert sealed.admin.exists("a:1:state") == 1


@pytest.mark.parametrize("move", [adopt_keys, release_keys])
def test_taken_name_is_a_conflict(sealed: Leash, move: Callable[..., Any]) -> None:
    """Both keys keep their values, and all others are moved."""
    agent, admin = sealed.agent("one"), sealed.admin
    for number in range(5):
        (admin if move is adopt_keys else agent).set(f"a:{number}", "moves")
    (agent if move is adopt_keys else admin).set("a:3", "stays")

    with pytest.raises(VaultConflictError, match="`a:3` exists both") as error:
        move(Store.open(admin), "a:*")

    assert error.value.keys == (b"a:3",)
    stays, other = (agent, admin) if move is adopt_keys else (admin, agent)
    assert stays.get("a:3") == b"stays"
    assert other.get("a:3") == b"moves"
    assert [stays.get(f"a:{number}") for number in (0, 1, 2, 4)] == [b"moves"] * 4


@pytest.mark.parametrize("move", [adopt_keys, release_keys])
@pytest.mark.parametrize("pattern", ["keyleash:*", "keyleash:guard:{name}", "{prefix}*"])
def test_control_keys_cannot_be_moved(
    sealed: Leash, move: Callable[..., Any], pattern: str
) -> None:
    """Neither by name nor by a pattern for all keys."""
    sealed.admin.set("other", "x")
    pattern = pattern.replace("{prefix}", sealed.keyspace.prefix)
    before = {key for key in sealed.admin.keys("*") if key != b"other"}

    with raises_code("vault", match="matches control keys"):
        move(sealed.store, pattern)
    adopt_keys(sealed.store, "*")

    assert {*sealed.admin.keys("*")} == before | {sealed.keyspace.physical(b"other")}


def test_invalid_pattern_is_a_policy_error(sealed: Leash) -> None:
    """With help."""
    with pytest.raises(PolicyError):
        adopt_keys(sealed.store, "a:{x")


@pytest.mark.parametrize("move", [adopt_keys, release_keys])
def test_open_server_has_no_vault(leash: Leash, move: Callable[..., Any]) -> None:
    """No guard would find the keys."""
    with raises_code("vault", match="not sealed"):
        move(leash.store, "a:*")


def test_interrupted_move_can_be_repeated(sealed: Leash) -> None:
    """Each key is in one place at any time; in the end all are moved."""
    admin, count = sealed.admin, 2000
    with admin.pipeline() as pipe:
        for number in range(count):
            pipe.set(f"a:{number}", number)
        pipe.execute()

    class Killed(BaseException):
        pass

    def die(done: int, total: int | None) -> None:
        if total is not None and done > total / 3:
            raise Killed

    with pytest.raises(Killed):
        adopt_keys(Store.open(admin), "a:*", progress=die)
    outside = len(admin.keys("a:*"))
    assert 0 < outside < count
    assert len(admin.keys(f"{sealed.keyspace.vault}a:*")) == count - outside
    assert adopt_keys(Store.open(admin), "a:*") == outside


def test_keys_may_change_during_a_move(sealed: Leash) -> None:
    """Others write outside, agents inside, and keys expire."""
    admin, agent = sealed.admin, sealed.server.client()
    done = threading.Event()

    def disturb() -> None:
        number = 0
        while not done.is_set():
            number += 1
            agent.set(f"a:{number % 700}", "x", px=1 + number % 3)
            agent.delete(f"a:{(number * 7) % 700}")

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(20):
            try:
                adopt_keys(Store.open(admin), "a:*")
            except VaultConflictError as error:
                assert all(key.startswith(b"a:") for key in error.keys)  # noqa: PT017
    finally:
        done.set()
        thread.join()
