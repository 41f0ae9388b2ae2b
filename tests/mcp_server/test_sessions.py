"""Sessions by the official client: both transports, both revisions of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from mcp.server.connection import Connection
from mcp.shared.exceptions import MCPError

import keyleash
from keyleash.addons.mcp.holder import Holder
from keyleash.addons.mcp.serve import McpServer
from keyleash.audit.read import Query, read_events
from keyleash.audit.streams import stream_names
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.revoke import revoke
from mcp_server.conftest import EXAMPLE
from support.clusters import RealCluster
from support.command_line import Cli, Spawned
from support.leash import Leash, grant, policy
from support.mcp_clients import REVISIONS, in_process, over_stdio, run, with_path

MODES = [pytest.param("legacy", marks=pytest.mark.slow), "auto"]
STATE, RESULT = "agents:jobs:5:state", "agents:jobs:5:result"


@pytest.mark.parametrize("mode", MODES)
def test_tools_read_write_and_explain_denials(
    connect: Callable[..., Any], leash: Leash, mode: str
) -> None:
    """Text and bytes, batches and limits; a denial names what is allowed instead."""

    async def body() -> None:
        async with connect(leash.issue("agent-runner").token, mode=mode) as client:
            assert client.protocol_version == REVISIONS[mode]
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert {"get", "set", "hset", "read", "batch", "whoami"} <= {*names}
            assert {"del", "delete", "scan", "publish", "delegate"}.isdisjoint(names)

            async def call(name: str, **given: Any) -> Any:
                return (await client.call_tool(name, given)).structured_content

            assert await call("set", key=STATE, value="-") == {"result": True}
            raw = {"base64": "/wA="}
            assert await call("hset", key=RESULT, fields={"text": "ä", "raw": raw}) == {"result": 2}
            assert leash.admin.hget(RESULT, "raw") == b"\xff\x00"
            assert await call("hgetall", key=RESULT) == {"result": {"text": "ä", "raw": raw}}
            assert await call("read", command=["HLEN", RESULT]) == {"result": 2}
            commands = [["APPEND", STATE, "x"], ["GET", STATE], ["LLEN", STATE]]
            length, value, error = (await call("batch", commands=commands))["result"]
            assert (length, value) == (2, "-x")
            assert error["error"].startswith("WRONGTYPE")
            me = (await call("whoami"))["result"]
            assert me["identity"] == "agent-runner"
            assert me["grants"][0]["allow"] == ["read", "write"]
            assert {limit["name"] for limit in me["limits"]} >= {"budget.requests", "rate.writes"}

            denial = await client.call_tool("get", {"key": "agents:context:1"})
            assert denial.is_error
            assert denial.structured_content["code"] == "KEY_NOT_GRANTED"
            patterns = ["agents:jobs:{job_id}:state", "agents:jobs:{job_id}:result"]
            assert denial.structured_content["allowed_instead"] == patterns
            text = denial.content[0].text
            assert "use a key that fits a pattern in allowed_instead" in text
            assert "add a" not in text
            # Not listed, and the guard says why.
            assert (await call("del", keys=[STATE]))["code"] == "CLASS_NOT_GRANTED"
            assert leash.admin.get(STATE) == b"-x"

    run(body)


@pytest.mark.parametrize("mode", MODES)
def test_bad_input_is_a_result_that_a_model_reads(
    connect: Callable[..., Any], leash: Leash, mode: str
) -> None:
    """As SEP-1303 has it, but for unknown tools; no error repeats what was sent."""
    token = leash.issue("agent-runner").token
    deep: Any = "x"
    for _ in range(100):
        deep = {"a": deep}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("set", {"key": STATE}),
        ("set", {"key": STATE, "value": "x", "and": token}),
        ("set", {"key": 7, "value": "x"}),
        ("set", {"key": STATE, "value": {"base64": "?"}}),
        ("set", {"key": STATE, "value": {"text": token}}),
        ("set", {"key": "agents:jobs:{job_id}:state", "value": "x"}),
        ("batch", {"commands": [["SET", "agents:jobs:{job_id}:state", "x"]]}),
        ("hset", {"key": RESULT, "fields": {}}),
        ("rpush", {"key": RESULT, "values": []}),
        ("batch", {"commands": []}),
        ("set", {"key": STATE, "value": deep}),
        ("read", {"command": []}),
        ("read", {"command": ["GET " + STATE]}),
        ("read", {"command": ["SET", STATE, "x"]}),
        ("batch", {"commands": "FLUSHALL"}),
        ("whoami", {"identity": "human-admin"}),
    ]

    async def body() -> None:
        async with connect(token, mode=mode) as client:
            for name, given in calls:
                found = await client.call_tool(name, given)
                assert found.is_error
                assert found.structured_content["code"] == "INVALID_ARGUMENTS", (name, given)
                assert token not in str(found)
            for name in ("nosuch", "eval", "delegate"):
                with pytest.raises(MCPError, match=f"there is no tool `{name}`"):
                    await client.call_tool(name, {})
            # HTTP closes the request, stdio reads all of it.
            with suppress(MCPError):
                found = await client.call_tool("set", {"key": STATE, "value": "x" * 10_000_000})
                assert "longer than" in found.structured_content["message"]
            found = await client.call_tool("type", {"key": STATE})
            assert found.structured_content == {"result": "none"}

    run(body)
    assert leash.admin.keys("agents:*") == []


@pytest.mark.parametrize(
    ("name", "given", "problem"),
    [
        ("set", {"key": STATE, "value": "x", "ttl": 1}, "`ttl` is no argument"),
        ("set", {"key": STATE, "value": {"base64": "?"}}, "`value` has an object"),
        ("whoami", {"a": 1}, "there are: none"),
        ("read", {"command": ["DEL", STATE]}, "`DEL` is not allowed: no grant allows it"),
        ("read", {"command": ["SET", STATE, "x"]}, "for the tool `write`"),
        ("batch", {"commands": [["GET"]]}, "replied: wrong number of arguments for 'get'"),
        ("read", {"command": ["EVAL", "x", "0"]}, "use the listed tools, or report"),
        ("read", {"command": ["BLPOP", "a", "0"]}, "LPOP for BLPOP"),
        ("get", {"key": "agents:jobs:{job_id}:result"}, "replace `{job_id}` by a value"),
    ],
)
def test_wrong_arguments_are_explained(
    leash: Leash, name: str, given: dict[str, Any], problem: str
) -> None:
    """The error names the argument, and what it should be."""

    async def body() -> None:
        async with in_process(leash.server.url, leash.issue("agent-runner").token) as client:
            found = await client.call_tool(name, given)
            assert found.is_error
            assert problem in found.structured_content["message"]

    run(body)


def test_a_scan_goes_on_with_its_own_cursor(leash: Leash) -> None:
    """The cursor of each page is text, in a batch and by words too, and a number is taken."""
    leash.load(one={"grants": [grant("read", "scan", keys="k:*")]})
    names = [f"k:{number}" for number in range(500)]
    leash.admin.mset(dict.fromkeys(names, "x"))

    async def body() -> None:
        async with in_process(leash.server.url, leash.issue("one").token) as client:

            async def call(name: str, **given: Any) -> Any:
                return (await client.call_tool(name, given)).structured_content["result"]

            cursor, found = await call("scan", cursor=0, pattern="k:*")
            while cursor != "0":
                cursor, page = await call("scan", cursor=cursor, pattern="k:*")
                found += page
            assert sorted(found) == sorted(names)
            words = ["SCAN", "0", "MATCH", "k:*", "COUNT", "1000"]
            assert (await call("read", command=words))[0] == "0"
            assert (await call("batch", commands=[words]))[0][0] == "0"

    run(body)


def test_keys_may_be_bytes(leash: Leash) -> None:
    """Of tools that are one command as of those that take words."""
    leash.load(one={"grants": [grant("read", "write", keys="k:*")]})
    key = {"base64": "azr/"}

    async def body() -> None:
        async with in_process(leash.server.url, leash.issue("one").token) as client:
            await client.call_tool("set", {"key": key, "value": "x"})
            found = await client.call_tool("read", {"command": ["STRLEN", key]})
            assert found.structured_content == {"result": 1}

    run(body)
    assert leash.admin.get(b"k:\xff") == b"x"


def test_long_replies_are_cut(leash: Leash) -> None:
    """The result says how long the whole is, and how to read on."""
    leash.admin.set(STATE, "ä" * 100_000)
    leash.admin.rpush(RESULT, *("x" * 1000 for _ in range(200)))

    async def body() -> None:
        async with in_process(leash.server.url, leash.issue("agent-runner").token) as client:
            text = (await client.call_tool("get", {"key": STATE})).structured_content
            assert (len(text["result"].encode()), text["bytes"]) == (64 * 1024 - 2, 200_000)
            assert "getrange" in text["cut"]
            given = {"key": RESULT, "start": 0, "stop": -1}
            items = (await client.call_tool("lrange", given)).structured_content
            assert (len(items["result"]), items["items"]) == (65, 200)

    run(body)


def test_denied_keys_are_listed_beside_those_that_are_allowed(leash: Leash) -> None:
    """A denied key that fits a pattern of the grants is no loop; hidden grants list neither."""
    rules: dict[str, Any] = {
        "grants": [grant("read", "scan", keys="k:*")],
        "deny": [{"keys": ["k:secret"]}],
    }
    leash.load(one=rules, two={**rules, "token": {"publish_grants": False}})
    shown = {"allowed_instead": ["k:*"], "never": ["k:secret"]}

    async def body() -> None:
        for identity, more in (("one", shown), ("two", {})):
            async with in_process(leash.server.url, leash.issue(identity).token) as client:
                found = (await client.call_tool("get", {"key": "k:secret"})).structured_content
                assert found["code"] == "KEY_DENIED"
                assert shown.keys().isdisjoint(found)
                found = (await client.call_tool("get", {"key": "x"})).structured_content
                assert {name: found[name] for name in shown if name in found} == more
                assert ("is always denied" in found["message"]) is bool(more)
                me = (await client.call_tool("whoami", {})).structured_content["result"]
                assert me["deny"] == (more.get("never") or None)
                found = await client.call_tool("read", {"command": ["SCAN", "0"]})
                assert "as in `SCAN 0 MATCH PREFIX*`" in found.structured_content["message"]

    run(body)


def test_errors_of_the_server_are_no_denials(leash: Leash) -> None:
    """The message says that the call was allowed; a suspension says until when."""
    leash.admin.rpush(RESULT, "x")

    async def body() -> None:
        async with in_process(leash.server.url, leash.issue("agent-runner").token) as client:
            found = (await client.call_tool("get", {"key": RESULT})).structured_content
            assert found["code"] == "REDIS"
            assert "the call was allowed" in found["message"]
            freeze(leash.store, "agent-runner", reason="test", duration="1h")
            found = (await client.call_tool("get", {"key": RESULT})).structured_content
            assert found["until"].endswith("Z")

    run(body)


def test_limits_say_when_to_come_again(leash: Leash) -> None:
    """Of a rate the milliseconds, of a budget the moment."""
    grants = [grant("read", "write", keys="k:*")]
    limited = {"grants": grants, "rate": {"writes": "1/minute"}, "budget": {"requests": "2/day"}}
    leash.load(one=limited)

    async def body() -> None:
        async with in_process(leash.server.url, leash.issue("one").token) as client:
            await client.call_tool("set", {"key": "k:1", "value": "x"})
            rate = (await client.call_tool("set", {"key": "k:1", "value": "x"})).structured_content
            assert rate["code"] == "RATE_LIMITED"
            assert 0 < rate["retry_after_ms"] <= 60_000
            await client.call_tool("get", {"key": "k:1"})
            budget = (await client.call_tool("get", {"key": "k:1"})).structured_content
            assert budget["code"] == "BUDGET_EXHAUSTED"
            assert budget["resets_at"].endswith("Z")

    run(body)


INJECTED = [
    f"{before}{text}"
    for before in ("", "agents:jobs:5:state")
    for text in (
        "\r\nSET other x\r\n",
        "\r\n*3\r\n$3\r\nSET\r\n$5\r\nother\r\n$1\r\nx\r\n",
        "*1\r\n$8\r\nFLUSHALL\r\n",
        '","value":"x","key":"other',
        '{"key":"other"}',
        '["SET","other","x"]',
        " other",
        "\0other",
        "' ; redis.call('SET','other','x') --",
        "\u2028SET other x",
        "%0d%0aSET%20other%20x",
        "${other}",
        "../other",
        "other*",
        "{other}",
        "KEYS[1]",
        "EX",
        "NX GET",
        "--",
        "-1",
        "\n",
        "STORE other",
        "LIMIT 0 1",
        "other\tEX\t1",
        "😀other",
    )
]


def test_injected_arguments_reach_no_other_key(leash: Leash) -> None:
    """Whatever stands in keys and values, calls change their own key or none, and run no other
    command.
    """
    assert len(INJECTED) == 50
    leash.load(one={"grants": [grant("read", "write", keys=[STATE, RESULT])]})
    leash.admin.set("other", "before")

    async def body() -> None:
        async with in_process(leash.server.url, leash.issue("one").token) as client:
            for text in INJECTED:
                for name, given in (
                    ("set", {"key": text, "value": "x"}),
                    ("set", {"key": STATE, "value": text}),
                    ("sadd", {"key": "agents:jobs:6:set", "members": [text]}),
                    ("hset", {"key": RESULT, "fields": {text: text}}),
                    ("read", {"command": ["GET", text]}),
                    ("write", {"command": [text, "other"]}),
                    ("batch", {"commands": [["SET", STATE, text], ["GET", STATE]]}),
                ):
                    found = (await client.call_tool(name, given)).structured_content
                    if name == "batch" and "code" not in found:
                        assert found == {"result": [True, text]}

    run(body)
    assert leash.admin.get("other") == b"before"
    written = {key for key in leash.admin.keys("*") if b"leash" not in key}
    assert written <= {b"other", STATE.encode(), RESULT.encode()}


def test_commands_of_connections_and_those_that_wait_are_denied(leash: Leash) -> None:
    """No tool runs them, by any name; XREAD without BLOCK is a read like others."""
    refused = [
        ["BLPOP", RESULT, "0"], ["XREAD", "BLOCK", "0", "STREAMS", RESULT, "$"], ["MULTI"],
        ["EXEC"], ["SUBSCRIBE", "c"], ["EVAL", "return 1", "0"], ["CLIENT", "LIST"], ["INFO"],
        ["SCRIPT", "FLUSH"], ["FLUSHALL"], ["CONFIG", "GET", "*"], ["AUTH", "x"], ["SELECT", "1"],
        ["HELLO", "3"], ["QUIT"], ["RESET"], ["MONITOR"], ["SHUTDOWN"], ["NOSUCH", RESULT],
    ]  # fmt: skip

    async def body() -> None:
        async with in_process(leash.server.url, leash.issue("human-admin").token) as client:
            for words in refused:
                for tool, given in (
                    ("write", {"command": words}),
                    ("batch", {"commands": [words]}),
                ):
                    found = await client.call_tool(tool, given, read_timeout_seconds=5)
                    reasons = ("COMMAND_REFUSED", "is a command", "is no command")
                    assert any(reason in str(found.structured_content) for reason in reasons)
            words = ["XREAD", "COUNT", "1", "STREAMS", RESULT, "0"]
            found = await client.call_tool("read", {"command": words})
            assert found.structured_content["result"] in (None, [], {})

    run(body)


@pytest.mark.parametrize("mode", MODES)
def test_the_list_changes_with_the_policy(
    connect: Callable[..., Any], leash: Leash, mode: str
) -> None:
    """The first call after a load reaches the client; a revoked token has no tools, and its calls
    end in its code.
    """
    issued = leash.issue("agent-runner")
    wider = EXAMPLE.replace("[read, write], keys", "[read, write, delete], keys")
    ready, changed = asyncio.Event(), asyncio.Event()

    async def note(message: Any) -> None:
        if "Tool" in type(message).__name__:
            changed.set()

    async def body() -> None:
        async with connect(issued.token, mode=mode, message_handler=note) as client:
            before = {tool.name for tool in (await client.list_tools()).tools}
            listening = asyncio.create_task(listen(client)) if mode == "auto" else None
            if listening is not None:
                await ready.wait()
            # Nothing says when the stream of an older session is open: it may miss a change.
            for policy in (wider, EXAMPLE) * 10:
                leash.load(policy)
                await client.call_tool("get", {"key": STATE})
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), 2)
                    break
            assert changed.is_set()
            leash.load(wider)
            after = {tool.name for tool in (await client.list_tools()).tools}
            assert after - before >= {"del", "delete", "hdel"}
            if listening is not None:
                listening.cancel()

    async def listen(client: Any) -> None:
        async with client.listen(tools_list_changed=True) as events:
            ready.set()
            async for event in events:
                await note(event)

    run(body)


def test_a_revoked_token_has_no_tools(leash: Leash) -> None:
    """Each call ends in the code of the denial; so it is while the identity is suspended."""
    issued = leash.issue("agent-runner")

    async def body() -> None:
        async with in_process(leash.server.url, issued.token, mode="legacy") as client:
            assert len((await client.list_tools()).tools) > 10
            freeze(leash.store, "agent-runner", reason="test")
            found = (await client.call_tool("get", {"key": STATE})).structured_content
            assert found["code"] == "SUSPENDED"
            revoke(leash.store, issued.id)
            for _ in range(2):
                for name, given in (("get", {"key": STATE}), ("whoami", {})):
                    found = (await client.call_tool(name, given)).structured_content
                    assert found["code"] in ("TOKEN_REVOKED", "SUSPENDED")
            assert (await client.list_tools()).tools == []

    run(body)


def test_a_start_without_a_server_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    """It is no error of the start, and the log says why the list is empty."""
    holder = Holder(
        "redis://127.0.0.1:1", "kl_x_" + "a" * 32, by_class=False, delegate=True, timeout_s=5
    )
    run(McpServer(lambda _: holder)._report_token)
    assert "does not answer" in caplog.text


def test_a_start_without_access_is_noted(leash: Leash) -> None:
    """On standard error, since many clients show an empty list and no reason."""
    env = {**Cli(leash.server.url).env, "KEYLEASH_TOKEN": "kl_agent-runner_" + "a" * 32}
    pipes: Any = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Spawned([*Cli.command, "mcp"], env=with_path(env), **pipes) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
    assert "keyleash mcp: " in line
    assert "TOKEN_UNKNOWN: the server does not know the token" in line
    assert "kl_" not in line


def test_calls_have_the_trace_or_the_session_as_correlation(leash: Leash) -> None:
    """`traceparent` in `_meta` is of one call; other calls share an id."""
    trace = "0af7651916cd43dd8448eb211c80319c"

    async def body() -> None:
        async with in_process(leash.server.url, leash.issue("agent-runner").token) as client:
            given = {"key": STATE, "value": "x"}
            meta: Any = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            await client.call_tool("set", given, meta=meta)
            meta = {"traceparent": "00-x"}
            await client.call_tool("set", given, meta=meta)
            await client.call_tool("set", given)

    run(body)
    streams = stream_names(leash.store, ["agent-runner"])
    events = read_events(leash.store, streams, Query())
    first, second, third = (event.correlation for event in events)
    assert first == trace
    assert second == third != trace


def test_a_token_delegates_if_the_policy_lets_it(leash: Leash) -> None:
    """The tool makes a token for a sub-agent, which may do less."""
    rules = {"token": {"bound": True}, "delegate": {"depth": 1}}
    leash.load(one={"grants": [grant("read", "write", keys="k:{part}")], **rules})

    async def body() -> None:
        url = leash.server.url
        async with in_process(url, leash.issue("one").token) as client:
            given = {"ttl": "5m", "bind": {"part": "7"}, "allow": ["read"]}
            made = (await client.call_tool("delegate", given)).structured_content["result"]
            given["ttl"] = "300d"
            refused = (await client.call_tool("delegate", given)).structured_content
            assert refused["code"] == "DELEGATION_REFUSED"
        async with in_process(url, made["token"]) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert "set" not in tools
            assert "k:7" in (tools["get"].description or "")

    run(body)


def test_no_live_token_is_for_a_model_unless_the_operator_wants_it(leash: Leash) -> None:
    """`keyleash mcp` has the tool `delegate` with the option alone, whatever the policy allows."""
    rules = {"token": {"bound": True}, "delegate": {"depth": 1}}
    leash.load(one={"grants": [grant("read", keys="k:*")], **rules})
    token = leash.issue("one").token

    async def body() -> None:
        for options in ((), ("--delegate",)):
            async with over_stdio(leash.server.url, token, *options) as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                assert ("delegate" in names) is bool(options)
                with nullcontext() if options else pytest.raises(MCPError, match="no tool"):
                    await client.call_tool("delegate", {})

    run(body)
    assert len(leash.events("one")) == 1


def test_lines_that_are_no_message_are_parse_errors(leash: Leash) -> None:
    """Over stdio too a client learns it, and the session goes on."""
    env = with_path(
        {**Cli(leash.server.url).env, "KEYLEASH_TOKEN": leash.issue("agent-runner").token}
    )
    deep = b'{"jsonrpc":"2.0","id":5,"method":"ping","params":' + b'{"a":' * 5000 + b"}" * 5001
    surrogate = b'{"jsonrpc":"2.0","id":6,"method":"ping","params":{"a":"\\ud800"}}'
    lines = [b"garbage", b"[" * 100_000, deep, surrogate, b"\xff", b"null", b"{}"]
    ping = b'{"jsonrpc":"2.0","id":7,"method":"ping"}'
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*Cli.command, "mcp"], env=env, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n".join([*lines, ping, b""]))
        process.stdin.flush()
        *errors, pong = (json.loads(process.stdout.readline()) for _ in range(len(lines) + 1))
        process.stdin.close()
        assert process.wait(20) == 0
    assert [error["error"]["code"] for error in errors] == [-32700] * len(lines)
    assert (pong["id"], pong["result"]) == (7, {})


def test_a_killed_server_runs_no_call_twice(leash: Leash) -> None:
    """A client repeats its call with the same `idempotencyKey` at the next server."""
    leash.load(one={"grants": [grant("read", "write", keys="k:*")], "idempotency": {"keep": "1h"}})
    token = leash.issue("one").token
    words = [*Cli.command, "mcp"]
    env = with_path({**Cli(leash.server.url).env, "KEYLEASH_TOKEN": token})

    def message(number: int, method: str, **params: Any) -> str:
        meta = {
            "io.modelcontextprotocol/protocolVersion": REVISIONS["auto"],
            "io.modelcontextprotocol/clientCapabilities": {},
            "idempotencyKey": "step-1",
        }
        found = {"jsonrpc": "2.0", "id": number, "method": method}
        return json.dumps({**found, "params": {"_meta": meta, **params}}) + "\n"

    call = message(2, "tools/call", name="incrby", arguments={"key": "k:1", "by": 1})
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    for wait_s in (0.002, 0.01):
        leash.admin.delete("k:1")
        key = f"step-{wait_s}"
        with Spawned(words, env=env, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(message(1, "tools/list"))
            process.stdin.flush()
            process.stdout.readline()
            process.stdin.write(call.replace("step-1", key))
            process.stdin.flush()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(wait_s)
            # Of a killed client the server sees the end of its input.
            process.stdin.close() if wait_s == 0.002 else process.send_signal(signal.SIGKILL)

        async def again(key: str = key) -> Any:
            async with in_process(leash.server.url, token) as client:
                meta: Any = {"idempotencyKey": key}
                return await client.call_tool("incrby", {"key": "k:1", "by": 1}, meta=meta)

        found = asyncio.run(again())
        assert found.structured_content == {"result": 1}
        assert leash.admin.get("k:1") == b"1"


def test_a_cancelled_call_leaves_the_session(leash: Leash) -> None:
    """A client that gives up on a call makes others."""

    async def body() -> None:
        async with in_process(leash.server.url, leash.issue("agent-runner").token) as client:
            await client.list_tools()
            leash.admin.client_pause(10_000)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.call_tool("get", {"key": STATE})
            leash.admin.client_unpause()
            found = await client.call_tool("type", {"key": STATE})
            assert found.structured_content == {"result": "none"}

    run(body)


def test_a_call_that_the_client_judges_says_that_the_token_has_ended(leash: Leash) -> None:
    """A call with too few words reaches no guard, and ends in its code all the same."""
    issued = leash.issue("agent-runner")

    async def body() -> None:
        async with in_process(leash.server.url, issued.token) as client:
            given = {"commands": [["SET"]]}
            before = (await client.call_tool("batch", given)).structured_content
            revoke(leash.store, issued.id)
            after = (await client.call_tool("batch", given)).structured_content
            assert (before["code"], after["code"]) == ("REDIS", "TOKEN_REVOKED")

    run(body)


def test_many_arguments_are_denied_before_they_are_read(leash: Leash) -> None:
    """Other clients do not wait for them; 1.0 is an integer."""
    several: list[list[Any]] = [[["GET", 1]], [["GET", "k", "k"]], [[]]]

    async def body() -> None:
        holder = Holder(
            leash.server.url,
            leash.issue("agent-runner").token,
            by_class=False,
            delegate=True,
            timeout_s=5,
        )
        for commands in several:
            with pytest.raises(ValueError, match="more than 7000 arguments"):
                await holder.call("batch", {"commands": commands * 90_000}, {}, None)
        with pytest.raises(ValueError, match="maxItems"):
            await holder.call("batch", {"commands": [["GET", STATE]] * 1001}, {}, None)
        with pytest.raises(ValueError, match="takes no `idempotencyKey`"):
            await holder.call("delegate", {"ttl": "5m"}, {"idempotencyKey": "one"}, None)
        await holder.call("incrby", {"key": STATE, "by": 1.0}, {}, None)
        assert leash.admin.get(STATE) == b"1"
        await holder.close()

    run(body)


def test_an_evicted_client_notices_a_load(leash: Leash) -> None:
    """The list that its sessions have outlives its connections."""
    issued = leash.issue("agent-runner")
    server = McpServer(
        lambda _: Holder(leash.server.url, issued.token, by_class=False, delegate=True, timeout_s=5)
    )
    client = AsyncMock(spec=Connection)
    context = Mock(request=None, session=Mock(_connection=client))
    call: Any = Mock(arguments={"key": STATE}, meta=None)
    call.name = "get"

    async def body() -> None:
        await server._list_tools(context, None)
        await server._providers.popitem()[1].close()
        document = EXAMPLE.replace("allow: [read, write]", "allow: [read]")
        leash.load(document)
        await server._call_tool(context, call)
        client.send_tool_list_changed.assert_awaited_once()
        await server._providers.popitem()[1].close()

    run(body)


def test_a_cluster_is_served_as_one_server(embedded_cluster: RealCluster) -> None:
    """Calls go to the nodes of their keys; the list and limits are those of the home."""
    operator = keyleash.Operator.from_url(embedded_cluster.url)
    document = policy(one={"grants": [grant("read", "write", keys="k:*")]})
    operator.load(keyleash.Policy(document), allow_widening=True)
    token = operator.tokens.issue("one").token

    async def body() -> None:
        async with in_process(embedded_cluster.url, token) as client:
            for number in range(9):
                given = {"key": f"k:{number}", "value": "x"}
                assert (await client.call_tool("set", given)).structured_content["result"]
            denial = await client.call_tool("get", {"key": "other"})
            assert denial.structured_content["allowed_instead"] == ["k:*"]
            assert "set" in {tool.name for tool in (await client.list_tools()).tools}

    run(body)
    operator.close()


def test_operators_have_tools_that_only_read(leash: Leash) -> None:
    """In an incident: what an agent did, why it is denied, and what an undo would restore."""
    agent = leash.agent("agent-runner")
    agent.set(STATE, "1")
    with pytest.raises(Exception, match="KEY_NOT_GRANTED"):
        agent.get("nope")
    agent.close()

    async def body() -> None:
        async with over_stdio(leash.server.url, "", "--operator") as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == [
                *("status", "denials", "timeline", "events", "explain", "undo_plan", "doctor")
            ]
            assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)

            async def call(name: str, **given: Any) -> Any:
                found = await client.call_tool(name, given)
                return found.structured_content.get("result", found.structured_content)

            assert (await call("events"))[0]["keys"] == [STATE]
            assert (await call("denials", code="KEY_NOT_GRANTED"))[0]["keys"] == ["nope"]
            assert len(await call("timeline", key=STATE, limit=5)) == 1
            words = ["DEL", STATE]
            assert (await call("explain", identity="agent-runner", command=words))[
                "allowed"
            ] is False
            assert (await call("undo_plan", key=STATE, since="1h"))["keys"][0]["action"] == "remove"
            assert (await call("status", limit=2))["identities"]
            assert "findings" in await call("doctor")
            assert (await call("explain", identity="agent-x", command=words))["code"]
            assert "a correlation id, or" in (await call("undo_plan"))["message"]
            key = next(tool for tool in tools if tool.name == "undo_plan").input_schema[
                "properties"
            ]
            assert "a pattern" in key["key"]["description"]
            for limit in (0, 10**30):
                found = await client.call_tool("timeline", {"key": STATE, "limit": limit})
                assert "`limit` does not fit" in found.structured_content["message"]
            found = await client.call_tool("doctor", {"nodes": ["redis://elsewhere"]})
            assert found.structured_content["code"] == "INVALID_ARGUMENTS"

    run(body)
