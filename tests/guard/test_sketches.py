"""Bloom and Cuckoo filters, sketches and time series on a server with the modules."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError

import keyleash
from keyleash.audit.read import read_events
from support.leash import Leash, grant
from support.servers import RealServer

MANY: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="a:*")]}


@pytest.fixture
def leash(stack_server: RealServer) -> Leash:
    leash = Leash(stack_server)
    leash.load(one=MANY)
    return leash


def test_plain_commands_need_no_name_in_only(leash: Leash) -> None:
    """Those that change a key have an event."""
    agent = leash.agent("one")
    changes = [
        *("BF.RESERVE a:b 0.001 100000", "BF.MADD a:b x y", "BF.INSERT a:b ITEMS z"),
        *("CF.RESERVE a:c 100000", "CF.ADD a:c x", "CF.DEL a:c x"),
        *("CMS.INITBYDIM a:m 2000 7", "CMS.INCRBY a:m x 3", "CMS.INITBYPROB a:p 0.001 0.01"),
        *("TOPK.RESERVE a:k 50 2000 7 0.925", "TOPK.ADD a:k x y"),
        *("TDIGEST.CREATE a:t COMPRESSION 1000", "TDIGEST.ADD a:t 1 2 3", "TDIGEST.RESET a:t"),
        *("TS.CREATE a:s LABELS a b", "TS.CREATE a:s2", "TS.MADD a:s 1 1 a:s2 1 2"),
        *("TS.CREATERULE a:s2 a:s AGGREGATION sum 10", "TS.DELETERULE a:s2 a:s"),
    ]
    reads = [
        *("BF.EXISTS a:b x", "BF.INFO a:b", "CF.COUNT a:c x", "CMS.QUERY a:m x", "TOPK.LIST a:k"),
        *("TDIGEST.QUANTILE a:t 0.5", "TS.RANGE a:s - +", "TS.GET a:s", "TS.INFO a:s"),
    ]
    for words in (*changes, *reads):
        agent.execute_command(*words.split())

    assert [event.op for event in read_events(leash.store, ["one"])] == [
        words.split()[0] for words in changes
    ]


def test_merges_and_rules_reach_granted_keys_alone(leash: Leash) -> None:
    """The modules declare the first key of each."""
    leash.load(one={"grants": [grant("read", keys="in:*"), grant("read", "write", keys="a:*")]})
    admin, agent = leash.admin, leash.agent("one")
    for key in ("hr:1", "in:1", "a:1"):
        admin.execute_command("CMS.INITBYDIM", f"{key}:m", 10, 2)
        admin.execute_command("TDIGEST.CREATE", f"{key}:t")
        admin.execute_command("TS.CREATE", f"{key}:s")

    assert agent.execute_command("CMS.MERGE", "a:1:m", 2, "a:1:m", "in:1:m", "WEIGHTS", 1, 2)
    assert agent.execute_command("TDIGEST.MERGE", "a:1:t", 1, "in:1:t", "OVERRIDE")
    for words in (
        ("CMS.MERGE", "a:1:m", 1, "hr:1:m"),
        ("CMS.MERGE", "in:1:m", 1, "a:1:m"),
        ("TDIGEST.MERGE", "a:1:t", 2, "in:1:t", "hr:1:t"),
        ("TS.CREATERULE", "a:1:s", "hr:1:s", "AGGREGATION", "sum", 1000),
        ("TS.CREATERULE", "in:1:s", "a:1:s", "AGGREGATION", "sum", 1000),
        ("TS.MADD", "a:1:s", 1, 1, "in:1:s", 1, 1),
    ):
        with pytest.raises((keyleash.KeyNotGrantedError, keyleash.ClassNotGrantedError)):
            agent.execute_command(*words)


@pytest.mark.parametrize(
    "words",
    [
        "CMS.INITBYDIM a:1 1000000 10",
        "CMS.INITBYDIM a:1 1 100000",
        "CMS.INITBYDIM a:1 -1 10",
        "CMS.INITBYPROB a:1 0.0000001 0.1",
        "CMS.INITBYPROB a:1 0 0.1",
        "CMS.INITBYPROB a:1 0.1 1e-46",
        "BF.RESERVE a:1 1e-300 100",
        "TOPK.RESERVE a:1 10 1000000 10 0.9",
        "TOPK.RESERVE a:1 100000",
        "TDIGEST.CREATE a:1 COMPRESSION 100000",
        "BF.RESERVE a:1 0.00001 100000000",
        "BF.RESERVE a:1 -1 1000",
        "CF.RESERVE a:1 100000000",
        "CF.RESERVE a:1 1e400",
    ],
)
def test_large_sketch_is_denied(leash: Leash, words: str) -> None:
    """Sixty bytes may take 80 MB, or make each later call take long; `explain` agrees."""
    decision = keyleash.Operator.from_url(leash.server.url).explain("one", *words.split()).decision
    with pytest.raises(keyleash.WorkTooLargeError) as caught:
        leash.agent("one").execute_command(*words.split())

    assert caught.value.details["work"] == decision.details["work"]
    assert leash.admin.exists("a:1") == 0


def test_batch_of_sketches_is_bounded(leash: Leash) -> None:
    """Each is small enough alone."""
    pipe: Any = leash.agent("one").pipeline(transaction=False)
    for number in range(20):
        pipe.execute_command("CMS.INITBYDIM", f"a:{number}", 1_000_000, 2)
    replies = pipe.execute(raise_on_error=False)

    assert {type(reply) for reply in replies} == {bytes, keyleash.WorkTooLargeError}
    assert leash.admin.dbsize() < 40


@pytest.mark.parametrize(
    "words",
    [
        *("BF.RESERVE a:1 0.01 100 EXPANSION 30000", "BF.INSERT a:1 capacity 100000000 ITEMS x"),
        *("CF.RESERVE a:1 1000 MAXITERATIONS 65535", "CF.INSERTNX a:1 CAPACITY 1000000 ITEMS x"),
        *("TS.ADD a:1 1 1 CHUNK_SIZE 1048576", "TS.RANGE a:1 - + AGGREGATION sum 1 EMPTY"),
        "TS.INFO a:1 debug",
    ],
)
def test_option_that_takes_too_much_is_denied(leash: Leash, words: str) -> None:
    """The reason names it."""
    with pytest.raises(keyleash.CommandRefusedError, match="one call may take too much"):
        leash.agent("one").execute_command(*words.split())


def test_reading_many_samples_is_denied(leash: Leash) -> None:
    """A million take a few bytes in the module, and 300 MB in the server's Lua."""
    admin, agent = leash.admin, leash.agent("one")
    for start in range(0, 60_000, 3000):
        words = [word for at in range(start, start + 3000) for word in ("a:1", at, 1)]
        admin.execute_command("TS.MADD", *words) if start else admin.execute_command(
            "TS.CREATE", "a:1"
        )

    assert len(agent.execute_command("TS.RANGE", "a:1", "-", "+", "COUNT", 1000)) == 1000
    with pytest.raises(keyleash.WorkTooLargeError):
        agent.execute_command("TS.RANGE", "a:1", "-", "+")


def test_merging_large_sketches_often_is_denied(leash: Leash) -> None:
    """One source may be named thousands of times."""
    admin, agent = leash.admin, leash.agent("one")
    admin.execute_command("CMS.INITBYDIM", "a:1", 100_000, 5)

    assert agent.execute_command("CMS.MERGE", "a:1", 2, *["a:1"] * 2)
    with pytest.raises(keyleash.WorkTooLargeError):
        agent.execute_command("CMS.MERGE", "a:1", 1000, *["a:1"] * 1000)


def test_payload_needs_its_name_in_only(leash: Leash) -> None:
    """BF.LOADCHUNK stores it unchanged."""
    with pytest.raises(keyleash.CommandRefusedError, match="no grant names it"):
        leash.agent("one").execute_command("BF.LOADCHUNK", "a:1", 1, "x")
    names = ["BF.LOADCHUNK", "BF.SCANDUMP"]
    leash.load(one={"grants": [grant("read", "write", keys="a:*", only=names)]})
    leash.admin.execute_command("BF.ADD", "a:1", "x")
    agent = leash.agent("one")
    at, chunk = agent.execute_command("BF.SCANDUMP", "a:1", 0)

    assert agent.execute_command("BF.LOADCHUNK", "a:2", at, chunk)


@pytest.mark.parametrize("count", ["-1", "2147483648", "9223372036854775807", "3", "x"])
def test_merge_with_a_wrong_number_of_keys_is_denied(leash: Leash, count: str) -> None:
    """Some ended the server."""
    leash.admin.execute_command("CMS.INITBYDIM", "a:1", 10, 2)
    for words in (("CMS.MERGE", "a:1", count, "a:1"), ("TDIGEST.MERGE", "a:2", count, "a:1")):
        with pytest.raises(keyleash.WorkTooLargeError):
            leash.agent("one").execute_command(*words)
    with pytest.raises(ResponseError, match="wrong number of arguments"):
        leash.agent("one").execute_command("CMS.MERGE")
