"""Options of commands that listen: the address, and TLS beyond loopback."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import resource
import socket
from typing import Any

import click

from keyleash.errors import OperationError, UsageError

MAX_FILES = 12_288


class Address(click.ParamType[Any]):
    """HOST:PORT, or [HOST]:PORT for IPv6."""

    name = "address"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the host and the port."""
        host, separator, port = value.rpartition(":")
        if not (separator and port.isdigit() and int(port) < 65536):
            self.fail(f"`{value}` is no HOST:PORT", param, ctx)
        return host.strip("[]"), int(port)


def require_tls(host: str, tls_cert: str | None, insecure: bool) -> None:
    """Require TLS beyond loopback, unless *insecure*."""
    if not (tls_cert or insecure or is_loopback(host)):
        raise UsageError(
            f"tokens would travel in clear to `{host}`",
            help="pass `--tls-cert` and `--tls-key`, or `--insecure` where the network is private",
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shown_address(host: str, port: int) -> str:
    """Return an address as a URL has it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listener(host: str, port: int, option: str) -> socket.socket:
    """Return a socket that listens."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise OperationError(
            "port-in-use",
            f"cannot listen on {shown_address(host, port)}: {reason.lower()}",
            help=f"choose another with `{option}`",
        ) from None


def allow_files() -> None:
    """Let this process open as many files as its hard limit allows, up to `MAX_FILES`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # No more, since each TLS handshake takes memory before it is a connection.
    files = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, files), hard))
