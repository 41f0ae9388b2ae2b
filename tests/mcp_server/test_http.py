"""The server over HTTP: who may call it, and what bounds it."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from collections import Counter
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import httpx2
import pytest
import uvicorn
from mcp.shared.exceptions import MCPError
from starlette.authentication import AuthenticationError
from starlette.requests import HTTPConnection

from keyleash.addons.mcp import requests, serve
from keyleash.addons.mcp.holder import MAX_ARGUMENTS, Holder
from keyleash.errors import KeyNotGrantedError, RightMissingError, UnknownDenialError
from keyleash.operator.suspension import freeze, thaw
from keyleash.operator.tokens.revoke import revoke
from support.command_line import Cli
from support.leash import Leash, grant
from support.mcp_clients import over_http, run

STATE = "agents:jobs:5:state"
CLIENT = httpx2.Client(timeout=20, limits=httpx2.Limits(max_keepalive_connections=0))
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def post(url: str, token: str = "", body: Any = PING, **headers: str) -> httpx2.Response:
    """Return the response to a request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CLIENT.post(url, content=content, headers={**accept, **bearer, **named})


def test_only_live_tokens_are_let_in(url: str, leash: Leash) -> None:
    """Without one, or with one that has ended, the answer is 401 and says what is wanted."""
    issued = leash.issue("agent-runner")
    unknown = "kl_agent-runner_" + "a" * 32
    for token in ("", "x", unknown, "kl_nobody_" + "a" * 32, "kl_" + "a" * 5000):
        response = post(url, token)
        assert response.status_code == 401, token
        wanted = response.headers["WWW-Authenticate"]
        assert wanted.startswith("Bearer ")
        codes = {"": "no bearer token", "kl_nobody_" + "a" * 32: "NOT_ACTIVE"}
        assert codes.get(token, "TOKEN_UNKNOWN") in wanted
        assert token == "" or token not in response.text
    assert post(url, Authorization="Basic eDp5").status_code == 401
    session = post(url, issued.token, INITIALIZE).headers["Mcp-Session-Id"]
    assert post(url, issued.token, Mcp_Session_Id=session).status_code == 200
    freeze(leash.store, "agent-runner", reason="test")
    assert post(url, issued.token, Mcp_Session_Id=session).status_code == 200
    thaw(leash.store, "agent-runner")
    revoke(leash.store, issued.id)
    response = post(url, issued.token, Mcp_Session_Id=session)
    assert response.status_code == 401
    assert "TOKEN_REVOKED: ask the operator" in response.headers["WWW-Authenticate"]


def test_health_metrics_and_metadata_need_no_token(url: str, leash: Leash) -> None:
    """Probes have none, and a client reads the metadata after a 401; all else stays closed."""
    base = url.removesuffix("/mcp")
    assert post(url, leash.issue("agent-runner").token, INITIALIZE).status_code == 200
    wanted = post(url).headers["WWW-Authenticate"]
    place = wanted.partition('resource_metadata="')[2].removesuffix('"')
    assert place == f"{base}/.well-known/oauth-protected-resource/mcp"
    about = CLIENT.get(place).json()
    assert about["resource"] == url
    # There is no OAuth: no server issues tokens of keyleash.
    assert "authorization_servers" not in about
    assert CLIENT.get(f"{base}/healthz", headers={"Host": "10.0.0.7"}).text == "ok\n"
    assert "# TYPE keyleash_mcp_calls_total counter" in CLIENT.get(f"{base}/metrics").text
    assert CLIENT.get(f"{base}/.well-known/oauth-authorization-server").status_code == 404
    for path in ("/mcp", "/mcp/", "/", "/metrics/", "//metrics", "/healthz/../mcp", "/other"):
        assert CLIENT.get(f"{base}{path}").status_code == 401, path
    assert CLIENT.post(f"{base}/metrics", json=PING).status_code == 405


def test_a_session_is_of_the_token_that_opened_it(url: str, leash: Leash) -> None:
    """Another bearer finds no such session, nor does a broken id; others go on."""
    owner, other = (leash.issue("agent-runner").token for _ in range(2))
    session = post(url, owner, INITIALIZE).headers["Mcp-Session-Id"]
    assert post(url, other, Mcp_Session_Id=session).status_code == 404
    for id_ in ("nope", "x" * 4000, session[:-1]):
        assert post(url, owner, Mcp_Session_Id=id_).status_code in (400, 404)
    assert post(url, owner, Mcp_Session_Id=session).status_code == 200


def test_foreign_hosts_and_origins_are_denied(url: str, leash: Leash) -> None:
    """A page in a browser that names this address as its own reads nothing."""
    token = leash.issue("agent-runner").token
    assert post(url, token, INITIALIZE, Host="evil.example").status_code == 421
    assert post(url, token, INITIALIZE, Origin="http://evil.example").status_code == 403
    assert post(url, token, INITIALIZE, Origin="http://localhost:3000").status_code == 200
    assert post(url, token, INITIALIZE, Host="mcp.internal").status_code == 200
    for place in ("/metrics", "/.well-known/oauth-protected-resource/mcp", "/.well-known/x"):
        page = url.removesuffix("/mcp") + place
        assert CLIENT.get(page, headers={"Host": "evil.example"}).status_code == 421, place
        assert CLIENT.get(page, headers={"Origin": "http://evil.example"}).status_code == 403, place
        proxied = CLIENT.get(page, headers={"Host": "mcp.internal", "X-Forwarded-Proto": "https"})
        if place.endswith("/mcp"):
            assert proxied.json()["resource"] == "https://mcp.internal/mcp"


def test_requests_are_bounded(url: str, leash: Leash) -> None:
    """10 MB and deep JSON are errors of the protocol, and the server goes on."""
    token = leash.issue("agent-runner").token
    assert post(url, token, b"x" * 10_000_000).status_code == 413
    for body in (b"[" * 100_000, b'{"a":' * 100_000, b"", b"null", b"\xff", b'{"jsonrpc":"2.0"}'):
        assert post(url, token, body).status_code == 400
    assert post(url, token, INITIALIZE).status_code == 200


def test_foreign_hosts_cost_no_call(url: str, leash: Leash) -> None:
    """They are denied before the guard is asked about a token."""

    def calls() -> int:
        stats: Any = leash.admin.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "auth"))

    before = calls()
    for number in range(5):
        assert post(url, f"kl_agent-runner_{number:032}", Host="evil.example").status_code == 421
    assert calls() == before


def test_a_token_that_opens_many_sessions_loses_its_oldest(url: str, leash: Leash) -> None:
    """And no other token is denied one."""
    greedy, other = (leash.issue("agent-runner").token for _ in range(2))
    kept = post(url, other, INITIALIZE).headers["Mcp-Session-Id"]
    count = requests.MAX_OF_ROOT + 2
    ids = [post(url, greedy, INITIALIZE).headers["Mcp-Session-Id"] for _ in range(count)]
    codes = [post(url, greedy, Mcp_Session_Id=id_).status_code for id_ in ids]
    assert codes == [404, 404, *[200] * (count - 2)]
    assert post(url, other, Mcp_Session_Id=kept).status_code == 200


def test_the_stream_of_a_revoked_token_ends(url: str, leash: Leash) -> None:
    """With its session, when a request of the token is denied."""
    issued = leash.issue("agent-runner")
    session = post(url, issued.token, INITIALIZE).headers["Mcp-Session-Id"]
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {issued.token}"}
    with httpx2.stream(
        "GET", url, headers={**headers, "Mcp-Session-Id": session}, timeout=20
    ) as it:
        revoke(leash.store, issued.id)
        assert post(url, issued.token, Mcp_Session_Id=session).status_code == 401
        assert not "".join(it.iter_text()).strip()


def request(url: str, token: str = "", length: int = 0) -> bytes:
    """Return the head of a request."""
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    accept = "Content-Type: application/json\r\nAccept: application/json, text/event-stream"
    host = url.split("/")[2]
    head = f"POST /mcp HTTP/1.1\r\nHost: {host}\r\n{bearer}{accept}\r\nContent-Length: {length}"
    return f"{head}\r\n\r\n".encode()


def test_unfinished_requests_stop_nobody(url: str, leash: Leash) -> None:
    """The oldest without a token are closed, and the bodies of a token are bounded. A client that
    goes away is no error of the server.
    """
    token = leash.issue("agent-runner").token
    host, _, port = url.split("/")[2].partition(":")

    def opened(data: bytes) -> socket.socket:
        sock = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        sock.sendall(data)
        return sock

    with ExitStack() as stack:
        heads = [request(url)[:12], request(url, length=9) + b"{"]
        waiting = [opened(heads[at % 2]) for at in range(requests.MAX_WAITING + 50)]
        with suppress(ConnectionResetError):
            while waiting[0].recv(1000):
                pass
        assert post(url, token, INITIALIZE).status_code == 200
    with ExitStack() as stack:
        bodies = [
            opened(request(url, token, MAX_ARGUMENTS) + b"x" * (MAX_ARGUMENTS - 1))
            for _ in range(requests.MAX_BODIES_OF_ROOT // MAX_ARGUMENTS + 1)
        ]
        answered, _, _ = select.select(bodies, [], [], 20)
        assert [b" 503 " in sock.recv(100) for sock in answered] == [True]
        assert post(url, leash.issue("agent-runner").token, INITIALIZE).status_code == 200
    # At its end, `http_server` looks at what was logged.
    assert post(url, token, INITIALIZE).status_code == 200


def open_requests(stack: ExitStack, url: str, tokens: list[str]) -> list[socket.socket]:
    """Return connections with a request of each token, whose body has not arrived."""
    host, _, port = url.split("/")[2].partition(":")
    opened = []
    for token in tokens:
        sock = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        sock.sendall(request(url, token, length=9) + b"{")
        opened.append(sock)
    return opened


def delegated(leash: Leash, count: int) -> list[str]:
    """Return a token, its children, and a child of one of these."""
    rules = {"token": {"bound": True}, "delegate": {"depth": 2, "children": 50}}
    leash.load(one={"grants": [grant("read", "write", keys="k:*")], **rules})
    token = leash.issue("one").token
    with leash.client(token) as client:
        children = [client.delegate().token for _ in range(count)]
    with leash.client(children[0]) as client:
        return [token, *children, client.delegate().token]


def test_the_children_of_a_token_share_its_bounds(url: str, leash: Leash) -> None:
    """A token that delegates has no more requests and sessions, and takes none from others."""
    family, other = delegated(leash, 20), leash.issue("one").token
    kept = post(url, other, INITIALIZE).headers["Mcp-Session-Id"]
    tokens = [family[at % len(family)] for at in range(requests.MAX_OF_ROOT + 2)]
    ids = [post(url, token, INITIALIZE).headers["Mcp-Session-Id"] for token in tokens]
    pairs = zip(tokens, ids, strict=True)
    codes = [post(url, token, Mcp_Session_Id=id_).status_code for token, id_ in pairs]
    assert codes == [404, 404, *[200] * requests.MAX_OF_ROOT]
    assert post(url, other, Mcp_Session_Id=kept).status_code == 200
    with ExitStack() as stack:
        tokens = [family[at % len(family)] for at in range(requests.MAX_REQUESTS + 2)]
        opened = open_requests(stack, url, tokens)
        waiting = 2
        while waiting:
            answered, _, _ = select.select(opened, [], [], 20)
            assert answered
            for sock in answered:
                assert b" 429 " in sock.recv(100)
                opened.remove(sock)
                waiting -= 1
        assert post(url, other, Mcp_Session_Id=kept).status_code == 200
        assert post(url, family[-1]).status_code == 429


def test_unknown_tokens_are_checked_a_few_at_a_time(url: str, leash: Leash) -> None:
    """A flood of them takes few connections of Redis, and many do not even wait."""

    def clients() -> int:
        info: Any = leash.admin.info("clients")
        return int(info["connected_clients"])

    before = clients()
    leash.admin.client_pause(30_000, all=False)
    with ExitStack() as stack:
        count = serve.ASKED_AT_ONCE + requests.MAX_WAITING + 5
        tokens = [f"kl_agent-runner_{number:032}" for number in range(count)]
        opened = open_requests(stack, url, tokens)
        # Those before it have arrived when it is answered.
        assert post(url, Host="evil.example").status_code == 421
        assert clients() <= before + serve.ASKED_AT_ONCE
        leash.admin.client_unpause()
        codes = Counter(sock.recv(100)[9:12] for sock in opened)
        assert codes.keys() == {b"401", b"503"}
        assert codes[b"503"] >= 5
    assert post(url, leash.issue("agent-runner").token, INITIALIZE).status_code == 200


def test_requests_must_arrive_in_time(leash: Leash, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that sends its headers or its body too slowly is closed."""
    monkeypatch.setattr(requests, "ARRIVAL_S", 0.2)
    token = leash.issue("agent-runner").token

    async def body() -> None:
        app = serve.McpServer(maker(leash)).http_app(["127.0.0.1"])
        config = uvicorn.Config(app, http=requests.Connection, log_config=None)
        sock = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve([sock]))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/mcp"
        for head in (b"", b"POST /mcp HT", request(url, token, 9) + b"{"):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(head)
            with suppress(ConnectionResetError):
                assert not await asyncio.wait_for(reader.read(), 20)
            writer.close()
        server.should_exit = True
        await task

    run(body)


def connection(token: str) -> HTTPConnection:
    """Return a request with a token."""
    headers = [(b"authorization", f"Bearer {token}".encode())]
    return HTTPConnection({"type": "http", "path": "/mcp", "headers": headers})


def maker(leash: Leash, port: int = 0) -> Any:
    """Return a function that makes the client of a token."""
    url = f"redis://127.0.0.1:{port}" if port else leash.server.url
    return lambda token: Holder(url, token, by_class=False, delegate=True, timeout_s=5)


def test_clients_are_bounded(leash: Leash, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest idle client of a token is closed; its next request makes another. Tokens that are
    not accepted leave none, also while Redis does not answer or denies them for another reason.
    """
    monkeypatch.setattr(serve, "MAX_PROVIDERS", 2)

    async def body() -> None:
        server = serve.McpServer(maker(leash))
        for _ in range(5):
            assert await server.authenticate(connection(leash.issue("agent-runner").token))
            assert len(server._providers) <= 2
        kept = [*server._providers]
        for _ in range(5):
            with pytest.raises(AuthenticationError):
                await server.authenticate(connection("kl_agent-runner_" + "a" * 32))
        server._make = maker(leash, port=1)
        with pytest.raises(AuthenticationError):
            await server.authenticate(connection("kl_agent-runner_" + "b" * 32))
        server._make = maker(leash)
        errors = (UnknownDenialError("NEW"), KeyNotGrantedError(), RightMissingError("a", "", ""))
        monkeypatch.setattr(Holder, "whoami", AsyncMock(side_effect=errors))
        for _ in errors:
            with pytest.raises(AuthenticationError):
                await server.authenticate(connection("kl_agent-runner_" + "c" * 32))
        assert [*server._providers] == kept
        await serve._close(server._providers.values())

    run(body)


def test_children_take_no_client_of_another(leash: Leash, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that delegates closes its own idle clients, also while its identity is suspended."""
    monkeypatch.setattr(serve, "MAX_OF_ROOT", 3)
    family, other = delegated(leash, 3), leash.issue("one").token

    async def body() -> None:
        server = serve.McpServer(maker(leash))
        await server.authenticate(connection(other))
        first, *_ = server._providers
        for token in family:
            await server.authenticate(connection(token))
        freeze(leash.store, "one", reason="test")
        for token in family:
            await server.authenticate(connection(token))
        assert first in server._providers
        roots = Counter(provider.root for provider in server._providers.values())
        assert max(roots.values()) <= 3
        await serve._close(server._providers.values())

    run(body)


def test_clients_closed_while_a_body_arrives_stay_within_the_bound(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call makes its client again, in place of an idle one; if all make calls, it is denied."""
    monkeypatch.setattr(serve, "MAX_OF_ROOT", 3)
    family = delegated(leash, 6)

    async def body() -> None:
        server = serve.McpServer(maker(leash))
        granted = [await server.authenticate(connection(token)) for token in family]
        users = [user for _, user in filter(None, granted)]
        found = [await server._provider(SimpleNamespace(user=user)) for user in users]
        assert len(server._providers) == 3
        for _, provider in found:
            provider.calls += 1
        with pytest.raises(MCPError, match="too many tokens make calls"):
            await server._provider(SimpleNamespace(user=users[0]))
        await serve._close(server._providers.values())

    run(body)


def test_a_client_whose_end_fails_leaves_a_place_for_others(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new client closes an idle one, which may not answer."""
    monkeypatch.setattr(serve, "MAX_OF_ROOT", 2)
    family = delegated(leash, 6)

    async def body() -> None:
        server = serve.McpServer(maker(leash))
        close = Holder.close

        async def failing(holder: Holder) -> None:
            await close(holder)
            raise TimeoutError("no answer")

        with monkeypatch.context() as patched:
            patched.setattr(Holder, "close", failing)
            for token in family:
                await server.authenticate(connection(token))
            with pytest.raises(AuthenticationError):
                await server.authenticate(connection("kl_one_" + "a" * 32))
        assert [provider.calls for provider in server._providers.values()] == [0, 0]
        await serve._close(server._providers.values())

    run(body)


def test_tokens_that_were_frozen_are_roots_of_their_own_afterwards(leash: Leash) -> None:
    """While the identity is frozen, they share what its name has."""

    async def body() -> None:
        server = serve.McpServer(maker(leash))
        leash.load(one={"grants": [grant("read", keys="k:*")]})
        freeze(leash.store, "one", reason="test")
        tokens = [leash.issue("one").token for _ in range(2)]
        for token in tokens:
            await server.authenticate(connection(token))
        assert {provider.root for provider in server._providers.values()} == {"one"}
        thaw(leash.store, "one")
        for token in tokens:
            await server.authenticate(connection(token))
        assert len({provider.root for provider in server._providers.values()}) == 2
        await serve._close(server._providers.values())

    run(body)


def test_many_tokens_share_a_server(url: str, leash: Leash) -> None:
    """Each caller has the tools of its own token."""

    async def names(identity: str) -> set[str]:
        async with over_http(url, leash.issue(identity).token) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            await client.call_tool("get", {"key": STATE})
            return tools

    async def body() -> None:
        reader, runner = await asyncio.gather(names("agent-reader"), names("agent-runner"))
        assert "set" in runner
        assert "set" not in reader

    run(body)
    assert leash.refusals("agent-reader") == 1
    assert leash.refusals("agent-runner") == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "there is no token"),
        (("--http", "0.0.0.0:0"), "tokens would travel in clear"),
        (("--http", "127.0.0.1:0", "--operator"), "each request has its token"),
        (("--http", "127.0.0.1:0", "--tls-cert", "c.pem"), "belong together"),
        (("--allow-host", "h"), "options of `--http`"),
        (("--insecure",), "options of `--http`"),
        (("--operator", "--tools", "class"), "has no `--token`, `--tools`"),
        (("--operator", "--token", "f"), "has no `--token`"),
        (("--http", "nowhere"), "is no HOST:PORT"),
        (("--token", "kl_agent-runner_" + "a" * 32), "can be read by every user"),
    ],
)
def test_wrong_options_are_errors_of_usage(
    leash: Leash, words: tuple[str, ...], problem: str
) -> None:
    """Exit code 2, before anything is served."""
    result = Cli(leash.server.url).run("mcp", *words)
    assert result.exit_code == 2
    assert problem in result.output


def test_an_address_in_use_is_an_error(leash: Leash, url: str) -> None:
    """The help names the option."""
    port = url.split(":")[2].partition("/")[0]
    result = Cli(leash.server.url).run("mcp", "--http", f"127.0.0.1:{port}")
    assert result.exit_code == 1
    assert "`--http`" in result.output
