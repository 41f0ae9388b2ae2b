"""The API of operators and orchestrators."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Self

from keyleash.api.calls import all_identities, server_time
from keyleash.api.nouns import (
    AuditOperations,
    FenceOperations,
    LimitOperations,
    TokenOperations,
    UndoOperations,
    VaultOperations,
)
from keyleash.api.policies import apply_plan, plan_load, plan_rollback, require_policy
from keyleash.api.policy import Policy
from keyleash.doctor import Examination, examine
from keyleash.metrics import SnapshotCollector
from keyleash.operations import AsyncRunner, F, Noun, Runner, checked, method
from keyleash.operator import suspension
from keyleash.operator.abilities import Abilities, abilities
from keyleash.operator.decisions import Explanation, explain
from keyleash.operator.load.activate import LoadResult
from keyleash.operator.load.load_plan import LoadPlan
from keyleash.operator.roles import RoleUser, role_user
from keyleash.operator.server import ServerSummary, summarize_server
from keyleash.policy.quantities import positive
from keyleash.results import Progress
from keyleash.status import Snapshot, read_snapshot
from keyleash.store.clients import AnyClient
from keyleash.store.connect import (
    DEFAULT_URL,
    NODE_TIMEOUT_S,
    connect,
    default_actor,
    parse_timeout,
)
from keyleash.store.records import ActivePolicy, read_active, read_history
from keyleash.watch import Watcher


class PolicyOperations(Noun[F]):
    """The active policy and those before it: `Operator.policies`."""

    @method()
    def active(self) -> ActivePolicy | None:
        """Return the active policy; None if there is none."""
        return self._run.call(read_active)

    @method()
    def get(self, digest: str | None = None) -> ActivePolicy:
        """Return the active policy, or a stored one by the first digits of its digest.

        Raises:
            OperationError (no-policy): no policy is active, or none is stored.
            OperationError (unknown-policy): the history has none, or several, with that digest.
        """
        return self._run.call(require_policy, digest)

    @method()
    def history(self) -> tuple[ActivePolicy, ...]:
        """Return the stored policies, each as it was last active; the newest first."""
        return self._run.call(read_history)


@checked
class Server(Noun[F]):
    """The operations of a server, for both faces."""

    _runner: type[F]

    def __init__(self, client: AnyClient, *, actor: str | None = None) -> None:
        face: F = self._runner(client, default_actor() if actor is None else actor)
        super().__init__(face)
        self.policies = PolicyOperations(face)
        self.tokens = TokenOperations(face)
        self.limits = LimitOperations(face)
        self.audit = AuditOperations(face)
        self.undo = UndoOperations(face)
        self.fence = FenceOperations(face)
        self.vault = VaultOperations(face)

    @classmethod
    def from_url(
        cls, url: str = DEFAULT_URL, *, actor: str | None = None, timeout: float | None = None
    ) -> Self:
        """Return an operator of the server at *url*, which is connected to when it is used.

        Args:
            url: `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://…` or `unix://PATH`; of several
                between commas, the first that answers now is used.
            actor: As for the class.
            timeout: The longest wait for a connection and for each reply, in seconds; that of the
                URL, or 5, if None.

        Raises:
            OperationError (bad-url): no server can be named so.
            ValueError: *timeout* is not over 0.
        """
        return cls(connect(url, positive("timeout", timeout)), actor=actor)

    @classmethod
    def from_env(cls) -> Self:
        """Return an operator by KEYLEASH_URL, KEYLEASH_ACTOR and KEYLEASH_TIMEOUT, as the CLI.

        Raises:
            OperationError (bad-url): no server can be named so.
            ValueError: KEYLEASH_TIMEOUT is not a time over 0.
        """
        timeout = os.environ.get("KEYLEASH_TIMEOUT")
        try:
            seconds = parse_timeout(timeout) if timeout else None
        except ValueError as error:
            raise ValueError(f"KEYLEASH_TIMEOUT: {error}") from None
        return cls.from_url(
            os.environ.get("KEYLEASH_URL") or DEFAULT_URL,
            actor=os.environ.get("KEYLEASH_ACTOR") or None,
            timeout=seconds,
        )

    def __repr__(self) -> str:
        return f"{type(self).__module__}.Operator({self._run!r})"

    @method()
    def connect(self) -> None:
        """Check that the server answers and is supported, as the first call does by itself.

        Raises:
            OperationError (unsupported-server): the server is too old.
            redis.RedisError: the server does not answer.
        """
        self._run.run(self._run.check)

    @method()
    def close(self) -> None:
        """Close the connections."""
        self._run.close()

    @method()
    def plan(
        self,
        policy: Policy,
        *,
        allow_eviction: bool = False,
        allow_unvalidated_restore: bool = False,
        progress: Progress | None = None,
    ) -> LoadPlan:
        """Compile a policy for the server and return what a load of it would change.

        Nothing is written.

        Args:
            policy: The policy.
            allow_eviction: Plan also for a server that may evict control keys.
            allow_unvalidated_restore: Plan also a policy that allows RESTORE on a server that does
                not validate payloads.
            progress: Called with the number of compiled guards and the total, in any thread.

        Raises:
            PolicyError: the policy has problems.
            EvictionError, UnvalidatedRestoreError: see the arguments.
        """
        return self._run.call(
            plan_load,
            policy.document,
            file=policy.file,
            allow_eviction=allow_eviction,
            allow_unvalidated_restore=allow_unvalidated_restore,
            progress=progress,
        )

    @method()
    def plan_rollback(
        self,
        to: str | None = None,
        *,
        allow_eviction: bool = False,
        allow_unvalidated_restore: bool = False,
        progress: Progress | None = None,
    ) -> LoadPlan:
        """Return what `rollback` would change; nothing is written.

        Args:
            to: As for `rollback`, whose errors it raises.
            allow_eviction: As for `plan`.
            allow_unvalidated_restore: As for `plan`.
            progress: As for `plan`.
        """
        return self._run.call(
            plan_rollback,
            to,
            allow_eviction=allow_eviction,
            allow_unvalidated_restore=allow_unvalidated_restore,
            progress=progress,
        )

    @method()
    def apply(
        self,
        plan: LoadPlan,
        *,
        allow_widening: bool = False,
        allow_removal: bool = False,
        nodes: Sequence[AnyClient | str] = (),
        progress: Progress | None = None,
    ) -> LoadResult:
        """Activate the policy of a plan; see `load`.

        Args:
            plan: As `plan` or `plan_rollback` returned it; nothing is activated if it is outdated.
            allow_widening: As for `load`.
            allow_removal: As for `load`.
            nodes: As for `load`.
            progress: Called with the number of loaded guards and the total, in any thread.
        """
        return self._run.call(
            apply_plan,
            plan,
            allow_widening=allow_widening,
            allow_removal=allow_removal,
            nodes=nodes,
            progress=progress,
        )

    @method()
    def load(
        self,
        policy: Policy,
        *,
        expect: LoadPlan | None = None,
        allow_widening: bool = False,
        allow_removal: bool = False,
        allow_eviction: bool = False,
        allow_unvalidated_restore: bool = False,
        nodes: Sequence[AnyClient | str] = (),
    ) -> LoadResult:
        """Activate a policy atomically, and verify what the server stored.

        Counts of limits, tokens and suspensions stay as they are.

        Args:
            policy: The policy.
            expect: Its plan, as `plan` returned it; nothing is loaded if it is outdated.
            allow_widening: Load also if an identity gets more access than it has.
            allow_removal: Load also if the policy lacks an identity of the active one.
            allow_eviction: As for `plan`; those of *expect*, if given.
            allow_unvalidated_restore: As for `plan`; those of *expect*, if given.
            nodes: Clients or URLs of further servers, such as replicas, whose ACL users are updated
                too; user and password of a URL default to those of this server.

        Raises:
            PolicyError: the policy has problems.
            PlanOutdatedError: another policy was activated since *expect* was made.
            OperationError (widens): it widens access, and *allow_widening* is false.
            RemovalError: it removes identities, and *allow_removal* is false.
            OperationError (server-unreachable): one of *nodes* does not answer; nothing changed.
            ValueError: *expect* is the plan of another policy.
        """
        plan = expect or Server.plan(
            self,
            policy,
            allow_eviction=allow_eviction,
            allow_unvalidated_restore=allow_unvalidated_restore,
        )
        if plan.prepared.document != policy.document:
            raise ValueError("`expect` is the plan of another policy")
        return Server.apply(
            self, plan, allow_widening=allow_widening, allow_removal=allow_removal, nodes=nodes
        )

    @method()
    def rollback(
        self,
        to: str | None = None,
        *,
        allow_widening: bool = False,
        allow_removal: bool = False,
        allow_eviction: bool = False,
        allow_unvalidated_restore: bool = False,
        nodes: Sequence[AnyClient | str] = (),
    ) -> LoadResult:
        """Activate an earlier policy again; see `load`.

        Args:
            to: The first digits of its digest, at least 6; the previous policy if None.
            allow_widening: As for `load`.
            allow_removal: As for `load`.
            allow_eviction: As for `load`.
            allow_unvalidated_restore: As for `load`.
            nodes: As for `load`.

        Raises:
            OperationError (no-policy): there is none before the active one.
            OperationError (unknown-policy): the history has none, or several, with that digest.
        """
        plan = Server.plan_rollback(
            self,
            to,
            allow_eviction=allow_eviction,
            allow_unvalidated_restore=allow_unvalidated_restore,
        )
        return Server.apply(
            self, plan, allow_widening=allow_widening, allow_removal=allow_removal, nodes=nodes
        )

    freeze = suspension.freeze
    thaw = suspension.thaw

    @method()
    def explain(
        self, identity: str, *command: str | bytes, token_id: str | None = None
    ) -> Explanation:
        """Return the guard's decision on a call, step by step; nothing is run or charged.

        Args:
            identity: The calling identity.
            command: The command and its arguments.
            token_id: The calling token, for limits per token; an unused one if None.

        Raises:
            OperationError (no-policy): no policy is active.
            OperationError (unknown-identity): the active policy has no such identity.
            OperationError (unknown-token-id): the identity has no such token.
            CrossSlotError: it is not denied, but its keys are in several slots of the cluster.
        """
        return self._run.call(explain, identity, command, token_id)

    @method()
    def can_i(self, identity: str, *command: str | bytes, token_id: str | None = None) -> bool:
        """Return whether the guard would allow a call; see `explain`."""
        found = Server.explain(self, identity, *command, token_id=token_id)
        return found.allowed

    @method()
    def abilities(self, identity: str, *, token_id: str | None = None) -> Abilities:
        """Return the commands that an identity may call, its denied keys and its limits.

        Args:
            identity: A name in the active policy.
            token_id: The calling token; an unused one if None.

        Errors are those of `explain`.
        """
        return self._run.call(abilities, identity, token_id)

    @method()
    def status(
        self,
        *identities: str,
        only: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
    ) -> Snapshot:
        """Return identities with their tokens, limits and recent denials.

        Args:
            identities: Names; all of the active policy if none is given.
            only: Only those that are `suspended`, `limited` by a limit that is used up, recently
                `denied`, or that have `tokens` or one that is `due` for rotation.
            sort: The highest of these numbers first; of limits the used share.
            limit: The maximum number of identities.

        Raises:
            OperationError (unknown-identity): the active policy has no such identity.
        """
        return self._run.call(read_snapshot, identities, only, sort, positive("limit", limit))

    @method()
    def now(self) -> datetime:
        """Return the time by the server's clock, which decides expiries and limits."""
        return self._run.call(server_time)

    @method()
    def identities(self) -> tuple[str, ...]:
        """Return the names of all identities that were ever active, sorted.

        Raises:
            OperationError (no-policy): no policy was ever loaded.
        """
        return self._run.call(all_identities)

    @method()
    def acl(
        self,
        role: str,
        *,
        user: str | None = None,
    ) -> RoleUser:
        """Return the ACL user who can do what a role of operators does; nothing is changed.

        Args:
            role: The role, such as `issuer`, `loader` or `auditor`.
            user: The name of the user; `keyleash-ROLE` if None.

        Raises:
            OperationError (unknown-role): there is no such role.
            OperationError (no-policy): the rules name key patterns, and no policy is active.
            UsageError: *user* cannot be the name of an ACL user.
        """
        return self._run.call(role_user, role, user)

    @method()
    def server(self) -> ServerSummary:
        """Return facts about the server that distinguish it, also if its keys are being moved."""
        return self._run.run(summarize_server, self._run.client, self._run.open)

    @method()
    def doctor(
        self,
        *,
        nodes: Sequence[AnyClient | str] = (),
        accept: Collection[str] = (),
        timeout: float = NODE_TIMEOUT_S,
        try_moving: bool = False,
    ) -> Examination:
        """Diagnose the server and the servers that replicate with it; nothing is written.

        Of a cluster, all nodes are diagnosed.

        Args:
            nodes: Clients or URLs of further servers; user and password of a URL default to those
                of this server.
            accept: Codes of findings to accept; `keyleash.doctor.accepted_findings` returns those
                of `keyleash.toml`.
            timeout: The longest wait for each reply of the other servers, in seconds.
            try_moving: Mark an empty slot of each primary of a cluster as moving for some
                milliseconds, to see whether scripts miss its keys.

        Raises:
            OperationError (unknown-code): a code does not exist.
        """
        return self._run.run(
            examine,
            self._run.client,
            nodes,
            accept=accept,
            timeout_s=positive("timeout", timeout),
            try_moving=try_moving,
        )

    @method()
    def metrics(self) -> str:
        """Return the numbers of `status` in the text format of Prometheus.

        `keyleash_up` is 0 if the server cannot be read; other metrics are missing then.
        """
        return self._run.run(self.collector().text)

    def collector(
        self, report: Callable[[Exception | None], None] | None = None
    ) -> SnapshotCollector:
        """Return a collector of the metrics, for a registry of Prometheus, or to `serve` them.

        It reads the server at each scrape, in the scraping thread.

        Args:
            report: Called after each scrape with the error that stopped it, or None.
        """
        return SnapshotCollector(partial(self._run.call, read_snapshot), report)

    @method()
    def watcher(
        self,
        *,
        nodes: Sequence[AnyClient | str] = (),
        sentinels: Sequence[AnyClient | str] = (),
        service: str = "mymaster",
        must_answer: bool = False,
    ) -> Watcher:
        """Return a watcher, which keeps guards loaded on a primary and its replicas.

        It is a context manager. Its methods `look` and `run` block, and yield events; with asyncio
        call them in a thread.

        Args:
            nodes: Clients or URLs of servers to begin with; this server if there are none, and no
                *sentinels*. User and password of a URL default to those of this server.
            sentinels: Clients or URLs of Sentinels that know the servers.
            service: The name of the primary in Sentinel.
            must_answer: Whether to raise an error if none of the servers answers.

        Raises:
            OperationError (bad-url): a URL does not name a server.
            OperationError (unsupported-server): a server is older than the supported versions.
            redis.ConnectionError, redis.TimeoutError: see *must_answer*.
        """
        return self._run.run(
            Watcher,
            self._run.client,
            nodes,
            sentinels,
            service,
            must_answer=must_answer,
        )


class Operator(Server[Runner]):
    """Operate keyleash on one server: load policies, issue tokens, freeze, audit, undo.

    Each call is one operation of its own; nothing is held between calls but connections, so that
    an object may be shared by threads and tasks, used after a fork, and pickled.

    Args:
        client: A redis-py client of an operator, sync or asyncio, whatever it decodes.
        actor: The operator's name, for the control stream; the user's login name if None.

    Attributes:
        policies: Earlier policies.
        tokens: Issue, list, renew, rotate and revoke tokens.
        limits: Reset what limits have counted.
        audit: Read, follow, export and report audit events.
        undo: Restore keys to their values before some events.
        fence: The ACL users of agents.
        vault: Random prefixes of all keys.

    Raises:
        TypeError: *client* is no redis-py client.
        SecretInTextError: *actor* contains a token.
    """

    _runner = Runner

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncOperator(Server[AsyncRunner]):
    """Operate keyleash with asyncio: `keyleash.Operator`, whose methods are awaited.

    Methods that yield return asynchronous iterators.

    Args:
        client: A redis-py client of an operator, sync or asyncio, whatever it decodes.
        actor: The operator's name, for the control stream; the user's login name if None.
    """

    _runner = AsyncRunner

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
