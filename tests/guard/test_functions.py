"""Guards as functions: changes of policy and transport deny no call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

import keyleash
from keyleash.operator import load_policy
from keyleash.operator.load import activate
from keyleash.operator.load.plan import diff_with_server
from keyleash.store.guards import retire_functions
from keyleash.store.records import guard_record, read_active
from keyleash.store.store import Store
from keyleash.store.wire import Transport, function_name
from support.clustered import NODES
from support.leash import NAMES, Leash, grant, policy
from support.servers import RealServer
from support.transports import FUNCTIONS

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="t:*")]}
OTHER: dict[str, Any] = {**ALL, "deny": [{"keys": ["t:x"]}]}
COUNTED: dict[str, Any] = {"budget": {"requests": "1000000/month"}}

pytestmark = FUNCTIONS


def libraries(leash: Leash) -> set[str]:
    """The names of the libraries, which all nodes of a cluster have."""
    first, *others = (
        {item[b"library_name"].decode() for item in listed(node)} for node in leash.server.nodes
    )
    assert others == [first] * len(others)
    return first


def listed(node: RealServer) -> Iterator[dict[bytes, Any]]:
    for item in node.client(protocol=2).function_list():
        yield dict(zip(item[::2], item[1::2], strict=True))


def names_of(leash: Leash, *identities: str) -> set[str]:
    """The functions that the records of *identities* name."""
    records = [guard_record(leash.admin.hgetall(NAMES.guard(identity))) for identity in identities]
    return {
        function_name(digest)
        for record in records
        if record is not None
        for digest in record.digests
    }


def calls_of(leash: Leash, command: str) -> int:
    stats: Any = leash.admin.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_policy_by_functions_is_called_by_fcall_alone(leash: Leash) -> None:
    """No script of a guard is loaded, so that there is nothing to be lost."""
    leash.load(one=ALL, two=ALL)
    client: Any = leash.agent("one")
    client.set("t:a", 1)
    assert client.pipeline(transaction=False).incr("t:a").get("t:a").execute() == [2, b"2"]

    assert libraries(leash) == names_of(leash, "one", "two")
    # A cluster's first call asks for a lease, gets it from the home, and is made again.
    assert calls_of(leash, "fcall") == (4 if NODES else 2)
    assert leash.admin.script_exists(leash.digest("one")) == [False]
    active = read_active(leash.store)
    assert active is not None
    assert active.transport is Transport.FUNCTION


def test_function_tells_people_whose_guard_it_is(leash: Leash) -> None:
    """Its name is a digest, and FUNCTION LIST is all that they may have at hand."""
    leash.load(one=ALL, two=ALL)

    (node, *_) = leash.server.nodes
    descriptions = {item[b"functions"][0][3] for item in listed(node)}
    assert descriptions == {b"guard of one", b"guard of two"}


def test_same_policy_loaded_twice_changes_nothing(leash: Leash) -> None:
    """Deploys load what is there already."""
    leash.load(one=ALL)
    loads = calls_of(leash, "function|load")

    assert leash.load(one=ALL).changed is False
    assert calls_of(leash, "function|load") == loads == (3 * NODES or 2)


def test_new_policy_takes_the_old_functions_away(leash: Leash) -> None:
    """Functions persist, so a load deletes its old ones; other libraries stay."""
    other = "#!lua name=other\nredis.register_function('leash_x', function() end)\n"
    for node in leash.nodes:
        node.function_load(other)
    leash.load(one=ALL, two=ALL)
    leash.load(one=OTHER)

    assert libraries(leash) == {"other", *names_of(leash, "one")}


@pytest.mark.parametrize("transport", Transport)
def test_load_in_another_database_keeps_the_functions_that_are_in_use(
    leash: Leash, transport: Transport
) -> None:
    """All databases share them: those of one policy in two databases, and of one in database 0."""
    leash.load(one=ALL, two=ALL)
    used = libraries(leash)
    other = leash.server.client(db=1)
    load_policy(Store.open(other, actor="ops"), policy(two=ALL))
    load_policy(Store.open(other, actor="ops"), policy(two=OTHER, three=ALL), transport=transport)
    assert libraries(leash) >= used
    client = leash.agent("two")
    assert client.set("t:a", 1)

    load_policy(Store.open(other, actor="ops"), policy(two=ALL), allow_removal=True)
    assert libraries(leash) == used
    leash.load(one=ALL)
    assert libraries(leash) == names_of(leash, "one")


def test_stale_function_refuses_until_it_is_gone(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the activation and the end of a load both stand there, and one may act."""
    leash.load(one=ALL)
    old, token = leash.digest("one"), leash.issue("one").token
    monkeypatch.setattr(activate, "retire_functions", lambda *_: None)
    leash.load(one=OTHER)

    reply = leash.raw("one", ["t:a"], token, "c", "SET", "t:a", "x", digest=old)
    assert reply == "LEASH POLICY_STALE"
    assert leash.call("one", token, "SET", "t:a", "x") == b"OK"


def test_interrupted_load_leaves_the_old_policy_whole(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next load deletes the functions that it had loaded."""
    leash.load(one=ALL)
    client, before = leash.agent("one"), libraries(leash)

    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(activate, "diff_with_server", interrupted)
    with pytest.raises(KeyboardInterrupt):
        leash.load(one=OTHER)
    monkeypatch.undo()
    assert len(libraries(leash)) == 2 * len(before)
    assert client.set("t:x", 1) is True
    assert names_of(leash, "one") == before

    leash.load(one={**OTHER, **COUNTED})
    assert libraries(leash) == names_of(leash, "one")


def test_functions_that_another_load_deletes_are_there_in_the_end(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load back to the policy before meets the end of the load that replaced it."""
    leash.load(one=ALL)
    old = libraries(leash)
    look = diff_with_server

    def meanwhile(*args: Any) -> Any:
        for node in leash.nodes:
            for name in old:
                node.function_delete(name)
        return look(*args)

    monkeypatch.setattr(activate, "retire_functions", lambda *_: None)
    leash.load(one=OTHER)
    monkeypatch.undo()
    monkeypatch.setattr(activate, "diff_with_server", meanwhile)
    leash.load(one=ALL)

    assert libraries(leash) == names_of(leash, "one") == old


def test_load_that_was_overtaken_deletes_nothing_of_the_other(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the functions away that are in force."""
    leash.load(one=ALL)
    retire = retire_functions

    def overtaken(*args: Any) -> None:
        monkeypatch.undo()
        leash.load(one={**OTHER, **COUNTED})
        retire(*args)

    monkeypatch.setattr(activate, "retire_functions", overtaken)
    leash.load(one=OTHER)
    assert names_of(leash, "one") <= libraries(leash)
    assert leash.agent("one").set("t:a", 1) is True


def test_library_with_another_text_is_replaced(leash: Leash) -> None:
    """A client that may load functions can take the name; the next load restores the guard."""
    leash.load(one=ALL)
    name = function_name(leash.digest("one"))
    forged = f"#!lua name={name}\nredis.register_function('{name}', function() return 1 end)\n"
    leash.admin.function_load(forged, replace=True)
    client: Any = leash.agent("one")
    assert client.get("t:a") == 1

    assert leash.load(one=ALL).changed is False
    assert client.get("t:a") is None


def test_lost_functions_come_back_with_the_same_policy(leash: Leash) -> None:
    """Agents with users of their own cannot bring them back."""
    leash.load(one=ALL)
    for node in leash.nodes:
        node.function_flush()

    assert leash.load(one=ALL).changed is False
    assert libraries(leash) == names_of(leash, "one")


def test_operator_who_may_not_load_functions_activates_nothing(leash: Leash) -> None:
    """The policy before stays, by the transport that it has."""
    leash.transport = Transport.EVALSHA
    leash.load(one=ALL)
    for node in leash.nodes:
        node.execute_command("ACL", "SETUSER", "ops", "on", ">pw", "~*", "+@all", "-function")
    ops = leash.store_of(username="ops", password="pw")

    with pytest.raises(redis.exceptions.NoPermissionError):
        load_policy(ops, policy(one=OTHER), transport=Transport.FUNCTION)
    assert leash.agent("one").set("t:x", 1) is True
    assert load_policy(ops, policy(one=OTHER)).changed is True


def test_transport_is_changed_both_ways_by_loading_the_same_policy(leash: Leash) -> None:
    """Nothing else changes: what was counted, the tokens, the trail and its numbers."""
    document = {**ALL, "budget": {"requests": "4/month"}}
    client: Any = None
    for transport in (Transport.EVALSHA, Transport.FUNCTION, Transport.EVALSHA, Transport.FUNCTION):
        leash.transport = transport
        assert leash.load(one=document).changed is True
        client = client or leash.agent("one")
        assert client.set("t:a", transport) is True
        assert (libraries(leash) != set()) == (transport is Transport.FUNCTION)

    with pytest.raises(keyleash.BudgetExhaustedError):
        client.get("t:a")
    assert [event["seq"] for event in leash.events("one")] == ["1", "2", "3", "4"]


def test_agents_are_not_refused_while_policies_and_transports_change(leash: Leash) -> None:
    """Each call runs once, under one policy or the other; all are counted and recorded."""
    leash.load(one={**ALL, **COUNTED})
    token = leash.issue("one").token
    done = threading.Event()

    def work(number: int) -> int:
        client = leash.client(token)
        made = 0
        while not done.is_set():
            client.incr("t:n")
            pipe: Any = client.pipeline(transaction=False)
            pipe.incr("t:n").incr("t:n").execute()
            made += 3
        return made

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(work, number) for number in range(3)]
        try:
            for turn in range(12):
                leash.transport = (Transport.FUNCTION, Transport.EVALSHA)[turn // 2 % 2]
                leash.load(one={**(ALL, OTHER)[turn % 2], **COUNTED})
        finally:
            done.set()
        made = sum(future.result() for future in futures)

    assert int(leash.admin.get("t:n")) == made
    assert len(leash.events("one")) * 3 == made * 2
    assert leash.refusals("one") == 0


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("maxmemory", "command not allowed when used memory > 'maxmemory'."),
        ("min-replicas-to-write", "NOREPLICAS Not enough good replicas to write."),
    ],
)
def test_server_that_takes_no_writes_refuses_a_call_before_it_begins(
    leash: Leash, setting: str, error: str
) -> None:
    """Nothing is counted, recorded or read; afterwards all is as before."""
    leash.load(one={**ALL, **COUNTED})
    token = leash.issue("one").token
    leash.call("one", token, "SET", "t:a", "x")
    before, events = leash.spent("one"), leash.events("one")
    leash.admin.config_set(setting, 1)
    try:
        replies = [
            leash.call("one", token, *item) for item in (("SET", "t:a", "y"), ("GET", "t:a"))
        ]
        replies.append(leash.batch("one", token, "each", ("GET", "t:a")))
        assert (leash.spent("one"), leash.events("one")) == (before, events)
    finally:
        leash.admin.config_set(setting, 0)

    assert replies == [error] * 3
    assert leash.call("one", token, "GET", "t:a") == b"x"
