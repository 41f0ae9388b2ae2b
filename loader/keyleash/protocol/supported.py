"""The servers that keyleash supports: Redis and Valkey from version 8, without cluster mode."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from keyleash.errors import ClusterError, UnsupportedServerError
from keyleash.protocol.active import Client

OLDEST = 8
"""The first supported major version, of Redis and of Valkey."""

_HELP = f"use Redis {OLDEST} or later, or Valkey {OLDEST} or later"
_MAJOR = re.compile(r"(\d{1,9})(\.|$)")


def release_of(info: Mapping[str, Any]) -> tuple[str, str]:
    """
    Return product and version by the `server` section of INFO.

    A Valkey also reports the version of the Redis that it is compatible with. What reports
    neither version has an empty one.
    """
    if "valkey_version" in info:
        return "valkey", str(info["valkey_version"])
    return "redis", str(info.get("redis_version", ""))


def require_supported(client: Client) -> None:
    """
    Check product, version and mode of a server with one command, before anything else is sent.

    A server that does not let this user run INFO passes: what is sent next reports it.

    Raises:
        UnsupportedServerError: The server is older than the supported versions, reports no
            version, or is a Sentinel.
        ClusterError: It is a node of a Redis Cluster.
    """
    try:
        info = client.info("server")
    except ResponseError:
        return
    product, version = release_of(info)
    modes = info.get("redis_mode"), info.get("server_mode")
    if "cluster" in modes:
        raise ClusterError
    if "sentinel" in modes:
        raise UnsupportedServerError(
            "the server is a Sentinel, which has no data and runs no guards",
            help="use the URL of the primary; `keyleash watch --sentinel` takes that of a Sentinel",
        )
    major = _MAJOR.match(version)
    if major is None:
        raise UnsupportedServerError(
            "the server reports no version of Redis or Valkey that can be read", help=_HELP
        )
    if int(major[1]) < OLDEST:
        raise UnsupportedServerError(
            f"the server is {product.capitalize()} {version}, which keyleash does not support",
            help=_HELP,
        )
