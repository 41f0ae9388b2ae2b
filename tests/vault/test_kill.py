"""SIGKILL during a change of prefixes: it continues, and no data is lost."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import keyleash
from keyleash.operator.tokens.list import list_tokens
from keyleash.store.prefixes import read_seal, server_keyspace
from support.leash import Leash
from support.servers import embedded_label, find_server_binaries
from support.thorough import FACTOR
from vault.conftest import ALL

KEYS = 3000
LONGEST_S = 0.3
"""Within this time a kill comes; a change without one takes about as long."""
ENOUGH = 0.5
"""How likely it is that a change that was killed is let go on to its end."""
WORKER = """
import sys, redis
from keyleash.store.store import Store
from keyleash.vault import change as vault
url, kind = sys.argv[1:]
client = redis.Redis.from_url(url)
change = getattr(vault, kind)
options = {"adopt": ["a:*"]} if kind == "seal" else {}
print("ready", flush=True)
sys.stdin.readline()
change(Store(client), **options)
print("done", flush=True)
"""


def run(leash: Leash, kind: str, kill_after_s: float | None) -> bool:
    """Start a change in another process and kill it; return whether it had finished."""
    words = [sys.executable, "-c", WORKER, leash.server.url, kind]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            process.send_signal(signal.SIGKILL)
        output, complaint = process.stdout.read(), process.stderr.read()
    if kill_after_s is None:
        assert output == "done\n", complaint
    return output == "done\n"


class Agent:
    """An agent that reads and counts continuously, and the wrong replies that it got."""

    def __init__(self, leash: Leash) -> None:
        self.client = leash.agent("one")
        self.counted = self.suspended = 0
        self.wrong: list[object] = []

    def work(self, done: threading.Event) -> None:
        while not done.is_set():
            number = random.randrange(KEYS)
            try:
                if (held := self.client.get(f"a:{number}")) != b"%d" % number:
                    self.wrong.append((number, held))
                self.client.incr("a:count")
                self.counted += 1
            except keyleash.SuspendedError:
                self.suspended += 1
            except Exception as error:
                self.wrong.append(error)
            time.sleep(0.001)


@contextmanager
def at_work(agent: Agent) -> Iterator[None]:
    done = threading.Event()
    thread = threading.Thread(target=agent.work, args=(done,))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    "server", [*find_server_binaries()] if FACTOR > 1 else [embedded_label()], indirect=True
)
def test_killed_change_continues_without_wrong_replies(leash: Leash) -> None:
    """Every read is right or denied as suspended; counts, token, budget and events remain."""
    seed = random.randrange(2**32)
    moment = random.Random(seed)
    body = {"grants": ALL["grants"], "audit": {"retain": 1_000_000}}
    leash.load(one=body)
    with leash.admin.pipeline() as pipe:
        for number in range(KEYS):
            pipe.set(f"a:{number}", number)
        pipe.execute()
    agent = Agent(leash)
    with at_work(agent):
        for _ in range(FACTOR):
            for kind in ("seal", "rotate", "unseal"):
                before = read_seal(leash.admin).keyspace
                while not run(leash, kind, moment.uniform(0, LONGEST_S)):
                    record = read_seal(leash.admin)
                    if record.change is None and record.keyspace != before:
                        break  # It was killed after it finished, and before it printed that.
                    if moment.random() < ENOUGH:
                        run(leash, kind, None)
                        break
                assert read_seal(leash.admin).change is None

    assert agent.wrong == [], f"seed {seed}"
    assert agent.suspended > 0
    assert server_keyspace(leash.admin) == leash.keyspace
    assert int(leash.admin.get("a:count") or 0) == agent.counted
    assert len(leash.admin.keys("a:*")) == KEYS + 1
    assert len(list_tokens(leash.store)) == 1
    assert leash.admin.xlen(leash.keyspace.audit("one")) == agent.counted
