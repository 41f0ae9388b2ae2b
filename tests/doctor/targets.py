"""A server on which tests cause problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis

from keyleash.addons.doctor.checks.settings import LAZY
from keyleash.addons.servers import EmbeddedServer
from keyleash.store.keyspace import Keyspace
from support.command_line import Cli

NAMES = Keyspace()
OPS = "ops"
BOUNDS = {
    "client-output-buffer-limit": "normal 256mb 64mb 60",
    "maxmemory-clients": "128mb",
    "proto-max-bulk-len": "16mb",
    **dict.fromkeys(LAZY, "yes"),
}
"""The values that docs/how-to/operate.md recommends."""
POLICY = """\
version: 1
identities:
  one:
    kind: machine
    grants: [{allow: [read, write], keys: ["a:{id}"]}]
    rate: {writes: 100/minute}
    budget: {requests: 1000/day}
  two:
    kind: machine
    grants: [{allow: [read], keys: ["b:*"]}]
    rate: {requests: {limit: 100/minute, burst: 10}}
"""


class DoctorTarget:
    """A server with an append-only file, limits and no open user; its operator; the command."""

    def __init__(self, server: EmbeddedServer, folder: Path) -> None:
        self.server = server
        self.url = f"redis://{OPS}:{OPS}@127.0.0.1:{server.port}"
        self.node = f"127.0.0.1:{server.port}"
        self.cli = Cli(self.url)
        self._folder = folder
        with redis.Redis.from_url(server.url) as first:
            first.execute_command("ACL", "SETUSER", OPS, "on", f">{OPS}", "~*", "&*", "+@all")
            first.execute_command("ACL", "SETUSER", "default", "off")
        self.admin: Any = redis.Redis.from_url(self.url)
        for name, value in BOUNDS.items():
            self.admin.config_set(name, value)

    def with_policy(self, text: str, *options: str) -> DoctorTarget:
        file = self._folder / "policy.yaml"
        file.write_text(text)
        self.cli.ok("load", file, "--yes", *options)
        return self

    def found(self, *options: str, exit_code: int = 1) -> list[dict[str, Any]]:
        """Return the findings; with exit code 0, only accepted ones and advice."""
        document = self.cli.json("doctor", *options, exit_code=exit_code)
        findings: list[dict[str, Any]] = document["findings"]
        return findings

    def codes(self, *options: str) -> list[str]:
        return [item["code"] for item in self.found(*options)]
