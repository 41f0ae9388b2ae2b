"""The share of each agent in a gateway: its connections.

An agent is a root token: one that was issued, with all that were delegated from it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from redis.exceptions import ResponseError

MAX_CONNECTIONS = 9_000
"""Connections with a token; one more ends the newest of the agent with most."""


class Share:
    """The connections of one agent.

    Attributes:
        identity: Of the token.
        connections: Those that are open, the newest last.
    """

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.connections: dict[Any, None] = {}


class Shares:
    """The shares of all agents."""

    def __init__(self) -> None:
        self._shares: dict[str, Share] = {}
        self._count = 0

    def share(self, identity: str, root: str) -> Share:
        """Return the share of a root token, by its id."""
        return self._shares.setdefault(root, Share(identity))

    def enter(self, connection: Any, share: Share) -> None:
        """Count a connection; if there are too many, close one of the agent that has most.

        Raises:
            ResponseError: that is this one.
        """
        share.connections[connection] = None
        self._count += 1
        if self._count <= MAX_CONNECTIONS:
            return
        sizes = Counter[str]()
        for each in self._shares.values():
            sizes[each.identity] += len(each.connections)
        most = max(
            self._shares.values(), key=lambda each: (sizes[each.identity], len(each.connections))
        )
        newest = next(reversed(most.connections))
        self.leave(newest, most)
        if newest is connection:
            raise ResponseError("max number of clients reached")
        newest.cut("share")

    def leave(self, connection: Any, share: Share) -> None:
        """Count a connection no more."""
        self._count -= share.connections.pop(connection, share) is None

    def sweep(self) -> None:
        """Forget agents that have left; once a second."""
        for root, share in [*self._shares.items()]:
            if not share.connections:
                del self._shares[root]
