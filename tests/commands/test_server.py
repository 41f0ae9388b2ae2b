"""Reading the command table of a live server."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.commands import OperationClass, known_table, load_table
from keyleash.commands.facts import NAMED_ONLY, NO_KEY, SERVERS_DIFFER, UNPLACED
from keyleash.commands.table import CommandRow, table_of
from keyleash.errors import UnreadableCommandsError
from keyleash.store.live_table import read_table
from keyleash.store.records import commands_to_learn
from keyleash.testing import fake_redis, fake_server
from support.servers import RealServer

WIRES: list[dict[str, Any]] = [
    {"protocol": 2},
    {"protocol": 3},
    {"protocol": 2, "decode_responses": True},
    {"protocol": 3, "decode_responses": True},
]


def module_row(*flags: str, first: int = 1) -> CommandRow:
    """Return COMMAND's row for a module's command without key specs of its own."""
    return {
        "arity": -1,
        "flags": ["module", "readonly"],
        "categories": [],
        "servers": ["redis 9"],
        "key_specs": [
            {
                "flags": ["RW", "access", "update", *flags],
                "begin_search": {"type": "index", "spec": {"index": first}},
                "find_keys": {"type": "range", "spec": {"lastkey": 0, "keystep": 1, "limit": 0}},
            }
        ]
        if first
        else [],
        "positions_differ": False,
    }


def test_every_kind_of_client_reads_the_same_table(server: RealServer) -> None:
    """A guard's digest comes from it, so two operators must not load different guards."""
    first, *others = (read_table(server.client(**wire)) for wire in WIRES)

    assert first.commands["GET"].refused is None
    assert all(other == first for other in others)


def test_table_of_a_shipped_server_has_nothing_new(server: RealServer, label: str) -> None:
    """It is a part of the shipped table, and wrappers have nothing to learn of it."""
    table = read_table(server.client())
    shipped = {spec.name for spec in load_table() if label in spec.servers}

    assert set(table.commands) == shipped
    assert commands_to_learn(table) == ""


def test_reading_leaves_the_client_as_it_was(embedded: RealServer) -> None:
    """The client is the caller's: what `client.command()` gives must not change."""
    client: Any = embedded.client()
    before = dict(client.response_callbacks)
    read_table(client)

    assert dict(client.response_callbacks) == before
    assert client.command()["get"]["arity"] == 2


def test_reading_costs_one_call_and_placing_is_not_repeated(embedded: RealServer) -> None:
    """Tests load thousands of policies in one process."""
    client: Any = embedded.client()
    first = read_table(client)
    client.config_resetstat()

    assert read_table(client) is first
    stats = client.info("commandstats")
    assert stats["cmdstat_command"]["calls"] == 1
    assert {name for name in stats if "client" not in name} <= {
        "cmdstat_command",
        "cmdstat_config|resetstat",
    }


def test_user_who_may_not_run_command_is_told_so(server: RealServer) -> None:
    """In the server's words, and with what to do."""
    client: Any = server.client()
    client.execute_command("ACL", "SETUSER", "loader", "on", ">pw", "~*", "+@all", "-command")

    with pytest.raises(UnreadableCommandsError, match="no permissions to run") as caught:
        read_table(server.client(username="loader", password="pw"))
    assert caught.value.help == "use a user who may run COMMAND, on Redis 7 or later"


def test_reply_without_key_specs_is_not_taken_for_keyless_commands() -> None:
    """So does a server before Redis 7 answer, and so does fakeredis."""
    with pytest.raises(UnreadableCommandsError, match="where keys stand"):
        read_table(fake_redis(fake_server()))


def test_command_of_a_module_is_placed_and_given_by_name_only() -> None:
    """Its key specs are made up by the server, so no broad grant may include it."""
    table = table_of(
        ["redis 9"],
        {
            "DOC.GET": module_row(),
            "DOC.CALLBACK": module_row("variable_flags"),
            "DOC.QUERY": module_row(first=0),
        },
    )

    spec = table.commands["DOC.GET"]
    assert (spec.refused, spec.walk, spec.named_only) == (None, (1, 1, 1), True)
    assert table.commands["DOC.CALLBACK"].refused == UNPLACED
    assert table.commands["DOC.QUERY"].refused == NO_KEY
    assert {spec.name for spec in known_table() if spec.named_only} == NAMED_ONLY


def test_reviewed_command_of_a_module_with_other_keys_than_known_is_refused() -> None:
    """Another module may have taken its name, or a later version has more keys."""
    table = table_of(
        ["redis 9"], {"JSON.GET": module_row(first=2), "JSON.DEL": module_row(first=0)}
    )

    assert table.commands["JSON.GET"].refused == SERVERS_DIFFER
    spec = table.commands["JSON.DEL"]
    assert (spec.needs, spec.mutates) == ((OperationClass.DELETE,), True)
