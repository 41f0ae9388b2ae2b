"""Commands of a module, on a server that has loaded one."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ClusterCrossSlotError

import keyleash
from keyleash.commands.facts import UNCHECKED
from keyleash.errors import PolicyError
from keyleash.errors.sentences import LEFT_OUT, NO_SERVER_HAS, NOT_CHECKED, NOT_NAMED
from keyleash.operator.decisions import explain
from support.clustered import ClusterServer, lend_server
from support.leash import Leash, grant, policy
from support.servers import RealServer, RealServers

BROAD: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*")]}
REVIEWED = [f"JSON.{name}" for name in ("GET", "SET", "DEL", "MSET", "MGET")]
REVIEWED += ["CMS.MERGE", "TS.CREATERULE"]
WITHOUT: dict[str, Any] = {
    "grants": [{**grant("read", "write", "delete", keys="doc:*"), "except": REVIEWED}]
}


@pytest.fixture
def leash(module_server: RealServer) -> Leash:
    """A leash on each server, started with the module."""
    return Leash(module_server)


def named(*names: str) -> dict[str, Any]:
    return {"grants": [grant("read", "write", "delete", keys="doc:*", only=list(names))]}


def test_broad_grant_gives_no_command_of_a_module(leash: Leash) -> None:
    """Its effect on keys that it does not name is unknown."""
    leash.load(one=BROAD)

    with pytest.raises(keyleash.CommandRefusedError):
        leash.agent("one").execute_command("DOC.GET", "doc:1")


def test_named_command_of_a_module_goes_through_the_guard(leash: Leash) -> None:
    """The wrapper declares its key, which no shipped table knows."""
    result = leash.load(one=named("doc.get", "GET"))
    agent = leash.agent("one")

    assert result.warnings == ()
    assert agent.execute_command("DOC.GET", "doc:1", "$.a") == 3
    assert agent.execute_command("doc.get", "doc:1") == 2
    with pytest.raises(keyleash.KeyNotGrantedError) as refusal:
        agent.execute_command("DOC.GET", "other")
    assert refusal.value.details["key"] == "other"
    assert agent.get("doc:1") is None


NOT_GRANTED = keyleash.KeyNotGrantedError, keyleash.ClassNotGrantedError, ClusterCrossSlotError
"""On a cluster, `WEIGHTS` as a key is in another slot."""


def test_reviewed_commands_check_all_of_their_keys(leash: Leash) -> None:
    """The server says that some have one key alone."""
    leash.load(
        one={
            "grants": [
                grant("read", keys="doc:r*"),
                grant("write", keys="doc:w*"),
                grant("read", "write", keys="doc:b*"),
            ]
        }
    )
    agent = leash.agent("one")
    w, b, r, x = "doc:w{d}", "doc:b{d}", "doc:r{d}", "other:{d}"
    for allowed, *denied in (
        [("JSON.MGET", r, b, "$"), ("JSON.MGET", r, x, "$"), ("JSON.MGET", r, w, "$")],
        [("JSON.MSET", w, "$", "1", b, "$", "1"), ("JSON.MSET", w, "$", "1", r, "$", "1")],
        [("CMS.MERGE", w, "2", r, b), ("CMS.MERGE", w, "2", r, x), ("CMS.MERGE", r, "1", w)],
        [("CMS.MERGE", w, "1", r, "WEIGHTS", "1"), ("CMS.MERGE", w, "2", r, "WEIGHTS", "1")],
        [("TS.CREATERULE", b, "doc:b2{d}", "AGGREGATION"), ("TS.CREATERULE", b, w, "AGGREGATION")],
    ):
        assert agent.execute_command(*allowed) == len(allowed)
        for words in denied:
            with pytest.raises(NOT_GRANTED):
                agent.execute_command(*words)


def test_module_that_says_nothing_of_a_key_needs_read_and_write_on_it(leash: Leash) -> None:
    """The server then takes its commands for ones that do both."""
    leash.load(one={"grants": [grant("read", keys="doc:*", only=["DOC.GET"])]})

    with pytest.raises(keyleash.ClassNotGrantedError):
        leash.agent("one").execute_command("DOC.GET", "doc:1")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("DOC.QUERY", "it names no key that a grant could cover"),
        ("DOC.CALLBACK", "keyleash cannot determine which of its arguments are keys"),
        ("DOC.COPY", "it may be called without one of its keys"),
    ],
)
def test_command_of_a_module_whose_keys_are_unknown_is_a_problem(
    leash: Leash, name: str, reason: str
) -> None:
    """The problem gives the reason, at the position of the name."""
    with pytest.raises(PolicyError) as caught:
        leash.load(one=named(name))

    (problem,) = caught.value.problems
    assert problem.code == "ungrantable-command"
    assert problem.message == f"`{name}` cannot be granted: {reason}"


def test_name_that_neither_keyleash_nor_the_server_knows_is_a_problem(leash: Leash) -> None:
    """The suggestions include commands of the server's modules."""
    with pytest.raises(PolicyError, match=r"did you mean `DOC\.GET`"):
        leash.load(one=named("DOC.GETT"))


def test_loading_a_module_changes_no_guard_that_does_not_name_it(
    leash: Leash, real_servers: RealServers, lent_cluster: ClusterServer | None
) -> None:
    """An agent's script is the same on a server without the module."""
    leash.load(one=WITHOUT)
    digest = leash.digest("one")

    with lend_server(leash.server.label, real_servers, lent_cluster) as bare:
        other = Leash(bare)
        other.load(one=WITHOUT)
        assert other.digest("one") == digest


@pytest.mark.parametrize(
    "name",
    ["FT.CURSOR", "JSON.DEBUG", "JSON.NUMPOWBY", "TS.MRANGE", "TS.DEL", "CF.COMPACT", "TFCALL"],
)
def test_command_of_a_module_that_reaches_other_keys_is_a_problem_of_the_policy(
    leash: Leash, name: str
) -> None:
    """Also where the server lacks it."""
    for load in (leash.load, lambda **bodies: keyleash.Policy(policy(**bodies)).model):
        with pytest.raises(PolicyError) as caught:
            load(one=named(name))

        (problem,) = caught.value.problems
        assert problem.code == "ungrantable-command"
        assert problem.message == f"`{name}` cannot be granted: {UNCHECKED}"
        assert problem.span


def test_server_without_search_is_reported(embedded: RealServer) -> None:
    """A policy with indexes does nothing there."""
    leash = Leash(embedded)
    result = leash.load(one={"grants": [{**grant("read", keys="doc:*"), "indexes": ["i"]}]})

    assert [warning.message for warning in result.warnings] == ["the server has no module Search"]
    assert "no module Search" in str(explain(leash.store, "one", "FT.SEARCH", "i", "*"))


def test_unchecked_command_of_a_module_is_denied_with_that_reason(leash: Leash) -> None:
    """The reason says nothing of the server, which has it, nor of other commands."""
    leash.load(one=named("JSON.GET", "GET"))

    for name, reason, help in (
        ("FT.TAGVALS", UNCHECKED, "do without it, or report that you cannot: no token may call it"),
        ("NO.SUCH", NOT_CHECKED, "use another command; `client.whoami()` lists"),
        ("DOC.GET", NOT_CHECKED, "use another command; `client.whoami()` lists"),
        ("BF.LOADCHUNK", NOT_NAMED, "use another command; `client.whoami()` lists"),
        ("JSON.SUCH", UNCHECKED, "do without it, or report that you cannot: no token may call it"),
        ("BF.SUCH", f"{NO_SERVER_HAS} it", "check the name"),
        ("JSON.DEL", LEFT_OUT, "stop, and report"),
    ):
        with pytest.raises(keyleash.CommandRefusedError) as caught:
            leash.agent("one").execute_command(name, "doc:1")
        assert caught.value.details["reason"] == reason
        assert str(caught.value.help).startswith(help)


@pytest.mark.parametrize(
    ("words", "is_allowed"),
    [
        ("JSON.GET doc:1", True),
        ("JSON.GET doc:1 $..a", True),
        ("JSON.GET doc:1 $..a..b", False),
        ("JSON.GET doc:1 $..a $..b", True),
        ("JSON.GET doc:1 $.a[?(@.b>1)]", True),
        ("JSON.GET doc:1 $.a[?(@.b==$..c)]", False),
        ("JSON.GET doc:1 $.a[?(@.b=~'c')]", False),
        ("JSON.GET doc:1 $" + "[0,0,0]" * 4, True),
        ("JSON.GET doc:1 $" + "[0,0]" * 9, False),
        ("JSON.GET doc:1 " + "$.a[0:] " * 65, True),
        ("JSON.GET doc:1 $" + ".a" * 32, True),
        ("JSON.GET doc:1 $" + ".a" * 33, False),
        ("JSON.GET doc:1 $" + "a" * 512, False),
        ("JSON.GET doc:1 $\0", False),
        ("JSON.GET doc:1 $.x[?(@==$.y[*])]", False),
        ("JSON.MGET doc:{d}1 doc:{d}2 $..a..b", False),
        ("JSON.SET doc:1 $..a 1", True),
        ("JSON.SET doc:1 $..a [1]", False),
        ("JSON.SET doc:1 $.a {1}", True),
        ("JSON.SET doc:1 $.a[*] " + "1" * 1024, True),
        ("JSON.SET doc:1 $.a[*] " + "1" * 1025, False),
        ("JSON.SET doc:1 $.a " + "1" * 1025, True),
        ("JSON.MSET doc:{d}1 $ 1 doc:{d}2 $..a [2]", False),
        ("JSON.MSET doc:{d}1 $.* 1 doc:{d}[2] $..a 2", True),
        ("JSON.DEL doc:1 $..a..b", False),
        ("JSON.DEL doc:1 $.a a..b..c,,,,,,,,,", True),
        ("JSON.MSET doc:{d}1 $ a..b..c doc:{d}2 $ a..b..c", True),
        ("JSON.MSET doc:{d}1 $ 1 doc:{d}2 $..a..b 2", False),
        ("JSON.MSET" + " doc:1 $ 1" * 600, True),
    ],
)
def test_json_paths_that_may_multiply_are_denied(
    leash: Leash, words: str, is_allowed: bool
) -> None:
    """On a document of 721 bytes `$..a..a..a..a` takes all memory of a server."""
    leash.load(one=BROAD)
    sent = words.split()
    agent = leash.agent("one")
    pipe: Any = agent.pipeline()

    if is_allowed:
        assert agent.execute_command(*sent) == len(sent)
        assert pipe.execute_command(*sent).execute() == [len(sent)]
        return
    calls: list[Any] = [agent.execute_command, lambda *each: pipe.execute_command(*each).execute()]
    for call in calls:
        with pytest.raises(keyleash.CommandRefusedError, match=r"one `\.\.` or `\?`") as caught:
            call(*sent)
        assert caught.value.details["command"] == sent[0] + " PATHS"
