"""Search indexes: a grant names them, and their documents are keys that the caller may read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.exceptions import ResponseError

import keyleash
from keyleash.audit.entry_text import reason_of_denial
from keyleash.audit.point_in_time import value_at
from keyleash.audit.read import read_denials
from keyleash.audit.undo.key_plans import conflict_reason, plan_undo
from keyleash.commands.facts import INDEXES, OF_SEVERAL_NODES
from keyleash.commands.work import MAX_INDEXES
from keyleash.errors import NothingToUndoError
from keyleash.errors.sentences import reason_of
from keyleash.evaluate.decision_text import denial_text, step_lines
from keyleash.operator.decisions import can_i, explain
from keyleash.store.live_table import read_table
from support.leash import Leash, grant, policy, with_files
from support.loading import load_policy
from support.stack import stack_server

SCHEMA = ("SCHEMA", "t", "TEXT", "n", "NUMERIC")
POLICY: dict[str, Any] = {
    "ann": {
        "grants": [
            grant("read", "write", keys="memory:ann:*", indexes=["memory:ann", "memory:ann:*"]),
            grant("read", keys="kb:*", indexes=["kb*"]),
            grant("read", keys="meta:*", only=["STRLEN"]),
        ],
        "deny": [{"keys": ["kb:secret:*"]}],
    },
    "bob": {
        "grants": [
            grant("read", "write", "delete", keys="memory:{agent}:*", indexes=["memory:{agent}"])
        ],
        "token": {"bound": True},
        "delegate": {"depth": 1},
    },
    "keeper": {"grants": [grant("read", "delete", keys="kb:*", indexes=["kb*"])]},
    "cleaner": {
        "grants": [
            grant("read", keys="kb:*", indexes=["kb*"]),
            {"allow": ["delete"], "indexes": ["kb*"]},
        ]
    },
    "plain": {"grants": [grant("read", "write", "delete", "scan", keys="*")]},
    "everything": {"grants": [grant("read", "write", keys="*", indexes=["*"])]},
}


class Resp2Leash(Leash):
    """Agents see replies as guards give them."""

    def client(self, token: str, **options: Any) -> keyleash.Redis:
        return super().client(token, protocol=2, **options)


@pytest.fixture(scope="module")
def server_leash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leash]:
    with stack_server(tmp_path_factory.mktemp("stack")) as server:
        yield Resp2Leash(server)


@pytest.fixture
def leash(server_leash: Leash) -> Leash:
    server_leash.admin.flushall()
    for name in server_leash.admin.execute_command("FT._LIST"):
        server_leash.admin.execute_command("FT.DROPINDEX", name)
    server_leash.load(**POLICY)
    for key in ("kb:pub:1", "kb:secret:1", "hr:1", "memory:ann:1", "memory:7:1", "memory:8:1"):
        server_leash.admin.hset(key, mapping={"t": "hello", "n": 1})
    return server_leash


def create(leash: Leash, name: str, *prefixes: str) -> None:
    """Make an index as the operator, and wait until it has its documents."""
    make(leash, name, "PREFIX", len(prefixes), *prefixes, *SCHEMA)


def make(leash: Leash, name: str, *words: Any) -> None:
    leash.admin.execute_command("FT.CREATE", name, *words)
    while leash.admin.ft(name).info()["indexing"]:
        pass


def denied(call: Callable[..., Any], *words: Any) -> dict[str, str]:
    """Return the code and details of a denial."""
    with pytest.raises(keyleash.LeashError) as caught:
        call(*words)
    details = caught.value.details
    return {"code": str(caught.value.code), **{k: v for k, v in details.items() if k != "reason"}}


def test_search_within_readable_keys_is_allowed(leash: Leash) -> None:
    """Reads need the index and all its prefixes."""
    create(leash, "kb", "kb:pub:")
    agent = leash.agent("ann").execute_command

    assert agent("FT.SEARCH", "kb", "*") == [1, b"kb:pub:1", [b"t", b"hello", b"n", b"1"]]
    assert agent("FT.AGGREGATE", "kb", "*", "LOAD", 1, "@t") == [1, [b"t", b"hello"]]
    assert b"kb" in agent("FT.INFO", "kb")


def test_grant_without_indexes_gives_no_search(leash: Leash) -> None:
    """No policy that was written before widens."""
    agent = leash.agent("plain").execute_command

    for words in (("FT.SEARCH", "kb", "*"), ("FT._LIST",), ("FT.CREATE", "kb", *SCHEMA)):
        with pytest.raises(keyleash.CommandRefusedError, match="no grant with `indexes`"):
            agent(*words)


@pytest.mark.parametrize(
    ("prefixes", "code", "key"),
    [
        (["hr:"], "KEY_NOT_GRANTED", "hr:*"),
        (["kb:pub:", "hr:"], "KEY_NOT_GRANTED", "hr:*"),
        (["kb"], "KEY_NOT_GRANTED", "kb*"),
        ([""], "KEY_NOT_GRANTED", "*"),
        (["meta:"], "KEY_NOT_GRANTED", "meta:*"),
        (["kb:"], "KEY_DENIED", "kb:*"),
        (["kb:secret:7"], "KEY_DENIED", "kb:secret:7*"),
    ],
)
def test_index_with_other_keys_is_denied(
    leash: Leash, prefixes: list[str], code: str, key: str
) -> None:
    """Each prefix lies within a read grant of the command, and touches no deny rule."""
    create(leash, "kb", *prefixes)

    for command in ("FT.SEARCH", "FT.AGGREGATE"):
        agent = leash.agent("ann").execute_command
        assert denied(agent, command, "kb", "*") == {"code": code, "key": key}
    assert denied(agent, "FT.INFO", "kb") == {"code": code, "key": key}


@pytest.mark.parametrize(
    ("denied_keys", "prefix", "is_denied"),
    [
        ("kb:{agent}:secret:*", "kb:7:j:", False),
        ("kb:{agent}:secret:*", "kb:7:s", True),
        ("kb:{agent}:secret:*", "kb:7:secret", True),
        ("kb:{agent}:secret:*", "kb:7:secrets", False),
        ("kb:{agent}:secret:*", "kb:7:secret:x:y", True),
        ("kb:{agent}:secret:*", "kb:", True),
        ("kb:{agent}:secret:*", "kb::", False),
        ("kb:a{n}z:lock", "kb:az:", False),
        ("kb:a{n}z:lock", "kb:abz:l", True),
        ("kb:a{n}z:lock", "kb:abz:lock", True),
        ("kb:a{n}z:lock", "kb:abz:lock:", False),
        ("kb:a{n}z:lock", "kb:b", False),
        ("kb:one", "kb:one", True),
        ("kb:one", "kb:ones", False),
        ("kb:x*", "kb:xy:z:", True),
        ("kb:x*", "kb:y", False),
    ],
)
def test_deny_rule_refuses_indexes_of_keys_that_it_may_match(
    leash: Leash, denied_keys: str, prefix: str, is_denied: bool
) -> None:
    """Pattern and prefix are compared, not the beginning of the pattern."""
    grants = [grant("read", keys="kb:*", indexes=["kb"])]
    leash.load(ann={"grants": grants, "deny": [{"keys": [denied_keys]}]})
    create(leash, "kb", prefix)
    agent = leash.agent("ann").execute_command

    if is_denied:
        code = {"code": "KEY_DENIED", "key": prefix + "*"}
        assert denied(agent, "FT.SEARCH", "kb", "*") == code
    else:
        assert agent("FT.SEARCH", "kb", "*")[0] >= 0
    assert can_i(leash.store, "ann", "FT.SEARCH", "kb", "*") == (not is_denied)


def test_index_of_all_keys_is_denied_to_everyone(leash: Leash) -> None:
    """It holds keyleash's own keys."""
    create(leash, "all", "")
    agent = leash.agent("everything").execute_command

    assert denied(agent, "FT.SEARCH", "all", "*") == {"code": "KEY_DENIED", "key": "*"}
    assert denied(agent, "FT.CREATE", "x", *SCHEMA) == {"code": "KEY_DENIED", "key": "*"}
    assert agent("FT.CREATE", "x", "PREFIX", 1, "leg", *SCHEMA) == b"OK"


def test_index_that_changes_between_calls_is_read_in_each(leash: Leash) -> None:
    """Another caller may drop an index, or point an alias elsewhere."""
    create(leash, "kb", "kb:pub:")
    create(leash, "hr", "hr:")
    agent, admin = leash.agent("ann").execute_command, leash.admin.execute_command
    admin("FT.ALIASADD", "kb:alias", "kb")
    assert agent("FT.SEARCH", "kb:alias", "*")[0] == 1

    admin("FT.ALIASUPDATE", "kb:alias", "hr")
    admin("FT.DROPINDEX", "kb")
    create(leash, "kb", "hr:")
    for name in ("kb", "kb:alias"):
        assert denied(agent, "FT.SEARCH", name, "*") == {"code": "KEY_NOT_GRANTED", "key": "hr:*"}


@pytest.mark.parametrize("name", ["hr", "memory:bob", "kb\0", "k", ""])
def test_index_that_is_not_granted_is_denied(leash: Leash, name: str) -> None:
    """It has a code of its own."""
    agent = leash.agent("ann").execute_command

    assert denied(agent, "FT.SEARCH", name, "*") == {"code": "INDEX_NOT_GRANTED", "index": name}
    assert denied(agent, "FT.CREATE", name, *SCHEMA)["code"] == "INDEX_NOT_GRANTED"


def test_missing_index_gets_the_error_of_the_command(leash: Leash) -> None:
    """Libraries compare its text."""
    agent = leash.agent("ann").execute_command

    with pytest.raises(ResponseError, match="kb: no such index"):
        agent("FT.SEARCH", "kb", "*")
    with pytest.raises(ResponseError, match="Unknown index name"):
        agent("FT.INFO", "kb")
    with pytest.raises(ResponseError, match="wrong number of arguments"):
        agent("FT.SEARCH")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["PREFIX", 1, "memory:ann:"], None),
        (["ON", "HASH", "prefix", 2, "memory:ann:", "memory:ann:x", "NOHL", "STOPWORDS", 0], None),
        (["PREFIX", 1, "memory:ann:", "PREFIX", 1, "hr:"], "KEY_NOT_GRANTED"),
        (["PREFIX", 1, "hr:", "PREFIX", 1, "memory:ann:"], "KEY_NOT_GRANTED"),
        (["PREFIX", 1, "memory:ann:", "PREFIX", 0], "KEY_NOT_GRANTED"),
        (["PREFIX", 2, "memory:ann:", "SCHEMA"], "KEY_NOT_GRANTED"),
        (["PREFIX", 0], "KEY_NOT_GRANTED"),
        ([], "KEY_NOT_GRANTED"),
        (["PREFIX", 1, "memory:bob:"], "KEY_NOT_GRANTED"),
        (["STOPWORDS", 3, "PREFIX", 1, "memory:ann:"], "KEY_NOT_GRANTED"),
        (["PREFIX", "1e0", "memory:ann:"], "COMMAND_REFUSED"),
        (["PREFIX", -1, "memory:ann:"], "COMMAND_REFUSED"),
        (["PREFIX", "010", *["memory:ann:"] * 8, "TEMPORARY", 1], "COMMAND_REFUSED"),
        (["PREFIX", 9, "memory:ann:"], "COMMAND_REFUSED"),
        (["PREFIX", 1, "memory:ann:\0"], "COMMAND_REFUSED"),
        (["PREFIX", 1, "memory:ann:", "TEMPORARY", 1], "COMMAND_REFUSED"),
        (["Temporary", 1, "PREFIX", 1, "memory:ann:"], "COMMAND_REFUSED"),
        (["PREFIX", 1, "memory:ann:", "ASYNC"], "COMMAND_REFUSED"),
    ],
)
def test_create_is_parsed_option_by_option(
    leash: Leash, options: list[Any], code: str | None
) -> None:
    """The prefixes are those of all PREFIX together; an option that is not known is denied."""
    agent, words = leash.agent("ann").execute_command, ("FT.CREATE", "memory:ann", *options)

    if code is None:
        assert agent(*words, *SCHEMA) == b"OK"
    else:
        assert denied(agent, *words, *SCHEMA)["code"] == code
        assert leash.admin.execute_command("FT._LIST") == []


def test_alter_and_drop_need_their_class_on_the_index(leash: Leash) -> None:
    """`write` alters, `delete` drops."""
    create(leash, "kb", "kb:pub:")
    agent = leash.agent("ann").execute_command
    keeper = leash.agent("keeper").execute_command

    assert denied(agent, "FT.ALTER", "kb", "SCHEMA", "ADD", "x", "TAG")["code"] == (
        "INDEX_NOT_GRANTED"
    )
    assert denied(agent, "FT.DROPINDEX", "kb")["class"] == "delete"
    assert denied(keeper, "FT.ALTER", "kb", "SCHEMA", "ADD", "x", "TAG")["class"] == "write"
    assert keeper("FT.DROPINDEX", "kb") == b"OK"


def test_index_of_keys_that_the_caller_only_reads_is_denied(leash: Leash) -> None:
    """Each write of such a key, by others, would take longer."""
    leash.load(
        ann={
            "grants": [
                grant("write", keys="memory:ann:*", indexes=["ix*"]),
                grant("read", keys=["memory:ann:*", "kb:*"]),
            ]
        }
    )
    create(leash, "ix0", "kb:")
    agent = leash.agent("ann").execute_command
    over = {"code": "KEY_NOT_GRANTED", "key": "kb:*"}

    assert denied(agent, "FT.CREATE", "ix1", "PREFIX", 1, "kb:", *SCHEMA) == over
    assert denied(agent, "FT.ALTER", "ix0", "SCHEMA", "ADD", "x", "TAG") == over
    assert agent("FT.CREATE", "ix1", "PREFIX", 1, "memory:ann:", *SCHEMA) == b"OK"


def test_caller_has_a_bounded_number_of_indexes(leash: Leash) -> None:
    """Those of others do not count, so that no caller takes all that there may be."""
    for agent_id in ("7", "8"):
        for name in range(MAX_INDEXES - 1):
            words = ("PREFIX", 1, "x:", "SCHEMA", "t", "TAG")
            leash.admin.execute_command("FT.CREATE", f"memory:{agent_id}:{name}", *words)
    grants = [grant("read", "write", keys="memory:{agent}:*", indexes=["memory:{agent}:*"])]
    leash.load(one={"grants": grants, "token": {"bound": True}})
    client = leash.client(leash.issue("one", bind={"agent": "7"}).token)
    mine = ("PREFIX", 1, "memory:7:", *SCHEMA)

    pipe: Any = client.pipeline(transaction=False)
    pipe.execute_command("FT.CREATE", "memory:7:a", *mine)
    pipe.execute_command("FT.CREATE", "memory:7:b", *mine)
    created, refused = pipe.execute(raise_on_error=False)
    assert created == b"OK"
    assert "have at most 256 indexes" in str(refused)
    with pytest.raises(keyleash.CommandRefusedError, match="have at most 256 indexes"):
        client.execute_command("FT.CREATE", "memory:7:b", *mine)


def test_drop_with_documents_needs_delete_on_them(leash: Leash) -> None:
    """DD deletes the keys of the index."""
    create(leash, "kb", "kb:pub:")
    cleaner, keeper = leash.agent("cleaner"), leash.agent("keeper")

    for word in ("DD", "dd"):
        assert denied(cleaner.execute_command, "FT.DROPINDEX", "kb", word) == {
            "code": "KEY_NOT_GRANTED", "key": "kb:pub:*",
        }  # fmt: skip
    for transaction in (True, False):
        pipe: Any = keeper.pipeline(transaction)
        pipe.execute_command("FT.DROPINDEX", "kb", "DD").ping()
        with pytest.raises(keyleash.CommandRefusedError, match="it is a call of its own"):
            pipe.execute()
    assert keeper.execute_command("FT.DROPINDEX", "kb", "DD") == b"OK"
    assert not leash.admin.exists("kb:pub:1")
    event = leash.events("keeper")[-1]
    assert (event["FT.DROPINDEX"], event["documents"]) == ("kb", "1")
    create(leash, "kb", "kb:pub:")
    assert cleaner.execute_command("FT.DROPINDEX", "kb") == b"OK"


def test_undo_ignores_indexes_and_reports_deleted_documents(leash: Leash) -> None:
    """An index is no key, and its events have no before-images."""
    agent = leash.agent("ann").execute_command
    agent("FT.CREATE", "memory:ann", "PREFIX", 1, "memory:ann:", *SCHEMA)
    agent("FT.ALTER", "memory:ann", "SCHEMA", "ADD", "x", "TAG")
    with pytest.raises(NothingToUndoError, match="changed only search indexes"):
        plan_undo(leash.store, identity="ann")

    create(leash, "kb", "kb:pub:")
    leash.agent("keeper").execute_command("FT.DROPINDEX", "kb", "DD")
    with pytest.raises(NothingToUndoError, match="1 document went with the index"):
        plan_undo(leash.store, identity="keeper")


def test_query_is_recorded_as_its_length_where_keys_are_masked(leash: Leash) -> None:
    """It may name a masked key in many ways."""
    audit = {"values": "full", "reads": True, "mask_keys": ["kb:secret:*"]}
    leash.load(ann={**POLICY["ann"], "audit": audit})
    create(leash, "kb", "kb:pub:")
    agent = leash.agent("ann").execute_command

    agent("FT.SEARCH", "kb", "@t:(kb\\:secret\\:1)", "NOCONTENT")
    agent("FT.AGGREGATE", "kb", "secret")
    first, second = (event["lengths"] for event in leash.events("ann")[-2:])
    assert (first, second) == ("2,18,9", "2,6")


def test_key_that_an_index_took_with_it_is_explained(leash: Leash) -> None:
    """Guards deleted it, though no event names it."""
    body = {"grants": [grant("read", "write", "delete", keys="kb:*", indexes=["kb*"])]}
    leash.load(keeper={**body, "audit": {"before_images": {"max_bytes": "1kb"}}})
    keeper = leash.agent("keeper")
    keeper.hset("kb:pub:1", "t", "x")
    time_ms = leash.store.now_ms()
    create(leash, "kb", "kb:pub:")
    keeper.execute_command("FT.DROPINDEX", "kb", "DD")

    plan = plan_undo(leash.store, identity="keeper")
    ((conflict,),) = [key.conflicts for key in plan.keys]
    reason = conflict_reason(plan.keys[0], conflict)
    assert reason.startswith("was perhaps deleted with the index `kb` by FT.DROPINDEX DD, event ")
    assert [(event.op, event.documents) for event in plan.drops] == [("FT.DROPINDEX", 1)]
    with pytest.raises(keyleash.OperationError, match="perhaps deleted with the index `kb`"):
        value_at(leash.store, "kb:pub:1", datetime.fromtimestamp(time_ms / 1000, UTC))


def test_list_shows_granted_indexes(leash: Leash) -> None:
    """The names of others tell who has which index."""
    for name in ("kb", "kb:2", "hr", "memory:7"):
        create(leash, name, "x:")
    bound = leash.client(leash.issue("bob", bind={"agent": "7"}).token)

    listed = leash.agent("ann").execute_command("FT._LIST")
    assert sorted(listed) == [b"kb", b"kb:2"]
    assert bound.execute_command("FT._LIST") == [b"memory:7"]


def test_bound_token_narrows_indexes_and_prefixes(leash: Leash) -> None:
    """Its bindings hold for the name and the prefixes, its keys for the prefixes."""
    create(leash, "memory:7", "memory:7:")
    create(leash, "memory:8", "memory:7:")
    search = ("FT.SEARCH", "memory:7", "*", "NOCONTENT")

    def call(**restrictions: Any) -> Callable[..., Any]:
        return leash.client(leash.issue("bob", **restrictions).token).execute_command

    assert call()(*search) == call(bind={"agent": "7"})(*search) == [1, b"memory:7:1"]
    assert denied(call(bind={"agent": "8"}), *search) == {
        "code": "INDEX_NOT_GRANTED", "index": "memory:7", "by": "token",
    }  # fmt: skip
    assert denied(call(bind={"agent": "8"}), "FT.SEARCH", "memory:8", "*") == {
        "code": "KEY_NOT_GRANTED", "key": "memory:7:*", "by": "token",
    }  # fmt: skip
    assert denied(call(bind={"agent": "7"}, keys=["memory:7:1"]), *search)["by"] == "token"
    assert call(bind={"agent": "7"}, keys=["memory:7:*"])(*search)[0] == 1
    assert denied(call(bind={"agent": "7"}, allow=["write"]), *search)["class"] == "read"
    child = leash.client(leash.issue("bob").token).delegate(bind={"agent": "8"}).token
    assert denied(leash.client(child).execute_command, *search)["by"] == "token"


SAMPLE = ["GROUPBY", "0", "REDUCE", "random_sample", "2", "@n", "1000"]


@pytest.mark.parametrize("transaction", [False, True])
def test_batch_checks_what_its_own_commands_make(leash: Leash, transaction: bool) -> None:
    """All commands are checked before the first one runs."""
    create(leash, "kb", "kb:pub:")
    create(leash, "other", "hr:")
    leash.admin.execute_command("FT.ALIASADD", "kb", "other")

    reads: Any = leash.agent("ann").pipeline(transaction)
    reads.execute_command("FT.SEARCH", "kb", "*", "NOCONTENT")
    reads.execute_command("FT.CREATE", "memory:ann", "PREFIX", 1, "memory:ann:", *SCHEMA)
    assert reads.execute() == [[1, b"kb:pub:1"], b"OK"]

    # What a change leaves is not weighed before it runs.
    changed: Any = leash.agent("ann").pipeline(transaction)
    changed.execute_command("HSET", "memory:ann:1", "t", "x")
    changed.execute_command("FT.SEARCH", "memory:ann", "*")
    with pytest.raises(keyleash.CommandRefusedError, match="changes something"):
        changed.execute()

    # Then `kb` is the alias of an index that the caller may not read.
    dropped: Any = leash.agent("keeper").pipeline(transaction)
    dropped.execute_command("FT.DROPINDEX", "kb")
    dropped.execute_command("FT.SEARCH", "kb", "*")
    with pytest.raises(keyleash.CommandRefusedError, match="dropped earlier in the batch"):
        dropped.execute()


LISTED = ("GROUPBY", 0, "REDUCE", "TOLIST", 1, "@n", "AS", "l")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("FT.SEARCH", "kb", "*", "WITHCURSOR"), "does not check the reads of a cursor"),
        (("FT.SEARCH", "kb", "*", "NOPE"), "does not know `NOPE`"),
        (("FT.SEARCH", "kb", "x" * 4097), "at most 4096 bytes"),
        (("FT.SEARCH", "kb", "a* " * 33), "at most 32 terms"),
        (("FT.SEARCH", "kb", "%a%|" * 33), "at most 32 terms"),
        (("FT.SEARCH", "kb", "w'a?' " * 33, "DIALECT", 2), "at most 32 terms"),
        (("FT.SEARCH", "kb", "*=>[KNN 1001 @v $b]", "PARAMS", 2, "b", "x"), "1000 neighbours"),
        (("FT.SEARCH", "kb", "*=>[knn $k @v $b]", "PARAMS", 4, "k", "1e9", "b", "x"), "1000 neigh"),
        (("FT.SEARCH", "kb", "w", "SUMMARIZE", "FRAGS", 101), "at most 100 keys, fragments"),
        (("FT.SEARCH", "kb", "*", "INKEYS", 101, *"k" * 101), "at most 100 keys"),
        (("FT.AGGREGATE", "kb", "*", *["APPLY", "1", "AS", "a"] * 9), "at most 8 steps"),
        (("FT.AGGREGATE", "kb", "*", "APPLY", "format('%s', format('a'))"), "one `format`"),
        (("FT.AGGREGATE", "kb", "*", "APPLY", "1" * 1025), "at most 8 steps"),
        (("FT.AGGREGATE", "kb", "*", "APPLY", "lower(" * 17 + "@t" + ")" * 17), "16 calls"),
        (("FT.AGGREGATE", "kb", "*", *LISTED, "GROUPBY", 2, "@l", "@l"), "at most 8 steps"),
        (("FT.SEARCH", "kb", "*", "LIMIT", 0), "`LIMIT` needs other words"),
        (("FT.SEARCH", "kb", "*=>[KNN 1 @v $b]", "HIGHLIGHT"), "may stop the server"),
        (("FT.SEARCH", "kb", "*=>[KNN 1 @v $b]", "SUMMARIZE"), "may stop the server"),
        (("FT.SEARCH", "kb", "*", "RETURN", 3, "$..a..a", "AS", "x"), "may select too much"),
        (("FT.AGGREGATE", "kb", "*", "LOAD", 1, "$[?(@.a)]"), "may select too much"),
        (("FT.SEARCH", "kb", "*", "RETURN", 33, *["t"] * 33), "more than 32 words"),
        (("FT.SEARCH", "kb", "w", "SORTBY", "n", "HIGHLIGHT", "DIALECT", 4), "dialect 4"),
        (("FT.AGGREGATE", "kb", "*", "SORTBY", 2, "@n", "DESC", "WITHOUTCOUNT"), "missing counts"),
        # In octal, before dialect 4.
        (("FT.SEARCH", "kb", "*", "PARAMS", "010", *"abcdefgh", "DIALECT", 4), "names of parame"),
        (("FT.SEARCH", "kb", "*=>[KNN\x0199999999 @v $b]"), "1000 neighbours"),
        (("FT.SEARCH", "kb", "*=>[KNN 0x10 @v $b]"), "1000 neighbours"),
        (("FT.SEARCH", "kb", "(w)=>[KNN 9 @v $b batch_size 1]"), "batches of 10"),
        (("FT.SEARCH", "kb", "(w)=>[KNN 9 @v $b]=>{$batch_size: $q}"), "batches of 10"),
        (("FT.SEARCH", "kb", "*=>[KNN $k\\-x @v $b]", "PARAMS", 2, "k", "5"), "1000 neighbours"),
        (("FT.SEARCH", "kb", "*=>[KNN $ké @v $b]", "PARAMS", 4, "k", 5, "ké", 9999), "1000 neigh"),
        (("FT.SEARCH", "kb", "@n:[0 $ké]", "PARAMS", 2, "ké", 5), "have letters"),
        (("FT.SEARCH", "kb", f"w'{'a' * 512}'", "DIALECT", 2), "with `w'` 512"),
        (("FT.SEARCH", "kb", "w'$q'", "PARAMS", 2, "q", "a" * 513, "DIALECT", 2), "are vectors"),
        (("FT.SEARCH", "kb", "*" + "a" * 512), "words up to 512"),
        (("FT.SEARCH", "kb", "*" + "\\ " * 257), "words up to 512"),
        (("FT.SEARCH", "kb", "*", "RETURN", 1, "$.l[9223372036854775808]"), "may select too much"),
        (("FT.SEARCH", "kb", "(-w)|" * 16 + "-w"), "half as many negations"),
        (("FT.SEARCH", "kb", "@n!=1|" * 17), "half as many negations"),
        (("FT.SEARCH", "kb", "@n:[inf 1] @s:[ Within $p]"), "visits all documents"),
        (("FT.SEARCH", "kb", "@v:[VECTOR_RANGE 1 $b]|" * 5), "4 ranges of vectors"),
        (("FT.SEARCH", "kb", "[" * 4000 + "KNN 1001 @v $b]"), "1000 neighbours"),
        (("FT.SEARCH", "kb", "*$q", "PARAMS", 2, "q", "a" * 513, "DIALECT", 2), "are vectors"),
        (("FT.SEARCH", "kb", "*", "PARAMS", 66, *"ab" * 33), "names of parameters"),
        (("FT.SEARCH", "kb", "*", "RETURN", 3, "t", "AS", "n" * 513), "at most 512 bytes"),
        (("FT.SEARCH", "kb", "w", "HIGHLIGHT", "TAGS", "<" * 33, ">"), "`SEPARATOR` 32"),
        (("FT.AGGREGATE", "kb", "*", "LOAD", 3, "@t", "AS", "n" * 513), "at most 512 bytes"),
        (("FT.AGGREGATE", "kb", "*", "APPLY", "matched_terms(1)", "AS", "q"), "without `split`"),
        (("FT.AGGREGATE", "kb", "*", "FILTER", "1 == Split (@t)"), "without `split`"),
        (("FT.AGGREGATE", "kb", "*", "APPLY", f"format('{'%s' * 9}')"), "`format` of 8"),
        (("FT.AGGREGATE", "kb", "*", "SORTBY", 1, "@n", "MAX", 1000001), "1000000 rows"),
        (("FT.AGGREGATE", "kb", "*", "LIMIT", 0, "1e9"), "1000000 rows"),
        (("FT.AGGREGATE", "kb", "*", *["LOAD", 1, "@t"] * 65), "at most 8 steps"),
        (("FT.AGGREGATE", "kb", "*", "GROUPBY", 0, *["REDUCE", "COUNT", 0] * 8), "at most 8"),
        (
            (
                "FT.AGGREGATE",
                "kb",
                "*",
                *["GROUPBY", "0", "REDUCE", "random_sample", "2", "@n", "1000"],
            ),
            "samples of 100",
        ),
    ],
    ids=lambda item: str(item)[:30],
)
def test_search_that_may_take_too_much_is_denied(
    leash: Leash, words: tuple[Any, ...], reason: str
) -> None:
    """The time limit of the module does not stop these."""
    create(leash, "kb", "kb:pub:")
    with pytest.raises(keyleash.CommandRefusedError, match=reason):
        leash.agent("ann").execute_command(*words)


@pytest.mark.parametrize(
    "vectors",
    [
        ["v", "VECTOR", "FLAT", 8, "TYPE", "FLOAT32", "DIM", 64, "BLOCK_SIZE", 10000],
        ["v", "VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", "1e5"],
        ["v", "VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", "+8193"],
        ["v", "VECTOR", "FLAT", 6, "DIM", 64, "INITIAL_CAP", 1000001],
        ["v", "VECTOR", "HNSW", 6, "DIM", 64, "EF_RUNTIME", " 1"],
        ["v", "VECTOR", "HNSW", "1e1", "DIM", 64],
        ["v", "VECTOR", "SVS", 2, "DIM", 64],
        ["v", "VECTOR", "HNSW", 4, "DIM", 64, "NEW", 9],
        ["v", "VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", 9000],
        [*["v", "VECTOR", "FLAT", 2, "dim", 4097], *["w", "VECTOR", "FLAT", 2, "DIM", 4097]],
        ["v", "VECTOR", "HNSW", 6, "DIM", 64, "M", 2000],
    ],
    ids=str,
)
def test_vectors_that_take_much_memory_are_denied(leash: Leash, vectors: list[Any]) -> None:
    """The first document of an index with blocks of 10,000 took 1.3 GB."""
    agent = leash.agent("ann").execute_command
    with pytest.raises(keyleash.CommandRefusedError, match="the suffixes of one document"):
        agent("FT.CREATE", "memory:ann", "PREFIX", 1, "memory:ann:", *SCHEMA, "WITHSUFFIXTRIE")
    with pytest.raises(keyleash.CommandRefusedError, match="may select too much"):
        agent("FT.CREATE", "memory:ann", "ON", "JSON", "SCHEMA", "$..a..a", "AS", "t", "TAG")
    with pytest.raises(keyleash.CommandRefusedError, match="one `format`"):
        agent("FT.CREATE", "memory:ann", "FILTER", "format(format('%s'))", *SCHEMA)
    with pytest.raises(keyleash.CommandRefusedError, match="vectors are at most DIM=8192"):
        agent("FT.CREATE", "memory:ann", "PREFIX", 1, "memory:ann:", "SCHEMA", *vectors)
    create = ("FT.CREATE", "memory:ann", "ON", "JSON", "PREFIX", 1, "memory:ann:")
    for option in ("LANGUAGE_FIELD", "SCORE_FIELD"):
        with pytest.raises(keyleash.CommandRefusedError, match="may select too much"):
            agent(*create, option, "$..a..a", *SCHEMA)
        with pytest.raises(keyleash.CommandRefusedError, match="may select too much"):
            agent(*create, option, " $[0,0][0,0]", *SCHEMA)
    # A module reads a word of the schema up to a NUL byte.
    for word in ("VECTOR\0", "WITHSUFFIXTRIE\0"):
        with pytest.raises(keyleash.CommandRefusedError, match="may select too much"):
            agent(*create, *SCHEMA, word)
    for long in (["n" * 513], ["t", "TEXT"] * 512):
        with pytest.raises(keyleash.CommandRefusedError, match="at most 512 bytes"):
            agent(*create, *SCHEMA, *long)
    named = ["SCHEMA", "$.vector", "AS", "vector", "VECTOR", "flat", 6, "TYPE", "FLOAT32", "DIM", 8]
    tag = ["$.m", "AS", "m", "TAG", "SEPARATOR", ","]
    assert agent(*create, *named, "DISTANCE_METRIC", "L2", *tag) == b"OK"
    with pytest.raises(keyleash.CommandRefusedError, match="vectors are at most DIM=8192"):
        agent("FT.ALTER", "memory:ann", "SCHEMA", "ADD", *vectors)
    # A module reads this as `SCHEMA`.
    with pytest.raises(keyleash.CommandRefusedError, match="the suffixes of one document"):
        agent("FT.ALTER", "memory:ann", "SCHEMA\0", "ADD", "t2", "TEXT", "WITHSUFFIXTRIE")


def test_search_runs_with_the_time_limit_of_the_policy(leash: Leash) -> None:
    """The caller can neither lengthen it nor swallow it by a wrong count."""
    leash.load(ann={**POLICY["ann"], "limits": {"search": "7ms"}})
    create(leash, "kb", "kb:pub:")
    client = leash.agent("ann")
    pipe: Any = client.pipeline(transaction=False)
    with leash.server.client().monitor() as monitor:
        for words in (
            ["FT.SEARCH", "kb", "*", "RETURN", 3, "t", "AS", "x"],
            ["FT.SEARCH", "kb", "*", "NOCONTENT", "TIMEOUT", 0],
            ["FT.AGGREGATE", "kb", "*", "TIMEOUT", 9000, "LOAD", 1, "@t"],
            ["FT.SEARCH", "kb", "*", "timeout", "3", "NOCONTENT"],
        ):
            client.execute_command(*words)
            pipe.execute_command(*words)
        pipe.execute()
        leash.admin.echo("end")
        sent = []
        for entry in monitor.listen():
            if entry["command"] == "ECHO end":
                break
            if entry["client_type"] == "lua" and entry["command"].startswith(("FT.S", "FT.A")):
                sent.append(entry["command"])
    assert sent[:5] == sent[5:] == [
        "FT.SEARCH kb * TIMEOUT 7 DIALECT 1 RETURN 3 t AS x NOCONTENT",
        "FT.SEARCH kb * LIMIT 0 1 INKEYS 1 kb:pub:1 TIMEOUT 7 DIALECT 1 RETURN 3 t AS x",
        "FT.SEARCH kb * TIMEOUT 7 DIALECT 1 NOCONTENT TIMEOUT 7",
        "FT.AGGREGATE kb * TIMEOUT 7 DIALECT 1 TIMEOUT 7 LOAD 1 @t",
        "FT.SEARCH kb * TIMEOUT 7 DIALECT 1 timeout 3 NOCONTENT",
    ]  # fmt: skip


def test_search_runs_in_no_dialect_that_stops_a_server(leash: Leash) -> None:
    """An operator may have made dialect 4 the default; a sort in it ended a server."""
    create(leash, "kb", "kb:pub:")
    leash.admin.execute_command("FT.CONFIG", "SET", "DEFAULT_DIALECT", "4")
    call = leash.agent("ann").execute_command

    assert call("FT.AGGREGATE", "kb", "*", "SORTBY", 2, "@n", "ASC") == [1, [b"n", b"1"]]
    leash.admin.execute_command("FT.CONFIG", "SET", "DEFAULT_DIALECT", "1")


def test_documents_of_a_search_are_work(leash: Leash) -> None:
    """Those that match are counted if the limit alone would be too much, as LangGraph sends it."""
    # Counting has the time limit of a search, which a busy machine may need.
    leash.load(ann={**POLICY["ann"], "limits": {"search": "10s"}})
    with leash.admin.pipeline(transaction=False) as pipe:
        for i in range(6000):
            pipe.hset(f"kb:pub:{i}", mapping={"t": f"w{i % 600}", "n": i})
        pipe.execute()
    create(leash, "kb", "kb:pub:")
    agent = leash.agent("ann").execute_command

    assert agent("FT.SEARCH", "kb", "w7", "LIMIT", 0, 10000, "NOCONTENT")[0] == 10
    assert len(agent("FT.SEARCH", "kb", "w7", "LIMIT", 0, 10000)) == 21
    assert len(agent("FT.SEARCH", "kb", "*", "LIMIT", 0, 10000, "NOCONTENT")) > 5000
    for words in (
        ["FT.SEARCH", "kb", "*", "LIMIT", 0, 10000],
        ["FT.AGGREGATE", "kb", "*", "LOAD", 1, "@t"],
    ):
        assert denied(agent, *words)["code"] == "WORK_TOO_LARGE"
        assert not can_i(leash.store, "ann", *map(str, words))
    assert len(agent("FT.AGGREGATE", "kb", "*", "LOAD", 1, "@t", "LIMIT", 0, 100)) == 101
    many: Any = leash.agent("ann").pipeline(transaction=False)
    for _ in range(20):
        many.execute_command("FT.SEARCH", "kb", "*", "LIMIT", 0, 1000)
    replies = many.execute(raise_on_error=False)
    assert isinstance(replies[0], list)
    assert isinstance(replies[-1], keyleash.WorkTooLargeError)


@pytest.mark.parametrize("on", ["HASH", "JSON"])
def test_bytes_of_the_documents_of_a_search_are_work(leash: Leash, on: str) -> None:
    """Also of fields that RETURN leaves out; documents in which matches are marked cost more."""
    paths = ("$.t", "AS", "t", "TEXT") if on == "JSON" else ("t", "TEXT")
    for i in range(500):
        document = {"t": "w", "x": "x" * 96 * 1024}
        if on == "JSON":
            leash.admin.json().set(f"kb:big:{i}", "$", document)
        else:
            leash.admin.hset(f"kb:big:{i}", mapping=document)
    make(leash, "kb", "ON", on, "PREFIX", 1, "kb:big:", "SCHEMA", *paths)
    agent = leash.agent("ann").execute_command

    assert len(agent("FT.SEARCH", "kb", "w", "LIMIT", 0, 100)) == 201
    assert len(agent("FT.SEARCH", "kb", "w", "LIMIT", 0, 500, "NOCONTENT")) == 501
    for options in (["LIMIT", 0, 500], ["LIMIT", 0, 500, "RETURN", 1, "x"]):
        assert denied(agent, "FT.SEARCH", "kb", "w", *options)["code"] == "WORK_TOO_LARGE"
        assert not can_i(leash.store, "ann", "FT.SEARCH", "kb", "w", *map(str, options))


UPPER = [["APPLY", f"upper(@{'tabcdefgh'[i]})", "AS", "abcdefgh"[i]] for i in range(6)]


@pytest.mark.parametrize("on", ["HASH", "JSON"])
def test_bytes_that_an_aggregation_copies_are_work(leash: Leash, on: str) -> None:
    """Those of its rows and of each function, before anything runs; numbers of few rows are not."""
    paths = [word for name in "tn" for word in ([f"$.{name}", "AS"] * (on == "JSON") + [name])]
    for i in range(280):
        document: dict[str, Any] = {"t": "w" * 80 * 1024, "n": i}
        if on == "JSON":
            leash.admin.json().set(f"kb:big:{i}", "$", document)
        else:
            leash.admin.hset(f"kb:big:{i}", mapping=document)
    fields = [*paths[: len(paths) // 2], "TAG", *paths[len(paths) // 2 :], "NUMERIC"]
    make(leash, "kb", "ON", on, "PREFIX", 1, "kb:big:", "SCHEMA", *fields)
    agent = leash.agent("ann").execute_command
    load, count = ["LOAD", 1, "@t"], ["GROUPBY", 0, "REDUCE", "COUNT", 0, "AS", "n"]
    aliases = ["LOAD", 30, *[word for i in range(10) for word in ("@t", "AS", f"a{i}")]]
    assert len(agent("FT.AGGREGATE", "kb", "*", *load, "LIMIT", 0, 10)) == 11
    assert len(agent("FT.AGGREGATE", "kb", "*", "GROUPBY", 1, "@n", *count)) == 2
    assert denied(agent, "FT.AGGREGATE", "kb", "*", *load)["code"] == "WORK_TOO_LARGE"
    for words in (
        [*load, *[word for step in UPPER for word in step], *count],
        [*load, "FILTER", "||".join(["@t!=@t"] * 20), *count],
        ["LOAD", 1, "@t", *aliases, *aliases, *count],
    ):
        leash.admin.config_resetstat()
        assert denied(agent, "FT.AGGREGATE", "kb", "*", *words)["code"] == "WORK_TOO_LARGE", words
        assert "cmdstat_FT.AGGREGATE" not in leash.admin.info("commandstats")
        assert not can_i(leash.store, "ann", "FT.AGGREGATE", "kb", "*", *map(str, words)), words
    many: Any = leash.agent("ann").pipeline(transaction=False)
    leash.admin.config_resetstat()
    for _ in range(20):
        many.execute_command("FT.AGGREGATE", "kb", "@n:[0 9]", *load, *UPPER[0], *count)
    replies = many.execute(raise_on_error=False)
    done = sum(not isinstance(reply, keyleash.WorkTooLargeError) for reply in replies)
    assert done < 20
    assert leash.admin.info("commandstats")["cmdstat_FT.AGGREGATE"]["calls"] == done


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["LIMIT", 2, 3],
        ["LIMIT", 90, 3],
        ["LIMIT", 0, 0],
        ["SORTBY", "n", "DESC", "LIMIT", 1, 4],
        ["SORTBY", "n", "RETURN", 1, "n"],
        ["RETURN", 1, "none"],
        ["RETURN", 0],
        ["RETURN", 1, "n", "NOCONTENT"],
        ["RETURN", 0, "RETURN", 1, "n"],
        ["WITHSCORES", "RETURN", 1, "n"],
        ["INKEYS", 2, "kb:pub:1", "kb:pub:7"],
        ["LIMIT", 0, 2, "LIMIT", 3, 2],
    ],
    ids=str,
)
@pytest.mark.parametrize("query", ["w1", "*", "w1|w2", "@n:[3 9]", "*=>[KNN 4 @v $q]"])
def test_search_returns_what_the_server_would(leash: Leash, query: str, options: list[Any]) -> None:
    """Documents are weighed by a search of their names, and fetched by these."""
    vector = b"\0\0\x80?"
    for i in range(20):
        leash.admin.hset(f"kb:pub:{i}", mapping={"t": f"w{i % 3} " * i, "n": i, "v": vector})
    flat = ("v", "VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", 1, "DISTANCE_METRIC", "L2")
    make(leash, "kb", "PREFIX", 1, "kb:pub:", *SCHEMA, *flat)
    words = ("FT.SEARCH", "kb", query, *options, "PARAMS", 2, "q", vector, "DIALECT", 2)

    reply = leash.agent("ann").execute_command(*words)
    assert reply == leash.server.client(protocol=2).execute_command(*words)


EXPLAINED = ("EXPLAINSCORE", "NOCONTENT", "LIMIT", 0, 99)


def test_strings_of_a_search_are_work(leash: Leash) -> None:
    """They may all have one hash, in a row, in many rows, and in a list."""
    # Counting has the time limit of a search, which a busy machine may need.
    leash.load(ann={**POLICY["ann"], "limits": {"search": "10s"}})
    with leash.admin.pipeline(transaction=False) as pipe:
        for i in range(6000):
            pipe.hset(f"kb:pub:{i}", mapping={"t": f"w{i % 3}", "n": i})
        pipe.hset("kb:pub:wide", mapping={f"f{i}": 1 for i in range(6000)} | {"t": "wide"})
        pipe.hset("kb:pub:long", mapping={"t": "long " * 30_000})
        pipe.execute()
    create(leash, "kb", "kb:pub:")
    call = leash.agent("ann").execute_command
    group = ("GROUPBY", 1, "@t", "REDUCE", "COUNT", 0, "AS", "n")

    assert len(call("FT.AGGREGATE", "kb", "*", "LOAD", 1, "@t", *group)) == 6
    assert len(call("FT.AGGREGATE", "kb", "*", "LOAD", 1, "@n", "LIMIT", 0, 100)) == 101
    assert call("FT.SEARCH", "kb", "wide", "RETURN", 1, "t")[0] == 1
    assert call("FT.SEARCH", "kb", "long")[0] == 1
    for words in (
        ["FT.SEARCH", "kb", "wide"],
        ["FT.SEARCH", "kb", "wide", "WITHSCORES", "WITHPAYLOADS", "WITHSORTKEYS"],
        ["FT.SEARCH", "kb", "long", "HIGHLIGHT"],
        ["FT.SEARCH", "kb", "long", "RETURN", 1, "t", "SUMMARIZE"],
        ["FT.SEARCH", "kb", "*", "LIMIT", 0, 3000, "RETURN", 2, "t", "n"],
        ["FT.SEARCH", "kb", "|".join(f"w{i}" for i in range(99)), "WITHSCORES", *EXPLAINED],
        ["FT.AGGREGATE", "kb", "wide", "LOAD", "*"],
        ["FT.AGGREGATE", "kb", "*", "GROUPBY", 1, "@n"],
        ["FT.AGGREGATE", "kb", "*", "GROUPBY", 0, *["REDUCE", "TOLIST", 1, "@n"] * 2],
    ):
        assert denied(call, *words)["code"] == "WORK_TOO_LARGE", words
        assert not can_i(leash.store, "ann", *map(str, words)), words


SHARED: dict[str, Any] = {
    "grants": [
        {
            "allow": ["read"],
            "indexes": [
                {"name": "tags", "where": {"agent": "{agent}"}},
                {"name": "numbers", "where": {"own": "{own}"}},
                {"name": "both", "where": {"agent": "ann", "own": "1"}},
            ],
        }
    ],
    "deny": [{"keys": ["hr:*"]}],
    "token": {"bound": True},
    "delegate": {"depth": 1},
}


@pytest.fixture
def shared(leash: Leash) -> Leash:
    """Indexes of documents of two agents, `ann` with the number 1 and `bob` with 2."""
    leash.load(one=SHARED)
    fields = ("agent", "TAG", "own", "NUMERIC", "t", "TEXT", "plain", "TEXT")
    for i in range(6):
        own = {"agent": ["ann", "bob"][i % 2], "own": i % 2 + 1, "plain": ["ann", "bob"][i % 2]}
        leash.admin.hset(f"all:{i}", mapping={**own, "t": "hello"})
    for name in ("tags", "numbers", "both"):
        leash.admin.execute_command("FT.CREATE", name, "PREFIX", 1, "all:", "SCHEMA", *fields)
        while leash.admin.ft(name).info()["indexing"]:
            pass
    return leash


ANN = [b"all:0", b"all:2", b"all:4"]


def bound(leash: Leash, **bind: str) -> Callable[..., Any]:
    return leash.client(leash.issue("one", bind=bind).token).execute_command


def test_filter_of_the_policy_shows_the_documents_of_one_agent(shared: Leash) -> None:
    """Grants need not cover the prefix; the values are those that the token is bound to."""
    ann, first, free = bound(shared, agent="ann"), bound(shared, own="1"), bound(shared)

    queries = ("*", "hello", "hello | -hello", "@t:(hello)", "-@agent:{bob}", "@own:[(0 (9]")
    for query in (*queries, "hello -x\\*"):
        for call, index in ((ann, "tags"), (first, "numbers"), (free, "both")):
            count, *keys = call("FT.SEARCH", index, query, "NOCONTENT")
            assert (count, sorted(keys)) == (3, ANN), (index, query)
            count, *rows = call("FT.AGGREGATE", index, query, "LOAD", 1, "@plain", "LIMIT", 0, 9)
            assert {row[row.index(b"plain") + 1] for row in rows} == {b"ann"}, (index, query)
    assert ann("FT.SEARCH", "tags", "@agent:{bob}") == [0]
    assert ann("FT.SEARCH", "tags", "@own:[2 2]", "LIMIT", 0, 0) == [0]
    assert ann("FT.AGGREGATE", "tags", "*", "GROUPBY", 0, "REDUCE", "COUNT", 0, "AS", "n",
               "LIMIT", 0, 9)[1] == [b"n", b"3"]  # fmt: skip


def test_child_token_is_bound_to_the_value_of_a_filter(shared: Leash) -> None:
    """No pattern of keys has the capture."""
    parent = shared.client(shared.issue("one").token)
    child = shared.client(parent.delegate(bind={"agent": "ann"}).token)

    assert sorted(child.execute_command("FT.SEARCH", "tags", "*", "NOCONTENT")[1:]) == ANN
    assert child.execute_command("FT._LIST") == [b"tags"]


def test_filter_without_a_fitting_value_denies(shared: Leash) -> None:
    """A tag is equal in any case; a token without the binding has no value."""
    for bind, index, why in (
        ({}, "tags", "the token has no value"),
        ({"agent": "Ann"}, "tags", "cannot tell upper-case letters apart"),
        ({"agent": "a|b"}, "tags", "cannot be one"),
        ({"own": "1e0"}, "numbers", "no field that fits"),
        ({"own": "1"}, "tags", "covers the search index"),
    ):
        with pytest.raises(keyleash.IndexNotGrantedError) as caught:
            bound(shared, **bind)("FT.SEARCH", index, "*")
        assert why in reason_of(caught.value).sentence
        (denial, *_) = shared.denials("one")[::-1]
        assert denial["reason"] == caught.value.details.get("reason", "")
    shared.admin.execute_command("FT.DROPINDEX", "tags")
    for name in ("FT.SEARCH", "FT.AGGREGATE"):
        assert "no value" in denial_text(explain(shared.store, "one", name, "tags", "*").decision)
    create(shared, "tags", "all:")
    with pytest.raises(keyleash.IndexNotGrantedError, match="reason='field'"):
        bound(shared, agent="ann")("FT.SEARCH", "tags", "*")


def test_filter_of_a_missing_index_is_checked_as_far_as_it_goes(shared: Leash) -> None:
    """A policy test decides so without an index; the error of the command comes last."""
    shared.admin.execute_command("FT.DROPINDEX", "tags")
    ann = bound(shared, agent="ann")

    for words in (("FT.SEARCH", "tags", "hello"), ("FT.AGGREGATE", "tags", "*", "LIMIT", 0, 9)):
        with pytest.raises(ResponseError, match=r"(?i)no such index"):
            ann(*words)
    with pytest.raises(keyleash.WorkTooLargeError) as caught:
        ann("FT.AGGREGATE", "tags", "*", "GROUPBY", 0, "REDUCE", "TOLIST", 1, "@t")
    assert str(caught.value.help).startswith("make no lists")
    with pytest.raises(keyleash.CommandRefusedError, match="brackets"):
        ann("FT.SEARCH", "tags", "(hello")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("hello) | (hello",), "brackets and quotes"),
        (("(hello",), "brackets and quotes"),
        (("[)(]",), "brackets and quotes"),
        (('hello "',), "brackets and quotes"),
        (("hello\\",), "brackets and quotes"),
        (("hello => hello",), "brackets and quotes"),
        (("*", "WITHSCORES"), "words of other documents"),
        (("*", "EXPLAINSCORE"), "words of other documents"),
        (("*", "SCORER", "BM25"), "words of other documents"),
        (("*", "SCORER", "docscore"), "words of other documents"),
        # A server finds 200 words with a beginning, among them those of others.
        (("hel*",), "those of other documents"),
        (("(@t:%hello%)",), "those of other documents"),
        (("w'hel?o'",), "those of other documents"),
    ],
)
def test_query_that_may_leave_its_filter_is_denied(
    shared: Leash, words: tuple[str, ...], reason: str
) -> None:
    """It stands in parentheses beside the filter."""
    with pytest.raises(keyleash.CommandRefusedError, match=reason):
        bound(shared, agent="ann")("FT.SEARCH", "tags", *words)


@pytest.mark.parametrize(
    "words",
    [
        ("FT.SEARCH", "NOCONTENT"),
        ("FT.SEARCH", "NOCONTENT", "SCORER", "DOCSCORE"),
        ("FT.SEARCH", "NOCONTENT", "SORTBY", "own"),
        ("FT.AGGREGATE", "LOAD", 1, "@__key"),
    ],
)
def test_order_of_results_tells_no_words_of_hidden_documents(
    shared: Leash, words: tuple[str | int, ...]
) -> None:
    """Scores count the documents of all agents that have a word, so a rare one would come first."""
    for i in range(40):
        for place, word in enumerate((f"guess{i}", f"fresh{i}")):
            own = {"agent": "ann", "own": 1, "t": word}
            shared.admin.hset(f"all:ann:{i}:{place}", mapping=own)
        for place in range(i % 2 * 3):
            shared.admin.hset(f"all:bob:{i}:{place}", mapping={"agent": "bob", "t": f"guess{i}"})
    ann, right = bound(shared, agent="ann"), 0
    for i in range(40):
        found = ann(words[0], "tags", f"guess{i}|fresh{i}", *words[1:])
        keys = [row[1] if isinstance(row, list) else row for row in found[1:]]
        assert len(keys) == 2
        right += (keys[0] == f"all:ann:{i}:1".encode()) == (i % 2 == 1)

    assert right == 20


def test_help_names_the_option_or_the_bound(shared: Leash) -> None:
    """The command is allowed, so another one is no help."""
    shared.load(one=SHARED, ann=POLICY["ann"])
    create(shared, "kb", "hr:")
    call, agent = bound(shared, agent="ann"), shared.agent("ann").execute_command
    for run, words, help in (
        (call, ("FT.SEARCH", "tags", "*", "WITHSCORES"), "leave `WITHSCORES` out, or"),
        (call, ("FT.SEARCH", "tags", "x" * 4097), "use a shorter or simpler call"),
        (agent, ("JSON.SET", "memory:ann:1", "$..a..a", "1"), "policy.md#commands-of-modules"),
        (agent, ("FT.SEARCH", "kb", "*"), "use an index whose prefixes are within your keys"),
    ):
        with pytest.raises(keyleash.LeashError) as caught:
            run(*words)
        assert help in str(caught.value.help)
    decision = explain(shared.store, "ann", "FT.SEARCH", "kb", "*")
    assert decision.help.startswith("add `hr:*` to `keys` of a read grant")


def test_audit_log_has_the_reason_of_each_denial(shared: Leash) -> None:
    """It names the option; one that the caller made up makes no entry of its own."""
    shared.load(one={**SHARED, "grants": [*SHARED["grants"], grant("write", keys="all:{agent}")]})
    ann = bound(shared, agent="ann")
    for words in (
        ("FT.SEARCH", "tags", "*", "withscores"),
        ("FT.SEARCH", "tags", "x" * 4097),
        ("FT.SEARCH", "tags", "*", "WITHCURSOR"),
        ("FT.SEARCH", "tags", "*", "NOPE"),
        ("FT.SEARCH", "tags", "*", "QUERY TERMS"),
        ("JSON.SET", "all:ann", "$..a..a", "1"),
    ):
        with pytest.raises(keyleash.CommandRefusedError):
            ann(*words)

    entries = list(read_denials(shared.store, ["one"]))
    found = [reason.sentence if (reason := reason_of_denial(item)) else "" for item in entries]
    parts = (
        "`FT.SEARCH WITHSCORES`",
        "4096 bytes",
        "reads of a cursor",
        "do not know one",
        "paths",
    )
    for part, text in zip(parts, found, strict=True):
        assert part in text
    assert [item.repeats for item in entries] == [1, 1, 1, 2, 1]
    assert entries[-1].keys == (b"all:ann",)


def test_filtered_index_gives_no_counts_and_no_change(shared: Leash) -> None:
    """Libraries look at FT.INFO; other agents have documents in the index."""
    ann = bound(shared, agent="ann")

    assert ann("FT.INFO", "tags")[::2] == [
        b"index_name", b"index_options", b"index_definition", b"attributes",
    ]  # fmt: skip
    assert ann("FT._LIST") == [b"tags"]
    lists = ("GROUPBY", 0, "REDUCE", "TOLIST", 1, "@t")
    assert denied(ann, "FT.AGGREGATE", "tags", "*", *lists)["work"] == str(10**15)
    assert len(ann("FT.AGGREGATE", "tags", "*", "LOAD", 1, "@t")) == 4
    shared.admin.execute_command("FT.DROPINDEX", "tags")
    create(shared, "tags", "hr:")
    assert denied(ann, "FT.SEARCH", "tags", "*")["code"] == "KEY_DENIED"
    for name in ("keyleash:", "k"):
        shared.admin.execute_command("FT.DROPINDEX", "tags")
        create(shared, "tags", name)
        assert denied(ann, "FT.SEARCH", "tags", "*")["code"] == "KEY_DENIED"


SCRIPT = (
    "redis.call('FT.CREATE', ARGV[1], 'PREFIX', '1', ARGV[2], 'SCHEMA', 't', 'TEXT')"
    " return redis.call('FT.SEARCH', ARGV[1], '*', 'NOCONTENT')"
)


def test_script_is_checked_command_by_command(leash: Leash) -> None:
    """It sees what its own commands made; a rule for values has no part in it."""
    grants = [
        {
            **grant("read", "write", keys="memory:ann:*", indexes=["ix*"], scripts=["s"]),
            "values": {"ttl": {"max": "7d"}},
        }
    ]
    identities = {"ann": {"kind": "machine", "grants": grants}}
    document = {"version": 1, "scripts": {"s": {"file": "s.lua"}}, "identities": identities}
    leash.load(with_files(json.dumps(document), {"s.lua": SCRIPT}))
    create(leash, "ix3", "hr:")
    client = leash.agent("ann")

    assert isinstance(client.eval(SCRIPT, 0, "ix1", "memory:ann:"), list)
    assert denied(client.eval, SCRIPT, 0, "ix2", "hr:")["key"] == "hr:*"
    assert b"ix2" not in leash.admin.execute_command("FT._LIST")


def test_explain_reports_the_index_and_its_prefixes(leash: Leash) -> None:
    """It asks the server, as the guard does in the call."""
    create(leash, "kb", "kb:pub:")
    assert can_i(leash.store, "ann", "FT.SEARCH", "kb", "*")
    assert can_i(leash.store, "ann", "FT.SEARCH", "kb9", "*")
    leash.admin.execute_command("FT.DROPINDEX", "kb")
    create(leash, "kb", "hr:")
    decision = explain(leash.store, "ann", "FT.SEARCH", "kb", "*").decision

    lines = list(step_lines(decision, []))
    assert lines[2:4] == ["index     kb: granted", "            allow read by `kb*`"]
    assert lines[-1] == "guard     asked about sizes, work and values: DENIED"
    assert "no grant of the token covers all keys `hr:*` of the search index" in denial_text(
        decision
    )


def test_cluster_refuses_searches_and_says_why(leash: Leash) -> None:
    """The module cannot search several nodes in a script."""
    table = read_table(leash.admin, is_cluster=True)

    assert {table.commands[name].refused for name in INDEXES} == {OF_SEVERAL_NODES}
    load_policy(leash.store, policy(ann=POLICY["ann"]), table=table, allow_removal=True)
    with pytest.raises(keyleash.CommandRefusedError, match="on clusters and beyond database 0"):
        leash.agent("ann").execute_command("FT.SEARCH", "kb", "*")


def test_database_without_searches_refuses_them(leash: Leash) -> None:
    """An index returns the keys of database 0 in every database."""
    other = Leash(leash.server)
    other.admin = leash.server.client(db=1)
    load_policy(other.store, policy(ann=POLICY["ann"]))

    agent = leash.server.guarded(other.issue("ann").token, db=1)
    with pytest.raises(keyleash.CommandRefusedError, match="beyond database 0 none can"):
        agent.execute_command("FT.SEARCH", "kb", "*")
