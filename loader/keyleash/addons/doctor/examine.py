"""Run the checks against a deployment."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis import exceptions as redis_errors

from keyleash.addons.doctor.checks import clusters, records, settings, users
from keyleash.addons.doctor.context import Context
from keyleash.addons.doctor.findings import (
    CODES,
    CheckResult,
    DoctorFinding,
    Severity,
    Skipped,
    finding,
    require_codes,
)
from keyleash.errors import KeyleashError
from keyleash.operator.load.compile import prepare_active
from keyleash.results import Result
from keyleash.store.connect import NODE_TIMEOUT_S
from keyleash.store.deployment import Cluster, Deployment, Replication, Server, each_at_once
from keyleash.store.keyspace import HOME_TAG, Keyspace
from keyleash.store.records import read_active
from keyleash.store.server import ping
from keyleash.store.server_check import Client, operator_client, require_supported
from keyleash.store.store import Store
from keyleash.store.wire import is_down, is_of_a_cluster
from keyleash.text import counted, json_object

Check = Callable[[Context, Server], Iterable[CheckResult]]

SERVER_CHECKS: dict[str, Check] = {
    "payload validation": settings.check_payloads,
    "eviction": settings.check_eviction,
    "memory": settings.check_memory,
    "client limits": settings.check_clients,
    "persistence": settings.check_persistence,
    "default user": users.check_default_user,
    "commands": users.check_commands,
    "clock": settings.check_clock,
}
"""Checks of every server, by name."""

NODE_CHECKS: dict[str, Check] = {
    "slots": clusters.check_slots,
    "keys of scripts": clusters.check_scripts_of_slots,
}
"""Further checks of every node of a cluster, by name."""

EVERYTHING = "everything"
"""The check name of a server on which every check is skipped."""
LOOKS = 3
"""Attempts if a policy is activated during each one."""


@dataclass(frozen=True, slots=True)
class Examination(Result):
    """The result of an examination.

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
        return {item.severity for item in self.findings} <= {Severity.ADVICE}

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
        servers = [
            {"name": server.name, "role": None if server.role is None else str(server.role)}
            for server in self.servers
        ]
        return {"servers": servers, **json_object(self, "findings", "accepted", "skipped")}


def examine(
    first: Client,
    nodes: Sequence[Client] = (),
    *,
    accept: Collection[str] = (),
    timeout_s: float = NODE_TIMEOUT_S,
) -> Examination:
    """Diagnose a deployment; `Operator.doctor` documents the arguments.

    *first* is a client of the server with the control keys, which must answer, or of any node of a
    cluster.
    """
    require_codes(accept)
    deployment, servers = _find_servers(operator_client(first), nodes, timeout_s)
    cluster = deployment if isinstance(deployment, Cluster) else None
    results = dict.fromkeys(_results_of_one_generation(servers, cluster))
    deployment.close()
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


def _find_servers(
    first: Client, nodes: Sequence[Client], timeout_s: float
) -> tuple[Deployment, tuple[Server, ...]]:
    """Return a deployment, and its servers, the one with the control keys first."""
    replication = Replication([first, *nodes], timeout_s)
    main, *_ = replication.seeds.values()
    # A server that denies PING, to this user or since a snapshot failed, is reachable.
    with suppress(redis_errors.ResponseError):
        ping(main.client)
    if not require_supported(main.client, cluster=True):
        replication.look()
        servers = sorted(replication.servers, key=lambda server: server is not main)
        return replication, tuple(servers)
    cluster = Cluster(main.quick)
    cluster.read()
    # The node that serves the home is required, as the first server is elsewhere.
    cluster.home().ping()
    home = cluster.find(HOME_TAG)
    servers = [node.server for node in sorted(cluster.nodes, key=lambda node: node != home)]
    each_at_once(Server.look, servers)
    return cluster, tuple(servers)


def _results_of_one_generation(
    servers: tuple[Server, ...], nodes: Cluster | None
) -> list[CheckResult]:
    """Repeat the checks if a policy is loaded meanwhile, which looks like corrupt records."""
    keys = Keyspace("" if nodes is None else HOME_TAG)
    try:
        if nodes is not None:
            Store(servers[0].client, keys).ask_home()
    except redis_errors.ResponseError as error:
        if not is_of_a_cluster(error):
            raise
        # Keys that are not there are not distinct from those that have moved.
        context = Context(servers, keys, None, nodes)
        reason = "the cluster is down" if is_down(error) else "the slot of the home is moving"
        skipped = Skipped("policy, guards, scripts and users", reason)
        return [*_check_servers(context), skipped]
    for _ in range(LOOKS):
        before = _generation(servers[0], keys)
        results = list(_run_checks(servers, nodes, keys))
        if _generation(servers[0], keys) == before:
            break
    return results


def _generation(main: Server, keys: Keyspace) -> int:
    active = read_active(Store(main.client, keys))
    return 0 if active is None else active.generation


def _run_checks(
    servers: tuple[Server, ...], nodes: Cluster | None, keys: Keyspace
) -> Iterator[CheckResult]:
    main = servers[0]
    active = read_active(Store(main.client, keys))
    context = Context(servers, keys, active, nodes)
    yield from _check_servers(context)
    yield from _attempt("replication", context, main, settings.check_replication)
    yield from _attempt("users of agents", context, main, users.check_fences)
    if active is None:
        yield finding("no-policy")
        return
    for server in context.answering:
        yield from _attempt("scripts", context, server, records.check_scripts)
    yield from _attempt("guards and users", context, main, _check_compiled)


def _check_servers(context: Context) -> Iterator[CheckResult]:
    checks = SERVER_CHECKS if context.cluster is None else SERVER_CHECKS | NODE_CHECKS
    for server in context.servers:
        if server.role is None:
            yield from _attempt(EVERYTHING, context, server, _raise_error)
        else:
            for name, check in checks.items():
                yield from _attempt(name, context, server, check)


def _check_compiled(context: Context, main: Server) -> Iterator[CheckResult]:
    """Run the checks that need the compiled guards of the active policy."""
    active = context.active
    assert active is not None  # noqa: S101 - asked for by the caller
    prepared = prepare_active(context.store_of(main), active.document)
    yield from records.check_records(context, prepared)


def _raise_error(_context: Context, server: Server) -> Iterator[CheckResult]:
    """Raise the reason why a server has no role."""
    assert server.error is not None  # noqa: S101 - it did not answer
    raise server.error


def _attempt(name: str, context: Context, server: Server, check: Check) -> Iterator[CheckResult]:
    """Run a check; report it as skipped if it cannot be made."""
    try:
        yield from check(context, server)
    except redis_errors.AuthenticationError as error:
        yield Skipped(name, str(error), server.name)
    except (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError):
        yield finding("unreachable", server.name)
    except redis_errors.ResponseError as error:
        yield Skipped(name, f"the server replies: {error}", server.name)
    except (KeyleashError, LookupError, ValueError, struct.error) as error:
        reason = error.message if isinstance(error, KeyleashError) else type(error).__name__
        yield finding("unreadable", server.name, reason=reason)
