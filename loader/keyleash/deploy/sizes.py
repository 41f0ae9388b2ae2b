"""How large the keys of a server are, for a decision about a call that is not made."""

from __future__ import annotations

from collections.abc import Sequence

from redis.exceptions import ResponseError

from keyleash.commands import CommandSpec
from keyleash.compiler.sizes import estimate_script
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace


class ServerSizes:
    """The keys of one server; implements `decision.state.Sizes`.

    Attributes:
        keyspace: Where keyleash's keys are; on a sealed server, what stands before all others.
    """

    def __init__(self, client: Client, keyspace: Keyspace) -> None:
        self._client = client
        self._vault = keyspace.vault.encode()
        self._script = estimate_script()

    def length(self, key: bytes) -> int:
        """Return the length of a string in bytes; 0 for a key of another type."""
        try:
            return int(self._client.strlen(self._vault + key))
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return 0
            raise

    def work(
        self, spec: CommandSpec, argv: Sequence[bytes], keys: Sequence[bytes], left: float
    ) -> float:
        """Return the units of work of a call, as the guard estimates it."""
        named = [self._vault + key for key in keys]
        said = self._client.eval(self._script, len(named), *named, left, spec.name, *argv)
        return float(said)
