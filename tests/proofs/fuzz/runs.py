"""Send the same batches as runs and command by command: nothing may differ.

python -m proofs.fuzz.runs --batches 20000 --server redis-8.0.2   # `make runs`
"""

from __future__ import annotations

import argparse
import random
import re
import struct
import sys
from collections.abc import Sequence
from typing import Any

import redis

from keyleash.addons.servers import EmbeddedServer
from keyleash.audit.read import read_events
from keyleash.commands import load_table
from keyleash.operator.tokens.issue import issue_token
from keyleash.store.keyspace import CONTROL_PREFIX, Keyspace
from keyleash.store.records import guard_record
from keyleash.store.store import Store
from keyleash.store.wire import BatchMode, batch_call, replies_of, runs_call
from support.leash import policy
from support.loading import load_policy
from support.servers import find_server_binaries

NAMES = Keyspace()
TABLE = load_table()
WHO = ("ann", "bob")
"""The first sends runs. Both have the same rules, each on keys of its own."""

_GRANT = {"allow": ["read", "write", "delete"], "keys": ["WHO:k:*"]}
_DENY = [{"keys": ["WHO:k:secret*"]}]
_LIMITS = {
    "rate": {"writes": {"limit": "6000/minute", "burst": 60}},
    "budget": {"requests": "400/day", "deletes": "20/hour"},
}
RULES: dict[str, dict[str, Any]] = {
    "limited": {"grants": [_GRANT], "deny": _DENY, **_LIMITS},
    "unlimited": {"grants": [_GRANT], "deny": _DENY},
    "without MSET": {
        "grants": [{**_GRANT, "only": ["SET", "GET", "INCR", "DEL", "HSET", "LPUSH"]}],
        **_LIMITS,
    },
    "some may be read": {
        "grants": [{**_GRANT, "keys": ["WHO:k:a*"]}, {"allow": ["read"], "keys": ["WHO:k:*"]}],
        "budget": {"reads": "60/hour", "writes": "30/hour"},
    },
    "recorded": {"grants": [_GRANT], "audit": {"reads": True}, **_LIMITS},
    "until exported": {
        "grants": [_GRANT],
        "audit": {"retain": {"until": "exported", "hard_max": 30}},
    },
    "short values": {"grants": [{**_GRANT, "values": {"max_bytes": "100b"}}], "deny": _DENY},
    "little work": {"grants": [_GRANT], "limits": {"work": 1000}},
}
"""Policies by what is special about them."""

KEYS = ("a1", "a2", "a3", "b1", "b2", "list", "hash", "secret1", "")
VALUES = ("1", "v", "9007199254740992", "x" * 90, "x" * 120, "-1", "", "not a number")


MASK = re.compile(rb"#[0-9a-f]{40}")
"""Digests of keys, which contain the name of the identity."""


WORK = re.compile(rb"work=[0-9]+")
"""Units of work, which depend on how much memory a server reserved for a value."""


class DifferenceError(AssertionError):
    """A run had another effect than its commands."""


class Twins:
    """Two identities with the same rules on one server.

    Args:
        client: Of a server that may be emptied.
        rules: The rules; `WHO` stands for the identity.
    """

    def __init__(self, client: Any, rules: dict[str, Any]) -> None:
        self._client: Any = client
        self._client.flushall()
        text = [str(policy(WHO=rules)).replace("WHO", who) for who in WHO]
        document = text[0][: text[0].rindex("}}")] + "," + text[1].split('"identities": {')[1]
        load_policy(Store(client), document, table=TABLE, allow_unvalidated_restore=True)
        records = [guard_record(self._client.hgetall(NAMES.guard(who))) for who in WHO]
        self._digests = [record.batch_digest for record in records if record]
        self._tokens = [issue_token(Store(client), who) for who in WHO]
        self._store = Store(client)
        self._states: list[bytes] = [self._client.get(NAMES.state(who)) for who in WHO]
        self.ran_as_one = 0

    def compare(self, draws: random.Random) -> None:
        """Send a batch in both ways.

        Raises:
            DifferenceError: the replies, the events, the counters or the data differ.
        """
        if draws.random() < 0.4:
            self._put_back(draws)
        commands = _commands(draws)
        mode = BatchMode(draws.choice(("each", "all")))
        ran = self._send(mode, commands)
        seen = [self._seen(place) for place in range(2)]
        for what, ours, theirs in zip(
            ("reply", "state", "events", "denials", "data"),
            *[(reply, *rest) for reply, rest in zip(ran, seen, strict=True)],
            strict=True,
        ):
            if ours != theirs:
                raise DifferenceError(f"{what} of {mode} {commands}\n  {_first(ours, theirs)}")

    def _send(self, mode: BatchMode, commands: Sequence[Sequence[str]]) -> list[Any]:
        """Send a batch as runs for one, and command by command for the other, at one time."""
        calls = []
        for who, digest, token in zip(WHO, self._digests, self._tokens, strict=True):
            own = [[word.replace("WHO", who) for word in words] for words in commands]
            calls.append((TABLE, digest, token.token, "c", mode, own))
        as_runs, shape = runs_call(*calls[0])
        # The clock stands still in a transaction.
        with self._client.pipeline(transaction=True) as pipe:
            pipe.execute_command(*as_runs)
            pipe.execute_command(*batch_call(*calls[1]))
            of_runs, of_each = pipe.execute(raise_on_error=False)
        if isinstance(of_runs, list):
            self.ran_as_one += any(
                times > 1 and not isinstance(reply, list)
                for times, reply in zip(shape, of_runs, strict=True)
            )
            of_runs = replies_of(of_runs, shape)
        return [_unnamed(of_runs), _unnamed(of_each)]

    def _seen(self, place: int) -> tuple[Any, ...]:
        """Return what an identity left: its counters, events, denials and data."""
        who, client = WHO[place], self._client
        state = client.get(NAMES.state(who))
        listed = [
            (event.op, event.keys, event.item, event.error, event.cost, event.seq,
             event.args)
            for event in read_events(self._store, [who])
        ]  # fmt: skip
        denials = [
            {name: value for name, value in fields.items() if name not in (b"token", b"policy")}
            for _, fields in client.xrevrange(NAMES.denied(who), count=40)
        ]
        keys = [f"{who}:k:{key}" for key in KEYS]
        with client.pipeline(transaction=True) as pipe:
            for key in keys:
                pipe.dump(key)
                pipe.pexpiretime(key)
            data = pipe.execute()
        counters = sorted(
            client.get(name)[:16] for name in client.scan_iter(f"{CONTROL_PREFIX}limit:{who}:*")
        )
        return _unnamed((state[8:], counters)), _unnamed(listed), _unnamed(denials), _unnamed(data)

    def _put_back(self, draws: random.Random) -> None:
        """Put states, streams and data back; perhaps almost use up limits, or let windows end."""
        client = self._client
        for name in (*client.scan_iter("*:k:*"), *client.scan_iter(f"{CONTROL_PREFIX}limit:*")):
            client.delete(name)
        numbers = (len(self._states[0]) - 24) // 8
        seconds, micros = client.time()
        now_us = int(seconds) * 1_000_000 + int(micros)
        header = [
            draws.choice((None, 0.0, 10.0, 395.0, now_us - 10.0, now_us + 5_500_000.0))
            for _ in range(numbers)
        ]
        for who, state in zip(WHO, self._states, strict=True):
            changed = bytearray(state)
            for at, number in enumerate(header):
                if number is not None:
                    struct.pack_into("<d", changed, 24 + at * 8, number)
            client.set(NAMES.state(who), bytes(changed))
            for stream in (NAMES.audit(who), NAMES.denied(who), NAMES.repeats(who)):
                client.delete(stream)
            client.rpush(f"{who}:k:list", "a")
            client.hset(f"{who}:k:hash", "f", "1")


def _first(ours: Any, theirs: Any) -> tuple[Any, Any]:
    """Return the innermost first difference of two lists."""
    while isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        ours, theirs = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
    return ours, theirs


def _commands(draws: random.Random) -> list[list[str]]:
    """Return commands of which many have the same name and size."""
    found: list[list[str]] = []
    is_clean = draws.random() < 0.5
    while not found or draws.random() < 0.6:
        name = draws.choice(SHAPES)
        for _ in range(draws.choice((1, 2, 3, 16, 30))):
            key = draws.choice(KEYS[:5] if is_clean else KEYS)
            other = not is_clean and draws.random() < 0.03
            words = [f"WHO:k:{key}" if not other else "other"]
            words += [draws.choice(VALUES[:2] if is_clean else VALUES) for _ in range(name[1])]
            found.append([name[0], *words])
    if not is_clean and draws.random() < 0.2:
        # Words that no client sends.
        draws.choice(found)[draws.randrange(2)] = draws.choice(("", "set", "FLUSHALL", "k"))
    return found


SHAPES = (
    ("SET", 1), ("SET", 1), ("SET", 1), ("GET", 0), ("GET", 0), ("SET", 2), ("SET", 3), ("INCR", 0),
    ("INCRBY", 1), ("HSET", 2), ("HGET", 1), ("LPUSH", 1), ("DEL", 0), ("DEL", 1), ("EXISTS", 0),
    ("EXPIRE", 1), ("SADD", 2), ("TTL", 0), ("PING", 0), ("HGETALL", 0), ("APPEND", 1),
    ("XACK", 2), ("ZADD", 2), ("TYPE", 0),
)  # fmt: skip
"""Commands, and how many words follow their key."""


def _unnamed(value: Any) -> Any:
    """Return what an identity left, without its name."""
    if isinstance(value, Exception):
        return _unnamed(str(value).encode("utf-8", "surrogateescape"))
    if isinstance(value, bytes):
        value = WORK.sub(b"work=", MASK.sub(b"#", value))
        return value.replace(WHO[1].encode(), WHO[0].encode())
    if isinstance(value, str):
        return value.replace(WHO[1], WHO[0])
    if isinstance(value, dict):
        return {_unnamed(name): _unnamed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_unnamed(item) for item in value]
    return value


def main() -> int:
    """Compare on one server; exit status 1 at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=20_000)
    parser.add_argument("--server", help="one of those on PATH, such as redis-8.0.2")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    binaries = find_server_binaries()
    label = arguments.server or next(iter(binaries))
    if label not in binaries:
        print(f"no server `{label}`; there are {', '.join(binaries)}", file=sys.stderr)
        return 2
    with EmbeddedServer(binary=binaries[label]) as server:
        client = redis.Redis.from_url(server.url)
        for number, (name, rules) in enumerate(RULES.items()):
            twins = Twins(client, rules)
            draws = random.Random(f"{arguments.seed} {number}")
            for _ in range(arguments.batches // len(RULES)):
                twins.compare(draws)
            print(f"{label}, {name}: {twins.ran_as_one} batches with a run as one", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
