"""Guards are for the server that a policy is loaded on: its commands, no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

import keyleash
from keyleash.commands import CommandTable, known_table, load_table
from keyleash.operator.tokens.issue import issue_token
from keyleash.store import records
from keyleash.store.live_table import read_table
from keyleash.store.records import guard_record
from support.leash import NAMES, Leash, grant, policy
from support.loading import load_policy

NARROW = """\
version: 1
identities:
  one:
    kind: machine
    grants:
      - {{allow: [read, write, delete], keys: ["doc:*"], only: [GET, {name}]}}
"""
ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*")]}


def has(leash: Leash, name: str) -> bool:
    return name in [item.decode().upper() for item in leash.admin.command_list()]


def without(table: CommandTable, *names: str) -> CommandTable:
    kept = {name: spec for name, spec in table.commands.items() if name not in names}
    return CommandTable(table.servers, kept)


def with_module(leash: Leash) -> CommandTable:
    """The server's table with a module's command that reads one key."""
    table = read_table(leash.node)
    flags = ("module", "readonly")
    spec = replace(table.commands["GET"], name="DOC.GET", flags=flags, named_only=True)
    return table.extended({spec.name: spec})


@pytest.mark.parametrize("name", ["VADD", "HGETEX", "DELIFEQ", "MSETEX", "HGET"])
def test_named_command_that_the_server_lacks_is_a_warning_at_its_place(
    leash: Leash, name: str
) -> None:
    """The policy is valid; the load warns of the rule without effect on this server."""
    result = leash.load(NARROW.format(name=name))

    expected = [] if has(leash, name) else [f"<policy>:6:69: the server has no `{name}`"]
    assert [f"{warning.span}: {warning.message}" for warning in result.warnings] == expected
    assert leash.agent("one").get("doc:1") is None


def test_vector_sets_work_where_the_server_has_them(leash: Leash) -> None:
    """Redis 8 has them built in, as a module; they need not be named."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    call = ("VADD", "doc:v", "VALUES", 2, "0.5", "0.5", "element")

    if has(leash, "VADD"):
        assert agent.execute_command(*call) == 1
        with pytest.raises(keyleash.KeyNotGrantedError):
            agent.execute_command("VADD", "other", *call[2:])
    else:
        with pytest.raises(keyleash.CommandRefusedError):
            agent.execute_command(*call)


def test_policy_with_absent_commands_alone_still_loads(leash: Leash) -> None:
    """It allows nothing there, which is what it says."""
    table = without(read_table(leash.node), "HGET", "HSET")
    document = policy(one={"grants": [grant("read", "write", keys="*", only=["HGET", "HSET"])]})
    result = load_policy(leash.store, document, table=table)

    assert [warning.code for warning in result.warnings] == ["absent-command"] * 2
    agent = leash.agent("one")
    for call in [("HGET", "doc:1", "f"), ("GET", "doc:1")]:
        with pytest.raises(keyleash.CommandRefusedError):
            agent.execute_command(*call)


def test_second_load_changes_nothing_whatever_the_client_speaks(leash: Leash) -> None:
    """Neither the protocol nor the client's options are in a guard."""
    first = leash.load(one=ALL)
    before = leash.digest("one")

    for options in [{"protocol": 2}, {"protocol": 3}]:
        again = load_policy(leash.store_of(**options), policy(one=ALL))
        assert (again.changed, again.generation) == (False, first.generation)
    assert leash.digest("one") == before


def test_server_that_got_other_commands_gets_other_guards(leash: Leash) -> None:
    """The same policy, after an upgrade: it is loaded again, and wrappers notice."""
    now = read_table(leash.node)
    old = load_policy(leash.store, policy(one=ALL), table=without(now, "HGET"))
    agent = leash.agent("one")
    with pytest.raises(keyleash.CommandRefusedError):
        agent.hget("doc:1", "f")
    new = leash.load(one=ALL)

    assert (new.changed, new.digest) == (True, old.digest)
    assert new.generation == old.generation + 1
    assert agent.hget("doc:1", "f") is None
    assert leash.load(one=ALL).changed is False


def test_user_without_command_loads_for_all_servers_and_is_warned(leash: Leash) -> None:
    """Guards of the shipped table are safe anywhere, so an emergency load is not refused."""
    for node in leash.nodes:
        node.execute_command("ACL", "SETUSER", "loader", "on", ">pw", "~*", "+@all", "-command")
    store = leash.store_of(username="loader", password="pw")
    result = load_policy(store, NARROW.format(name="VADD"), file="p.yaml")

    (warning,) = result.warnings
    assert (str(warning.span), warning.code) == ("p.yaml:1:1", "unreadable-commands")
    assert "no permissions" in warning.message
    assert all(label in warning.help for label in load_table().servers)
    assert leash.agent("one").get("doc:1") is None


def test_module_command_is_given_by_name_only(leash: Leash) -> None:
    """A broad grant is for what is known to touch no other key than those it names."""
    table = with_module(leash)
    load_policy(leash.store, policy(one=ALL), table=table)
    agent = leash.agent("one")
    with pytest.raises(keyleash.CommandRefusedError):
        agent.execute_command("DOC.GET", "doc:1")
    load_policy(leash.store, NARROW.format(name="DOC.GET"), table=table)

    # The guard let it through: this server knows no such command.
    with pytest.raises(redis.ResponseError, match="unknown command"):
        agent.execute_command("DOC.GET", "doc:1")
    with pytest.raises(keyleash.KeyNotGrantedError):
        agent.execute_command("DOC.GET", "other")


def test_token_is_issued_for_a_policy_that_names_a_module_command(leash: Leash) -> None:
    """The names in an active policy were checked when it was loaded."""
    load_policy(leash.store, NARROW.format(name="DOC.GET"), table=with_module(leash))

    assert issue_token(leash.store, "one").identity == "one"


LEARNT: dict[str, tuple[tuple[Any, ...], ...]] = {
    "HGET": (("HGET", "doc:{d}h", "f"),),
    "ZUNION": (("ZUNION", 2, "doc:{d}z", "doc:{d}none"), ("ZUNION", 2, "doc:{d}z", "{d}other")),
    "SORT": (("SORT", "doc:{d}l", "STORE", "doc:{d}s"), ("SORT", "doc:{d}l", "STORE", "{d}other")),
    "XREAD": (
        ("XREAD", "COUNT", 1, "STREAMS", "doc:{d}x", 0),
        ("XREAD", "COUNT", 1, "STREAMS", "doc:{d}x", "{d}other", 0, 0),
    ),
    "OBJECT ENCODING": (("OBJECT", "ENCODING", "doc:{d}l"), ("OBJECT", "ENCODING", "{d}other")),
}


@pytest.fixture
def shipped_without(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of commands that loader and wrapper find in no shipped table."""
    names: list[str] = []
    for name, table in (("load_table", load_table()), ("known_table", known_table())):
        monkeypatch.setattr(records, name, lambda table=table: without(table, *names))
    records.learned_table.cache_clear()
    yield names
    records.learned_table.cache_clear()


@pytest.mark.parametrize("name", LEARNT)
def test_wrapper_learns_the_keys_of_a_command_that_it_does_not_know(
    leash: Leash, shipped_without: list[str], name: str
) -> None:
    """From the guard record, whichever way the keys are found; a refusal names the key."""
    shipped_without.append(name)
    leash.admin.hset("doc:{d}h", "f", "v")
    leash.admin.rpush("doc:{d}l", 2, 1)
    leash.admin.zadd("doc:{d}z", {"m": 1})
    leash.admin.xadd("doc:{d}x", {"f": "v"})
    leash.load(one=ALL)
    agent = leash.agent("one")
    allowed, *refused = LEARNT[name]

    record = guard_record(leash.admin.hgetall(NAMES.guard("one")))
    assert record is not None
    assert set(json.loads(record.commands)) == {name}
    assert agent.execute_command(*allowed) == leash.admin.execute_command(*allowed)
    for call in refused:
        with pytest.raises(keyleash.KeyNotGrantedError) as refusal:
            agent.execute_command(*call)
        assert refusal.value.details["key"] == "{d}other"


def test_wrapper_forgets_with_the_next_policy(leash: Leash, shipped_without: list[str]) -> None:
    """The record says what is so now."""
    shipped_without.append("HGET")
    leash.load(one=ALL)
    del shipped_without[:]
    result = leash.load(one=ALL)

    assert result.changed is True
    assert leash.admin.hget(NAMES.guard("one"), "commands") == b""
    assert leash.load(one=ALL).changed is False


def test_shipped_table_makes_the_record_no_longer(leash: Leash) -> None:
    """On the servers that it was made from there is nothing to learn."""
    leash.load(one=ALL)

    assert leash.admin.hget(NAMES.guard("one"), "commands") == b""


def test_search_of_a_later_loader_is_no_obstacle(leash: Leash) -> None:
    """A client that is older than the loader uses the searches that it supports."""
    table = records.learned_table('{"NEW":[["magic",1]],"NEWER":[["range",2,2,1]]}')

    assert table.get("NEW") is None
    assert table.key_slices["NEWER"] == slice(2, 3, 1)
