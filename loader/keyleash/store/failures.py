"""The errors of servers and of connections, in words."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from redis import exceptions as redis_errors

from keyleash.commands import load_table
from keyleash.errors import ClusterError, OperationError
from keyleash.errors.operations import FAILED, NOT_PERMITTED, UNREACHABLE
from keyleash.policy.problems import listing
from keyleash.store import scripts
from keyleash.store.keyspace import script_digest
from keyleash.store.live_table import reply_text
from keyleash.store.scripts import OperatorScript
from keyleash.store.server_check import IN_SCRIPT
from keyleash.store.wire import declared_keys, is_down, is_of_a_cluster, reason_of, server_message
from keyleash.text import printable

_NO_DATABASE = ("DB index is out of range", "SELECT is not allowed in cluster mode")


@dataclass(frozen=True, slots=True)
class ServerFailure:
    """The meaning of a server's error.

    Attributes:
        code: Its stable, machine-readable kind.
        exit_code: The exit code of the CLI.
        message: A sentence without secrets.
        help: What to do, or None.
    """

    code: str
    exit_code: int
    message: str
    help: str | None = None


_HANDSHAKE = re.compile("SSL|TLS|EOF|reset by peer", re.IGNORECASE)
_CONNECTING = re.compile(r"\A(Error \S+ (while )?connecting to|Timeout connecting)")


def is_unanswered(error: Exception) -> bool:
    """Return whether a request may have been sent, but no reply received."""
    is_lost = type(error) in (redis_errors.ConnectionError, redis_errors.TimeoutError)
    return is_lost and not _CONNECTING.search(server_message(error))


def printable_reason(error: Exception) -> str:
    """Return the reason of a lost connection, printable."""
    return printable(reason_of(error))


def hint_of(error: Exception, url: str) -> str:
    """Return what to check if *url*, as it is shown, could not be reached."""
    message = server_message(error)
    if url.startswith("rediss:") and (_HANDSHAKE.search(message) or not is_unanswered(error)):
        if "certificate" in message.lower():
            return "the URL's `ssl_ca_certs` names the file of the authority that signed it"
        return "check the scheme of the URL: without TLS it is `redis://`"
    if url.startswith("redis:") and is_unanswered(error):
        if isinstance(error, redis_errors.TimeoutError):
            return (
                "the server may be stopped or busy (`timeout=SECONDS` waits longer),"
                " or expect TLS (`rediss://`)"
            )
        return "check the scheme of the URL: with TLS it is `rediss://`"
    return "check --url or KEYLEASH_URL; `keyleash serve` starts a development server"


# Before all others: the error of a loading server is a ConnectionError.
_BY_CLASS = {
    redis_errors.BusyLoadingError: ServerFailure(
        "server-loading", UNREACHABLE, "the server is still loading its data", "try again"
    ),
    redis_errors.ReadOnlyError: ServerFailure(
        "read-only", FAILED, "the server is a replica", "use its primary"
    ),
    redis_errors.OutOfMemoryError: ServerFailure(
        "out-of-memory", FAILED, "the server is out of memory", "raise its `maxmemory`"
    ),
    redis_errors.MasterDownError: ServerFailure(
        "primary-down",
        UNREACHABLE,
        "the server is a replica that has lost its primary, and does not serve reads",
        "use the primary, or let the replica serve: `replica-serve-stale-data yes`",
    ),
}
_BY_PREFIX = {
    "NOREPLICAS": ServerFailure(
        "too-few-replicas",
        FAILED,
        "the server has fewer replicas than it requires for a write",
        "start the replicas, or lower `min-replicas-to-write` of the server",
    ),
    "MISCONF": ServerFailure(
        "cannot-persist",
        FAILED,
        "the server denies writes, because it could not write to its disk",
        "free disk space; see `INFO persistence` and the server's log",
    ),
}


def server_failure(error: redis_errors.RedisError, server: str) -> ServerFailure:
    """Return what the error of a server, or of the connection to it, means.

    Args:
        server: The server's URL or address without secrets.
    """
    message = printable(server_message(error)).rstrip(".")
    for cls, failure in _BY_CLASS.items():
        if isinstance(error, cls):
            return failure
    for prefix, failure in _BY_PREFIX.items():
        if message.startswith(prefix):
            return failure
    match error:
        case (
            redis_errors.AuthenticationError()
            | redis_errors.AuthenticationWrongNumberOfArgsError()
            | redis_errors.AuthorizationError()
        ):
            return ServerFailure(
                "not-authenticated",
                NOT_PERMITTED,
                _authentication_message(message),
                "set KEYLEASH_URL to redis://USER:PASSWORD@HOST:PORT/DB",
            )
        case redis_errors.ConnectionError() | redis_errors.TimeoutError():
            verb = "read from" if is_unanswered(error) else "reach"
            return ServerFailure(
                "server-unreachable",
                UNREACHABLE,
                f"cannot {verb} `{server}`: {printable_reason(error)}",
                hint_of(error, server),
            )
        case redis_errors.InvalidResponse():
            return ServerFailure(
                "no-redis",
                UNREACHABLE,
                f"the server at `{server}` is not Redis",
                "check --url, and its scheme",
            )
    if is_of_a_cluster(error):
        cluster = ClusterError()
        return ServerFailure(cluster.code, cluster.exit_code, cluster.message, cluster.help)
    if isinstance(error, redis_errors.NoPermissionError) or IN_SCRIPT in message:
        right = missing_right(error)
        lack = f", which lacks {right}" if right else f": {message}"
        return ServerFailure(
            "not-permitted",
            NOT_PERMITTED,
            f"the server does not permit this to the user of the URL{lack}",
            "use a user with that right; `ACL LOG` on the server shows what was denied",
        )
    if message.startswith(_NO_DATABASE):
        help_ = "the URL names this database; a cluster has only database 0"
        return ServerFailure("no-database", UNREACHABLE, f"the server replied: {message}", help_)
    return ServerFailure("server-error", FAILED, f"the server replied: {message}")


def cluster_failure(
    error: redis_errors.RedisError, server: str = "", dead: Collection[str] = ()
) -> OperationError:
    """Return the error of an operation whose slot a node does not serve, or not wholly.

    Args:
        server: The URL or address of a node without secrets.
        dead: The names of nodes that do not answer.
    """
    if is_down(error):
        cluster = f"the cluster of `{server}`" if server else "the cluster"
        reason = printable(server_message(error))
        help_ = "see `CLUSTER INFO` and `CLUSTER NODES`"
        if dead:
            reason = f"no answer from {listing(dead)}"
            help_ = "start the node, or let a replica take over; " + help_
        return OperationError("cluster-down", f"{cluster} serves no keys: {reason}", help=help_)
    if isinstance(error, redis_errors.ClusterCrossSlotError):
        # No move of a slot causes this.
        return OperationError("server-error", f"the server replied: {printable(str(error))}")
    return OperationError(
        "slot-moving",
        "a slot with control keys is being moved to another node of the cluster, and the operation"
        " may be incomplete",
        help="run it again; if it fails again, wait until the slot has moved",
    )


def _authentication_message(message: str) -> str:
    if "without any password configured" in message:
        return "the URL has a password, but the server's default user has none"
    if "uthentication required" in message:
        return "the server requires a user and a password, and the URL has none"
    return f"the server does not accept the user and password of the URL: {message}"


_COMMAND = re.compile("permissions to run the '([^']*)' command")
MOST_NAMED = 3
"""Keys in a message at most, except those of a script."""


def missing_right(error: Exception) -> str:
    """Return the right that a server denied: a command, or a command on keys.

    Servers do not name the key, so all keys of the call are named.

    Returns:
        Text with names in backticks; empty if the error names none.
    """
    message, call = str(error), getattr(error, "call", ())
    name, *words = [reply_text(word) for word in call] or [""]
    script = _script_of(name, words)
    if command := _COMMAND.search(message):
        where = f" in the script `{script.name}`" if script and IN_SCRIPT in message else ""
        return f"the command `{printable(command[1])}`{where}"
    if IN_SCRIPT in message:
        if script is None:
            return ""
        return f"a key of the script `{script.name}`: one of {listing(_used_by(script, words))}"
    # An error of a login has no call.
    keys = _keys_of(name, words) if name else []
    shown = listing(keys, MOST_NAMED)
    return f"`{name}` on {'one of ' if len(keys) > 1 else ''}{shown}" if keys else ""


def _script_of(name: str, words: Sequence[str]) -> OperatorScript | None:
    """Return the operators' script that a call runs."""
    for item in vars(scripts).values():
        if isinstance(item, OperatorScript) and (
            (name == "EVAL" and words[0] == item.text)
            or (name == "EVALSHA" and words[0] == script_digest(item.text))
        ):
            return item
    return None


def _used_by(script: OperatorScript, words: Sequence[str]) -> list[str]:
    """Return the keys of a call of a script, and patterns of further keys that it uses."""
    prefixes = words[2 + int(words[1]) :][: len(script.prefixes)]
    return _keys_of("EVAL", words) + [f"{printable(prefix)}*" for prefix in prefixes]


def _keys_of(name: str, words: Sequence[str]) -> list[str]:
    if name in ("EVAL", "EVALSHA"):
        keys: Sequence[Any] = words[2 : 2 + int(words[1])]
    else:
        keys = declared_keys(load_table(), [*name.split(), *words])
    return [printable(reply_text(key)) for key in keys]
