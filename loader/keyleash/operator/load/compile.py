"""Compile the guards that a load needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from redis.exceptions import ResponseError

from keyleash.commands import CommandSpec, CommandTable, load_table
from keyleash.commands.live import UnreadableCommandsError, read_table
from keyleash.compiler import CompiledGuard, Report, compile_policy
from keyleash.compiler.sizes import estimate_script
from keyleash.errors import Problem, Span
from keyleash.operator.load.checks import check_eviction, check_payloads
from keyleash.policy import Policy, parse_policy
from keyleash.policy.canonical import policy_digest
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import server_keyspace
from keyleash.store.records import Client, commands_to_learn
from keyleash.store.server_check import operator_client, require_supported
from keyleash.store.token import reject_tokens


@dataclass(frozen=True, slots=True)
class PreparedPolicy:
    """A policy, compiled for a server; that server was read and not changed.

    Attributes:
        file: Its name, for messages.
        document: The policy file's text.
        policy: What it says.
        table: The commands that the server has.
        digest: Of the policy's meaning, which is the same for every server.
        guards: Compiled against the commands that the server has.
        commands: What the guard records tell wrappers of these; see `protocol.learned`.
        warnings: What has no effect on this server, in file order.
    """

    file: str
    document: str
    policy: Policy
    table: CommandTable
    digest: str
    guards: tuple[CompiledGuard, ...]
    commands: str
    warnings: tuple[Problem, ...]


def prepare_policy(
    client: Client,
    document: str,
    *,
    file: str = "<policy>",
    table: CommandTable | None = None,
    keyspace: Keyspace | None = None,
    allow_eviction: bool = False,
    allow_unvalidated_restore: bool = False,
    year: int | None = None,
    report: Report | None = None,
) -> PreparedPolicy:
    """
    Check and compile a policy for the server of *client*; see `load_policy`.

    Calendar windows are compiled in from the start of *year*, by default that of the
    server's clock. *report* is told after each guard how many are compiled, and of how many.

    A server that does not let its commands be read gets guards for the commands of the
    shipped table, and the first warning says so.

    Raises:
        OperationError (unsupported-server): The server is older than the supported versions.
        ClusterError: It is a node of a Redis Cluster.
        PolicyError: With every problem of the document.
        SecretInTextError: The reason of an `accept` contains a token.
        UnplacedKeysError: No guard can be made of it.
        EvictionError: The server may evict control keys, and *allow_eviction* is false.
        UnvalidatedRestoreError: An identity may RESTORE, the server does not validate payloads,
            and *allow_unvalidated_restore* is false.
    """
    client = operator_client(client)
    require_supported(client)
    keyspace = keyspace or server_keyspace(client)
    unread: tuple[Problem, ...] = ()
    shipped = load_table()
    if table is None:
        try:
            table = read_table(client)
        except UnreadableCommandsError as error:
            unread = (_unread(error, file, shipped),)
    evicting = check_eviction(client, file, allowed=allow_eviction)
    # A name that any server is known to have is no mistake.
    known = shipped if table is None else shipped.extended(table.commands)
    policy = parse_policy(document, file=file, commands=known, server=table)
    for identity in policy.identities:
        for accepted in identity.accepted:
            reject_tokens(accept=accepted.reason)
    unvalidated = check_payloads(client, policy, file, allowed=allow_unvalidated_restore)
    if year is None:
        year = datetime.fromtimestamp(server_time_us(client) / 1_000_000, UTC).year
    compiled_against = table or shipped
    return PreparedPolicy(
        file=file,
        document=document,
        policy=policy,
        table=compiled_against,
        digest=policy_digest(policy),
        guards=compile_policy(
            policy, compiled_against, keyspace=keyspace, year=year, report=report
        ),
        commands=commands_to_learn(compiled_against),
        warnings=(*unread, *evicting, *unvalidated, *policy.warnings),
    )


def server_time_us(client: Client) -> int:
    """The server's clock, Unix microseconds."""
    seconds, micros = client.time()
    return int(seconds) * 1_000_000 + int(micros)


def _unread(error: UnreadableCommandsError, file: str, instead: CommandTable) -> Problem:
    """It is about the whole file, so it stands at its beginning."""
    servers = ", ".join(instead.servers)
    return Problem(
        error.code,
        error.message,
        Span(file, 1, 1),
        f"{error.help}; until then the guards are for the commands of {servers}",
    )


class ServerSizes:
    """The keys of one server; implements `decision.state.Sizes`.

    Attributes:
        keyspace: Where keyleash's keys are; on a sealed server, what stands before all others.
    """

    def __init__(self, client: Client, keyspace: Keyspace) -> None:
        self._client = client
        self._vault = keyspace.vault.encode()
        self._script = estimate_script()

    def length(self, key: bytes) -> int:
        """Return the length of a string in bytes; 0 for a key of another type."""
        try:
            return int(self._client.strlen(self._vault + key))
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return 0
            raise

    def work(
        self, spec: CommandSpec, argv: Sequence[bytes], keys: Sequence[bytes], left: float
    ) -> float:
        """Return the units of work of a call, as the guard estimates it."""
        named = [self._vault + key for key in keys]
        said = self._client.eval(self._script, len(named), *named, left, spec.name, *argv)
        return float(said)
