"""A cluster behind the gateway looks like one server to agents."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from redis.crc import key_slot

import keyleash
from gateway.conftest import BROAD
from keyleash.store.keyspace import HOME_TAG
from support.clusters import RealCluster
from support.gateways import Raw, ServedGateway
from support.leash import policy
from support.replication import wait_until

Connect = Callable[..., Raw]
HOME_SLOT = key_slot(HOME_TAG.encode())
KEYS = [f"k:{number}" for number in range(60)]
DAY = {"requests": "1000000/day"}


class Guarded:
    """A cluster with a policy and a gateway to it.

    Attributes:
        served: The gateway.
        token: A token of `agent`.
    """

    def __init__(self, cluster: RealCluster) -> None:
        self.cluster = cluster
        self.op = keyleash.Operator.from_url(cluster.url, actor="test")
        self.load(budget=DAY)
        self.token = self.op.tokens.issue("agent").token
        self.served = ServedGateway(gateway_upstream(cluster.url))

    def load(self, **body: Any) -> None:
        """Load a policy."""
        self.op.load(keyleash.Policy(policy(agent={**BROAD, **body})), allow_widening=True)

    def value(self, key: str) -> Any:
        """Return the value of a key, past the guards."""
        return self.cluster.owner(key).admin.get(key)

    def count(self) -> int:
        """Return the sum of the counters at `KEYS`."""
        return sum(int(self.value(key) or 0) for key in KEYS)

    def close(self) -> None:
        """End the gateway."""
        self.served.stop()
        self.op.close()


def gateway_upstream(url: str) -> Any:
    from keyleash.gateway.upstream import Upstream

    return Upstream(url)


@pytest.fixture
def guarded(cluster: RealCluster) -> Iterator[Guarded]:
    """Every server's cluster in turn."""
    guarded = Guarded(cluster)
    yield guarded
    guarded.close()


@pytest.fixture
def some_guarded(embedded_cluster: RealCluster) -> Iterator[Guarded]:
    """The embedded server's cluster alone."""
    guarded = Guarded(embedded_cluster)
    yield guarded
    guarded.close()


def bulk(text: str | int) -> bytes:
    """Return the bytes of a bulk string."""
    return b"$%d\r\n%b\r\n" % (len(str(text)), str(text).encode())


def test_a_node_that_joins_serves_calls(some_guarded: Guarded, connect: Connect) -> None:
    """It has no scripts; the gateway loads them."""
    cluster = some_guarded.cluster
    agent = connect(some_guarded.served.port, some_guarded.token)
    assert agent.call("INCR", KEYS[0]) == b":1\r\n"
    node = cluster.add_node()
    cluster.move_slot(key_slot(KEYS[0].encode()), node)

    assert agent.call("INCR", KEYS[0]) == b":2\r\n"
    assert node.admin.get(KEYS[0]) == b"2"


@pytest.mark.parametrize("protocol", [2, 3])
def test_commands_of_all_slots_are_those_of_one_server(
    protocol: int, guarded: Guarded, connect: Connect
) -> None:
    """Singles, pipelines in order, and what is about all nodes; no reply says MOVED."""
    agent = connect(guarded.served.port, guarded.token, protocol)
    for key in KEYS:
        assert agent.call("SET", key, key) == b"+OK\r\n"
        assert agent.call("GET", key) == bulk(key)
    commands = [words for key in KEYS for words in (("APPEND", key, "!"), ("GET", key))]
    agent.send(*commands, ("GET", "x"), ("SETRANGE", KEYS[0], "-1", "x"), ("GET", KEYS[1]))
    for key in KEYS:
        assert agent.reply() == b":%d\r\n" % (len(key) + 1)
        assert agent.reply() == bulk(f"{key}!")
    assert agent.reply().startswith(b"-LEASH KEY_NOT_GRANTED key=x ")
    assert agent.reply() == b"-ERR offset is out of range\r\n"
    assert agent.reply() == bulk(f"{KEYS[1]}!")
    assert agent.call("MGET", "k:{a}1", "k:{a}2").startswith(b"*2\r\n")
    assert agent.call("MGET", *KEYS[:9]).startswith(b"-CROSSSLOT ")
    assert agent.call("DBSIZE") == b":%d\r\n" % len(KEYS)
    found = agent.call("KEYS", "k:*")
    assert found.startswith(b"*%d\r\n" % len(KEYS))
    assert agent.call("FLUSHALL").startswith(b"-LEASH COMMAND_REFUSED")
    guarded.load(token={"flush": "own"}, budget=DAY)
    assert agent.call("FLUSHALL") == b"+OK\r\n"
    assert agent.call("DBSIZE") == b":0\r\n"
    guarded.load(budget=DAY)


def test_redis_py_takes_a_cluster_for_one_server(guarded: Guarded) -> None:
    """With nothing but a URL, in both protocols."""
    for protocol in (2, 3):
        url = f"redis://agent:{guarded.token}@127.0.0.1:{guarded.served.port}?protocol={protocol}"
        with redis.Redis.from_url(url, decode_responses=True) as client:
            assert client.info("server")["redis_mode"] == "standalone"
            client.delete("k:{h}h", "k:{h}l")
            client.hset("k:{h}h", mapping={"a": "1"})
            assert client.hgetall("k:{h}h") == {"a": "1"}
            pipe = client.pipeline(transaction=False)
            for key in KEYS:
                pipe.set(key, key).get(key)
            assert pipe.execute() == [item for key in KEYS for item in (True, key)]
            with client.pipeline() as transaction:
                transaction.watch("k:{h}n")
                value = int(transaction.get("k:{h}n") or 0)
                transaction.multi()
                transaction.set("k:{h}n", value + 1)
                transaction.get("k:{h}n")
                assert transaction.execute() == [True, str(value + 1)]
            with client.lock("k:lock", timeout=5):
                assert client.exists("k:lock") == 1


def test_scan_finds_the_keys_of_all_nodes(guarded: Guarded) -> None:
    """Its cursors lead from node to node."""
    url = f"redis://agent:{guarded.token}@127.0.0.1:{guarded.served.port}"
    with redis.Redis.from_url(url, decode_responses=True) as client:
        for key in KEYS:
            client.set(key, 1)
        assert sorted(client.scan_iter("k:*", count=5)) == sorted(KEYS)


def test_a_transaction_runs_in_one_slot_and_a_watch_ends_it(
    guarded: Guarded, connect: Connect
) -> None:
    """Wherever its keys are; over several slots it is refused, and nothing runs."""
    agent = connect(guarded.served.port, guarded.token)
    for key in KEYS[:9]:
        agent.send(("MULTI",), ("SET", key, 1), ("INCR", key), ("EXEC",))
        assert [agent.reply() for _ in range(4)][3] == b"*2\r\n+OK\r\n:2\r\n"
        assert agent.call("WATCH", key) == b"+OK\r\n"
        assert agent.call("GET", key) == bulk(2)
        guarded.cluster.owner(key).admin.set(key, 5)
        agent.send(("MULTI",), ("INCR", key), ("EXEC",))
        assert [agent.reply() for _ in range(3)] == [b"+OK\r\n", b"+QUEUED\r\n", b"*-1\r\n"]
        assert guarded.value(key) == b"5"
    agent.send(("MULTI",), *[("INCR", key) for key in KEYS[:9]], ("EXEC",))
    assert [agent.reply() for _ in range(11)][10].startswith((b"-CROSSSLOT", b"-EXECABORT"))
    assert guarded.value(KEYS[0]) == b"5"
    assert agent.call("GET", KEYS[0]) == bulk(5)


def test_blocking_commands_and_messages_reach_their_node(
    guarded: Guarded, connect: Connect
) -> None:
    """Keys and channels of any slot."""
    token, port = guarded.token, guarded.served.port
    agents = [connect(port, token) for _ in range(6)]
    for number, agent in enumerate(agents):
        agent.send(("BLPOP", f"k:q{number}", "30"))
    other = connect(port, token)
    for number, agent in enumerate(agents):
        assert other.call("RPUSH", f"k:q{number}", number) == b":1\r\n"
        assert agent.reply() == b"*2\r\n" + bulk(f"k:q{number}") + bulk(number)
    for number, agent in enumerate(agents):
        assert agent.call("SUBSCRIBE", f"c:{number}").endswith(b":1\r\n")
    for number, agent in enumerate(agents):
        assert other.call("PUBLISH", f"c:{number}", number)[:1] == b":"
        assert agent.reply().endswith(bulk(f"c:{number}") + bulk(number))


def test_a_budget_is_exact_for_eight_connections(guarded: Guarded, connect: Connect) -> None:
    """1,600 calls over all slots, of which exactly 1,000 pass."""
    guarded.load(budget={"requests": "1000/day"})
    outcomes: Counter[bytes] = Counter()

    def work(number: int) -> None:
        agent = connect(guarded.served.port, guarded.token)
        for place in range(0, 200, 10):
            agent.send(*[("SET", f"k:{number}:{place + at}", 1) for at in range(10)])
            outcomes.update(b" ".join(agent.reply().split()[:2]) for _ in range(10))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))

    assert outcomes == {b"+OK": 1000, b"-LEASH BUDGET_EXHAUSTED": 600}
    assert sum(len(node.admin.keys("k:*")) for node in guarded.cluster.primaries) == 1000


class Counting:
    """Agents that count at `KEYS` while the block lasts, by singles and by pipelines.

    Attributes:
        acknowledged: The calls that were acknowledged.
        open: The calls without a reply.
        errors: Replies that are no numbers.
    """

    def __init__(self, guarded: Guarded) -> None:
        self.acknowledged = self.open = 0
        self.errors: list[bytes] = []
        self._guarded = guarded
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(size,)) for size in (1, 1, len(KEYS))
        ]

    def _work(self, size: int) -> None:
        at, raw = size, None
        while not self._ended.is_set():
            raw = raw or self._connect()
            at += size
            replies: list[bytes] = []
            try:
                raw.send(*(("INCR", KEYS[(at + step) % len(KEYS)]) for step in range(size)))
                replies += iter_replies(raw, size)
            except OSError:
                pass
            with self._lock:
                numbers = sum(reply.startswith(b":") for reply in replies)
                self.acknowledged += numbers
                self.errors += [reply for reply in replies if not reply.startswith(b":")]
                self.open += size - len(replies)
            if len(replies) < size:
                raw.close()
                raw = None
        if raw is not None:
            raw.close()

    def _connect(self) -> Raw:
        raw = Raw(self._guarded.served.port)
        while (reply := raw.call("AUTH", self._guarded.token)) != b"+OK\r\n":
            assert reply.startswith(b"-NOTSENT"), reply
            time.sleep(0.05)
        return raw

    def __enter__(self) -> Counting:
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.go_on()
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def go_on(self) -> None:
        """Wait until more calls were acknowledged."""
        before = self.acknowledged
        wait_until(
            lambda: (
                self.acknowledged > before + 3 * len(KEYS)
                or not any(thread.is_alive() for thread in self._threads)
            )
        )


def iter_replies(raw: Raw, count: int) -> Iterator[bytes]:
    """Yield replies until the connection is closed."""
    for _ in range(count):
        reply = raw.reply()
        if not reply.endswith(b"\r\n"):
            return
        yield reply


@pytest.mark.parametrize("what", ["data", "home"])
def test_no_call_is_lost_or_doubled_while_slots_move(guarded: Guarded, what: str) -> None:
    """Key by key: agents see neither MOVED nor ASK, nor any other error."""
    cluster = guarded.cluster
    slots = [HOME_SLOT] if what == "home" else [key_slot(key.encode()) for key in KEYS[:10]]
    with Counting(guarded) as counting:
        for slot in slots:
            cluster.move_slot(slot, cluster.other(cluster.owner(slot)))

    assert (counting.errors, counting.open) == ([], 0)
    assert guarded.count() == counting.acknowledged


def test_a_key_of_a_moving_slot_is_asked_for_at_the_other_node(
    some_guarded: Guarded, connect: Connect
) -> None:
    """By singles, pipelines and transactions."""
    cluster = some_guarded.cluster
    agent = connect(some_guarded.served.port, some_guarded.token)
    agent.send(("SET", "k:{m}1", 1), ("SET", "k:{m}2", 1))
    assert [agent.reply(), agent.reply()] == [b"+OK\r\n"] * 2
    slot = key_slot(b"k:{m}1")
    with cluster.moving(slot, cluster.other(cluster.owner(slot))) as move:
        move.move("k:{m}1")
        assert agent.call("GET", "k:{m}1") == bulk(1)
        assert agent.call("GET", "k:{m}2") == bulk(1)
        agent.send(("MULTI",), ("INCR", "k:{m}1"), ("EXEC",))
        assert [agent.reply() for _ in range(3)][2] == b"*1\r\n:2\r\n"
        agent.send(("INCR", "k:{m}1"), ("INCR", "k:{m}2"), ("SET", "k:{m}3", 1), ("SET", "k:4", 1))
        assert [agent.reply() for _ in range(4)] == [b":3\r\n", b":2\r\n", *[b"+OK\r\n"] * 2]
    assert agent.call("MGET", "k:{m}1", "k:{m}2") == b"*2\r\n" + bulk(3) + bulk(2)


@pytest.mark.slow
@pytest.mark.parametrize("is_home", [False, True])
def test_a_killed_primary_loses_only_the_calls_that_were_sent(
    replicated_cluster: RealCluster, is_home: bool
) -> None:
    """Their connections are closed; others wait for the failover, or read that nothing ran."""
    guarded = Guarded(replicated_cluster)
    home = replicated_cluster.owner(HOME_SLOT)
    victim = home if is_home else replicated_cluster.other(home)
    try:
        with Counting(guarded) as counting:
            victim.kill()
            replicated_cluster.wait_until_served()
        # A primary replies before its replica has the write, so the last replies may be lost.
        assert counting.acknowledged <= guarded.count() + 2 + len(KEYS)
        assert guarded.count() <= counting.acknowledged + counting.open
        kinds = (b"-NOTSENT", b"-CLUSTERDOWN", b"-LEASH SLOT_NOT_SERVED")
        assert {
            error.split()[0] for error in counting.errors if not error.startswith(kinds)
        } == set()
    finally:
        guarded.close()


def test_a_node_that_is_lost_after_a_command_was_sent_closes_the_connection(
    some_guarded: Guarded, connect: Connect
) -> None:
    """Also if other nodes have replied to their part of a pipeline, whose replies come first."""
    agent, other = (connect(some_guarded.served.port, some_guarded.token) for _ in range(2))
    agent.send(*[("SET", key, 1) for key in KEYS])
    assert [agent.reply() for _ in KEYS] == [b"+OK\r\n"] * len(KEYS)
    cluster = some_guarded.cluster
    victim = cluster.other(cluster.owner(HOME_SLOT))
    lost = next(key for key in KEYS if cluster.owner(key) is victim)
    kept = next(key for key in KEYS if cluster.owner(key) is not victim)
    victim.halt()
    agent.send(("INCR", kept), ("INCR", lost), ("INCR", kept))
    other.send(("INCR", lost))
    wait_until(lambda: some_guarded.served.busy == 2)
    time.sleep(0.3)
    victim.kill()

    replies = list(iter(agent.reply, b""))
    assert all(reply.startswith(b":") for reply in replies), replies
    assert len(replies) < 3
    assert other.reply() == b""
