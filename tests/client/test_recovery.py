"""A lost script or a changed policy heals inside the call; anything else does not."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from redis.exceptions import NoScriptError

import keyleash
from client.alike import EITHER
from keyleash import NotActiveError, PolicyStaleError
from support.errors import raises_code
from support.leash import NAMES, Leash, grant

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="t:*")]}
READ: dict[str, Any] = {"grants": [grant("read", keys="t:*")]}
OTHER: dict[str, Any] = {"grants": [grant("read", "write", keys="v:*")]}


class Sent:
    """The commands that were sent, by name."""

    def __init__(self, packets: list[bytes]) -> None:
        self.clear = packets.clear
        self._packets = packets

    def __eq__(self, names: object) -> bool:
        return list(self) == names

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[str]:
        return (packet.split(b"\r\n")[2].decode() for packet in self._packets)

    def __repr__(self) -> str:
        return repr(list(self))

    def count(self, name: str) -> int:
        return list(self).count(name)


@pytest.fixture
def sent(packets: list[bytes]) -> Sent:
    return Sent(packets)


def ready(leash: Leash, **options: Any) -> keyleash.Redis:
    """A client that has found its guard."""
    client = leash.agent("one", **options)
    client.ping()
    return client


# A script that the server lost.


@EITHER
@pytest.mark.parametrize("single", [False, True], ids=["pool", "single connection"])
def test_flushed_script_is_loaded_again_inside_the_call(
    leash: Leash, sent: Sent, single: bool
) -> None:
    """Nothing ran, so the call is made again, and the next one pays nothing more."""
    client = ready(leash, single_connection_client=single)
    leash.admin.script_flush()
    sent.clear()

    assert client.incr("t:n") == 1
    assert sent == ["EVALSHA", "HGETALL", "HGET", "SCRIPT", "EVALSHA"]
    assert client.incr("t:n") == 2
    assert leash.admin.script_exists(leash.digest("one")) == [True]
    assert len(leash.events("one")) == 2


@EITHER
def test_flushed_script_without_its_source_is_no_script(leash: Leash, sent: Sent) -> None:
    """There is nothing to load; the error is the server's."""
    client = ready(leash)
    leash.admin.delete(NAMES.source("one"))
    leash.admin.script_flush()
    sent.clear()

    with pytest.raises(NoScriptError):
        client.set("t:a", 1)
    assert sent == ["EVALSHA", "HGETALL", "HGET"]
    assert leash.admin.get("t:a") is None


@EITHER
def test_source_that_an_earlier_version_stored_as_it_is_is_loaded(leash: Leash) -> None:
    """Until the identity gets another guard."""
    client = ready(leash)
    leash.admin.hset(NAMES.source("one"), leash.digest("one"), leash.stored_script("one"))
    leash.admin.script_flush()

    assert client.incr("t:n") == 1


@EITHER
@pytest.mark.parametrize(
    "text",
    [
        "return redis.call(unpack(ARGV, 4))", "", "\xff\xfe", "return 1 --",
        zlib.compress(b"return 1"), zlib.compress(b"-" * 2**25), zlib.compress(b"return 1")[:-5],
    ],
    ids=range(7),
)  # fmt: skip
def test_flushed_script_with_a_tampered_source_is_not_loaded(
    leash: Leash, text: str | bytes
) -> None:
    """A client that may write to the record must not be able to run code as every agent."""
    client = ready(leash)
    leash.admin.hset(NAMES.source("one"), leash.digest("one"), text)
    leash.admin.script_flush()
    loaded = leash.admin.info("memory")["number_of_cached_scripts"]

    with raises_code("digest-mismatch") as caught:
        client.set("t:a", 1)
    assert "one" in str(caught.value)
    assert leash.admin.info("memory")["number_of_cached_scripts"] == loaded
    assert leash.admin.get("t:a") is None


@EITHER
def test_record_that_names_another_script_gives_no_other_rights(leash: Leash) -> None:
    """The record is public and says only which script to call: a guard of another identity."""
    leash.load(one=READ, admin=ALL)
    client = leash.agent("one")
    leash.admin.hset(NAMES.guard("one"), "digest", leash.digest("admin"))

    with pytest.raises(keyleash.TokenUnknownError):
        client.set("t:a", 1)


@EITHER
@pytest.mark.parametrize(
    ("rights", "right"),
    [
        (["~*", "+@all", "-script"], "+script|load"),
        (["~*", "+@all", "-script|load"], "+script|load"),
        (
            [
                "~t:*",
                *(f"~keyleash:{kind}:*" for kind in ("guard", "state", "token", "audit")),
                "+@all",
            ],
            "%R~keyleash:source:one",
        ),
        (["~*", "+@all", "-evalsha"], "+evalsha"),
    ],
    ids=["no SCRIPT", "no SCRIPT LOAD", "source unreadable", "no EVALSHA"],
)
def test_missing_right_to_load_or_call_the_guard_is_named(
    leash: Leash, rights: list[str], right: str
) -> None:
    """An operator makes users of the server by hand; until then nothing runs."""
    client = ready(leash)
    leash.admin.execute_command("ACL", "SETUSER", "few", "on", ">pw", *rights)
    few = leash.client(client._session._token, username="few", password="pw")
    leash.admin.script_flush()

    with pytest.raises(keyleash.RightMissingError) as caught:
        few.set("t:a", 2)
    assert caught.value.right == right
    assert leash.admin.get("t:a") is None


def test_script_that_is_lost_again_and_again_is_given_up(
    leash: Leash, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One load per call, or a client would compete with the one that flushes."""
    client = ready(leash)
    parse: Any = keyleash.Redis.parse_response

    def always_lost(self: Any, connection: Any, name: str, **options: Any) -> Any:
        parse(self, connection, name, **options)
        raise NoScriptError("No matching script.")

    leash.admin.script_flush()
    sent.clear()
    monkeypatch.setattr(keyleash.Redis, "parse_response", always_lost)
    with pytest.raises(NoScriptError):
        client.ping()
    assert sent.count("EVALSHA") == 2
    assert sent.count("SCRIPT") == 1


# A policy that changed.


@EITHER
def test_changed_policy_is_followed_inside_the_call(leash: Leash, sent: Sent) -> None:
    """The old guard says POLICY_STALE, the record names the new one, and that is called."""
    leash.load(one=ALL)
    client = ready(leash)
    leash.load(one=OTHER)
    sent.clear()

    assert client.set("v:a", 1) is True
    assert sent == ["EVALSHA", "HGETALL", "EVALSHA"]
    with pytest.raises(keyleash.KeyNotGrantedError):
        client.set("t:a", 1)
    assert leash.admin.get("t:a") is None


@EITHER
def test_changed_policy_and_lost_scripts_are_both_healed(leash: Leash, sent: Sent) -> None:
    """A restart after a load: the old script is gone, and so is the new one."""
    leash.load(one=ALL)
    client = ready(leash)
    leash.load(one=OTHER)
    leash.admin.script_flush()
    sent.clear()

    assert client.set("v:a", 1) is True
    assert sent.count("EVALSHA") == 3
    assert sent.count("SCRIPT") == 1


@EITHER
def test_retired_script_of_an_old_policy_is_not_brought_back(leash: Leash) -> None:
    """The record is asked first, so that healing loads what is active and nothing else."""
    leash.load(one=ALL)
    client = ready(leash)
    old = leash.digest("one")
    leash.load(one=OTHER)
    leash.admin.script_flush()
    client.set("v:a", 1)

    assert leash.admin.script_exists(old, leash.digest("one")) == [False, True]


@EITHER
def test_policy_that_never_rests_is_reported_stale(leash: Leash, sent: Sent) -> None:
    """After one retry the agent gets the error, and nothing ran."""
    leash.load(one=ALL)
    client = ready(leash)
    record = leash.admin.hgetall(NAMES.guard("one"))
    leash.load(one=OTHER)
    leash.admin.hset(NAMES.guard("one"), mapping=record)
    sent.clear()

    with pytest.raises(PolicyStaleError):
        client.set("t:a", 1)
    assert sent == ["EVALSHA", "HGETALL", "EVALSHA"]
    assert leash.admin.get("t:a") is None


@EITHER
def test_identity_that_left_the_policy_is_not_active(leash: Leash) -> None:
    """From its next call on, and for new clients; back in the policy, it goes on."""
    leash.load(one=ALL, two=ALL)
    client = ready(leash)
    token = client._session._token
    leash.load(two=ALL)

    for _ in range(2):
        with pytest.raises(NotActiveError):
            client.set("t:a", 1)
    with pytest.raises(NotActiveError):
        leash.client(token).set("t:a", 1)
    assert leash.admin.get("t:a") is None

    leash.load(one=ALL, two=ALL)
    assert client.set("t:a", 1) is True


@EITHER
def test_server_that_was_flushed_is_not_active(leash: Leash) -> None:
    """Its scripts may live on; without a state they refuse."""
    client = ready(leash)
    leash.admin.flushall()

    with pytest.raises(NotActiveError):
        client.set("t:a", 1)
    leash.admin.script_flush()
    with pytest.raises(NotActiveError):
        client.set("t:a", 1)
    assert leash.admin.get("t:a") is None


@EITHER
@pytest.mark.parametrize("scripts_too", [False, True])
def test_old_client_never_acts_on_the_rules_of_before_a_flush(
    leash: Leash, scripts_too: bool
) -> None:
    """Generation 1 of another policy is not generation 1 of this one: stamps are of the rules."""
    leash.load(one=ALL)
    client = ready(leash)
    token = client._session._token
    leash.admin.flushall()
    if scripts_too:
        leash.admin.script_flush()
    leash.load(one=READ)

    # Its token went with the flush, and must not come back to life with the policy.
    with pytest.raises(keyleash.TokenUnknownError):
        client.set("t:a", 1)
    fresh = leash.issue("one").token
    client._session._token = fresh
    assert client.get("t:a") is None
    with pytest.raises(keyleash.ClassNotGrantedError):
        client.set("t:a", 1)
    assert token != fresh
    assert leash.admin.get("t:a") is None


@EITHER
def test_call_after_a_heal_counts_once(leash: Leash) -> None:
    """POLICY_STALE and NOSCRIPT take nothing from a limit, and leave no event."""
    budget = {"budget": {"requests": "3/day"}}
    leash.load(one={**ALL, **budget})
    client = ready(leash)
    leash.admin.script_flush()
    client.set("t:a", 1)
    leash.load(one={**READ, **ALL, "deny": [{"keys": ["t:x"]}], **budget})
    client.set("t:a", 2)

    with pytest.raises(keyleash.BudgetExhaustedError):
        client.set("t:a", 3)
    assert len(leash.events("one")) == 2
    assert leash.denials("one")[0]["code"] == "BUDGET_EXHAUSTED"


def test_threads_heal_together_while_policies_and_scripts_come_and_go(leash: Leash) -> None:
    """Sixteen threads on one client; each call succeeds or says a word of the leash's."""
    leash.load(one=ALL)
    client = ready(leash)
    done = threading.Event()
    rules = [ALL, {**ALL, "deny": [{"keys": ["t:x"]}]}]

    def disturb() -> int:
        rounds = 0
        while not done.is_set():
            rounds += 1
            leash.load(one=rules[rounds % 2])
            leash.admin.script_flush()
        return rounds

    def work(number: int) -> int:
        counted = 0
        for _ in range(50):
            try:
                client.incr(f"t:{number}")
            except (PolicyStaleError, NoScriptError):
                continue  # the policy changed twice within one call
            counted += 1
        return counted

    with ThreadPoolExecutor(17) as pool:
        disturber = pool.submit(disturb)
        try:
            counted = list(pool.map(work, range(16)))
        finally:
            done.set()
    assert disturber.result() > 0
    assert sum(counted) > 0
    stored = [int(leash.admin.get(f"t:{number}") or 0) for number in range(16)]
    assert stored == counted
    assert len(leash.events("one")) == sum(counted)


def test_threads_of_a_removed_identity_are_all_told_so(leash: Leash) -> None:
    """A lookup that finds nothing in one thread takes nothing from the others."""
    leash.load(one=ALL, two=ALL)
    client = ready(leash)
    leash.load(two=ALL)

    def work(_: int) -> set[type[BaseException]]:
        seen: set[type[BaseException]] = set()
        for _ in range(30):
            try:
                client.get("t:a")
            except redis.ResponseError as error:
                seen.add(type(error))
        return seen

    with ThreadPoolExecutor(16) as pool:
        assert set().union(*pool.map(work, range(16))) == {NotActiveError}
