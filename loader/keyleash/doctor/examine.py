"""Run the checks against a deployment."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis import exceptions as redis_errors

from keyleash.doctor.checks import records, settings, users
from keyleash.doctor.deployment import Deployment, Server
from keyleash.doctor.findings import (
    CODES,
    CheckResult,
    DoctorFinding,
    Severity,
    Skipped,
    finding,
    require_codes,
)
from keyleash.errors import KeyleashError
from keyleash.fence import FenceRecord, read_records
from keyleash.operator.load.compile import prepare_active
from keyleash.results import Result
from keyleash.store.connect import NODE_TIMEOUT_S
from keyleash.store.prefixes import read_seal
from keyleash.store.records import read_active
from keyleash.store.server import Address, ping, read_role
from keyleash.store.server_check import Client, operator_client, require_supported
from keyleash.store.store import Store
from keyleash.text import counted, json_object
from keyleash.watch.sentinels import node_connector
from keyleash.watch.topology import Topology, WatchedNode

Connect = Callable[[Address], Client]
Check = Callable[[Deployment, Server], Iterable[CheckResult]]

SERVER_CHECKS: dict[str, Check] = {
    "version": settings.check_version,
    "payload validation": settings.check_payloads,
    "eviction": settings.check_eviction,
    "memory": settings.check_memory,
    "client limits": settings.check_clients,
    "persistence": settings.check_persistence,
    "default user": users.check_default_user,
    "clock": settings.check_clock,
}
"""Checks of every server, by name."""

EVERYTHING = "everything"
"""The check name of a server on which every check is skipped."""
LOOKS = 3
"""Attempts if a policy is activated during each one."""


@dataclass(frozen=True, slots=True)
class Examination(Result):
    """
    The result of an examination.

    Attributes:
        servers: The servers that were found, with their roles.
        findings: The findings by severity, errors first, without accepted ones.
        skipped: The checks that could not be made.
        accepted: The accepted findings, in the same order.
    """

    servers: tuple[Server, ...]
    findings: tuple[DoctorFinding, ...]
    skipped: tuple[Skipped, ...]
    accepted: tuple[DoctorFinding, ...] = ()

    @property
    def is_healthy(self) -> bool:
        """Return whether all findings are accepted or advice."""
        return all(item.severity is Severity.ADVICE for item in self.findings)

    @property
    def is_blind(self) -> bool:
        """Return whether no server could be examined."""
        unseen = {item.node for item in self.skipped if item.check == EVERYTHING}
        return unseen >= {server.name for server in self.servers}

    @property
    def summary(self) -> str:
        """The numbers of servers, findings and skipped checks, on one line."""
        looked = counted(len(self.servers), "server")
        count = Counter(str(finding.severity) for finding in self.findings)
        numbers = [counted(count[name], name) for name in ("error", "warning") if count[name]]
        # "advice" has no plural.
        numbers += [f"{count['advice']} advice"] if count["advice"] else []
        found = ", ".join(numbers) or "no finding"
        if self.accepted:
            found += f", {len(self.accepted)} accepted"
        if not self.skipped:
            return f"{looked}: {found}"
        return f"{looked}: {found}; {counted(len(self.skipped), 'check')} could not be made"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `keyleash doctor --json` prints it."""
        servers = [
            {"name": server.name, "role": None if server.role is None else str(server.role)}
            for server in self.servers
        ]
        return {"servers": servers, **json_object(self, "findings", "accepted", "skipped")}


def examine(
    connect: Connect, seeds: Sequence[Address], *, accept: Collection[str] = ()
) -> Examination:
    """
    Diagnose a deployment; nothing is changed.

    Args:
        connect: Returns a client for an address.
        seeds: Servers; the first has the control keys, and must answer. Their replicas and
            primaries are found automatically.
        accept: Codes of accepted findings.

    Raises:
        OperationError (unknown-code): *accept* contains an unknown code.
        redis.RedisError: The first server does not answer, or denies this user.
        OperationError (unsupported-server): It is older than the supported versions.
        ClusterError: It is a node of a Redis Cluster.
    """
    require_codes(accept)
    servers = _find_servers(connect, seeds)
    results = dict.fromkeys(_results_of_one_generation(servers))
    findings = sorted(
        (item for item in results if isinstance(item, DoctorFinding)),
        key=lambda item: ([*Severity].index(item.severity), CODES.index(item.code)),
    )
    return Examination(
        servers,
        tuple(item for item in findings if item.code not in accept),
        tuple(item for item in results if isinstance(item, Skipped)),
        tuple(item for item in findings if item.code in accept),
    )


def examine_nodes(
    first: Client,
    nodes: Sequence[Client] = (),
    *,
    accept: Collection[str] = (),
    timeout_s: float = NODE_TIMEOUT_S,
) -> Examination:
    """
    Diagnose the server of a client and some others; see `examine`.

    Args:
        first: A client. URLs without user and password have its ones.
        nodes: Clients or URLs of further servers.
        accept: Codes of accepted findings.
        timeout_s: Time to wait for each reply of the other servers.

    Raises:
        OperationError (bad-url): a URL does not name a server.
        Others as for `examine`.
    """
    first = operator_client(first)
    seeds, connect = node_connector([first, *nodes], first, timeout_s)
    return examine(connect, seeds, accept=accept)


def _find_servers(connect: Connect, seeds: Sequence[Address]) -> tuple[Server, ...]:
    first = connect(seeds[0])
    # Its errors are reported as for every command. A server that denies PING is reachable.
    with suppress(redis_errors.NoPermissionError):
        ping(first)
    require_supported(first)
    topology = Topology(lambda address: WatchedNode(address, connect(address)), seeds, None)
    topology.refresh()
    main = topology.named(seeds[0])
    nodes = sorted(topology.nodes.values(), key=lambda node: node is not main)
    found = tuple(Server(str(item.address), connect(item.address), item.role) for item in nodes)
    topology.close()
    return found


def _results_of_one_generation(servers: tuple[Server, ...]) -> list[CheckResult]:
    """Repeat the checks if a policy is loaded meanwhile, which looks like corrupt records."""
    for _ in range(LOOKS):
        before = _generation(servers[0])
        results = list(_run_checks(servers))
        if _generation(servers[0]) == before:
            break
    return results


def _generation(main: Server) -> int:
    active = read_active(Store(main.client, read_seal(main.client).keyspace))
    return 0 if active is None else active.generation


def _run_checks(servers: tuple[Server, ...]) -> Iterator[CheckResult]:
    main = servers[0]
    seal = read_seal(main.client)
    active = read_active(Store(main.client, seal.keyspace))
    fences: Mapping[str, FenceRecord] = {}
    try:
        fences = read_records(Store(main.client, seal.keyspace))
    except redis_errors.NoPermissionError as error:
        yield Skipped("ACL users", f"the server replies: {error}", main.name)
    deployment = Deployment(servers, seal, active, fences)
    for server in servers:
        if server.role is None:
            yield from _attempt(EVERYTHING, deployment, server, _check_answer)
        else:
            for name, check in SERVER_CHECKS.items():
                yield from _attempt(name, deployment, server, check)
    if seal.change is not None:
        yield records.half_changed(seal.change)
        if seal.change.is_switched:
            yield Skipped("policy, guards, scripts and users", "keys are being moved")
            return
    yield from _attempt("replication", deployment, main, settings.check_replication)
    if active is None:
        yield finding("no-policy")
        return
    for server in deployment.answering:
        yield from _attempt("scripts", deployment, server, records.check_scripts)
    yield from _attempt("tokens", deployment, main, records.check_tokens)
    yield from _attempt("moments", deployment, main, settings.check_moments)
    yield from _attempt("guards and users", deployment, main, _check_compiled)


def _check_compiled(deployment: Deployment, main: Server) -> Iterator[CheckResult]:
    """Run the checks that need the compiled guards of the active policy."""
    active = deployment.active
    assert active is not None  # noqa: S101 - asked for by the caller
    prepared = prepare_active(Store(main.client, deployment.keyspace), active.document)
    yield from records.check_records(deployment, active, prepared)
    if deployment.fences:
        yield from _attempt(
            "ACL users", deployment, main, lambda *_: users.check_fences(deployment, prepared)
        )


def _check_answer(_deployment: Deployment, server: Server) -> Iterator[CheckResult]:
    """Report why a server has no role, as an error of this check."""
    read_role(server.client)
    yield Skipped(EVERYTHING, "it did not answer at first", server.name)


def _attempt(
    name: str, deployment: Deployment, server: Server, check: Check
) -> Iterator[CheckResult]:
    """Run a check; report it as skipped if it cannot be made."""
    try:
        yield from check(deployment, server)
    except redis_errors.AuthenticationError as error:
        yield Skipped(name, str(error), server.name)
    except (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError):
        yield finding("unreachable", server.name)
    except redis_errors.ResponseError as error:
        yield Skipped(name, f"the server replies: {error}", server.name)
    except (KeyleashError, LookupError, ValueError, struct.error) as error:
        reason = error.message if isinstance(error, KeyleashError) else type(error).__name__
        yield finding("unreadable", server.name, reason=reason)
