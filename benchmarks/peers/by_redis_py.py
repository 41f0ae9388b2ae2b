"""Peers with one call of redis-py: a plain SET, keyleash, and a Redis ACL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import redis
from benchmarks.peers.peer import (
    REDIS_PY,
    Bed,
    Guarantees,
    Local,
    Peer,
    RefusedError,
    Tally,
    versions,
)
from benchmarks.support.measure import read_counts
from benchmarks.support.policy import operator_of
from benchmarks.support.variants import VALUE

import keyleash


@contextmanager
def _open_plain(bed: Bed) -> Iterator[Local]:
    with redis.Redis.from_url(bed.url) as client:
        yield Local(partial(client.set, value=VALUE))


@contextmanager
def _open_keyleash(bed: Bed) -> Iterator[Local]:
    with keyleash.Redis.from_url(bed.url, token=bed.target.token) as client:
        yield Local(partial(client.set, value=VALUE))


def _keyleash_tally(bed: Bed) -> Tally:
    counts = read_counts(bed.admin, bed.target)
    return Tally(counts.passed, counts.audited)


def _revoke_token(bed: Bed) -> None:
    operator_of(bed.admin).tokens.revoke(identity=bed.identity)


@contextmanager
def _open_acl(bed: Bed) -> Iterator[Local]:
    user = bed.identity
    bed.admin.acl_setuser(
        user,
        enabled=True,
        reset=True,
        passwords=[f"+{bed.target.token}"],
        keys=["agents:jobs:*:state", "agents:jobs:*:result"],
        commands=["+set", "+client|setinfo"],
    )
    with redis.Redis.from_url(bed.url, username=user, password=bed.target.token) as client:

        def call(key: str) -> None:
            try:
                client.set(key, VALUE)
            except redis.ConnectionError as error:
                # The server closed the connections of the deleted user.
                raise RefusedError("user") from error

        yield Local(call)
    _delete_user(bed)


def _delete_user(bed: Bed) -> None:
    bed.admin.acl_deluser(bed.identity)


def no_tally(_: Bed) -> Tally:
    """Return the tally of a peer that counts nothing."""
    return Tally()


PLAIN = Peer(
    REDIS_PY.floor,
    versions("redis", "hiredis"),
    Guarantees.of("no no no no no no no", "nothing is checked, counted or recorded"),
    _open_plain,
    no_tally,
    revoke=None,
)
KEYLEASH = Peer(
    REDIS_PY.ours,
    versions("keyleash", "redis", "hiredis"),
    Guarantees.of(
        "yes yes yes yes part yes yes",
        "one rate and two budgets are charged; a process that connects by itself must be"
        " restricted by its Redis user",
    ),
    _open_keyleash,
    _keyleash_tally,
    _revoke_token,
)
ACL = Peer(
    "Redis ACL alone",
    versions("redis", "hiredis"),
    Guarantees.of(
        "yes no no no yes yes yes",
        "no rate, no budget, no event, no expiry of the password, no deny rule; to revoke, delete"
        " the user: a disabled user keeps its open connections",
    ),
    _open_acl,
    no_tally,
    _delete_user,
)
