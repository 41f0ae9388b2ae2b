"""The replies to commands that libraries send and no guard runs: KEYS, INFO and others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import keyleash
from client.alike import awaiting
from client.test_connection import AsyncPooled, Pooled
from keyleash.client import answers
from keyleash.errors.sentences import explain
from support.leash import grant
from support.servers import RealServer, RealServers, find_server_binaries

SCANNING = {"grants": [grant("read", "write", "scan", keys="t:*")]}
HELD = {"grants": [grant("read", "scan", keys="t:*")], "deny": [{"keys": ["t:secret:*"]}]}


@pytest.fixture(params=["sync", "async"])
def leash(request: pytest.FixtureRequest, embedded: RealServer) -> Iterator[Pooled]:
    with awaiting() as runner:
        yield Pooled(embedded) if request.param == "sync" else AsyncPooled(embedded, runner)


@pytest.mark.parametrize("options", [{}, {"decode_responses": True}], ids=["bytes", "text"])
def test_keys_lists_what_scan_may_list(leash: Pooled, options: dict[str, Any]) -> None:
    """Each key once, in several rounds, without those that a deny rule matches."""
    leash.load(one=HELD)
    leash.admin.mset({f"t:{number}": 1 for number in range(2500)})
    leash.admin.mset({"t:secret:1": 1, "other": 1})
    agent = leash.agent("one", **options)
    wanted = sorted(f"t:{number}" for number in range(2500))

    found = agent.keys("t:*")

    assert sorted(found) == (wanted if options else [name.encode() for name in wanted])
    assert agent.keys("t:17") == found[:0] + (["t:17"] if options else [b"t:17"])


def test_keys_is_denied_where_scan_is(leash: Pooled) -> None:
    """Beyond the granted keys, and without the class."""
    leash.load(one=SCANNING, two={"grants": [grant("read", keys="t:*")]})

    with pytest.raises(keyleash.KeyNotGrantedError) as denied:
        leash.agent("one").keys("*")
    message, help = explain(denied.value)
    assert message == "KEY_NOT_GRANTED: no grant of the token covers all keys of the pattern `*`"
    assert help.startswith("use a pattern of a grant with `scan`, as in `SCAN 0 MATCH PREFIX*`")
    with pytest.raises(keyleash.ClassNotGrantedError) as lacking:
        leash.agent("two").keys("t:*")
    assert lacking.value.details["command"] == "KEYS"


def test_keys_in_a_transaction_has_its_reply_in_its_place(leash: Pooled) -> None:
    """It is several calls of SCAN before the others."""
    leash.load(one=SCANNING)

    replies = leash.agent("one").pipeline().set("t:1", "x").keys("t:*").get("t:1").execute()

    assert replies == [True, [], b"x"]


@pytest.mark.parametrize(("globs", "item"), [("t:* *", 3), ("t:*", 4)], ids=["KEYS", "another"])
def test_denial_in_a_transaction_with_keys_has_the_place_of_its_command(
    leash: Pooled, globs: str, item: int
) -> None:
    """Also of a command that KEYS precede, which are no part of the batch."""
    leash.load(one=SCANNING)
    pipe = leash.agent("one").pipeline().set("t:1", "x")
    for glob in (*globs.split(), "t:*")[:2]:
        pipe.keys(glob)
    with pytest.raises(keyleash.KeyNotGrantedError, match=f"^Command # {item} ") as denied:
        pipe.get("other").execute()
    assert denied.value.details["item"] == str(item)


@pytest.mark.parametrize("options", [{}, {"decode_responses": True}], ids=["bytes", "text"])
def test_pipeline_replies_as_single_commands_do(leash: Pooled, options: dict[str, Any]) -> None:
    """KEYS, INFO and the commands of the connection, in order with commands around them."""
    leash.load(one=SCANNING)
    agent = leash.agent("one", client_name="job", max_connections=1, **options)
    pipe = agent.pipeline(transaction=False)
    for number in range(3):
        pipe.info("server").set(f"t:{number}", number).keys("t:*").client_getname().get(
            f"t:{number}"
        )

    replies = pipe.execute()

    alone = agent.info("server"), agent.client_getname()
    for number in range(3):
        info, is_set, keys, name, value = replies[5 * number : 5 * number + 5]
        assert (info, name) == alone
        assert len(keys) == number + 1
        assert is_set is True
        assert int(value) == number


def test_client_commands_about_the_own_connection_are_answered(leash: Pooled) -> None:
    """As on a raw connection; of others, and of bounds of the server, they are denied."""
    leash.load(one=SCANNING)
    for protocol in (2, 3):
        agent = leash.agent("one", protocol=protocol)
        raw = redis.Redis.from_url(leash.server.url, protocol=protocol)
        assert agent.client_getredir() == raw.client_getredir() == -1
        assert agent.client_trackinginfo() == raw.client_trackinginfo()
        assert agent.client_no_touch("ON") == raw.client_no_touch("ON")
        assert agent.client_info().keys() == raw.client_info().keys()
        with pytest.raises(keyleash.CommandRefusedError, match="memory of its connection"):
            agent.client_no_evict("ON")
        with pytest.raises(keyleash.CommandRefusedError, match="connections of all clients"):
            agent.client_list()


def test_command_info_has_what_a_policy_can_grant(leash: Pooled) -> None:
    """As redis-om asks for the commands of modules; the rest of COMMAND stays denied."""
    leash.load(one=SCANNING)
    agent = leash.agent("one", decode_responses=True)

    assert {*agent.execute_command("command", "info", "get", "hgetall")} == {"get", "hgetall"}
    agent.response_callbacks.clear()
    assert [row and row[0] for row in agent.execute_command("COMMAND INFO", "SET", "x", "acl")] == [
        "set",
        None,
        None,
    ]
    with pytest.raises(keyleash.CommandRefusedError):
        agent.command_count()


def test_denial_in_a_pipeline_is_the_reply_of_its_command_alone(leash: Pooled) -> None:
    """As arq sends INFO and DBSIZE when it starts; also KEYS of a pattern that is not granted."""
    leash.load(one=SCANNING)
    pipe = leash.agent("one").pipeline(transaction=False)

    info, size, keys, is_set = (
        pipe.info("server").dbsize().keys("*").set("t:a", 1).execute(raise_on_error=False)
    )

    assert "redis_version" in info
    assert size >= 0
    assert isinstance(keys, keyleash.KeyNotGrantedError)
    assert is_set is True


@pytest.mark.parametrize("label", find_server_binaries())
def test_info_has_the_lines_of_the_server_that_libraries_read(
    real_servers: RealServers, label: str
) -> None:
    """Facts are equal to the server's own; numbers show nothing of memory, clients or keys."""
    with real_servers.lend(label) as server:
        leash = Pooled(server)
        leash.load(one=SCANNING)
        raw, found = leash.admin.info(), leash.agent("one").info()

    facts = {"redis_version", "role", "loading", "cluster_enabled", "maxmemory_policy", "arch_bits"}
    assert {name: found[name] for name in facts} == {name: raw[name] for name in facts}
    assert found.keys() - raw.keys() <= {"redis_mode"}
    assert {*found.values()} <= {0, 1, "0B", *(raw[name] for name in found if name in raw)}
    assert (found["used_memory"], found["connected_clients"]) == (0, 1)


@pytest.mark.parametrize(
    ("section", "field"),
    [("server", "redis_version"), ("cluster", "cluster_enabled"), ("keyspace", None)],
)
def test_section_of_info_is_the_reply(leash: Pooled, section: str, field: str | None) -> None:
    """A section that is not shown is empty, as one that a server does not know."""
    leash.load(one=SCANNING)

    found = leash.agent("one", decode_responses=True).info(section)

    assert (field in found) if field else found == {}


@pytest.mark.parametrize(
    "call",
    [lambda agent: agent.flushdb(), lambda agent: agent.flushall()],
    ids=["FLUSHDB", "FLUSHALL"],
)
def test_denial_of_a_command_on_all_keys_names_the_alternative(
    leash: Pooled, call: Callable[[Any], Any]
) -> None:
    """A library's user learns why."""
    leash.load(one=SCANNING)

    with pytest.raises(keyleash.CommandRefusedError, match="of all clients"):
        call(leash.agent("one"))


OWN = {
    "grants": [
        grant("read", "write", "delete", "scan", keys=["t:*", "job:{id}:x"]),
        grant("read", "write", "scan", keys="listed:*"),
        grant("read", "write", "delete", keys="hidden:*"),
    ],
    "deny": [{"keys": ["t:denied:*"]}],
    "token": {"flush": "own", "bound": True},
    "audit": {"before_images": {"max_bytes": "64kb"}},
}


def test_flush_of_the_own_keys_leaves_all_others(leash: Pooled) -> None:
    """It deletes what grants with both classes cover, in recorded steps; DBSIZE counts the rest."""
    leash.load(one=OWN)
    left = dict.fromkeys(("listed:1", "hidden:1", "t:denied:1", "other", "job:7:8:x"), "1")
    own = {f"t:{number}": "x" * 1000 for number in range(250)} | {"job:7:x": "1"}
    agent = leash.agent("one")
    for flush in (agent.flushdb, lambda: agent.flushall(asynchronous=True)):
        leash.admin.mset({**own, **left})
        before = _sequences(leash)
        assert agent.dbsize() == len(own) + 1
        assert flush() is True
        assert agent.dbsize() == 1
        assert leash.admin.mget(left) == [b"1"] * len(left)
        assert leash.admin.exists(*own) == 0
        assert _sequences(leash) == before + 3


def _sequences(leash: Pooled) -> int:
    return sum("seq" in event for event in leash.events("one"))


def test_flush_by_a_bound_token_leaves_the_keys_of_other_jobs(leash: Pooled) -> None:
    """Its own SCAN and UNLINK go no further than it."""
    leash.load(one={**OWN, "grants": [grant("read", "scan", "delete", keys="job:{id}:*")]})
    leash.admin.mset({"job:7:a": "1", "job:8:a": "1"})
    agent = leash.client(leash.issue("one", bind={"id": "7"}).token)
    assert agent.dbsize() == 1
    assert agent.flushdb() is True
    assert leash.admin.exists("job:7:a", "job:8:a") == 1


@pytest.mark.parametrize("name", ["DBSIZE", "FLUSHDB"])
def test_command_on_all_keys_without_a_grant_to_scan_is_denied(leash: Pooled, name: str) -> None:
    """A program that fills an empty database must not take it for empty."""
    leash.load(one={**OWN, "grants": [grant("read", "delete", keys="t:*")]})
    advice = "help: use SCAN" if name == "DBSIZE" else "help: stop"
    with pytest.raises(keyleash.CommandRefusedError, match=rf"(?s){name}.*{advice}"):
        leash.agent("one").execute_command(name)


def test_size_of_few_keys_among_many_others_is_denied(
    leash: Pooled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be too small, since not all keys are looked at."""
    monkeypatch.setattr(answers, "MAX_SCANS", 2)
    leash.load(one=SCANNING)
    leash.admin.mset({f"{name}:{at}": "1" for name in ("t", "other") for at in range(4500)})
    with pytest.raises(keyleash.CommandRefusedError, match="too many keys"):
        leash.agent("one").dbsize()
