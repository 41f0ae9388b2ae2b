"""Whether replicas follow, and are as many as identities wait for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keyleash.doctor.finding import Finding, Said, Severity
from keyleash.doctor.patient import Deployment, Server
from keyleash.doctor.words import named
from keyleash.protocol.keyspace import Keyspace

UNREACHABLE = "unreachable"
LINK = "replica-unlinked"
LAGGING = "replica-lagging"
TOO_FEW = "too-few-replicas"
BEHIND = "policy-behind"
SEVERAL = "several-primaries"
LAG_S = 10
"""The servers' own `min-replicas-max-lag`."""


def unreachable(server: Server) -> Finding:
    """A server that somebody named does not answer."""
    return Finding(
        UNREACHABLE,
        Severity.ERROR,
        "the server does not answer, so nothing of it was looked at",
        "start it or take it out; is it named by an address that is good here, and are user and"
        " password good there",
        server.name,
    )


def check_replication(deployment: Deployment, keyspace: Keyspace) -> Iterator[Said]:
    """Look at how the servers follow each other."""
    primaries = [one for one in deployment.answering if one.role and one.role.primary is None]
    if len(primaries) > 1:
        yield Finding(
            SEVERAL,
            Severity.ERROR,
            f"more than one server takes writes: {named(one.name for one in primaries)}",
            "let agents reach one only, and make the others its replicas",
        )
    for server in deployment.answering:
        assert server.role is not None  # noqa: S101 - it answers
        if not server.role.is_linked:
            yield Finding(
                LINK,
                Severity.ERROR,
                f"it has no link to its primary {server.role.primary}",
                "look at its log; `masterauth` and `masteruser` must be good at the primary",
                server.name,
            )
        elif server.role.primary is not None:
            yield from _behind(deployment, server, keyspace)
    for primary in primaries:
        yield from _lagging(primary)
    yield from _too_few(deployment)


def _lagging(primary: Server) -> Iterator[Finding]:
    for replica in _replicas(primary.client.info("replication")):
        if replica.get("state") == "online" and int(replica.get("lag", 0)) > LAG_S:
            yield Finding(
                LAGGING,
                Severity.WARNING,
                f"its replica {replica['ip']}:{replica['port']} was last heard of"
                f" {replica['lag']} s ago: a failover to it loses what came since",
                "look at that server and at the network between them",
                primary.name,
            )


def _too_few(deployment: Deployment) -> Iterator[Finding]:
    """Identities whose writes can never reach as many replicas as they wait for."""
    main, policy = deployment.main, deployment.policy
    if policy is None or main.role is None or main.role.primary is not None:
        return
    online = sum(one.get("state") == "online" for one in _replicas(main.client.info("replication")))
    waiting = [one for one in policy.identities if one.durability.wait_replicas > online]
    if waiting:
        most = max(one.durability.wait_replicas for one in waiting)
        yield Finding(
            TOO_FEW,
            Severity.ERROR,
            f"{named(one.name for one in waiting)} wait for up to {most} replicas, and the primary"
            f" has {online}: every write ends as not replicated",
            "bring replicas back, or lower `durability: {wait_replicas: …}`",
            main.name,
        )


def _behind(deployment: Deployment, server: Server, keyspace: Keyspace) -> Iterator[Finding]:
    if deployment.active is None:
        return
    raw = server.client.hget(keyspace.policy, "generation")
    ours = deployment.active.generation
    if raw is None or int(raw) != ours:
        has = "no policy" if raw is None else f"the policy of generation {int(raw)}"
        yield Finding(
            BEHIND,
            Severity.ERROR,
            f"it has {has}, and {deployment.main.name} that of generation {ours}",
            "let it follow that server; ask again, if a policy was loaded this moment",
            server.name,
        )


def _replicas(said: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name, one in said.items():
        if name.startswith("slave") and name[5:].isdecimal() and isinstance(one, dict):
            yield one
