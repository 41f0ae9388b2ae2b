"""Commands of the modules of Redis Stack, where the extra `stack` is installed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from tools.refresh_table import ask, merge_tables, render

import keyleash
from keyleash.commands import load_table
from keyleash.commands.facts import INDEXES, MODULE_KEYS, NAMED_ONLY, UNCHECKED
from keyleash.commands.spec import CHANGING
from keyleash.commands.table import MODULES_PATH, is_of_module
from keyleash.store.live_table import read_table
from support.leash import Leash, grant, policy
from support.loading import load_policy
from support.servers import RealServer

BODY: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*")]}


@pytest.fixture
def leash(stack_server: RealServer) -> Leash:
    leash = Leash(stack_server)
    leash.load(one=BODY)
    return leash


def test_each_command_of_the_modules_is_reviewed_or_refused(leash: Leash) -> None:
    """A command of a later version that reaches other keys must not pass unseen."""
    of_modules = [
        spec for spec in read_table(leash.admin) if "module" in spec.flags and "." in spec.name
    ]

    allowed = {spec.name for spec in of_modules if spec.refused is None}
    assert allowed == MODULE_KEYS.keys() | INDEXES.keys()
    assert {spec.name for spec in of_modules if spec.named_only} == NAMED_ONLY - {"RESTORE"}
    searches = {spec.name: spec.refused for spec in of_modules if spec.name.startswith("FT.")}
    assert {searches.pop(name) for name in INDEXES} == {None}
    assert {*searches.values()} == {UNCHECKED}
    # A change that counts as a read has no event.
    assert all(
        spec.mutates
        for spec in of_modules
        if spec.index is None and not CHANGING.isdisjoint(spec.needs)
    )


def test_refresh_with_modules_gives_the_shipped_file(stack_server: RealServer) -> None:
    """The file is what its generator writes, byte for byte, and apart from the core's."""
    label, rows = ask(stack_server.client())
    of_modules = {name: row for name, row in rows.items() if is_of_module(name, row)}

    assert render([label], merge_tables([of_modules])) == MODULES_PATH.read_text(encoding="utf-8")
    assert not of_modules.keys() & load_table().commands.keys()


def test_modules_of_a_server_widen_a_policy_that_was_loaded_without_them(
    stack_server: RealServer,
) -> None:
    """A grant of `read` then includes JSON.GET, so the load asks as for any wider grant."""
    operator = keyleash.Operator.from_url(stack_server.url)
    body: dict[str, Any] = {"grants": [grant("read", keys="doc:*")]}
    text = policy(one=body, two={"grants": [grant("read", keys="doc:*", only=["GET"])]})
    load_policy(Leash(stack_server).store, text, table=load_table())
    plan = operator.plan(keyleash.Policy(text))

    (identity,) = plan.preview.diff.identities
    assert (identity.name, identity.widens, identity.narrows) == ("one", True, False)
    lines = plan.preview.diff.describe().splitlines()
    assert "    + commands BF.*, CF.*, CMS.*, JSON.*, TDIGEST.*, TOPK.*, TS.*   [widens]" in lines
    with pytest.raises(keyleash.OperationError, match="widens what `one` may do"):
        operator.load(keyleash.Policy(text))
    assert operator.load(keyleash.Policy(text), allow_widening=True).changed
    assert operator.plan(keyleash.Policy(text)).is_empty


def test_search_of_an_index_is_denied(leash: Leash) -> None:
    """Its documents are keys that the call does not name."""
    leash.admin.execute_command(
        "FT.CREATE", "doc:index", "PREFIX", 1, "hr:", "SCHEMA", "name", "TEXT"
    )
    leash.admin.hset("hr:1", "name", "ann")

    with pytest.raises(keyleash.CommandRefusedError, match="`indexes`"):
        leash.agent("one").execute_command("FT.SEARCH", "doc:index", "*")


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
