"""A hop that passes bytes on and does nothing else: `python -m benchmarks.support.hop PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop


class Side(asyncio.Protocol):
    """One side of a connection."""

    def __init__(self, other: Side | None = None) -> None:
        self.other = other
        self.early = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin; the side of a client opens the other."""
        self.transport = transport
        if self.other is None:
            self.task = asyncio.get_running_loop().create_task(self.open())

    async def open(self) -> None:
        """Connect to the server."""
        loop = asyncio.get_running_loop()
        _, other = await loop.create_connection(lambda: Side(self), "127.0.0.1", int(sys.argv[1]))
        self.other = other
        other.transport.write(self.early)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        if self.other is None:
            self.early += data
        else:
            self.other.transport.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        """Close the other side."""
        if self.other is not None:
            self.other.transport.close()


async def main() -> None:
    """Listen on a free port, and print it."""
    server = await asyncio.get_running_loop().create_server(Side, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
