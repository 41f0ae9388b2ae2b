"""Which servers there are, by what they and the Sentinels say of each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from keyleash.deploy.watch.address import Address
from keyleash.deploy.watch.node import Node
from keyleash.deploy.watch.sentinels import Sentinels

FORGOTTEN_AFTER_LOOKS = 600
"""A primary does not name a replica that has crashed, and somebody should hear of that one."""


class Topology:
    """
    The servers of a deployment.

    A server that is down stays for as long as somebody names it, and for a while longer; seeds
    stay for ever.

    Attributes:
        nodes: By address, each server once.
    """

    def __init__(
        self,
        make: Callable[[Address], Node],
        seeds: Sequence[Address],
        sentinels: Sentinels | None,
    ) -> None:
        self.nodes: dict[Address, Node] = {}
        self._make = make
        self._seeds = tuple(seeds)
        self._sentinels = sentinels
        self._asked: dict[Address, Node] = {}
        self._first: dict[Address, Address] = {}

    def survey(self) -> None:
        """Ask every server that can be found who it is, and whom it knows."""
        named = [*self._seeds, *(self._sentinels.addresses() if self._sentinels else ())]
        # Who did not answer the last time may hold this up again, so it comes last.
        known = [*named, *self._asked]
        waiting = deque(sorted(known, key=self._was_silent))
        listed, asked = set(named), dict[Address, Node]()
        while waiting:
            address = waiting.popleft()
            if address not in asked:
                node = asked[address] = self._asked.get(address) or self._make(address)
                if role := node.ask():
                    listed.update(role.neighbours)
                    waiting += role.neighbours
        silent = {one for one, node in asked.items() if node.silences > FORGOTTEN_AFTER_LOOKS}
        gone = silent - listed
        for address in gone:
            asked.pop(address).close()
        self._asked = asked
        self._name_once()

    def named(self, address: Address) -> Node | None:
        """The server that is known by this address, perhaps by another one besides."""
        return self.nodes.get(self._first.get(address, address))

    def close(self) -> None:
        for node in self._asked.values():
            node.close()

    def _was_silent(self, address: Address) -> bool:
        node = self._asked.get(address)
        return node is not None and node.role is None

    def _name_once(self) -> None:
        """Of several addresses of one server, take that of a seed, or else the first."""
        by_run: dict[str, Address] = {}
        for address in sorted(self._asked, key=lambda one: one not in self._seeds):
            run = self._asked[address].run or str(address)
            self._first[address] = by_run.setdefault(run, address)
        self.nodes = {one: node for one, node in self._asked.items() if self._first[one] == one}
