"""Native Redis ACL alone: a user of its own, who may SET keys of its prefix and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from benchmarks.peers.peer import (
    NO,
    YES,
    Bed,
    Guarantees,
    Local,
    Peer,
    RefusedError,
    Tally,
    versions,
)
from benchmarks.support.variants import VALUE

GUARANTEES = Guarantees(
    atomic=YES,
    race_free=NO,
    free=NO,
    audited=NO,
    enforced=YES,
    clock=YES,
    revocable=YES,
    remark="no rate, no budget, no event, no expiry of the secret, no deny rule; a revoke must"
    " delete the user, for one that is only switched off keeps its open connections",
)


@contextmanager
def _open(bed: Bed) -> Iterator[Local]:
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
                # A deleted user's connections are closed, and new ones are not let in.
                raise RefusedError("user") from error

        yield Local(call)
    revoke(bed)


def revoke(bed: Bed) -> None:
    """Delete the user, which closes its connections."""
    bed.admin.acl_deluser(bed.identity)


PEER = Peer(
    "Redis ACL alone",
    versions("redis", "hiredis"),
    GUARANTEES,
    _open,
    lambda _: Tally(),
    revoke,
)
