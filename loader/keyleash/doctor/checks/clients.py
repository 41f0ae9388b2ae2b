"""Whether the memory that connections take is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from redis.exceptions import ResponseError

from keyleash.commands.work import DEFAULT_VALUE_BYTES
from keyleash.doctor.finding import Finding, Said, Severity, Skipped
from keyleash.doctor.patient import Deployment, Server
from keyleash.policy import Policy

OUTPUT = "unbounded-output-buffers"
TOTAL = "unbounded-client-memory"
BULK = "large-bulk-length"
MIB = 1 << 20

_OUTPUT, _TOTAL, _BULK = "client-output-buffer-limit", "maxmemory-clients", "proto-max-bulk-len"


def check_clients(deployment: Deployment, server: Server) -> Iterator[Said]:
    """Read the limits of one connection, of all connections and of one argument."""
    try:
        settings: Mapping[str, str] = server.client.config_get(_OUTPUT, _TOTAL, _BULK)
    except ResponseError as error:
        reason = f"the server's settings cannot be read: {error}"
        yield Skipped("client limits", reason, server.name)
        return
    has_maxmemory = bool(int(server.client.info("memory").get("maxmemory", 0)))
    is_output_open = _is_output_open(settings.get(_OUTPUT, ""))
    total = settings.get(_TOTAL, "0")
    # A percentage is one of `maxmemory`.
    is_total_open = total.rstrip("%") == "0" or (total.endswith("%") and not has_maxmemory)
    severity = Severity.WARNING if is_output_open and is_total_open else Severity.ADVICE
    if is_output_open:
        yield Finding(
            OUTPUT,
            severity,
            f"`{_OUTPUT}` has no bound for normal clients: replies that an agent does not read stay"
            " in memory",
            f"set `{_OUTPUT} normal 256mb 64mb 60` in redis.conf, or by `CONFIG SET {_OUTPUT}"
            ' "normal 256mb 64mb 60"`; the first size must exceed the largest reply',
            server.name,
        )
    if is_total_open:
        without = " without a `maxmemory`" if total.endswith("%") else ""
        yield Finding(
            TOTAL,
            severity,
            f"with `{_TOTAL} {total}`{without} the buffers of all connections together have no"
            " bound",
            f"set `{_TOTAL}` to a size such as `512mb`, or to a percentage of `maxmemory`; over it,"
            " the server closes the connections that use most",
            server.name,
        )
    bulk_mib = int(settings.get(_BULK, 0)) // MIB
    needed_mib = -(-_longest_value(deployment.policy) // MIB)
    if bulk_mib > needed_mib:
        yield Finding(
            BULK,
            Severity.ADVICE,
            f"`{_BULK}` allows arguments of {bulk_mib} MiB, and guards allow strings of"
            f" {needed_mib} MiB",
            f"set `{_BULK} {needed_mib}mb`, or what the values of other clients need",
            server.name,
        )


def _longest_value(policy: Policy | None) -> int:
    """Return how many bytes the guards of a policy let a call give a string."""
    identities = () if policy is None else policy.identities
    bounds = (grant.value_bytes for one in identities for grant in one.grants)
    return max((DEFAULT_VALUE_BYTES, *(bound for bound in bounds if bound is not None)))


def _is_output_open(limits: str) -> bool:
    """Return whether the class `normal` of `client-output-buffer-limit` has neither limit."""
    words = limits.split()
    classes = dict(zip(words[::4], zip(words[1::4], words[2::4], strict=True), strict=True))
    return classes.get("normal") == ("0", "0")
