"""Names of identities as arguments: a shell completes them from the server."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType
from redis import exceptions as redis_errors

from keyleash.errors import KeyleashError
from keyleash.protocol.sealed import server_keyspace


class IdentityName(StringParamType):
    """Any text. Whether there is such an identity, each command finds out for itself."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """
        The identities that the server knows and that begin like that.

        Whoever presses Tab has nowhere to read an error: without a server there are none.
        """
        from keyleash.cli.server import node_client
        from keyleash.cli.standing import known_identities

        url = str(ctx.find_root().params.get("url") or "")
        try:
            client = node_client(url, url)
            names = known_identities(client, server_keyspace(client))
        except (redis_errors.RedisError, OSError, KeyleashError):
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


IDENTITY = IdentityName()
