"""Nothing that the client offers reaches the wire without the guard.

What counts is what is sent, so these tests read the sockets' side of redis-py's
connections: every command of a connected client must be an EVALSHA of the guard.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

import keyleash
from client.alike import ONE_EITHER, Awaited, FakeClock
from support.leash import Leash
from support.redis_py import needs_redis_py_8

LOCAL = {
    # Look at the client or change it, and send nothing.
    "get_encoder",
    "get_connection_kwargs",
    "get_retry",
    "set_retry",
    "set_response_callback",
    "load_external_module",
    "get_cache",
    "close",
    "himport_registry",
    # Make clients and helpers; tested by name below or in test_sync.
    "from_url",
    "from_pool",
    "client",
    "json",
    "ts",
    "ft",
    "pipeline",
    "transaction",
    # Refused by the client itself; tested below.
    "register_script",
    "lock",
    "keyspace_notifications",
    "pubsub",
    "monitor",
    # Send what they are given, by `execute_command`.
    "execute_command",
    "parse_response",
    "himport_prepare",
    "himport_discard",
    "himport_discard_all",
}
"""What redis.Redis itself defines, in redis 8. News in a later version must be looked at."""

ASYNC_LOCAL = {
    "aclose",
    "initialize",
    # Of the same name in the sync client, or also made of `execute_command`.
    *LOCAL,
}
"""The same for redis.asyncio.Redis."""

PIPELINE_LOCAL = {
    "reset",
    "multi",
    "raise_first_error",
    "annotate_exception",
    "unwatch",
    # Queue, or are refused; `execute` is tested below, after everything else was queued.
    "discard",
    "execute",
    "execute_command",
    "pipeline_execute_command",
    "immediate_execute_command",
    "load_scripts",
    "watch",
    # Send nothing by themselves.
    "close",
    "aclose",
    "parse_response",
}
"""What redis-py's pipelines define themselves."""

MODULES = ("bf", "cf", "cms", "topk", "tdigest", "vset", "json", "ts", "ft")


@pytest.fixture
def sent(packets: list[bytes]) -> list[bytes]:
    return packets


@pytest.fixture
def agent(one_leash: Leash, sent: list[bytes]) -> Iterator[Callable[..., Any]]:
    """Make connected clients that know their guard; what they sent for it is forgotten."""
    token = one_leash.issue("one").token
    one_leash.admin.set("u:secret", "x")
    with contextlib.ExitStack() as clients:

        def connected(**options: Any) -> Any:
            client: Any = one_leash.client(token, **options)
            if not isinstance(client, Awaited):
                clients.callback(client.close)
            client.ping()
            # A call that waits for something that never comes would not end.
            FakeClock(client, step=10**6)
            sent.clear()
            return client

        yield connected


def _plain(result: Any) -> Any:
    return result


NATIVE = re.compile(
    rb"\*\d+\r\n\$\d+\r\n(CLIENT\r\n\$\d+\r\n(GETNAME|SETNAME|SETINFO|ID|INFO|GETREDIR|TRACKINGINFO|NO-TOUCH)|HELLO|UNWATCH)\r\n",
    re.I,
)
"""What a connection sends without its guard: it is about the connection and the version alone."""


def bypassed(sent: list[bytes]) -> list[bytes]:
    return [
        packet for packet in sent if b"\r\nEVALSHA\r\n" not in packet and not NATIVE.match(packet)
    ]


def own_methods(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def command_methods(kind: type) -> list[str]:
    return [
        name
        for name in dir(kind)
        if not name.startswith("_") and name not in ASYNC_LOCAL and callable(getattr(kind, name))
    ]


def call_somehow(method: Callable[..., Any], settled: Callable[[Any], Any] = _plain) -> None:
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
            result = settled(method(*[value] * len(needed)))
            if inspect.isgenerator(result):
                list(itertools.islice(result, 10))


def _settler(client: Any) -> Callable[[Any], Any]:
    """Return the function that awaits the outcome of a call of *client*'s inner methods."""
    return client._settled if isinstance(client, Awaited) else _plain


def inner(client: Any) -> Any:
    return client._inner if isinstance(client, Awaited) else client


def test_every_method_of_redis_pys_clients_is_accounted_for() -> None:
    """A later redis-py may bring another way to the wire."""
    assert own_methods(redis.Redis) - LOCAL == set()
    assert own_methods(redis.asyncio.Redis) - ASYNC_LOCAL == set()
    for kind in (redis.client.Pipeline, redis.asyncio.client.Pipeline):
        assert own_methods(kind) - PIPELINE_LOCAL - {"UNWATCH_COMMANDS"} == set()


@ONE_EITHER
@pytest.mark.parametrize("single", [False, True], ids=["pool", "single connection"])
def test_no_command_method_sends_anything_but_its_guard_call(
    agent: Callable[..., Any], sent: list[bytes], single: bool
) -> None:
    """Each of redis-py's several hundred methods, called as well as can be."""
    client = agent(single_connection_client=single)
    names = command_methods(type(inner(client)))
    reached = []
    for name in names:
        sent.clear()
        call_somehow(getattr(inner(client), name), _settler(client))
        assert bypassed(sent) == [], name
        if sent:
            reached.append(name)
    # Those that check their arguments first are few.
    assert len(reached) > 0.8 * len(names), sorted(set(names) - set(reached))


@ONE_EITHER
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("module", MODULES)
def test_no_module_helper_sends_anything_but_its_guard_call(
    agent: Callable[..., Any], sent: list[bytes], module: str
) -> None:
    """The helpers keep the client, and no connection of their own."""
    client = agent()
    helper = getattr(inner(client), module)()

    for name in command_methods(type(helper)):
        call_somehow(getattr(helper, name), _settler(client))
    assert sent
    assert bypassed(sent) == []


@ONE_EITHER
@pytest.mark.parametrize("transaction", [False, True])
def test_no_method_of_a_pipeline_sends_anything_but_a_batch(
    agent: Callable[..., Any], sent: list[bytes], transaction: bool
) -> None:
    """Commands and helpers of modules queue, whatever they are; then all of it is sent."""
    client = agent()
    pipe = inner(client.pipeline(transaction=transaction))
    # Not `ft`: on a pipeline, redis-py reads some of its replies from the pipeline itself.
    helpers = [getattr(pipe, module)() for module in MODULES if module != "ft"]
    sources = [(pipe, set(PIPELINE_LOCAL)), *((helper, set[str]()) for helper in helpers)]
    for source, local in sources:
        for name in set(command_methods(type(source))) - local:
            call_somehow(getattr(source, name), _settler(client))
    assert sent == []
    assert len(pipe) > 500

    # One by one: a transaction would be refused as a whole.
    for queued in pipe.command_stack:
        inner_pipe = inner(client.pipeline(transaction=transaction))
        inner_pipe.command_stack.append(queued)
        with contextlib.suppress(redis.RedisError, UnicodeEncodeError, TypeError, AssertionError):
            _settler(client)(inner_pipe.execute())
    assert len(sent) > 400
    assert bypassed(sent) == []
    assert pipe.command_stack


@ONE_EITHER
@pytest.mark.parametrize(
    "offer",
    [
        lambda r: r.transaction(lambda pipe: pipe.get("t:a"), "u:secret"),
        lambda r: r.execute_command("WATCH", "u:secret"),
        lambda r: r.pipeline().watch("u:secret"),
        lambda r: r.pipeline().immediate_execute_command("GET", "u:secret"),
    ],
)
def test_ways_beside_the_command_methods_go_through_the_guard(
    agent: Callable[..., Any], sent: list[bytes], offer: Callable[[Any], Any]
) -> None:
    """redis-py has connections of its own for them."""
    client = agent()
    with pytest.raises(keyleash.LeashError):
        offer(client)
    assert sent
    assert bypassed(sent) == []


@pytest.mark.parametrize(
    "offer",
    [
        lambda r: r.json().pipeline().set("u:secret", "$", {}).execute(),
        lambda r: r.ts().pipeline(transaction=False).get("u:secret").execute(),
        lambda r: r.pipeline().json().pipeline().get("u:secret").execute(),
    ],
)
def test_pipeline_of_a_modules_helper_goes_through_the_guard(
    agent: Callable[..., Any], sent: list[bytes], offer: Callable[[Any], Any]
) -> None:
    """It has the client's pool; that of redis-py's asyncio helpers sends nothing at all."""
    client = agent()
    with pytest.raises(keyleash.LeashError):
        offer(client)
    assert sent
    assert bypassed(sent) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("single", [False, True], ids=["pool", "single connection"])
@pytest.mark.parametrize(
    "offer",
    [
        lambda r: r.eval("return 1", 0),
        lambda r: r.evalsha("0" * 40, 0),
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
        lambda r: r.acl_whoami(),
        lambda r: r.config_get("*"),
        lambda r: r.module_load("/tmp/x.so"),  # noqa: S108
        lambda r: r.json().set("t:a", "$", {}),
        lambda r: r.ts().create("t:a"),
        lambda r: r.ft().search("x"),
        lambda r: r.pipeline().json().set("t:a", "$", {}) and r.pipeline().flushall().execute(),
        lambda r: r.pipeline(transaction=False).get("t:a").client_no_evict("ON").execute(),
        lambda r: r.shutdown(),
        lambda r: r.wait(0, 0),
        pytest.param(lambda r: r.himport_set("t:a", "fields", ["x"]), marks=needs_redis_py_8),
        lambda r: r.bf().add("t:a", "x"),
        lambda r: r.execute_command("HELLO", 2),
        lambda r: r.execute_command("ASKING"),
    ],
)
def test_command_that_is_not_for_agents_ends_in_the_guards_refusal(
    agent: Callable[..., Any], sent: list[bytes], single: bool, offer: Callable[[redis.Redis], Any]
) -> None:
    """The guard says no, the connection stays usable, and the server state is untouched."""
    client = agent(single_connection_client=single)

    with pytest.raises(keyleash.CommandRefusedError) as refused:
        offer(client)
    assert refused.value.details["reason"]
    assert sent
    assert bypassed(sent) == []
    assert client.set("t:a", "x") is True
    assert client.get("t:a") == b"x"


def test_sort_by_keys_that_are_not_granted_ends_in_the_guards_denial(
    agent: Callable[..., Any], sent: list[bytes]
) -> None:
    """Its pattern reads other keys than the one that it names."""
    with pytest.raises(keyleash.KeyNotGrantedError):
        agent().sort("t:a", by="u:*")
    assert sent
    assert bypassed(sent) == []


@needs_redis_py_8
def test_himport_fieldsets_are_not_prepared_past_the_guard(
    agent: Callable[..., Any], sent: list[bytes]
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


class OwnRelease:
    """The methods that a redis-py lock needs to work without scripts."""

    def register_scripts(self) -> None:
        """Register none."""

    def do_release(self, token: bytes) -> Any:
        return self.redis.delete(self.name)  # type: ignore[attr-defined]


def _locks(client: Any, *bases: type) -> Any:
    """A new class of locks of redis-py, sync or async as the client is."""
    is_async = isinstance(client, Awaited)
    lock = redis.asyncio.lock.Lock if is_async else redis.lock.Lock
    scripts = dict.fromkeys(("lua_release", "lua_extend", "lua_reacquire"))
    return type("Locks", (*bases, lock), scripts)


@ONE_EITHER
@pytest.mark.parametrize("is_registered", [False, True], ids=["new", "scripts registered"])
def test_lock_of_redis_py_is_released_whoever_registered_its_scripts(
    one_leash: Leash, agent: Callable[..., Any], is_registered: bool
) -> None:
    """Its class registers them once, perhaps with the client of another identity."""
    client = agent()
    bare = inner(client)
    settled = _settler(client)
    locks = _locks(client)
    if is_registered:
        locks(redis.Redis(), "t:lock")
    for make in (
        lambda: locks(bare, "t:lock"),
        lambda: locks(bare, "t:lock", timeout=10, blocking=False),
        lambda: bare.lock("t:lock", lock_class=locks),
    ):
        lock = make()  # type: ignore[no-untyped-call]
        assert settled(lock.acquire()) is True
        settled(lock.release())
        assert one_leash.admin.get("t:lock") is None


@ONE_EITHER
def test_lock_that_is_released_without_a_script_is_acquired(agent: Callable[..., Any]) -> None:
    """A lock is refused for its script, not for its class."""
    client = agent()
    settled = _settler(client)
    lock = inner(client).lock("t:lock", lock_class=_locks(client, OwnRelease))

    assert settled(lock.acquire()) is True
    settled(lock.release())
    assert client.get("t:lock") is None


@ONE_EITHER
def test_lock_of_the_users_own_is_made_with_the_guarded_client(
    agent: Callable[..., Any], sent: list[bytes]
) -> None:
    """redis-py's lock could be taken but not released, for which it has a script."""

    class Lease:
        def __init__(self, client: Any, name: str, **_: Any) -> None:
            self.take = lambda: client.set(name, "mine", nx=True, px=1000)

    client = agent()
    settled = _settler(client)

    assert settled(client.lock("t:lock", lock_class=Lease).take()) is True
    with pytest.raises(keyleash.KeyNotGrantedError):
        settled(client.lock("u:lock", lock_class=Lease).take())
    assert bypassed(sent) == []


def test_external_module_gets_the_guarded_client(
    agent: Callable[..., Any], sent: list[bytes]
) -> None:
    """redis-py hands it nothing; what it is given by its user is the guarded client."""
    client = agent()
    client.load_external_module("mine", lambda: client.execute_command("FLUSHALL"))

    with pytest.raises(keyleash.CommandRefusedError):
        client.mine()
    assert bypassed(sent) == []


@pytest.mark.parametrize(
    "command",
    [
        ("EVALSHA {digest} 1 t:a", "token", "", "GET", "t:a"),
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
    agent: Callable[..., Any], sent: list[bytes], command: tuple[Any, ...]
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
