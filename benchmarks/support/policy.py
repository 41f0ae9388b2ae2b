"""The measured policy: agent-runner of examples/agents.yaml with raised limits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import keyleash
from keyleash.commands import load_table
from keyleash.compiler import CompiledGuard, compile_policy
from keyleash.compiler.emit import POLICY_DIGITS
from keyleash.policy import parse_policy
from keyleash.store.server_check import Client

IDENTITY = "agent-runner"
IMAGED = "agent-runner-imaged"
"""An identity with the same rules and before-images."""
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "agents.yaml"
RAISED = {
    "{limit: 600/minute, burst: 60}": "{limit: 6000000/minute, burst: 1000000}",
    "requests: 50000/day": "requests: 1000000000000000/day",
    "{limit: 20000/day, timezone:": "{limit: 1000000000000000/day, timezone:",
}
"""The maxima of the parser: 100,000 writes a second, with a burst of a million."""

BREAKER = "  on_denials: {threshold: 50/minute, suspend: 10m}\n"
"""Removed, because the identity would suspend itself. It does not affect allowed calls."""
IMAGES = "    audit: {before_images: {max_bytes: 64kb}}\n"
"""Removed; before-images are measured as `IMAGED`."""

RAISED_LIMITS = """\
    rate: {writes: {limit: 6000000/minute, burst: 1000000}}
    budget:
      requests: 1000000000000000/day
      writes: {limit: 1000000000000000/day, timezone: Europe/Berlin}
"""
"""The same limits for identities of other policies."""


def runner(name: str) -> str:
    """Return an identity with the rules of the example's agent-runner and raised limits."""
    return (
        f"  {name}:\n    kind: machine\n    audit: {{retain: 100000}}\n"
        "    grants: [{allow: [read, write], "
        'keys: ["agents:jobs:{job_id}:state", "agents:jobs:{job_id}:result"]}]\n'
        f'    deny: [{{keys: ["agents:jobs:{{job_id}}:lock"]}}]\n{RAISED_LIMITS}'
    )


def document(identities: Iterable[str]) -> str:
    """Return a policy with these identities."""
    return "version: 1\nidentities:\n" + "".join(identities)


class StructureError(Exception):
    """Raising the limits changed more than numbers in the guard."""


@dataclass(frozen=True, slots=True)
class Target:
    """The guard and token of guarded calls; on a cluster, the tag of the shard."""

    guard: CompiledGuard
    token: str
    tag: str = ""


def plain_example() -> str:
    """Return the example policy without before-images.

    Raises:
        StructureError: the example no longer has them.
    """
    original = EXAMPLE.read_text(encoding="utf-8")
    if original.count(IMAGES) != 1:
        raise StructureError(f"`{IMAGES.strip()}` is not once in {EXAMPLE}")
    return original.replace(IMAGES, "")


def raised_document() -> str:
    """Return the plain example with raised limits of agent-runner and without `on_denials`.

    Raises:
        StructureError: the example no longer has these limits, or the guard changed in
            more than its numbers.
    """
    original = plain_example()
    if original.count(BREAKER) != 1:
        raise StructureError(f"`{BREAKER.strip()}` is not once in {EXAMPLE}")
    original = raised = original.replace(BREAKER, "")
    for limit, higher in RAISED.items():
        if original.count(limit) != 1:
            raise StructureError(f"`{limit}` is not once in {EXAMPLE}")
        raised = raised.replace(limit, higher)
    if structure_of(guard_of(original)) != structure_of(guard_of(raised)):
        raise StructureError(f"raising limits changed the structure of {IDENTITY}'s guard")
    return raised


def with_images(document: str) -> str:
    """Return *document* with agent-runner's rules also as `IMAGED`."""
    found = re.search(rf"^  {IDENTITY}:\n((?:    .*\n)+)", document, re.MULTILINE)
    if found is None:
        raise StructureError(f"there is no {IDENTITY} in {EXAMPLE}")
    return f"{document}  {IMAGED}:\n{IMAGES}{found[1]}"


def guard_of(document: str, identity: str = IDENTITY) -> CompiledGuard:
    """Return the identity's guard for the shipped command table."""
    return guards_of(document)[identity]


def guards_of(document: str) -> dict[str, CompiledGuard]:
    """Return the guards of all identities by name."""
    table = load_table()
    policy = parse_policy(document, file=str(EXAMPLE), commands=table)
    return {guard.identity: guard for guard in compile_policy(policy, table)}


def structure_of(guard: CompiledGuard) -> str:
    """Return the guard's text without numbers and the digest of its rules."""
    without_digest = guard.script.replace(guard.policy_digest[:POLICY_DIGITS], "0")
    return re.sub(r"\d+", "0", without_digest)


def load_target(client: Client) -> Target:
    """Activate the raised policy on the server and issue a token for agent-runner."""
    (target,) = load_targets(client, raised_document(), IDENTITY)
    return target


def load_targets(client: Client, document: str, *identities: str) -> list[Target]:
    """Activate a policy and issue a token for each of the identities."""
    operator, policy = operator_of(client), keyleash.Policy(document, file=str(EXAMPLE))
    plan = operator.plan(policy)
    operator.load(policy, expect=plan, allow_widening=True, allow_removal=True)
    guards = {guard.identity: guard for guard in plan.prepared.guards}
    return [Target(guards[name], operator.tokens.issue(name).token) for name in identities]


def operator_of(client: Client) -> keyleash.Operator:
    """Return the operator of a measured server."""
    return keyleash.Operator(client, actor="benchmark")
