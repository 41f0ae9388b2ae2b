"""The API of operators and orchestrators."""
# Generated from api/aio.py by `make sync`: edit that file.

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from keyleash.api import calls
from keyleash.api.calls import FencePlan, Selection
from keyleash.api.inputs import Duration, Moment, seconds_of
from keyleash.api.policy import Policy
from keyleash.api.run import Runner
from keyleash.audit import AuditEvent, ControlEvent, Denial
from keyleash.audit.export import ArchiveReport, Exported, FileFormat
from keyleash.audit.point_in_time import ValueThen
from keyleash.audit.report.html import HtmlReport
from keyleash.audit.undo import UndoPlan, UndoResult, apply_undo
from keyleash.doctor import Examination
from keyleash.fence import FenceOutcome, GeneratedPassword
from keyleash.operator import tokens
from keyleash.operator.decisions import Explanation, explain
from keyleash.operator.limit_reset import LimitReset, reset_limits
from keyleash.operator.load.activate import LoadResult
from keyleash.operator.load.consent import LoadPlan, apply_plan, earlier_policy, plan_load
from keyleash.operator.suspension import FreezeResult, freeze, thaw
from keyleash.operator.tokens import IssuedToken, Revocation, Rotation, TokenInfo
from keyleash.status import Snapshot, read_snapshot
from keyleash.store.connect import DEFAULT_URL, TIMEOUT_S, connect, default_actor
from keyleash.store.prefixes import ChangeKind
from keyleash.store.records import ActivePolicy, read_active, read_history
from keyleash.store.server_check import Client
from keyleash.store.wire import Transport
from keyleash.vault import ChangeResult, adopt_keys, release_keys
from keyleash.vault.change import change_prefixes


class Operator:
    """Operate keyleash on one server: load policies, issue tokens, freeze, audit, undo.

    Each call is one operation of its own; nothing is held between calls but connections, so that
    an object may be shared by threads and tasks, used after a fork, and pickled.

    Args:
        client: A redis-py client of an operator, sync or asyncio, whatever it decodes.
        actor: The operator's name, for the control stream; the user's login name if None.

    Attributes:
        policies: Earlier policies.
        tokens: Issue, list, rotate and revoke tokens.
        limits: Reset what limits have counted.
        audit: Read, follow, export and report audit events.
        undo: Restore keys to their values before some events.
        fence: The ACL users of agents.
        vault: Random prefixes of all keys.

    Raises:
        TypeError: *client* is no redis-py client.
        SecretInTextError: *actor* contains a token.
    """

    def __init__(self, client: Client, *, actor: str | None = None) -> None:
        run = Runner(client, default_actor() if actor is None else actor)
        self._run = run
        self.policies = PolicyOperations(run)
        self.tokens = TokenOperations(run)
        self.limits = LimitOperations(run)
        self.audit = AuditOperations(run)
        self.undo = UndoOperations(run)
        self.fence = FenceOperations(run)
        self.vault = VaultOperations(run)

    @classmethod
    def from_url(
        cls, url: str = DEFAULT_URL, *, actor: str | None = None, timeout: float = TIMEOUT_S
    ) -> Self:
        """Return an operator of the server at *url*, which is connected to when it is used.

        Args:
            url: `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://…` or `unix://PATH`.
            actor: As for the class.
            timeout: The longest wait for a connection and for each reply, in seconds.

        Raises:
            OperationError (bad-url): no server can be named so.
        """
        return cls(connect(url, timeout), actor=actor)

    @classmethod
    def from_env(cls) -> Self:
        """Return an operator by KEYLEASH_URL, KEYLEASH_ACTOR and KEYLEASH_TIMEOUT, as the CLI."""
        timeout = float(os.environ.get("KEYLEASH_TIMEOUT") or TIMEOUT_S)
        return cls.from_url(
            os.environ.get("KEYLEASH_URL") or DEFAULT_URL,
            actor=os.environ.get("KEYLEASH_ACTOR") or None,
            timeout=timeout,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._run.close()

    def plan(
        self,
        policy: Policy,
        *,
        transport: Transport = Transport.EVALSHA,
        allow_eviction: bool = False,
        allow_unvalidated_restore: bool = False,
    ) -> LoadPlan:
        """Compile a policy for the server and return what a load of it would change.

        Nothing is written.

        Args:
            policy: The policy.
            transport: How clients are to call the guards.
            allow_eviction: Plan also for a server that may evict control keys.
            allow_unvalidated_restore: Plan also a policy that allows RESTORE on a server that does
                not validate payloads.

        Raises:
            PolicyError: the policy has problems.
            EvictionError, UnvalidatedRestoreError: see the arguments.
        """
        return self._run.call(
            plan_load,
            policy.document,
            file=policy.file,
            transport=transport,
            allow_eviction=allow_eviction,
            allow_unvalidated_restore=allow_unvalidated_restore,
        )

    def load(
        self,
        policy: Policy,
        *,
        expect: LoadPlan | None = None,
        allow_widening: bool = False,
        allow_removal: bool = False,
        transport: Transport = Transport.EVALSHA,
        nodes: Sequence[Client] = (),
    ) -> LoadResult:
        """Activate a policy atomically, and verify what the server stored.

        Counts of limits, tokens and suspensions stay as they are.

        Args:
            policy: The policy.
            expect: Its plan, as `plan` returned it; nothing is loaded if it is outdated.
            allow_widening: Load also if an identity gets more access than it has.
            allow_removal: Load also if the policy lacks an identity of the active one.
            transport: How clients are to call the guards; that of the plan, with *expect*.
            nodes: Clients of further servers, such as replicas, whose ACL users are updated too.

        Raises:
            PolicyError: the policy has problems.
            PlanOutdatedError: another policy was activated since *expect* was made.
            OperationError (widens): it widens access, and *allow_widening* is false.
            RemovalError: it removes identities, and *allow_removal* is false.
            ValueError: *expect* is the plan of another policy.
        """
        plan = expect or self.plan(policy, transport=transport)
        if plan.prepared.document != policy.document:
            raise ValueError("`expect` is the plan of another policy")
        return self._run.call(
            apply_plan,
            plan,
            allow_widening=allow_widening,
            allow_removal=allow_removal,
            others=nodes,
        )

    def rollback(
        self,
        to: str | None = None,
        *,
        allow_widening: bool = False,
        allow_removal: bool = False,
        nodes: Sequence[Client] = (),
    ) -> LoadResult:
        """Activate an earlier policy again; see `load`.

        Args:
            to: The first digits of its digest, at least 6; the previous policy if None.
            allow_widening, allow_removal, nodes: As for `load`.

        Raises:
            OperationError (no-policy): there is none before the active one.
            OperationError (unknown-policy): the history has none, or several, with that digest.
        """
        stored = self._run.call(earlier_policy, to)
        active = self.policies.active()
        policy = Policy(stored.document, file=f"<policy {stored.digest[:12]}>")
        return self.load(
            policy,
            allow_widening=allow_widening,
            allow_removal=allow_removal,
            nodes=nodes,
            # The transport depends on how the server is operated, and is no part of a policy.
            transport=active.transport if active else Transport.EVALSHA,
        )

    def freeze(
        self, *identities: str, reason: str, duration: Duration | None = None
    ) -> FreezeResult:
        """Deny every call of some identities, or of all, from the next call on.

        Args:
            identities: Their names; all of the active policy if none is given.
            reason: The reason, which agents are shown: up to 128 bytes, without a token.
            duration: How long; until `thaw` if None.

        Raises:
            OperationError (unknown-identity): an identity is not active; nothing was changed.
            SecretInTextError: *reason* contains a token; nothing was changed.
            ValueError: *reason* is too long, or *duration* is not a positive duration.
        """
        seconds = seconds_of("duration", duration)
        return self._run.call(freeze, identities, reason=reason, for_s=seconds)

    def thaw(self, *identities: str) -> FreezeResult:
        """Resume identities, or all, whatever suspended them.

        Raises:
            OperationError (unknown-identity): an identity is not active; nothing was changed.
        """
        return self._run.call(thaw, identities)

    def explain(self, identity: str, *command: str, token_id: str | None = None) -> Explanation:
        """Return the guard's decision on a call, step by step; nothing is run or charged.

        Args:
            identity: The calling identity.
            command: The command and its arguments.
            token_id: The calling token, for limits per token; an unused one if None.

        Raises:
            OperationError (no-policy): no policy is active.
            OperationError (unknown-identity): the active policy has no such identity.
            OperationError (unknown-token-id): the identity has no such token.
        """
        return self._run.call(explain, identity, command, token_id)

    def can_i(self, identity: str, *command: str, token_id: str | None = None) -> bool:
        """Return whether the guard would allow a call; see `explain`."""
        found = self.explain(identity, *command, token_id=token_id)
        return found.allowed

    def status(self) -> Snapshot:
        """Return the identities with their tokens, limits and recent denials."""
        return self._run.call(read_snapshot)

    def doctor(self, *, accept: Collection[str] = ()) -> Examination:
        """Diagnose the server and the servers that replicate with it; nothing is written.

        Args:
            accept: Codes of findings to accept.

        Raises:
            OperationError (unknown-code): a code does not exist.
        """
        return self._run.call(calls.examine_store, frozenset(accept))

    def metrics(self) -> str:
        """Return the numbers of `status` in the text format of Prometheus."""
        return self._run.call(calls.metrics_text)


class PolicyOperations:
    """The active policy and those before it: `Operator.policies`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def active(self) -> ActivePolicy | None:
        """Return the active policy; None if there is none."""
        return self._run.call(read_active)

    def history(self) -> tuple[ActivePolicy, ...]:
        """Return the stored policies, each as it was last active; the newest first."""
        return self._run.call(read_history)


class TokenOperations:
    """Tokens: `Operator.tokens`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def issue(self, identity: str, *, ttl: Duration | None = None, note: str = "") -> IssuedToken:
        """Issue a token.

        Args:
            identity: A name in the active policy.
            ttl: The lifetime, capped by the policy's `max_ttl`; the policy's `ttl` if None.
            note: A note for `list`: up to 200 characters, without a token.

        Raises:
            OperationError (no-policy): no policy is active.
            OperationError (unknown-identity): the active policy has no such identity.
            SecretInTextError: *note* contains a token.
            TypeError, ValueError: an argument has a wrong type or value; nothing was issued.
        """
        seconds = seconds_of("ttl", ttl)
        return self._run.call(tokens.issue_token, identity, ttl_s=seconds, note=note)

    def issue_many(
        self, identity: str, count: int, *, ttl: Duration | None = None, note: str = ""
    ) -> list[IssuedToken]:
        """Issue *count* tokens, a hundred in each step; see `issue`.

        If the connection is lost, tokens of earlier steps are issued and their secrets are lost,
        so that no client can use them.

        Raises:
            ValueError: *count* is not positive; nothing was issued.
        """
        seconds = seconds_of("ttl", ttl)
        return self._run.call(tokens.issue_tokens, identity, count, ttl_s=seconds, note=note)

    def list(self, identity: str | None = None) -> list[TokenInfo]:
        """Return the tokens of an identity, or of all, without their secrets.

        Raises:
            OperationError (unknown-identity): there never was such an identity.
        """
        return self._run.call(tokens.list_tokens, identity)

    def rotate(
        self,
        token_id: str | None = None,
        *,
        identity: str | None = None,
        grace: Duration = "10m",
        ttl: Duration | None = None,
        note: str | None = None,
    ) -> Rotation:
        """Replace one token, or all live tokens of an identity, by a new one.

        Args:
            token_id: The id of the token.
            identity: The identity, in place of *token_id*.
            grace: How long the replaced tokens remain valid, at most.
            ttl: As for `issue`.
            note: As for `issue`; that of the replaced token if None.

        Raises:
            OperationError (unknown-token-id): there is no such token, or it is not live.
            TypeError: both or neither of *token_id* and *identity* are given.
        """
        return self._run.call(
            tokens.rotate_token,
            token_id=token_id,
            identity=identity,
            grace_s=seconds_of("grace", grace) or 0,
            ttl_s=seconds_of("ttl", ttl),
            note=note,
        )

    def revoke(
        self, token_id: str | None = None, *, identity: str | None = None, all: bool = False
    ) -> Revocation:
        """Revoke a token, all tokens of an identity, or all tokens, from the next call on.

        Raises:
            OperationError (unknown-token-id): there is no such token.
            OperationError (unknown-identity): there never was such an identity.
            TypeError: not exactly one of the three is given.
        """
        if (token_id is not None) + (identity is not None) + all != 1:
            raise TypeError("give exactly one of `token_id`, `identity` and `all=True`")
        return self._run.call(tokens.revoke, token_id=token_id, identity=identity)


class LimitOperations:
    """Limits: `Operator.limits`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def reset(self, identity: str, limit: str | None = None, *, reason: str) -> LimitReset:
        """Set what a limit has counted to 0.

        Args:
            identity: A name in the active policy.
            limit: A limit such as `rate.writes`; all of them if None.
            reason: The reason, for the control stream: up to 128 bytes, without a token.

        Raises:
            OperationError (unknown-identity): the active policy has no such identity.
            OperationError (unknown-limit): the identity has no such limit.
        """
        return self._run.call(reset_limits, identity, limit, reason=reason)


class AuditOperations:
    """The audit log: `Operator.audit`.

    Common arguments: *identities* are names, all known ones if there are none; *since* and *until*
    are times by the server's clock: an aware `datetime`, ISO 8601 text, or how long ago, as text
    (`10m`) or `timedelta`.
    """

    def __init__(self, run: Runner) -> None:
        self._run = run

    def events(
        self,
        *identities: str,
        since: Moment | None = None,
        until: Moment | None = None,
        key: str | bytes | None = None,
        correlation: str | None = None,
        token_id: str | None = None,
        op: str | None = None,
        newest_first: bool = False,
    ) -> Iterator[AuditEvent]:
        """Yield audit events by time, those of a batch command by command.

        Args:
            identities, since, until: See the class.
            key: A key, or a pattern as in policies.
            correlation: The correlation id.
            token_id: The calling token.
            op: The command.
            newest_first: Whether to begin with the newest.

        Raises:
            OperationError (unknown-identity): there never was such an identity.
        """
        selection = Selection(since, until, key, correlation, token_id, op)
        return self._run.iterate(
            calls.select_events, identities, selection, newest_first=newest_first
        )

    def denials(
        self,
        *identities: str,
        since: Moment | None = None,
        until: Moment | None = None,
        key: str | bytes | None = None,
        correlation: str | None = None,
        token_id: str | None = None,
        op: str | None = None,
        code: str | None = None,
        newest_first: bool = False,
    ) -> Iterator[Denial]:
        """Yield denials by time, with the number of repetitions of each; see `events`.

        Args:
            code: The reply code, such as `RATE_LIMITED`.
        """
        selection = Selection(since, until, key, correlation, token_id, op, code)
        return self._run.iterate(
            calls.select_denials, identities, selection, newest_first=newest_first
        )

    def control(
        self,
        *identities: str,
        since: Moment | None = None,
        until: Moment | None = None,
        newest_first: bool = False,
    ) -> Iterator[ControlEvent]:
        """Yield operator actions by time; see `events`."""
        return self._run.iterate(
            calls.select_control, identities, Selection(since, until), newest_first=newest_first
        )

    def follow(self, *identities: str, since: Moment | None = None) -> Iterator[AuditEvent]:
        """Yield events as they are recorded, without end.

        Identities that are loaded meanwhile are followed too, if none is named.

        Args:
            identities: See the class.
            since: Also yield what was recorded from then on; only what is new if None.
        """
        return self._run.iterate(calls.follow_events, identities, since)

    def follow_denials(self, *identities: str, since: Moment | None = None) -> Iterator[Denial]:
        """Yield denials as they are recorded, without end; see `follow`."""
        return self._run.iterate(calls.follow_denials, identities, since)

    def timeline(
        self, key: str | bytes, *, since: Moment | None = None, until: Moment | None = None
    ) -> list[AuditEvent | Denial]:
        """Return every trusted event and every denial that concerns *key*, oldest first."""
        return self._run.call(calls.timeline, key, Selection(since, until))

    def value_at(self, key: str | bytes, time: Moment) -> ValueThen:
        """Return the value of *key* at a past time, from before-images.

        Raises:
            OperationError (unknown-value): it is not recorded.
        """
        return self._run.call(calls.value_at, key, time)

    def export(
        self,
        directory: str | Path,
        *identities: str,
        file_format: str = "jsonl",
        take_over: bool = False,
    ) -> list[Exported]:
        """Write the new entries of all audit streams to an archive, and acknowledge them.

        Args:
            directory: An empty or new directory, or an archive.
            identities: See the class; denials and operator actions are exported always.
            file_format: `jsonl` or `parquet`.
            take_over: Continue although another archive has these streams.

        Raises:
            ArchiveError: the directory cannot be used as an archive.
        """
        return self._run.call(
            calls.export_streams, Path(directory), identities, FileFormat(file_format), take_over
        )

    def verify(self, directory: str | Path, *, recorded: bool = True) -> ArchiveReport:
        """Check the files of an archive, and with *recorded* the chains in the control stream."""
        return self._run.call(calls.verify, Path(directory), recorded)

    def report(
        self,
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        identity: str | None = None,
        correlation: str | None = None,
    ) -> HtmlReport:
        """Return an incident report, whose `html` is a page without scripts; it shows values.

        Raises:
            OperationError (nothing-found): there is nothing to report.
        """
        return self._run.call(
            calls.incident_report, identity, Selection(since, until, correlation=correlation)
        )


class UndoOperations:
    """Undo: `Operator.undo`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def plan(
        self,
        *,
        events: Sequence[str] = (),
        correlation: str | None = None,
        identity: str | None = None,
        key: str | bytes | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        force: Sequence[bytes] = (),
        skip: Sequence[bytes] = (),
        across_policies: bool = False,
    ) -> UndoPlan:
        """Return what an undo of the selected events would restore, and its conflicts.

        Args:
            events: Ids of events, a batch whole; then nothing else selects.
            correlation: All events with this correlation id.
            identity: All events of this identity; needs *since*.
            key: All changes of a key, or of the keys of a pattern; needs *since*.
            since, until: The time range of the events.
            force: Keys whose conflicts are overridden.
            skip: Keys that are left as they are.
            across_policies: Also undo what the active policy does not grant any more.

        Raises:
            TypeError: the arguments select nothing, or exclude each other.
            OperationError (unknown-event): there is no such event.
        """
        return self._run.call(
            calls.plan_selected,
            events=tuple(events),
            correlation=correlation,
            identity=identity,
            key=key,
            since=since,
            until=until,
            forced=frozenset(force),
            skipped=frozenset(skip),
            across_policies=across_policies,
        )

    def apply(self, plan: UndoPlan) -> UndoResult:
        """Restore all keys of a plan atomically; the undo can be undone by its correlation id.

        Raises:
            OperationError (undo-denied): the plan has conflicts; nothing was changed.
            OperationError (changed-meanwhile): a key changed since the plan; nothing was changed.
        """
        return self._run.call(apply_undo, plan)


class FenceOperations:
    """The ACL users of agents: `Operator.fence`.

    Common arguments: *nodes* are clients of further servers, such as replicas, which have ACL
    users of their own.
    """

    def __init__(self, run: Runner) -> None:
        self._run = run

    def plan(self, *, nodes: Sequence[Client] = ()) -> FencePlan:
        """Return what `apply` would do; nothing is changed."""
        return self._run.call(calls.plan_users, nodes)

    def apply(
        self, *, nodes: Sequence[Client] = (), generate: bool = False
    ) -> tuple[FenceOutcome, tuple[GeneratedPassword, ...]]:
        """Create an ACL user for each identity of the active policy.

        Args:
            nodes: See the class.
            generate: Generate a password for users without one.

        Returns:
            The outcome, and the generated passwords, which are stored nowhere.
        """
        return self._run.call(calls.apply_users, nodes, generate)

    def rotate(
        self, *identities: str, nodes: Sequence[Client] = ()
    ) -> tuple[GeneratedPassword, ...]:
        """Add a second password to the users of some identities, or of all, and return it."""
        return self._run.call(calls.rotate_passwords, identities, nodes)

    def finish_rotation(self, *identities: str, nodes: Sequence[Client] = ()) -> tuple[str, ...]:
        """Remove the older password of users; return the identities that had one."""
        return self._run.call(calls.finish_rotation, identities, nodes)

    def remove(self, *identities: str, nodes: Sequence[Client] = ()) -> tuple[tuple[str, str], ...]:
        """Delete the users of some identities, or of all; return server and identity of each."""
        return self._run.call(calls.remove_users, identities, nodes)


class VaultOperations:
    """Random prefixes of all keys: `Operator.vault`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def seal(self, *, adopt: Sequence[str] = (), nodes: Sequence[Client] = ()) -> ChangeResult:
        """Move all keys of keyleash, and the keys that match *adopt*, under random prefixes."""
        return self._run.call(change_prefixes, ChangeKind.SEAL, adopt=adopt, others=nodes)

    def rotate(self, *, nodes: Sequence[Client] = ()) -> ChangeResult:
        """Replace the prefixes by new ones."""
        return self._run.call(change_prefixes, ChangeKind.ROTATE, others=nodes)

    def unseal(self, *, nodes: Sequence[Client] = ()) -> ChangeResult:
        """Move all keys back to their names."""
        return self._run.call(change_prefixes, ChangeKind.UNSEAL, others=nodes)

    def adopt(self, *patterns: str) -> int:
        """Move keys that match into the vault; return their number."""
        return self._run.call(adopt_keys, patterns)

    def release(self, *patterns: str) -> int:
        """Move keys that match out of the vault; return their number."""
        return self._run.call(release_keys, patterns)
