"""The policies that were active and are kept, so that one can be gone back to."""

from __future__ import annotations

from keyleash.protocol.active import ActivePolicy, Client, active_policy
from keyleash.protocol.keyspace import Keyspace


def read_history(client: Client, keyspace: Keyspace) -> tuple[ActivePolicy, ...]:
    """
    Read all policies that are kept, each once, as it last was active; the newest first.

    An activation writes its own in the one step in which it activates, so the first of them is
    the active policy, unless a version of keyleash that kept none activated that.
    """
    digests = client.zrevrange(keyspace.history, 0, -1)
    with client.pipeline(transaction=False) as pipe:
        for digest in digests:
            pipe.hgetall(keyspace.kept_policy(digest.decode()))
        records = pipe.execute() if digests else []
    found = map(active_policy, records)
    return tuple(one for one in found if one is not None)
