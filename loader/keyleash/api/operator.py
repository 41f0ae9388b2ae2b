"""The API of operators and orchestrators."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Self, Unpack

from keyleash.addons.doctor.examine import Examination, examine
from keyleash.addons.learn.backtest import Backtest, backtest
from keyleash.addons.learn.learn import MIN_CALLS, Learned, Least, learn
from keyleash.addons.learn.monitor import capture
from keyleash.addons.learn.sources import LogOptions, open_log
from keyleash.addons.learn.unused import Unused, find_unused
from keyleash.addons.metrics import SnapshotCollector
from keyleash.addons.policy_tests.invariants import may_name
from keyleash.addons.status.snapshot import read_snapshot
from keyleash.api import loading
from keyleash.api.nouns import (
    AuditOperations,
    LimitOperations,
    PolicyOperations,
    TokenOperations,
    UndoOperations,
)
from keyleash.api.policy import Policy
from keyleash.errors import ArgumentError, OperationError
from keyleash.operations import AsyncRunner, F, Noun, Runner, checked, method
from keyleash.operations.types import Duration, IdentityName
from keyleash.operator import decisions, suspension
from keyleash.operator.abilities import identity_abilities
from keyleash.operator.roles import acl_user
from keyleash.operator.server import ServerSummary, all_identities, server_time, summarize_server
from keyleash.operator.tokens.list import list_tokens
from keyleash.policy.parse import ACTIVE, active_policy
from keyleash.policy.quantities import positive, seconds_of
from keyleash.results import Progress
from keyleash.store.connect import (
    DEFAULT_URL,
    NODE_TIMEOUT_S,
    AnyClient,
    connect,
    default_actor,
    parse_timeout,
)
from keyleash.store.identities import require_active
from keyleash.store.records import read_active


@checked
class Server(Noun[F]):
    """The operations of a server, for both faces."""

    _runner_type: type[F]

    def __init__(self, client: AnyClient, *, actor: str | None = None) -> None:
        face: F = self._runner_type(client, default_actor() if actor is None else actor)
        super().__init__(face)
        self.policies = PolicyOperations(face)
        self.tokens = TokenOperations(face)
        self.limits = LimitOperations(face)
        self.audit = AuditOperations(face)
        self.undo = UndoOperations(face)

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
        if not (url := os.environ.get("KEYLEASH_URL", DEFAULT_URL)):
            raise OperationError("bad-url", "KEYLEASH_URL is set, but empty")
        actor = os.environ.get("KEYLEASH_ACTOR") or None
        return cls.from_url(url, actor=actor, timeout=seconds)

    def __repr__(self) -> str:
        return f"{type(self).__module__}.Operator({self._runner!r})"

    @method()
    def connect(self) -> None:
        """Check that the server answers and is supported, as the first call does by itself.

        Raises:
            OperationError (unsupported-server): the server is too old.
            redis.RedisError: the server does not answer.
        """
        self._runner.run(self._runner.check)

    @method()
    def close(self) -> None:
        """Close the connections."""
        self._runner.close()

    plan = loading.plan_load
    plan_rollback = loading.plan_rollback
    apply = loading.apply_plan
    load = loading.load
    rollback = loading.rollback
    freeze = suspension.freeze
    thaw = suspension.thaw
    explain = decisions.explain
    can_i = decisions.can_i
    abilities = identity_abilities
    status = read_snapshot
    now = server_time
    identities = all_identities
    acl = acl_user

    @method("learn")
    def learn(
        self, *identities: IdentityName, least: Least = MIN_CALLS, **options: Unpack[LogOptions]
    ) -> Learned:
        """Return what identities need by their recorded calls, as a policy; nothing is loaded.

        Args:
            identities: Names; all of the log if none is given.
            least: Calls of a pattern or class that are enough; fewer are proposed as comments.
            options: The log: calls from *since* (all that is left if None) until *until*, of the
                server, of the *archive* in a directory, or of a capture of MONITOR, *monitor*,
                whose identities are names of clients. *progress* is called with the number of
                calls that were read, and the total if it is known.

        Raises:
            OperationError (too-few-calls): no identity has enough calls.
            OperationError (unknown-identity): the log has no such identity.
        """

        def learned() -> Learned:
            return learn(open_log(self._runner.open, identities, options), least=least)

        return self._runner.run(learned)

    @method("backtest")
    def backtest(
        self, policy: Policy, *, relative: bool = False, **options: Unpack[LogOptions]
    ) -> Backtest:
        """Decide recorded calls by another policy, with its limits replayed by time.

        Options of the log are those of `learn`.

        Args:
            policy: The policy to try.
            relative: Count what the active policy denies or leaves undecided, too, as unchanged.

        Raises:
            PolicyError: the policy has problems.
        """

        def tested() -> Backtest:
            log = open_log(self._runner.open, (), options)
            is_offline = options.get("archive") or options.get("monitor")
            active = None if is_offline else read_active(self._runner.open())
            if active is None:
                return backtest(log, policy.model, policy.file)
            before = active_policy(active.document)
            return backtest(log, policy.model, policy.file, before, active.activated_ms, relative)

        return self._runner.run(tested)

    @method("unused")
    def unused(self, policy: Policy | None = None, **options: Unpack[LogOptions]) -> Unused:
        """Return rules of a policy that no recorded call needed, and the policy without them.

        Options of the log are those of `learn`; tokens are only read with that of the server.

        Args:
            policy: The policy; the active one if None.

        Raises:
            ArgumentError: no policy is named for a log of no server.
            OperationError (no-policy): no policy is active.
            PolicyError: the policy has problems.
        """

        def found() -> Unused:
            log = open_log(self._runner.open, (), options)
            is_offline = options.get("archive") or options.get("monitor")
            if is_offline and policy is None:
                raise ArgumentError("an archive or a capture has no active policy: name a file")
            listed = () if is_offline else list_tokens(self._runner.open())
            tokens = [(x.identity, x.id) for x in listed if x.is_live and x.used_ms is None]
            file = policy.file if policy else ACTIVE
            document = (policy or require_active(self._runner.open())).document
            return find_unused(log, document, file, tokens, partial(may_name, file))

        return self._runner.run(found)

    @method()
    def capture(
        self, file: str | Path, *, duration: Duration = "60s", progress: Progress | None = None
    ) -> int:
        """Write what MONITOR shows to a new file, and return the number of calls.

        It costs the server up to half of its throughput, and the file has what clients write.
        """
        seconds = seconds_of("duration", duration) or 1
        report = progress or (lambda _done, _total: None)
        return self._runner.run(capture, self._runner.client, file, seconds, report)

    @method()
    def server(self) -> ServerSummary:
        """Return facts about the server that distinguish it, also if its keys are being moved."""
        return self._runner.run(summarize_server, self._runner.client, self._runner.open)

    @method()
    def doctor(
        self,
        *,
        nodes: Sequence[AnyClient | str] = (),
        accept: Collection[str] = (),
        timeout: float = NODE_TIMEOUT_S,
    ) -> Examination:
        """Diagnose the server and the servers that replicate with it; nothing is written.

        Of a cluster, all nodes are diagnosed.

        Args:
            nodes: Clients or URLs of further servers; user and password of a URL default to those
                of this server.
            accept: Codes of findings to accept; those of `keyleash.toml` are returned by
                `keyleash.addons.doctor.config.accepted_findings`.
            timeout: The longest wait for each reply of the other servers, in seconds.

        Raises:
            OperationError (unknown-code): a code does not exist.
        """
        return self._runner.run(
            examine,
            self._runner.client,
            nodes,
            accept=accept,
            timeout_s=positive("timeout", timeout),
        )

    @method("metrics")
    def metrics(self) -> str:
        """Return the numbers of `status` in the text format of Prometheus.

        `keyleash_up` is 0 if the server cannot be read; other metrics are missing then.
        """
        return self._runner.run(self.collector().text)

    def collector(
        self, report: Callable[[Exception | None], None] | None = None
    ) -> SnapshotCollector:
        """Return a collector of the metrics, for a registry of Prometheus, or to `serve` them.

        It reads the server at each scrape, in the scraping thread.

        Args:
            report: Called after each scrape with the error that stopped it, or None.
        """
        return SnapshotCollector(partial(self._runner.call, read_snapshot), report)


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

    Raises:
        TypeError: *client* is no redis-py client.
        SecretInTextError: *actor* contains a token.
    """

    _runner_type = Runner

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncOperator(Server[AsyncRunner]):
    """Operate keyleash with asyncio: `keyleash.Operator`, whose methods are awaited.

    Methods that yield return asynchronous iterators. Arguments are those of `keyleash.Operator`.
    """

    _runner_type = AsyncRunner

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
