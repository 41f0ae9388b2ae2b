"""Loading policies while fenced agents run."""

from __future__ import annotations

import asyncio
import pickle
import threading
from operator import ge
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

import keyleash
import keyleash.asyncio
from keyleash.errors import RightMissingError
from keyleash.operator.load import activate
from keyleash.store.fences import read_records
from support.errors import raises_code
from support.fences import FencedLeash
from support.leash import grant
from support.replication import wait_until
from support.thorough import FACTOR

LOADS = 5 * FACTOR
PLENTY = {"writes": "10000000/day"}
WRITER: dict[str, Any] = {"grants": [grant("read", "write", keys="a:*")]}
READER: dict[str, Any] = {"grants": [grant("read", keys="a:*")]}


def runners(leash: FencedLeash, name: str) -> list[bytes]:
    """Return the rules by which the user may call scripts."""
    (line,) = [
        item
        for item in leash.admin.execute_command("ACL", "LIST")
        if item.split()[1] == name.encode()
    ]
    words = [word.strip(b"()") for word in line.split()]
    return [word for word in words if word.startswith(b"+evalsha")]


def test_no_agent_is_denied_during_loads(leash: FencedLeash) -> None:
    """Digests, patterns and limits change under running agents without an error."""
    versions: list[dict[str, Any]] = [
        {"one": {"grants": [grant("read", "write", keys=["a:*"])]}},
        {"one": {"grants": [grant("read", "write", keys=["a:*", "b:*"])], "budget": PLENTY}},
        {"one": {"grants": [grant("read", "write", keys=["a:{x}"])], "audit": {"reads": True}}},
    ]
    leash.load(**versions[0])
    leash.fence()
    done, calls = threading.Event(), [0, 0]
    errors: list[Exception] = []
    agents = [leash.agent("one") for _ in calls]

    def hammer(number: int) -> None:
        agent = agents[number]
        # Without a pause, the loads would hardly get to run.
        while not done.wait(0.001):
            try:
                agent.set("a:1", "x")
                with agent.batch() as batch:
                    batch.get("a:1")
                calls[number] += 1
            except Exception as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(len(agents))]
    for thread in threads:
        thread.start()
    try:
        for number in range(LOADS):
            leash.load(**versions[(number + 1) % len(versions)])
            # A second load between the two attempts of one call would make it fail as stale.
            least = [count + 2 for count in calls]
            wait_until(lambda least=least: errors or all(map(ge, calls, least)))
    finally:
        done.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_load_removes_rights_of_the_old_guard(leash: FencedLeash) -> None:
    """The user loses the old digests and permissions."""
    leash.load(one=WRITER, two=WRITER)
    leash.fence()
    agent = leash.agent("one")
    agent.set("a:1", "x")
    old = leash.digest("one")
    leash.load(one=READER, two=WRITER)

    assert runners(leash, "one")[0] == f"+evalsha|{leash.digest('one')}".encode()
    assert len(runners(leash, "one")) == 2
    with pytest.raises(NoPermissionError):
        leash.direct("one").evalsha(old, 0)
    with pytest.raises(NoPermissionError):
        leash.direct("one").set("a:1", "y")
    # The wrapper that knew the old guard finds the new one.
    assert agent.get("a:1") == b"x"
    with pytest.raises(keyleash.ClassNotGrantedError):
        agent.set("a:1", "y")


@pytest.mark.parametrize("coalesce", [False, True])
def test_async_client_finds_the_new_guard(leash: FencedLeash, coalesce: bool) -> None:
    """Single, batched and coalesced calls."""
    leash.load(one=WRITER)
    leash.fence()
    options: dict[str, Any] = {"coalesce": coalesce, **leash.credentials("one")}
    token = leash.issue("one").token

    async def run() -> None:
        async with keyleash.asyncio.Redis(port=leash.server.port, token=token, **options) as agent:
            await asyncio.gather(*(agent.set(f"a:{number}", "x") for number in range(5)))
            leash.load(one={**WRITER, "budget": PLENTY})
            await asyncio.gather(*(agent.set(f"a:{number}", "y") for number in range(5)))
            leash.load(one=WRITER)
            async with agent.pipeline() as pipe:
                pipe.get("a:1")
                assert await pipe.execute() == [b"y"]

    asyncio.run(run())


def test_load_deletes_users_of_removed_identities(leash: FencedLeash) -> None:
    """Their connections are closed; foreign users are not touched."""
    leash.load(one=WRITER, two=WRITER)
    leash.fence()
    direct = leash.direct("two")
    connection = direct.connection_pool.get_connection()
    connection.send_command("PING")
    connection.read_response()
    leash.load(one=WRITER)

    connection.send_command("PING")
    with pytest.raises(redis.ConnectionError):
        connection.read_response()
    assert leash.admin.acl_getuser("two") is None
    assert list(read_records(leash.store)) == ["one"]


def test_load_that_loses_the_race_restores_users(
    leash: FencedLeash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its additions are removed; those of the other load remain."""
    leash.load(one=WRITER)
    leash.fence()
    real = activate._activate

    def overtaken(*args: Any) -> int:
        monkeypatch.setattr(activate, "_activate", real)
        leash.load(one=READER)
        return real(*args)

    monkeypatch.setattr(activate, "_activate", overtaken)
    with raises_code("activation-conflict"):
        leash.load(one={"grants": [grant("read", "write", "delete", keys=["a:*", "z:*"])]})
    assert leash.agent("one").get("a:1") is None
    assert not leash.fence().changed


def test_agents_work_after_a_load_that_died(
    leash: FencedLeash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both guards remain allowed until users are applied again."""
    leash.load(one=WRITER)
    leash.fence()
    agent = leash.agent("one")
    agent.set("a:1", "x")
    real = activate._activate

    def dies(*args: Any) -> int:
        real(*args)
        raise redis.ConnectionError("killed")

    monkeypatch.setattr(activate, "_activate", dies)
    with pytest.raises(redis.ConnectionError):
        leash.load(one=READER)
    assert agent.get("a:1") == b"x"
    assert leash.fence().changed
    assert agent.get("a:1") == b"x"
    assert len(runners(leash, "one")) == 2


def test_load_without_fences_needs_no_acl_rights(leash: FencedLeash) -> None:
    """An operator who may not change users can load."""
    leash.admin.execute_command(
        "ACL", "SETUSER", "loader", "reset", "on", ">p", "~*", "&*", "+@all", "-acl"
    )
    leash.admin = leash.server.client(username="loader", password="p")
    leash.load(one=WRITER)

    assert leash.agent("one").set("a:1", "x")


def test_user_without_access_to_the_guard_gets_an_error(leash: FencedLeash) -> None:
    """A token is used by a client that logs in as another identity."""
    leash.load(one=WRITER, two=WRITER)
    leash.fence()
    token = leash.issue("two").token
    stranger = leash.client(token, **leash.credentials("one"))

    record = "%R~keyleash:guard:two"
    with pytest.raises(RightMissingError) as first:
        stranger.get("a:1")
    leash.admin.execute_command("ACL", "SETUSER", "one", record)
    with pytest.raises(RightMissingError) as second:
        stranger.get("a:1")
    with pytest.raises(RightMissingError) as of_batch, stranger.batch() as batch:
        batch.get("a:1")
    missing = [item.value for item in (first, second, of_batch)]
    assert missing[0].right == record
    assert {item.right.startswith("+evalsha|") for item in missing[1:]} == {True}
    assert missing[1].right != missing[2].right
    for item in missing:
        assert isinstance(item, NoPermissionError)
        assert f"`{item.right}`" in item.message
        assert "log in as the user `two`" in str(item.help)
        assert "`keyleash fence apply`" in str(item.help)
        assert "POLICY_STALE" not in str(item)
        assert token not in str(item)


def test_missing_right_within_a_guard_is_named(leash: FencedLeash) -> None:
    """A hand-made user that may call every script but touch only its own data."""
    leash.load(one=WRITER)
    token = leash.issue("one").token
    rules = ("reset", "on", ">p", "+@all", "~a:*", "%R~keyleash:guard:one")
    leash.admin.execute_command("ACL", "SETUSER", "byhand", *rules)
    agent = leash.client(token, username="byhand", password="p")

    with pytest.raises(RightMissingError, match="No permissions to access a key") as missing:
        agent.set("a:1", "x")
    assert "`keyleash fence apply`" in str(missing.value.help)
    assert "a control key of `one`" in missing.value.message
    for key in ("keyleash:state:one", "keyleash:token:one:*", "keyleash:audit:one"):
        assert key in missing.value.keys
        assert f"`{key}`" in str(missing.value.help)
    assert pickle.loads(pickle.dumps(missing.value)).keys == missing.value.keys  # noqa: S301
    leash.admin.execute_command("ACL", "SETUSER", "byhand", "~*", "-xadd")
    with pytest.raises(RightMissingError) as missing:
        agent.set("a:1", "x")
    assert (missing.value.right, missing.value.keys) == ("+xadd", ())
    assert not leash.admin.exists("a:1")
