"""Generating and rotating passwords of ACL users."""

from __future__ import annotations

import hashlib

import pytest
import redis
from redis.exceptions import AuthenticationError

from keyleash.errors import NotFencedError, RotationUnfinishedError
from keyleash.fence.apply import remove_fences
from keyleash.fence.rotate import add_passwords, drop_old_passwords
from keyleash.fence.servers import FencedUser
from keyleash.store.fences import generate_password, read_records
from support.fences import FencedLeash
from support.leash import grant

ALL = {"grants": [grant("read", "write", keys="a:*")]}


def rotated(leash: FencedLeash, identity: str) -> str:
    generated = generate_password(identity)
    add_passwords(leash.fenced_servers(), {identity: generated.sha256})
    return generated.password


def can_log_in(leash: FencedLeash, password: str) -> bool:
    try:
        return bool(leash.server.client(username="one", password=password).ping())
    except AuthenticationError:
        return False


def test_password_is_stored_as_a_hash_only(leash: FencedLeash) -> None:
    """Neither records nor reprs contain it."""
    leash.load(one=ALL)
    leash.fence()
    password = leash.passwords["one"]

    assert can_log_in(leash, password)
    assert password not in repr(generate_password("one"))
    assert "password=" not in repr(generate_password("one"))
    held = [leash.admin.dump(name) for name in leash.admin.scan_iter()]
    assert not any(password.encode() in (dump or b"") for dump in held)
    listed = str(leash.admin.execute_command("ACL", "LIST"))
    assert password not in listed
    assert hashlib.sha256(password.encode()).hexdigest() in listed


def test_two_passwords_are_valid_until_the_rotation_is_finished(leash: FencedLeash) -> None:
    """Agents switch one by one, and open connections remain."""
    leash.load(one=ALL, two=ALL)
    leash.fence()
    first, agent = leash.passwords["one"], leash.agent("one")
    agent.set("a:1", "x")

    second = rotated(leash, "one")
    assert can_log_in(leash, first)
    assert can_log_in(leash, second)
    assert not leash.fence().changed
    assert drop_old_passwords(leash.fenced_servers(), ["one", "two"]) == ["one"]
    assert not can_log_in(leash, first)
    assert can_log_in(leash, second)
    assert agent.get("a:1") == b"x"
    assert not leash.fence().changed


def test_third_password_is_an_error(leash: FencedLeash) -> None:
    """Agents that still use the first password would be locked out."""
    leash.load(one=ALL)
    leash.fence()
    second = rotated(leash, "one")

    with pytest.raises(RotationUnfinishedError):
        rotated(leash, "one")
    assert can_log_in(leash, second)
    with pytest.raises(NotFencedError):
        rotated(leash, "three")


def test_passwords_are_restored_with_deleted_users(leash: FencedLeash) -> None:
    """A server that restarts without an ACL file gets the same passwords."""
    leash.load(one=ALL)
    leash.fence()
    leash.admin.acl_deluser("one")

    assert leash.fence().changed
    assert can_log_in(leash, leash.passwords["one"])


def test_users_are_recognized_without_their_records(leash: FencedLeash) -> None:
    """After a flush a user gets a new, known password."""
    leash.load(one=ALL)
    leash.fence()
    leash.admin.flushall()
    leash.load(one=ALL)

    assert leash.fence().changed
    assert can_log_in(leash, leash.passwords["one"])
    assert leash.agent("one").set("a:1", "x")


def test_removed_user_loses_its_connections(leash: FencedLeash) -> None:
    """DELUSER closes them, also blocked ones."""
    leash.load(one=ALL)
    leash.fence()
    direct = leash.direct("one")
    connection = direct.connection_pool.get_connection()
    connection.send_command("XREAD", "BLOCK", "0", "STREAMS", "a:stream", "$")

    assert remove_fences(leash.fenced_servers(), ["one"]) == [FencedUser("one", "one")]
    with pytest.raises(redis.ConnectionError):
        connection.read_response()
    assert not can_log_in(leash, leash.passwords["one"])
    assert read_records(leash.store) == {}
