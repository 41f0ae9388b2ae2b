"""What the server's control stream says of an archive: beyond the reach of who can write to it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from keyleash.audit.control import read_control
from keyleash.audit.export.archive import Mark
from keyleash.audit.export.verify import Recorded
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client


def recorded_by_server(client: Client, keyspace: Keyspace) -> Recorded:
    """For `verify_archive`: how far the trails of an archive were at each recorded export."""
    client = operator_client(client)

    def recorded(archive: str) -> Iterator[tuple[str, Mark]]:
        for event in read_control(client, keyspace):
            if event.event == "export" and event.details.get("archive") == archive:
                for trail, said in json.loads(event.details["trails"]).items():
                    yield trail, Mark(files=said["files"], last=said["to"], chain=said["chain"])

    return recorded
