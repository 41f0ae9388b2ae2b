"""Run the checks against a deployment."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from redis import exceptions as redis_errors

from keyleash.doctor.checks import records, settings, users
from keyleash.doctor.deployment import Deployment, Server
from keyleash.doctor.findings import CheckResult, DoctorFinding, Severity, Skipped
from keyleash.errors import KeyleashError, OperationError
from keyleash.fence import FenceRecord, read_records
from keyleash.operator.load.checks import RESTORE_CODE
from keyleash.operator.load.compile import prepare_active
from keyleash.policy.problems import listing, quote
from keyleash.store.prefixes import read_seal
from keyleash.store.records import Client, read_active
from keyleash.store.server_check import require_supported
from keyleash.watch.roles import Address, read_role
from keyleash.watch.topology import Topology, WatchedNode

UNREADABLE = "unreadable"


CODES = (
    settings.UNREACHABLE,
    settings.VERSION,
    RESTORE_CODE,
    settings.EVICTION,
    settings.FULL,
    settings.OUTPUT,
    settings.TOTAL,
    settings.BULK,
    settings.NONE,
    settings.SNAPSHOTS,
    settings.NO_FSYNC,
    settings.FAILING,
    users.DEFAULT_USER,
    records.HALF_CHANGED,
    records.NO_POLICY,
    records.DIGEST,
    records.NO_RECORD,
    records.OTHER_GUARD,
    records.STRAY,
    records.NO_STATE,
    records.STALE,
    records.NOT_LOADED,
    records.NO_TEXT,
    records.OTHER_TEXT,
    records.OTHER_FUNCTION,
    users.DRIFT,
    users.FOREIGN,
    users.UNFENCED,
    settings.DIFFERS,
    settings.AHEAD,
    settings.SEVERAL,
    settings.LINK,
    settings.LAGGING,
    settings.TOO_FEW,
    settings.BEHIND,
    UNREADABLE,
)


def require_codes(names: Iterable[str], file: str | None = None) -> None:
    """
    Check that every name is a code.

    Args:
        names: The names.
        file: The configuration file with the names, or None.

    Raises:
        OperationError (unknown-code): A name is not a code.
    """
    for name in names:
        if name not in CODES:
            where = f"in the configuration file {quote(file)}: " if file else ""
            raise OperationError(
                "unknown-code",
                f"{where}no doctor finding has the code {quote(name)}",
                help=f"the codes are {listing(CODES)}",
            )


EVERYTHING = "everything"
"""The check name of a server on which every check is skipped."""
Connect = Callable[[Address], Client]
LOOKS = 3
"""Attempts if a policy is activated during each one."""


@dataclass(frozen=True, slots=True)
class Examination:
    """
    The result of an examination.

    Attributes:
        servers: The servers that were found, with their roles.
        findings: The findings in the order of `CODES`, without accepted ones.
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
        return all(finding.severity is Severity.ADVICE for finding in self.findings)

    @property
    def is_blind(self) -> bool:
        """Return whether no server could be examined."""
        unseen = {item.node for item in self.skipped if item.check == EVERYTHING}
        return unseen >= {server.name for server in self.servers}


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
    results = _settled(servers)
    order = {code: place for place, code in enumerate(CODES)}
    findings = sorted(
        dict.fromkeys(item for item in results if isinstance(item, DoctorFinding)),
        key=lambda item: order[item.code],
    )
    skipped = dict.fromkeys(item for item in results if isinstance(item, Skipped))
    return Examination(
        servers,
        tuple(finding for finding in findings if finding.code not in accept),
        tuple(skipped),
        tuple(finding for finding in findings if finding.code in accept),
    )


def _find_servers(connect: Connect, seeds: Sequence[Address]) -> tuple[Server, ...]:
    first = Server(str(seeds[0]), connect(seeds[0]))
    # Its errors are reported as for every command. A server that denies PING is reachable.
    with suppress(redis_errors.NoPermissionError):
        first.client.ping()
    require_supported(first.client)
    topology = Topology(lambda address: WatchedNode(address, connect(address)), seeds, None)
    topology.refresh()
    main = topology.named(seeds[0])
    nodes = sorted(topology.nodes.values(), key=lambda node: node is not main)
    found = tuple(Server(str(item.address), connect(item.address), item.role) for item in nodes)
    topology.close()
    return found


def _settled(servers: Sequence[Server]) -> list[CheckResult]:
    """Return results for one generation: a concurrent load looks like corrupt records."""
    for _ in range(LOOKS):
        before = _generation(servers[0])
        results = list(_examine(servers))
        if _generation(servers[0]) == before:
            break
    return results


def _generation(main: Server) -> int:
    active = read_active(main.client, read_seal(main.client).keyspace)
    return 0 if active is None else active.generation


def _examine(servers: Sequence[Server]) -> Iterator[CheckResult]:
    main = servers[0]
    seal = read_seal(main.client)
    keyspace = seal.keyspace
    deployment = Deployment(tuple(servers), seal, read_active(main.client, keyspace))
    known = read_records(main.client, keyspace)
    for server in servers:
        if server.role is None:
            yield from _silent(server)
        else:
            yield from _each(deployment, server, are_fenced=bool(known))
    if seal.change is not None:
        yield records.half_changed(seal.change)
        if seal.change.is_switched:
            yield Skipped("policy, guards, scripts and users", "keys are being moved")
            return
    yield from _attempt(
        "replication", main, lambda: settings.check_replication(deployment, keyspace)
    )
    if deployment.active is None:
        yield records.no_policy()
        return
    for server in deployment.answering:
        yield from _attempt("scripts", server, lambda: records.check_scripts(server, keyspace))  # noqa: B023
    yield from _attempt("tokens", main, lambda: records.check_tokens(deployment, keyspace))
    yield from _attempt("moments", main, lambda: settings.check_moments(deployment, keyspace))
    yield from _attempt("guards and users", main, lambda: _compiled(deployment, known))


def _each(deployment: Deployment, server: Server, *, are_fenced: bool) -> Iterator[CheckResult]:
    yield from _attempt("version", server, lambda: settings.check_version(server))
    yield from _attempt(
        "payload validation",
        server,
        lambda: settings.check_payloads(deployment, server, are_fenced=are_fenced),
    )
    yield from _attempt("eviction", server, lambda: settings.check_eviction(server))
    yield from _attempt("memory", server, lambda: settings.check_room(server))
    yield from _attempt("client limits", server, lambda: settings.check_clients(deployment, server))
    yield from _attempt("persistence", server, lambda: settings.check_persistence(server))
    yield from _attempt(
        "default user", server, lambda: users.check_default_user(server, are_fenced=are_fenced)
    )
    yield from _attempt("clock", server, lambda: settings.check_clock(server))


def _compiled(deployment: Deployment, known: dict[str, FenceRecord]) -> Iterator[CheckResult]:
    """Run the checks that need the compiled guards of the active policy."""
    active, keyspace = deployment.active, deployment.seal.keyspace
    assert active is not None  # noqa: S101 - asked for by the caller
    prepared = prepare_active(deployment.main.client, active.document, keyspace)
    yield from records.check_records(deployment, active, prepared)
    if known:
        yield from _attempt(
            "ACL users",
            deployment.main,
            lambda: users.check_fences(deployment, keyspace, prepared.guards, known),
        )


def _silent(server: Server) -> Iterator[CheckResult]:
    """Report a server without a role: it is unreachable, or denies the user."""
    try:
        read_role(server.client)
    except (redis_errors.AuthenticationError, redis_errors.NoPermissionError) as error:
        yield Skipped(EVERYTHING, f"the user of the URL is denied: {error}", server.name)
    except (redis_errors.RedisError, OSError):
        yield settings.unreachable(server)
    else:
        yield Skipped(EVERYTHING, "it did not answer at first", server.name)


def _attempt(
    check: str, server: Server, run: Callable[[], Iterable[CheckResult]]
) -> Iterator[CheckResult]:
    """Run a check; report it as skipped if it cannot be made."""
    try:
        yield from run()
    except redis_errors.AuthenticationError as error:
        yield Skipped(check, str(error), server.name)
    except (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError):
        yield settings.unreachable(server)
    except redis_errors.ResponseError as error:
        yield Skipped(check, f"the server replies: {error}", server.name)
    except (KeyleashError, LookupError, ValueError, struct.error) as error:
        reason = error.message if isinstance(error, KeyleashError) else type(error).__name__
        yield DoctorFinding(
            UNREADABLE,
            Severity.ERROR,
            f"its records are corrupt: {reason}",
            "find out what wrote to the control keys, then load the policy from its file",
            server.name,
        )
