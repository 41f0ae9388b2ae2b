"""The advice of denials where they are read: in Python, at the gateway and over MCP."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from keyleash import LeashError
from keyleash.addons.mcp.forms import class_of
from keyleash.commands import load_table
from support.gateways import Raw, ServedGateway
from support.leash import Leash, grant
from support.mcp_clients import in_process, run

Connect = Callable[..., Raw]

POLICY: dict[str, Any] = {
    "grants": [
        grant("scan", keys="jobs:*"),
        grant("read", keys="jobs:{id}:input"),
        grant("read", "write", keys="jobs:{id}:state"),
        grant("read", keys="ctx:*", **{"except": ["HGETALL"]}),
        grant("read", "write", "delete", keys=["queue:{name}", "counter:{name}"]),
        grant("read", "write", keys="lock:{name}", only=["GET", "SET"]),
        {**grant("write", keys="small:{name}"), "values": {"max_bytes": "10b"}},
        {**grant("write", keys="few:{name}"), "values": {"max_elements": 2}},
        {"allow": ["publish"], "channels": ["events:{name}"]},
    ],
    "deny": [{"keys": ["queue:secret"]}],
}
STOP = "stop, and report that you cannot do this"
ANOTHER_KEY, ON_KEY = "use another key", "use another command on this key, or another key"
ASK = "stop, and ask the operator for"
OTHER, SCANNED = "use another command", "use a pattern of a grant with `scan`"
WITHOUT, SCRIPT = "do without it, or report that you cannot", "use the text of an approved script"
CASES = {
    # Where a key has `scan` alone, no command helps.
    "GET jobs:1:result": (ANOTHER_KEY, "GET jobs:1:input"),
    "GET jobs:1:state:old": (ANOTHER_KEY, "GET jobs:1:state"),
    "SET jobs::state x": (ANOTHER_KEY, "SET jobs:1:state x"),
    "XADD jobs:1:log * f v": (ANOTHER_KEY, "XADD jobs:1:state * f v"),
    "GET other:1": (ANOTHER_KEY, "GET counter:1"),
    "SET counters-customer-7 x": (ANOTHER_KEY, "SET counter:7 x"),
    "GET job/43/state": (ANOTHER_KEY, "GET jobs:43:state"),
    "MGET jobs:1:state queues:1": (ANOTHER_KEY, "MGET jobs:1:state queue:1"),
    "HGETALL other:x": (ANOTHER_KEY, "HGETALL counter:x"),
    "SORT queue:a STORE other": (ANOTHER_KEY, "SORT queue:a STORE counter:b"),
    "SET jobs:1:input x": (ON_KEY, "GET jobs:1:input"),
    # A command that `only` or `except` leave out.
    "HGETALL ctx:h": (ASK, "HGET ctx:h f"),
    "TTL lock:a": (ASK, "GET lock:a"),
    "INCR lock:a": (ASK, "SET lock:a 1"),
    "RESTORE jobs:1:state 0 x": (OTHER, "SET jobs:1:state x"),
    # Another key in its place would lose data.
    "DEL jobs:1:state": (STOP, ""),
    "DEL jobs:1:input": (STOP, ""),
    "DEL lock:a": (STOP, ""),
    "DEL other": (STOP, ""),
    "UNLINK nothing:1": (STOP, ""),
    "LPOP jobs:1:state": (STOP, ""),
    "LPOP jobs:1:other": (STOP, ""),
    "GETDEL jobs:1:state": (STOP, ""),
    "RENAME queue:a other": (STOP, ""),
    "RENAME other queue:a": (STOP, ""),
    "GET queue:secret": (STOP, ""),
    "SET queue:secret x": (STOP, ""),
    "DEL queue:secret": (STOP, ""),
    "FLUSHALL": (STOP, ""),
    "FLUSHDB": (STOP, ""),
    "SCAN 0": (SCANNED, "SCAN 0 MATCH jobs:*"),
    "SCAN 0 MATCH other:*": (SCANNED, "SCAN 0 MATCH jobs:*"),
    "KEYS *": (SCANNED, "KEYS jobs:*"),
    "KEYS ctx:*": (SCANNED, "KEYS jobs:*"),
    "SORT jobs:1:state BY w:*": ("use a pattern that a read grant", "SORT jobs:1:state BY ctx:*"),
    "PUBLISH other x": ("use another channel", "PUBLISH events:a x"),
    "SPUBLISH other x": ("use another channel", "SPUBLISH events:a x"),
    "CONFIG GET *": (WITHOUT, ""),
    "MONITOR": (WITHOUT, ""),
    "RANDOMKEY": (WITHOUT, ""),
    "EVAL x 0": (SCRIPT, ""),
    "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0": (SCRIPT, ""),
    "NOSUCH a": ("check the name of the command", ""),
    "SET small:1 aaaaaaaaaaa": ("use a shorter value: at most 10 bytes", "SET small:1 aaaa"),
    f"GET jobs:{'9' * 1024}:input": ("use a shorter name: at most 1024 bytes", ""),
    "SADD few:1 a b c": ("write fewer elements: at most 2", "SADD few:1 a b"),
    "SRANDMEMBER jobs:1:state -1000000000": ("use a range, COUNT", "SRANDMEMBER jobs:1:state -9"),
}
"""Denied calls, the beginning of their advice, and a call that follows it."""
NOT_OF_TOOLS = {"EVAL", "EVALSHA", "NOSUCH"}


def test_every_denial_has_an_advice_that_its_reader_can_follow(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """It has the words of the door, and is the same for a call and for the question about it."""
    one_leash.load(one=POLICY)
    token = one_leash.issue("one").token
    agent, raw = one_leash.agent("one"), connect(one_gateway.port, token)

    async def body() -> None:
        async with in_process(one_leash.server.url, token) as client:
            for case, (advice, follows) in CASES.items():
                words = case.split()
                with pytest.raises(LeashError) as caught:
                    agent.execute_command(*words)
                _, _, help_ = str(caught.value).partition("\nhelp: ")
                assert help_.startswith(advice), case
                line = raw.call(*words).decode()
                assert re.fullmatch(r"-LEASH [^\r\n]+\)\r\n", line), case
                assert re.search(rf"[(;] ?{re.escape(advice)}", line), (case, line)
                assert not re.search(r"\w\(", line), (case, line)
                assert help_.replace("`client.whoami()`", "`KEYLEASH WHOAMI`") in line
                question = raw.call("KEYLEASH", "CAN", *words).decode()
                assert question.partition("\r\n")[2] == line[1:]
                if follows:
                    assert raw.call("KEYLEASH", "CAN", *follows.split()) == b"+OK\r\n", case
                if words[0] not in NOT_OF_TOOLS:
                    spec = load_table().find([word.encode() for word in words])
                    name = class_of(spec) if spec and spec.refused is None else "read"
                    name = name.replace("publish", "batch")
                    given = {"commands": [words]} if name == "batch" else {"command": words}
                    check_result((await client.call_tool(name, given)), case, help_, follows)

    run(body)


def test_denials_of_the_client_have_an_advice_for_any_client(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """A transaction names the command, and none of them a method of Python."""
    keys = grant("read", "write", keys="jobs:*", **{"except": ["HGETALL"]})
    one_leash.load(one={"grants": [keys]}, two={"grants": [{**keys, "only": ["GET"]}]})
    two = connect(one_gateway.port, one_leash.issue("two").token)
    for name, instead in (("SCAN", "use keys whose names"), ("SET", "stop, and ask the operator")):
        assert f"no grant allows it, or the server lacks it; {instead}" in str(two.call(name, 1, 2))
    assert b"use SCAN with" in two.call("KEYLEASH", "CAN", "DBSIZE")
    agent = connect(one_gateway.port, one_leash.issue("one").token)
    long = ("RPUSH", "jobs:1", *range(3500))
    for commands, expected in (
        ([("HGETALL", "jobs:1")], "LEASH COMMAND_REFUSED .*; stop, and ask .* for `HGETALL`"),
        ([("PUBLISH", "c", "x")], "LEASH CLASS_NOT_GRANTED class=publish .*(do without it, or"),
        ([("DBSIZE",)], "LEASH COMMAND_REFUSED command=DBSIZE (it counts .*; use SCAN with"),
        ([("MULTI",), ("SUBSCRIBE", "c")], "LEASH COMMAND_REFUSED .*; subscribe outside of"),
        ([("EXEC",), ("MULTI",), long, long, ("EXEC",)], "LEASH ARGS_TOO_MANY .*(use several"),
        ([("MULTI",), ("PING",), ("KEYS", "*"), ("EXEC",)], "LEASH CLASS_NOT_GRANTED .* item=2 ("),
    ):
        agent.send(*commands)
        line = [agent.reply().decode() for _ in commands][-1]
        assert re.match(f"-{expected.replace('(', '[(]')}", line), line
        assert not re.search(r"\w\(", line), line


def check_result(found: Any, case: str, help_: str, follows: str) -> None:
    """Check the result of a denied call of a tool."""
    facts, text = found.structured_content, found.content[0].text
    help_ = help_.replace("`client.whoami()`", "the tool `whoami`")
    listed = re.sub(r"another (key|channel); .*", r"a \1 that fits a pattern in allowed", help_)
    assert found.is_error
    assert listed in text, (case, text)
    assert ("allowed_instead" in facts) is ("NOT_GRANTED" in text and not help_.startswith(STOP))
    if help_.startswith(ANOTHER_KEY) and "SORT" not in case:
        # The likest is the first, and its family that of the call which follows the advice.
        family = follows.split()[-1 if case.startswith("MGET") else 1].partition(":")[0]
        assert facts["allowed_instead"][0].startswith(family), (case, facts)


def test_a_program_at_the_gateway_asks_what_its_token_allows(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """KEYLEASH WHOAMI is a map, CAN replies as ACL DRYRUN does, HELP lists both."""
    leash.load(one={**POLICY, "budget": {"requests": "9/day"}})
    token = leash.issue("one").token
    agent, other = connect(gateway.port, token), connect(gateway.port)
    other.call("HELLO", "3", "AUTH", "one", token)

    assert b"KEYLEASH CAN <command ...>" in agent.call("KEYLEASH", "help")
    flat = agent.call("KEYLEASH", "WHOAMI")
    assert flat.startswith(b"*20\r\n$8\r\nidentity\r\n$3\r\none\r\n")
    assert b"$12\r\nqueue:secret\r\n" in flat
    assert b"$4\r\nleft\r\n:9\r\n" in flat
    assert other.call("KEYLEASH", "WHOAMI").startswith(b"%10\r\n$8\r\nidentity\r\n$3\r\none\r\n")
    assert agent.call("KEYLEASH", "can", "set", "counter:1", "1") == b"+OK\r\n"
    assert leash.admin.get("counter:1") is None
    assert agent.call("KEYLEASH", "CAN", "MULTI") == b"+OK\r\n"
    for words in (("CAN",), ("CAN", "GET x"), ("WHAT",), (), ("ONCE", "id")):
        assert agent.call("KEYLEASH", *words).startswith(b"-ERR unknown sub-command"), words
    agent.send(("MULTI",), ("KEYLEASH", "CAN", "GET", "counter:1"), ("EXEC",))
    assert [agent.reply() for _ in range(3)] == [b"+OK\r\n", b"+OK\r\n", b"*0\r\n"]
    stranger = connect(gateway.port)
    assert stranger.call("KEYLEASH", "WHOAMI").startswith(b"-NOAUTH")
    assert b"$4\r\nleft\r\n:9\r\n" in agent.call("KEYLEASH", "WHOAMI"), "nothing was charged"


def test_hidden_grants_stay_hidden(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """Neither a denial nor the answer about the token names a pattern."""
    one_leash.load(one={**POLICY, "token": {"publish_grants": False}})
    agent = connect(one_gateway.port, one_leash.issue("one").token)
    for words in (("KEYLEASH", "WHOAMI"), ("KEYLEASH", "CAN", "GET", "x"), ("GET", "x")):
        assert b"queue" not in agent.call(*words)
