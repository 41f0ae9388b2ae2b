"""The value of a key at a past time, or the reason why it is not known."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest

from keyleash.audit.point_in_time import ValueThen, value_at
from keyleash.audit.read import Query
from keyleash.audit.undo.apply import apply_undo
from keyleash.audit.undo.key_plans import plan_undo
from keyleash.store.store import Store
from keyleash.text import moment
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
    """Return a server time that shares its millisecond with no event."""
    time.sleep(0.002)
    seconds, micros = client.time()
    time.sleep(0.002)
    return int(seconds) * 1000 + int(micros) // 1000


def as_of(client: Any, time_ms: int, key: bytes = b"k") -> ValueThen:
    return value_at(Store(client), key, moment(time_ms))


def held(client: Any, time_ms: int, key: bytes = b"k") -> tuple[Any, ...]:
    return as_of(client, time_ms, key).value.elements


def test_each_past_value_of_a_key_is_found(client: Any, scribe: Scribe) -> None:
    """Times before the first change, between changes of several identities, and now."""
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


def test_unchanged_value_is_the_present_value(client: Any, scribe: Scribe) -> None:
    """The expiry is included, and events of other keys do not matter."""
    scribe.run("a", "SET", "k", "1", "EX", "1000")
    at = now_ms(client)
    scribe.run("a", "SET", "other", "1")

    then = as_of(client, at)

    assert (then.value.elements, then.before, then.is_compared) == ((b"1",), None, True)
    assert then.value.expires_ms == client.pexpiretime("k")


def test_value_before_an_undo_is_found(client: Any, scribe: Scribe) -> None:
    """An undo records before-images like any other change."""
    client.set("k", "1")
    scribe.run("a", "SET", "k", "2")
    at = now_ms(client)
    apply_undo(
        Store(client), plan_undo(Store(client), Query(correlation="c"), across_policies=True)
    )

    assert held(client, at) == (b"2",)
    assert held(client, now_ms(client)) == (b"1",)


def test_key_expired_by_that_time_did_not_exist(client: Any, scribe: Scribe) -> None:
    """The recorded expiry suffices; no event records it."""
    scribe.run("a", "SET", "k", "1", "PX", "1")
    at = now_ms(client)

    assert as_of(client, at).value.is_absent


def test_value_that_expired_later_is_not_known(client: Any, scribe: Scribe) -> None:
    """Expiry records no before-image."""
    now = now_ms(client)
    digest = hashlib.sha1(b"1").hexdigest()  # noqa: S324 - as the guard has it
    words, id, at = ("SET", "k", "1", "PXAT", now - 500), f"{now - 1000}-0", now - 700
    scribe.run("a", *words, entry_id=id, after=f"{digest}:{now - 500}")

    with raises_code("unknown-value", match="expired"):
        as_of(client, at)
    scribe.run("a", "SET", "k", "2")
    with raises_code("unknown-value", match="expired"):
        as_of(client, at)


def test_change_without_before_image_hides_earlier_values(client: Any, scribe: Scribe) -> None:
    """The before-image of a later change does not help."""
    client.set("k", "0")
    at = now_ms(client)
    scribe.run("a", "SET", "k", "1", images=False)

    with raises_code("unknown-value", match="no before-image"):
        as_of(client, at)
    scribe.run("a", "SET", "k", "2")
    with raises_code("unknown-value", match="no before-image"):
        as_of(client, at)


def test_masked_change_hides_earlier_values(client: Any, scribe: Scribe) -> None:
    """The stream records that the key was changed, without its value."""
    client.set("s:1", "0")
    at = now_ms(client)
    mask = "s:#" + hashlib.sha1(b"s:1").hexdigest()  # noqa: S324 - as the guard has it
    scribe.run("a", "SET", "s:1", "1", images=False, keys=[mask])

    with raises_code("unknown-value", match="masked"):
        as_of(client, at, b"s:1")


def test_value_that_was_too_large_is_not_known(client: Any, scribe: Scribe) -> None:
    """The error has the size of the value."""
    client.hset(NAMES.layouts, "a", "{}")
    at = now_ms(client)
    scribe.add("a", "SET", "k", "before", "k", "expires", "large", "value", "70000")

    with raises_code("unknown-value", match="70000 bytes"):
        as_of(client, at)


def test_change_outside_the_guards_hides_the_value(client: Any, scribe: Scribe) -> None:
    """That change may have come before or after the time."""
    scribe.run("a", "SET", "k", "1")
    at = now_ms(client)
    client.set("k", "2")

    with raises_code("unknown-value", match="outside the guards"):
        as_of(client, at)
    scribe.run("a", "SET", "k", "3")
    with raises_code("unknown-value", match="outside the guards"):
        as_of(client, at)


def test_stream_trimmed_since_that_time_hides_the_value(client: Any, scribe: Scribe) -> None:
    """A trimmed event may have changed the key."""
    client.set("k", "0")
    at = now_ms(client)
    scribe.run("a", "SET", "k", "1")
    scribe.run("b", "SET", "k", "2")
    client.xtrim(NAMES.audit("a"), maxlen=0, approximate=False)

    with raises_code("unknown-value", match="audit stream of `a`"):
        as_of(client, at)


def test_stream_trimmed_before_that_time_does_not_matter(client: Any, scribe: Scribe) -> None:
    """The trimmed events are older than the time."""
    scribe.run("a", "SET", "k", "1")
    scribe.run("a", "SET", "other", "1")
    client.xtrim(NAMES.audit("a"), maxlen=2, approximate=False)
    at = now_ms(client)
    scribe.run("a", "SET", "k", "2")

    assert held(client, at) == (b"1",)


def test_time_in_the_future_is_an_error(client: Any) -> None:
    """A future value is not known."""
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
def test_value_of_each_type_is_complete(
    client: Any, scribe: Scribe, command: tuple[Any, ...], elements: tuple[Any, ...]
) -> None:
    """Values are read whole from a before-image and from the key."""
    client.execute_command(*command)
    at = now_ms(client)
    assert held(client, at) == elements

    scribe.run("a", "DEL", "k")

    assert held(client, at) == elements
