"""Where a server listens."""

from __future__ import annotations

from typing import NamedTuple


class Address(NamedTuple):
    """A host and its port; a path and 0 for a socket in the file system."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else self.host
