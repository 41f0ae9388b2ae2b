"""Passwords of users: where they are, how they are rotated, and who may have none."""

from __future__ import annotations

import hashlib

import pytest
import redis
from redis.exceptions import AuthenticationError

from keyleash.fence import (
    NotFencedError,
    RotationUnfinishedError,
    add_passwords,
    drop_old_passwords,
    generate_password,
    read_records,
    remove_fences,
)
from support.fences import FencedLeash
from support.leash import NAMES, grant

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


def test_server_has_the_hash_and_nothing_has_the_password(leash: FencedLeash) -> None:
    """Neither the record nor what a class says of itself."""
    leash.load(one=ALL)
    leash.fence()
    password = leash.passwords["one"]

    assert can_log_in(leash, password)
    assert password not in repr(generate_password("one"))
    assert "password=" not in repr(generate_password("one"))
    held = [leash.admin.dump(name) for name in leash.admin.scan_iter()]
    assert not any(password.encode() in (dump or b"") for dump in held)
    said = str(leash.admin.execute_command("ACL", "LIST"))
    assert password not in said
    assert hashlib.sha256(password.encode()).hexdigest() in said


def test_two_passwords_are_valid_until_the_rotation_is_finished(leash: FencedLeash) -> None:
    """Agents change over one by one, and a connection that is open stays open."""
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


def test_third_password_is_refused(leash: FencedLeash) -> None:
    """Whoever still has the first one would be cut off without a word."""
    leash.load(one=ALL)
    leash.fence()
    second = rotated(leash, "one")

    with pytest.raises(RotationUnfinishedError):
        rotated(leash, "one")
    assert can_log_in(leash, second)
    with pytest.raises(NotFencedError):
        rotated(leash, "nobody")


def test_passwords_outlive_the_users(leash: FencedLeash) -> None:
    """A server that was restarted without an aclfile gets the same ones again."""
    leash.load(one=ALL)
    leash.fence()
    leash.admin.acl_deluser("one")

    assert leash.fence().changed
    assert can_log_in(leash, leash.passwords["one"])


def test_users_outlive_the_records(leash: FencedLeash) -> None:
    """After a flush a user is still known as ours, and gets a password that is known."""
    leash.load(one=ALL)
    leash.fence()
    leash.admin.flushall()
    leash.load(one=ALL)

    assert leash.fence().changed
    assert can_log_in(leash, leash.passwords["one"])
    assert leash.agent("one").set("a:1", "x")


def test_removed_user_loses_its_connections(leash: FencedLeash) -> None:
    """On every server DELUSER closes them, busy ones too."""
    leash.load(one=ALL)
    leash.fence()
    direct = leash.direct("one")
    connection = direct.connection_pool.get_connection()
    connection.send_command("XREAD", "BLOCK", "0", "STREAMS", "a:stream", "$")

    assert remove_fences(leash.fenced_servers(), ["one"]) == [("one", "one")]
    with pytest.raises(redis.ConnectionError):
        connection.read_response()
    assert not can_log_in(leash, leash.passwords["one"])
    assert read_records(leash.admin, NAMES) == {}
