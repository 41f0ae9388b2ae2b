"""Compile a policy to guards: an ordered tuple of pure passes, then rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from secrets import token_hex, token_urlsafe
from typing import Any, NamedTuple

from keyleash.commands import CommandTable
from keyleash.compiler.approved import plan_scripts
from keyleash.compiler.emit import POLICY_DIGITS, emit, stamped
from keyleash.compiler.ir import Guard, Shards
from keyleash.compiler.passes import PASSES
from keyleash.compiler.passes.plan_limits import plan_limits
from keyleash.policy import Identity, Policy
from keyleash.policy.canonical import identity_digest
from keyleash.policy.model import ClusterRules
from keyleash.results import Progress, Result
from keyleash.store.keyspace import Keyspace, script_digest
from keyleash.store.state import Layout
from keyleash.text import json_object

__all__ = ["CompiledGuard", "Shards", "compile_guard", "compile_policy"]


@dataclass(frozen=True, slots=True)
class CompiledGuard(Result):
    """The guard of one identity, ready to be loaded.

    Attributes:
        identity: The identity's name.
        script: Lua text that checks and runs one command, ASCII.
        digest: Its SHA-1, by which EVALSHA calls it.
        batch_script: Lua text for a batch.
        batch_digest: Its SHA-1.
        approved_script: Lua text that runs the approved scripts; empty if there are none.
        approved_digest: Its SHA-1; empty if there are none.
        lease_script: Lua text for the home of a cluster; empty on one server.
        lease_digest: Its SHA-1; empty on one server.
        stamp: The number that the identity's state must carry for this guard to use it.
        layout: The layout of that state.
        policy_digest: SHA-256 of the identity's own rules; events carry its beginning.
        plan: The data that the script is rendered from.
    """

    identity: str
    script: str
    digest: str
    batch_script: str
    batch_digest: str
    approved_script: str
    approved_digest: str
    lease_script: str
    lease_digest: str
    stamp: int
    layout: Layout
    policy_digest: str
    plan: Guard

    @property
    def scripts(self) -> Mapping[str, str]:
        """Return all scripts by digest."""
        scripts = {self.digest: self.script, self.batch_digest: self.batch_script}
        if self.approved_digest:
            scripts[self.approved_digest] = self.approved_script
        if self.lease_digest:
            scripts[self.lease_digest] = self.lease_script
        return scripts

    @property
    def approved_names(self) -> Mapping[str, str]:
        """The names and files of the approved scripts, by digest."""
        scripts = self.plan.identity.scripts
        return {
            item.digest: f"`{item.name}`" + (f" (`{item.file}`)" if item.file else "")
            for item in scripts
        }

    def to_dict(self) -> dict[str, Any]:
        """Return identity, digest and size as `keyleash compile --json` prints them."""
        return {**json_object(self, "identity", "digest"), "bytes": len(self.script)}


def compile_policy(
    policy: Policy,
    table: CommandTable,
    *,
    keyspace: Keyspace | None = None,
    year: int | None = None,
    shards: Shards | None = None,
    report: Progress | None = None,
) -> tuple[CompiledGuard, ...]:
    """Compile one guard per identity, in the order of the policy.

    Args:
        keyspace: Where the control keys are; the public prefix if None.
        year: Year from whose start calendar windows are compiled in; this year (UTC) if None.
        shards: What the guards of a cluster need; None for one server.
    """
    chosen = year if year is not None else datetime.now(UTC).year
    guards: list[CompiledGuard] = []
    for identity in policy.identities:
        keys = keyspace or Keyspace()
        guards.append(compile_guard(identity, table, keyspace=keys, year=chosen, shards=shards))
        if report is not None:
            report(len(guards), len(policy.identities))
    return tuple(guards)


def compile_guard(
    identity: Identity,
    table: CommandTable,
    *,
    keyspace: Keyspace,
    year: int,
    shards: Shards | None = None,
) -> CompiledGuard:
    """Compile the guard of one identity; see `compile_policy`."""
    if shards is None:
        # So that the scripts of one server are the same whatever is set for clusters.
        identity = replace(identity, cluster=ClusterRules())
        digest = identity_digest(identity)
        shared = _shared(replace(identity, name=_NAME), keyspace, year, table)
        guard = replace(shared.guard, identity=identity, policy_digest=digest)
        # The counters of limits have the name of the identity.
        guard, texts = plan_limits(guard, table), shared.named(identity.name, digest)
    else:
        # Here the texts have a key that is derived from the name.
        shards = replace(shards, lease_us=identity.cluster.lease_s * 1_000_000)
        guard = Guard(identity, keyspace, identity_digest(identity), year, shards=shards)
        guard, texts = _written(guard, table)
    (script, batch_script, approved_script, lease_script), stamp = stamped(texts)
    return CompiledGuard(
        identity=identity.name,
        script=script,
        digest=script_digest(script),
        batch_script=batch_script,
        batch_digest=script_digest(batch_script),
        approved_script=approved_script,
        approved_digest=approved_script and script_digest(approved_script),
        lease_script=lease_script,
        lease_digest=lease_script and script_digest(lease_script),
        stamp=stamp,
        layout=guard.layout,
        policy_digest=guard.policy_digest,
        plan=guard,
    )


_NAME, _DIGEST = token_hex(16), token_urlsafe(POLICY_DIGITS)
"""Stand-ins for an identity's name and rule digest: random, so that no policy contains them."""

SHARED_TEXTS = 64
"""The number of cached sets of rules; the texts of one have about 100 KB."""


class _Written(NamedTuple):
    """A guard and its texts without a stamp."""

    guard: Guard
    texts: Sequence[str]

    def named(self, name: str, digest: str) -> Sequence[str]:
        """Return the texts with a name and a rule digest for the stand-ins."""
        digits, stand_in = digest[:POLICY_DIGITS], _DIGEST[:POLICY_DIGITS]
        return [text.replace(_NAME, name).replace(stand_in, digits) for text in self.texts]


@lru_cache(SHARED_TEXTS)
def _shared(stand_in: Identity, keyspace: Keyspace, year: int, table: CommandTable) -> _Written:
    """Return what the guards of one server share whose identities differ in their name alone."""
    return _written(Guard(stand_in, keyspace, _DIGEST, year), table)


def _written(guard: Guard, table: CommandTable) -> _Written:
    for run_pass in PASSES:
        guard = run_pass(guard, table)
    guard = replace(guard, scripts=plan_scripts(guard, table))
    return _Written(guard, emit(guard))
