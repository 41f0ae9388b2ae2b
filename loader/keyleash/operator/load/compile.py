"""Compile the guards that a load needs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from keyleash.commands import CommandTable, known_table, load_table
from keyleash.commands.facts import MODULE_KEYS, NAMED_ONLY
from keyleash.compiler import CompiledGuard, Shards, compile_policy
from keyleash.errors import OperationError, PolicyError, Problem, Span, UnreadableCommandsError
from keyleash.operator.load.checks import check_eviction, check_payloads
from keyleash.policy import Policy, parse_policy
from keyleash.policy.canonical import policy_digest
from keyleash.policy.clusters import cluster_problems
from keyleash.policy.lint.cluster_rules import cluster_warnings
from keyleash.policy.parse import ACTIVE
from keyleash.policy.problems import SHOWN_IDENTITIES, in_order, listing
from keyleash.results import Progress
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.leases import MASTER_KEY_BYTES
from keyleash.store.live_table import read_table
from keyleash.store.records import commands_to_learn
from keyleash.store.server import info_section
from keyleash.store.server_check import release_of, require_supported
from keyleash.store.shards import read_mac_key
from keyleash.store.slots import undeclared_keys_error
from keyleash.store.store import Store
from keyleash.store.token import reject_tokens
from keyleash.store.users import fenced_identities, fences_advice


@dataclass(frozen=True, slots=True)
class PreparedPolicy:
    """A policy, compiled for a server, which was only read.

    Attributes:
        file: The name of the policy file, for messages.
        digest: The digest of the policy, which is the same for every server.
        guards: The guards, compiled for these commands.
        commands: The command overrides in the guard records; see `commands_to_learn`.
        warnings: Warnings about this policy on this server, in file order.
        shards: What the guards of a cluster were compiled with; None on one server.
    """

    file: str
    document: str
    policy: Policy
    table: CommandTable
    digest: str
    guards: tuple[CompiledGuard, ...]
    commands: str
    warnings: tuple[Problem, ...]
    shards: Shards | None = field(default=None, repr=False)

    @property
    def modules(self) -> list[str]:
        """The commands of the server's modules that need no name in `only`."""
        reviewed = MODULE_KEYS.keys() - NAMED_ONLY
        return sorted(spec.name for spec in self.table if spec.name in reviewed)


def prepare_policy(
    store: Store,
    document: str,
    *,
    file: str = "<policy>",
    table: CommandTable | None = None,
    allow_eviction: bool = False,
    allow_unvalidated_restore: bool = False,
    year: int | None = None,
    report: Progress | None = None,
) -> PreparedPolicy:
    """Check and compile a policy for a server, which is only read.

    If the server's commands cannot be read, guards are compiled for the shipped table, and the
    first warning says so.

    Args:
        document: The policy file's text.
        file: Its name, for messages.
        table: The server's commands; read from the server if None.
        allow_eviction: Compile also if the server may evict control keys.
        allow_unvalidated_restore: Compile a policy that allows RESTORE also for a server that does
            not validate payloads.
        year: The first year of calendar windows; that of the server's clock if None.
        report: Called with the number of compiled guards and the total.

    Raises:
        OperationError (unsupported-server): The server is older than the supported versions.
        PolicyError: The document has problems; the error lists all.
        SecretInTextError: The reason of an `accept` contains a token.
        UnplacedKeysError: No guard can be made of it.
        EvictionError: The server may evict control keys, and *allow_eviction* is false.
        UnvalidatedRestoreError: An identity may RESTORE, the server does not validate payloads,
            and *allow_unvalidated_restore* is false.
    """
    require_supported(store.client, cluster=store.cluster is not None)
    unread: tuple[Problem, ...] = ()
    shipped = load_table()
    if table is None:
        try:
            table = read_table(store.client, is_cluster=store.cluster is not None)
        except UnreadableCommandsError as error:
            unread = (_unread(error, file, shipped),)
    evicting = check_eviction(store.client, file, allowed=allow_eviction)
    # Command names of other servers are no mistakes.
    known = known_table() if table is None else known_table().extended(table.commands)
    policy = parse_policy(document, file=file, commands=known, server=table)
    for identity in policy.identities:
        for accepted in identity.accepted:
            reject_tokens(accept=accepted.reason)
    unvalidated = check_payloads(store.client, policy, file, allowed=allow_unvalidated_restore)
    if year is None:
        year = datetime.fromtimestamp(store.now_us() / 1_000_000, UTC).year
    compiled_against = table or shipped
    shards = _shards(store, policy) if store.keys.tag else None
    leasing: tuple[Problem, ...] = ()
    if store.cluster is not None:
        primaries = sum(bool(node.slots) for node in store.cluster.nodes)
        leasing = in_order(cluster_warnings(policy, primaries))
    return PreparedPolicy(
        file=file,
        document=document,
        policy=policy,
        table=compiled_against,
        digest=policy_digest(policy),
        guards=compile_policy(
            policy, compiled_against, keyspace=store.keys, year=year, shards=shards, report=report
        ),
        commands=commands_to_learn(compiled_against),
        warnings=(
            *unread,
            *evicting,
            *unvalidated,
            *_fences(store, file),
            *policy.warnings,
            *leasing,
        ),
        shards=shards,
    )


def _shards(store: Store, policy: Policy) -> Shards:
    """Return what the guards of a cluster are compiled with.

    Raises:
        PolicyError: A cluster cannot count a limit exactly.
        OperationError (undeclared-keys): The cluster denies what guards need.
    """
    if problems := in_order(cluster_problems(policy)):
        raise PolicyError(problems)
    home = None if store.cluster is None else store.cluster.find(HOME_TAG)
    if home is not None and (reason := undeclared_keys_error(store.client, home, store.keys)):
        raise OperationError(
            "undeclared-keys",
            f"the cluster denies keys that a script does not declare: {reason}",
            help="guards use such keys: use a service that does not check the keys of scripts",
        )
    product, _ = release_of(info_section(store.client, "server"))
    key = read_mac_key(store) or secrets.token_bytes(MASTER_KEY_BYTES)
    return Shards(key, between=product == "redis")


def prepare_active(store: Store, document: str) -> PreparedPolicy:
    """Compile the active policy again; it is in effect already, whatever the server's settings."""
    return prepare_policy(
        store, document, file=ACTIVE, allow_eviction=True, allow_unvalidated_restore=True
    )


def _unread(error: UnreadableCommandsError, file: str, instead: CommandTable) -> Problem:
    """Return the warning about unread commands, which applies to the whole file."""
    servers = ", ".join(instead.servers)
    return Problem(
        error.code,
        error.message,
        Span(file, 1, 1),
        f"{error.help}; until then the guards are for the commands of {servers}",
    )


def _fences(store: Store, file: str) -> Iterator[Problem]:
    """Yield the warning about users that an earlier version made for agents."""
    if names := fenced_identities(store):
        message = f"fences are gone, but {listing(names, SHOWN_IDENTITIES)} still have users"
        yield Problem("fences-gone", message, Span(file, 1, 1), fences_advice(store, names))
