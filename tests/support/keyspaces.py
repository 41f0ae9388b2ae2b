"""All that a server holds, to be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Keys = dict[bytes, tuple[Any, int]]


def whole_keyspace(client: Any, leave_out: Callable[[bytes], bool] = lambda _: False) -> Keys:
    """Every key with its bytes and the millisecond at which it expires; -1 if never."""
    names = [name for name in client.scan_iter(count=1000) if not leave_out(name)]
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.dump(name)
            pipe.pexpiretime(name)
            pipe.type(name)
        replies = pipe.execute()
    found = dict(zip(names, zip(replies[::3], replies[1::3], strict=True), strict=True))
    for name, kind in zip(names, replies[2::3], strict=True):
        if kind in (b"hash", b"set"):
            # Loaded or replicated, it may hold the same in another order.
            whole = client.hgetall(name).items() if kind == b"hash" else client.smembers(name)
            found[name] = sorted(whole), found[name][1]
    return found
