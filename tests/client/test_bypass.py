"""Nothing that the client offers reaches the wire without the guard.

What counts is what is sent, so these tests read the sockets' side of redis-py's
connections: every command of a connected client must be an EVALSHA of the guard.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis import Connection

import keyleash
from support.leash import Leash

LOCAL = {
    # Look at the client or change it, and send nothing.
    "get_encoder",
    "get_connection_kwargs",
    "get_retry",
    "set_retry",
    "set_response_callback",
    "load_external_module",
    "register_script",
    "get_cache",
    "close",
    "himport_registry",
    # Make clients and helpers; tested by name below or in test_sync.
    "from_url",
    "from_pool",
    "client",
    "lock",
    "keyspace_notifications",
    # Refused by the client itself; tested below.
    "pipeline",
    "transaction",
    "pubsub",
    "monitor",
    "json",
    "ts",
    "ft",
    # Send what they are given, by `execute_command`.
    "execute_command",
    "parse_response",
    "himport_prepare",
    "himport_discard",
    "himport_discard_all",
}
"""What redis.Redis itself defines, in redis 8. News in a later version must be looked at."""

MODULES = ("bf", "cf", "cms", "topk", "tdigest", "vset")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The first bytes of every packet that any connection sends."""
    packets: list[bytes] = []
    send: Any = Connection.send_packed_command

    def recorded(self: Connection, command: Any, check_health: bool = True) -> None:
        packets.append(b"".join(map(bytes, command))[:200])
        send(self, command, check_health)

    monkeypatch.setattr(Connection, "send_packed_command", recorded)
    return packets


@pytest.fixture
def agent(one_leash: Leash, sent: list[bytes]) -> Iterator[Callable[..., keyleash.Redis]]:
    """Make connected clients that know their guard; what they sent for it is forgotten."""
    token = one_leash.issue("one").token
    one_leash.admin.set("u:secret", "x")
    with contextlib.ExitStack() as clients:

        def connected(**options: Any) -> keyleash.Redis:
            client = one_leash.client(token, **options)
            clients.callback(client.close)
            client.ping()
            sent.clear()
            return client

        yield connected


def bypassed(sent: list[bytes]) -> list[bytes]:
    return [packet for packet in sent if b"\r\nEVALSHA\r\n" not in packet]


def own_methods() -> set[str]:
    return {name for name in vars(redis.Redis) if not name.startswith("_")}


def command_methods(kind: type) -> list[str]:
    return [
        name
        for name in dir(kind)
        if not name.startswith("_") and name not in LOCAL and callable(getattr(kind, name))
    ]


def call_somehow(method: Callable[..., Any]) -> None:
    """Call with as many arguments as it takes, of whatever type it accepts."""
    needed = [
        parameter
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    for value in ("u:secret", ["u:secret"], {"u:secret": 1}, 1, b"SET"):
        # Refusals of the guard, of redis-py and of the server are all the same here.
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = method(*[value] * len(needed))
            if inspect.isgenerator(result):
                list(result)


def test_every_method_of_redis_pys_client_is_accounted_for() -> None:
    """A later redis-py may bring another way to the wire."""
    assert own_methods() - LOCAL == set()


@pytest.mark.parametrize("single", [False, True], ids=["pool", "single connection"])
def test_no_command_method_sends_anything_but_its_guard_call(
    agent: Callable[..., keyleash.Redis], sent: list[bytes], single: bool
) -> None:
    """Each of redis-py's several hundred methods, called as well as can be."""
    names = command_methods(redis.Redis)
    reached = []
    client = agent(single_connection_client=single)
    for name in names:
        sent.clear()
        call_somehow(getattr(client, name))
        assert bypassed(sent) == [], name
        if sent:
            reached.append(name)
    # Those that check their arguments first are few.
    assert len(reached) > 0.8 * len(names), sorted(set(names) - set(reached))


@pytest.mark.parametrize("module", MODULES)
def test_no_module_helper_sends_anything_but_its_guard_call(
    agent: Callable[..., keyleash.Redis], sent: list[bytes], module: str
) -> None:
    """The helpers keep the client, and no connection of their own."""
    helper = getattr(agent(), module)()

    for name in command_methods(type(helper)):
        call_somehow(getattr(helper, name))
    assert sent
    assert bypassed(sent) == []


@pytest.mark.parametrize(
    "offer",
    [
        lambda r: r.pipeline(),
        lambda r: r.pipeline(transaction=False),
        lambda r: r.transaction(lambda pipe: pipe.get("u:secret"), "u:secret"),
        lambda r: r.pubsub(),
        lambda r: r.pubsub(ignore_subscribe_messages=True),
        lambda r: r.keyspace_notifications(),
        lambda r: r.monitor(),
        lambda r: r.json(),
        lambda r: r.json().pipeline().execute_command("GET", "u:secret").execute(),
        lambda r: r.ts().pipeline().execute_command("GET", "u:secret").execute(),
        lambda r: r.ft(),
        lambda r: r.ft("idx").pipeline().get("u:secret").execute(),
    ],
)
def test_what_would_bypass_the_guard_is_refused_by_the_client(
    agent: Callable[..., keyleash.Redis], sent: list[bytes], offer: Callable[[redis.Redis], Any]
) -> None:
    """Clearly, with what to do instead, before anything is sent."""
    with pytest.raises(NotImplementedError, match="does not go through the guard; "):
        offer(agent())
    assert sent == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("single", [False, True], ids=["pool", "single connection"])
@pytest.mark.parametrize(
    "offer",
    [
        lambda r: r.eval("return 1", 0),
        lambda r: r.evalsha("0" * 40, 0),
        lambda r: r.register_script("return 1")(),
        lambda r: r.script_load("return 1"),
        lambda r: r.fcall("f", 0),
        lambda r: r.client_tracking_on(),
        lambda r: r.client_kill("127.0.0.1:1"),
        lambda r: r.auth("password"),
        lambda r: r.select(1),
        lambda r: r.reset(),
        lambda r: r.quit(),
        lambda r: r.swapdb(0, 1),
        lambda r: r.flushall(),
        lambda r: r.keys("*"),
        lambda r: list(r.scan_iter("*")),
        lambda r: r.publish("channel", "x"),
        lambda r: r.acl_whoami(),
        lambda r: r.config_get("*"),
        lambda r: r.module_load("/tmp/x.so"),  # noqa: S108
        lambda r: r.sort("t:a", by="u:*"),
        lambda r: r.shutdown(),
        lambda r: r.wait(0, 0),
        lambda r: r.himport_set("t:a", "fields", ["x"]),
        lambda r: r.vset().vadd("t:a", [1.0], "x"),
        lambda r: r.bf().add("t:a", "x"),
        lambda r: r.execute_command("MULTI"),
        lambda r: r.execute_command("SUBSCRIBE", "channel"),
        lambda r: r.execute_command("HELLO", 2),
        lambda r: r.execute_command("ASKING"),
    ],
)
def test_command_that_is_not_for_agents_ends_in_the_guards_refusal(
    agent: Callable[..., keyleash.Redis],
    sent: list[bytes],
    single: bool,
    offer: Callable[[redis.Redis], Any],
) -> None:
    """The guard says no, the connection stays usable, and the server state is untouched."""
    client = agent(single_connection_client=single)

    with pytest.raises(keyleash.CommandRefusedError):
        offer(client)
    assert sent
    assert bypassed(sent) == []
    assert client.set("t:a", "x") is True
    assert client.get("t:a") == b"x"


def test_himport_fieldsets_are_not_prepared_past_the_guard(
    agent: Callable[..., keyleash.Redis], sent: list[bytes]
) -> None:
    """redis-py sends HIMPORT PREPARE packed with the SET, on its own path."""
    client = agent()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client.himport_prepare("fields", ["a", "b"])
        with pytest.raises(keyleash.CommandRefusedError):
            client.himport_set("t:a", "fields", ["1", "2"])
        client.himport_discard_all()
    assert bypassed(sent) == []


def test_lock_is_taken_through_the_guard_and_its_release_refused(
    agent: Callable[..., keyleash.Redis], sent: list[bytes]
) -> None:
    """redis-py releases a lock by a script of its own, and a script cannot be judged."""
    client = agent()
    lock = client.lock("t:lock", timeout=60)

    assert lock.acquire(blocking=False) is True
    assert lock.locked() is True
    assert lock.owned() is True
    with pytest.raises(keyleash.CommandRefusedError) as refused:
        lock.release()
    assert refused.value.details == {"command": "EVALSHA"}
    with pytest.raises(keyleash.KeyNotGrantedError):
        client.lock("u:lock").acquire(blocking=False)
    assert bypassed(sent) == []


def test_external_module_gets_the_guarded_client(
    agent: Callable[..., keyleash.Redis], sent: list[bytes]
) -> None:
    """redis-py hands it nothing; what it is given by its user is the guarded client."""
    client = agent()
    client.load_external_module("mine", lambda: client.execute_command("FLUSHALL"))

    with pytest.raises(keyleash.CommandRefusedError):
        client.mine()  # type: ignore[attr-defined]
    assert bypassed(sent) == []


@pytest.mark.parametrize(
    "command",
    [
        ("EVALSHA {digest} 1 t:a", "token", "", "2", "GET", "t:a"),
        ("GET\x00", "u:secret"),
        ("GET\xa0", "u:secret"),
        (" GET", "u:secret"),
        ("GET", "u:secret", "t:a"),
        ("GET u:secret",),
        ("MGET t:a", "u:secret"),
        ("COPY", "u:secret", "t:a"),
        ("",),
        (" ",),
        (b"\xff",),
        ("SET", "t:a", "x\r\n*2\r\n$3\r\nGET\r\n$8\r\nu:secret"),
    ],
)
def test_crafted_command_does_not_slip_out_of_the_guard_call(
    agent: Callable[..., keyleash.Redis], sent: list[bytes], command: tuple[Any, ...]
) -> None:
    """One call is one EVALSHA, whatever its words are, and reads nothing foreign."""
    client = agent()
    result = None
    with contextlib.suppress(redis.RedisError, UnicodeEncodeError):
        result = client.execute_command(*command)

    assert result in (None, True)
    assert len(sent) <= 1
    assert bypassed(sent) == []
    assert client.get("t:b") is None
