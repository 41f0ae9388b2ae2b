"""What the global options say, as every command receives it."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import click
from redis import exceptions as redis_errors

from keyleash.cli import server
from keyleash.cli.errors import UnansweredError, UsageError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.sealed import server_keyspace

MAX_ACTOR_BYTES = 256
"""Each change is recorded with it, and each listing shows it."""


@dataclass
class Settings:
    """One run of the program.

    Attributes:
        url: The server's, as given; it may hold a password, so only `shown_url` is printed.
        timeout_s: How long the server is waited for; None if nothing was given.
        json: Whether to print one JSON document in place of text.
        failed: The exit code of what fails for no reason that has a code of its own.
    """

    url: str = server.DEFAULT_URL
    given_actor: str | None = None
    timeout_s: float | None = None
    json: bool = False
    failed: int = 1

    @property
    def shown_url(self) -> str:
        """The server's URL without the password."""
        return server.shown_url(self.url)

    @property
    def actor(self) -> str:
        """Who is to be recorded.

        Raises:
            UsageError: what was given is no name.
        """
        if self.given_actor:
            _require_name(self.given_actor)
            return self.given_actor
        try:
            return getpass.getuser()
        except (OSError, KeyError):
            # A container's user need not have a name.
            return f"uid-{os.getuid()}"

    @contextmanager
    def changing(self, advice: str) -> Iterator[None]:
        """
        Wrap a change: if its reply does not come, report that it may have taken effect.

        Args:
            advice: How to find out whether it has.

        Raises:
            UnansweredError: The connection was lost, or the time was up.
        """
        try:
            yield
        except (redis_errors.ConnectionError, redis_errors.TimeoutError) as error:
            if not server.is_unanswered(error):
                raise
            raise UnansweredError(
                "the server did not answer, and the change may or may not have taken effect:"
                f" {server.reason_of(error)}",
                help=f"{advice}; `--timeout` waits longer",
            ) from error

    @cached_property
    def client(self) -> Client:
        """
        The operator's client, of a server that is one of those that keyleash supports.

        Raises:
            UnsupportedServerError: The server is too old.
            ClusterError: It is a node of a Redis Cluster.
            redis.RedisError: It does not answer.
        """
        from keyleash.protocol.supported import require_supported

        client = server.operator_client(self.url, self.timeout_s)
        require_supported(client)
        return client

    @cached_property
    def keyspace(self) -> Keyspace:
        """Where the server's record says that control keys and data are."""
        return server_keyspace(self.client)


def _require_name(actor: str) -> None:
    if not actor.strip():
        raise UsageError("the actor is blank", help="say who you are, for the record of changes")
    size = len(actor.encode("utf-8", "surrogateescape"))
    if size > MAX_ACTOR_BYTES:
        raise UsageError(f"an actor has at most {MAX_ACTOR_BYTES} bytes, this one {size}")


pass_settings = click.make_pass_decorator(Settings)
