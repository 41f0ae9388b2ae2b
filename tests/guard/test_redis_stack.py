"""Commands of the modules of Redis Stack, where the extra `stack` is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import keyleash
from keyleash.commands.facts import INDEXES, UNCHECKED
from keyleash.store.live_table import read_table
from support.leash import Leash, grant
from support.modules import server_with_module, stack_modules
from support.servers import find_server_binaries

REVIEWED = {
    "BF": "ADD CARD EXISTS INFO INSERT MADD MEXISTS RESERVE SCANDUMP",
    "CF": "ADD ADDNX COUNT DEL EXISTS INFO INSERT INSERTNX MEXISTS RESERVE SCANDUMP",
    "CMS": "INCRBY INFO INITBYDIM INITBYPROB QUERY",
    "JSON": "ARRAPPEND ARRINDEX ARRINSERT ARRLEN ARRPOP ARRTRIM CLEAR DEL FORGET GET MERGE MSET"
    " NUMINCRBY NUMMULTBY NUMPOWBY OBJKEYS OBJLEN RESP SET STRAPPEND STRLEN TOGGLE TYPE",
    "TDIGEST": "ADD BYRANK BYREVRANK CDF CREATE INFO MAX MIN QUANTILE RANK RESET REVRANK"
    " TRIMMED_MEAN",
    "TOPK": "ADD COUNT INCRBY INFO LIST QUERY RESERVE",
    "TS": "ADD ALTER CREATE DECRBY DEL GET INCRBY INFO MADD RANGE REVRANGE",
}
"""The commands that touch the keys that their module declares, and no others."""
JSON = [f"JSON.{name}" for name in REVIEWED["JSON"].split()]
BODY: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*", only=JSON)]}


@pytest.fixture(scope="module")
def leash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leash]:
    label = next((name for name in find_server_binaries() if name.startswith("redis-8.0")), None)
    modules = stack_modules()
    if label is None:
        pytest.skip("the modules of Redis Stack need redis-server 8.0")
    folder: Path = tmp_path_factory.mktemp("stack")
    with server_with_module(label, folder, *modules) as server:
        leash = Leash(server)
        leash.load(one=BODY)
        yield leash


def test_each_command_of_the_modules_is_reviewed_or_refused(leash: Leash) -> None:
    """A command of a later version that reaches other keys must not pass unseen."""
    names = {f"{module}.{name}" for module in REVIEWED for name in REVIEWED[module].split()}

    table = read_table(leash.admin)
    grantable = {spec.name for spec in table if "module" in spec.flags and spec.refused is None}
    assert {name for name in grantable - INDEXES.keys() if not name.startswith("V")} == names
    searches = {spec.name: spec.refused for spec in table if spec.name.startswith("FT.")}
    assert {searches.pop(name) for name in INDEXES} == {None}
    assert {*searches.values()} == {UNCHECKED}


def test_json_of_redis_py_reads_the_replies_of_guards(leash: Leash) -> None:
    """It chooses its readers by the protocol of the pool, which is RESP3 from version 8 on."""
    token = leash.issue("one").token
    clients = [
        redis.Redis(connection_pool=keyleash.pool(leash.server.url, token)),
        keyleash.Redis.from_url(leash.server.url, token=token),
        redis.Redis.from_url(leash.server.url),
    ]
    results = []
    for client in clients:
        document: Any = client.json()
        document.set("doc:1", "$", {"a": 1, "b": [1, "x"], "c": {"a": 2}})
        results.append(
            (
                document.get("doc:1", "$..a"),
                document.numincrby("doc:1", "$..a", 2),
                document.type("doc:1", "$.b"),
                document.arrappend("doc:1", "$.b", "..", "a..b..c"),
                document.nummultby("doc:1", ".c.a", 1.5),
                document.type("doc:1", "$.none"),
                document.type("doc:none"),
                document.objkeys("doc:1", "$.c"),
                document.arrpop("doc:1", "$.b"),
            )
        )

    assert results[0] == results[2]
    assert results[1] == results[2]
    assert results[0][:2] == ([1, 2], [3, 4])


def test_paths_that_may_select_too_much_are_denied(leash: Leash) -> None:
    """The module has no bound: this one is denied before it reads the document."""
    inner: dict[str, Any] = {}
    for _ in range(100):
        inner = {"a": inner}
    agent = leash.agent("one")
    agent.execute_command("JSON.SET", "doc:deep", "$", json.dumps(inner))

    for name in ("JSON.GET", "JSON.ARRLEN", "JSON.DEL"):
        with pytest.raises(keyleash.CommandRefusedError, match="its paths may select too much"):
            agent.execute_command(name, "doc:deep", "$..a..a..a..a")
