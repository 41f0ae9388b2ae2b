"""What a key held at a time, or why nobody can tell."""

from __future__ import annotations

import time
from typing import Any

import pytest

from keyleash.audit.point_in_time import ValueThen, value_as_of
from keyleash.audit.undo import UndoSelection, apply_undo, plan_undo
from support.errors import raises_code
from support.scribe import NAMES, Scribe
from support.servers import RealServer


@pytest.fixture
def client(server: RealServer) -> Any:
    return server.client()


@pytest.fixture
def scribe(client: Any) -> Scribe:
    return Scribe(client)


def now_ms(client: Any) -> int:
    """A moment with nothing before and behind it in the same millisecond."""
    time.sleep(0.002)
    seconds, micros = client.time()
    time.sleep(0.002)
    return int(seconds) * 1000 + int(micros) // 1000


def as_of(client: Any, time_ms: int, key: bytes = b"k") -> ValueThen:
    return value_as_of(client, key, time_ms)


def held(client: Any, time_ms: int, key: bytes = b"k") -> tuple[Any, ...]:
    return as_of(client, time_ms, key).value.elements


def test_every_value_of_a_life_is_found(client: Any, scribe: Scribe) -> None:
    """Before the first change, between changes of several identities, and now."""
    client.set("k", "0")
    times = [now_ms(client)]
    for number, identity in enumerate("aba", 1):
        scribe.run(identity, "SET", "k", number)
        times.append(now_ms(client))
    scribe.run("b", "DEL", "k")
    gone = now_ms(client)
    scribe.run("b", "HSET", "k", "f", "v")

    assert [held(client, at) for at in times] == [(b"0",), (b"1",), (b"2",), (b"3",)]
    assert as_of(client, gone).value.is_absent
    present = as_of(client, now_ms(client))
    assert (present.value.kind, present.before) == ("hash", None)
    assert [as_of(client, at).is_compared for at in times] == [False, True, True, True]


def test_value_now_serves_if_nobody_changed_it_since(client: Any, scribe: Scribe) -> None:
    """With its expiry; other keys do not matter."""
    scribe.run("a", "SET", "k", "1", "EX", "1000")
    at = now_ms(client)
    scribe.run("a", "SET", "other", "1")

    then = as_of(client, at)

    assert (then.value.elements, then.before, then.is_compared) == ((b"1",), None, True)
    assert then.value.expires_ms == client.pexpiretime("k")


def test_undo_is_a_change_like_any_other(client: Any, scribe: Scribe) -> None:
    """What it overwrote is found in its own images."""
    client.set("k", "1")
    scribe.run("a", "SET", "k", "2")
    at = now_ms(client)
    apply_undo(client, plan_undo(client, UndoSelection(correlation="c"), across_policies=True))

    assert held(client, at) == (b"2",)
    assert held(client, now_ms(client)) == (b"1",)


def test_key_that_had_expired_by_then_did_not_exist(client: Any, scribe: Scribe) -> None:
    """Also if nothing says so but its expiry."""
    scribe.run("a", "SET", "k", "1", "PX", "1")
    at = now_ms(client)

    assert as_of(client, at).value.is_absent


def test_value_that_expired_later_is_not_known(client: Any, scribe: Scribe) -> None:
    """Nobody took an image of it when it went."""
    scribe.run("a", "SET", "k", "1", "PX", "30")
    at = now_ms(client)
    time.sleep(0.04)

    with raises_code("unknown-value", match="expired"):
        as_of(client, at)
    scribe.run("a", "SET", "k", "2")
    with raises_code("unknown-value", match="expired"):
        as_of(client, at)


def test_change_without_an_image_hides_what_was_there(client: Any, scribe: Scribe) -> None:
    """Also if there is an image of a later one."""
    client.set("k", "0")
    at = now_ms(client)
    scribe.run("a", "SET", "k", "1", images=False)

    with raises_code("unknown-value", match="no before-image"):
        as_of(client, at)
    scribe.run("a", "SET", "k", "2")
    with raises_code("unknown-value", match="no before-image"):
        as_of(client, at)


def test_masked_change_hides_what_was_there(client: Any, scribe: Scribe) -> None:
    """It is known that the key was changed, and nothing else."""
    import hashlib

    client.set("s:1", "0")
    at = now_ms(client)
    mask = "s:#" + hashlib.sha1(b"s:1").hexdigest()  # noqa: S324 - as the guard has it
    scribe.run("a", "SET", "s:1", "1", images=False, keys=[mask])

    with raises_code("unknown-value", match="masked"):
        as_of(client, at, b"s:1")


def test_value_that_was_too_large_is_not_known(client: Any, scribe: Scribe) -> None:
    """It says how large it was."""
    client.hset(NAMES.layouts, "a", "{}")
    at = now_ms(client)
    scribe.add("a", "op", "SET", "key", "k", "before", "k", "expires", "large", "value", "70000")

    with raises_code("unknown-value", match="70000 bytes"):
        as_of(client, at)


def test_change_outside_the_guards_makes_it_uncertain(client: Any, scribe: Scribe) -> None:
    """It was there before or after that time: nobody knows."""
    scribe.run("a", "SET", "k", "1")
    at = now_ms(client)
    client.set("k", "2")

    with raises_code("unknown-value", match="outside the guards"):
        as_of(client, at)
    scribe.run("a", "SET", "k", "3")
    with raises_code("unknown-value", match="outside the guards"):
        as_of(client, at)


def test_trail_that_was_trimmed_since_then_cannot_tell(client: Any, scribe: Scribe) -> None:
    """An event that is gone may have been about the key."""
    client.set("k", "0")
    at = now_ms(client)
    scribe.run("a", "SET", "k", "1")
    scribe.run("b", "SET", "k", "2")
    client.xtrim(NAMES.audit("a"), maxlen=0, approximate=False)

    with raises_code("unknown-value", match="audit stream of `a`"):
        as_of(client, at)


def test_trail_that_was_trimmed_before_then_does_not_matter(client: Any, scribe: Scribe) -> None:
    """What is gone is older than what was asked for."""
    scribe.run("a", "SET", "k", "1")
    scribe.run("a", "SET", "other", "1")
    client.xtrim(NAMES.audit("a"), maxlen=2, approximate=False)
    at = now_ms(client)
    scribe.run("a", "SET", "k", "2")

    assert held(client, at) == (b"1",)


def test_time_to_come_is_an_error(client: Any) -> None:
    """Nobody knows."""
    with raises_code("unknown-value", match="in the future"):
        as_of(client, now_ms(client) + 60_000)


@pytest.mark.parametrize(
    ("command", "elements"),
    [
        (("RPUSH", "k", "a", "b"), (b"a", b"b")),
        (("SADD", "k", "a"), (b"a",)),
        (("ZADD", "k", "1.5", "a"), (b"a", b"1.5")),
        (("HSET", "k", "f", b"\xff"), (b"f", b"\xff", b"-1")),
        (("XADD", "k", "1-1", "f", "v"), (b"1-1", [b"f", b"v"])),
    ],
    ids=lambda value: str(value[0]),
)
def test_value_of_each_type_is_whole(
    client: Any, scribe: Scribe, command: tuple[Any, ...], elements: tuple[Any, ...]
) -> None:
    """From an image, as from the key."""
    client.execute_command(*command)
    at = now_ms(client)
    assert held(client, at) == elements

    scribe.run("a", "DEL", "k")

    assert held(client, at) == elements
