"""The input of a decision: a policy file, or the server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyleash.cli.settings import Settings
from keyleash.cli.terminal import read_text
from keyleash.commands import load_table
from keyleash.commands.live import UnreadableCommandsError, read_table
from keyleash.errors import (
    OperationError,
    ReplyCode,
)
from keyleash.evaluate import Decision, ModelState, decide
from keyleash.evaluate.access import as_sent
from keyleash.evaluate.evaluate import subjects
from keyleash.evaluate.state import stored_state, subject_key
from keyleash.evaluate.trace import StandingStep, TokenStep
from keyleash.operator.load.compile import ServerSizes
from keyleash.operator.tokens import TokenState, list_tokens
from keyleash.policy import SubjectKind, parse_policy, policy_digest
from keyleash.policy.problems import which_identity
from keyleash.store.identities import require_active
from keyleash.store.state import Layout
from keyleash.store.wire import declared_keys
from keyleash.text import printable

if TYPE_CHECKING:
    from keyleash.commands import CommandTable
    from keyleash.evaluate import Decision, ModelState
    from keyleash.policy import Identity, Limit, Policy


def stored_counts(
    settings: Settings,
    identity: Identity,
    table: CommandTable,
    words: Sequence[str],
    token_id: str,
    now_us: int,
) -> ModelState:
    """Read the limit counts that apply to a call: of identity, token and captured segments."""
    state = identity_counts(settings, identity)
    state.sizes = ServerSizes(settings.store)
    keys = [bytes(key) for key in declared_keys(table, as_sent(words))]
    for limit in identity.limits:
        if limit.subject.kind is SubjectKind.IDENTITY:
            continue
        for subject in subjects(identity, limit, keys, token_id):
            read_subject(settings, identity, limit, subject, state, now_us)
    return state


def identity_counts(settings: Settings, identity: Identity) -> ModelState:
    """Read the counts of identity-wide limits, and the suspension."""
    store = settings.store
    packed = store.client.get(store.keys.state(identity.name))
    layout = store.client.hget(store.keys.layouts, identity.name)
    reason = store.client.hget(store.keys.suspension(identity.name), "reason") or b""
    found = stored_state(
        identity,
        packed,
        Layout.from_json(layout) if layout else None,
        reason.decode("utf-8", "surrogateescape"),
    )
    hard_max = identity.audit.hard_max
    if hard_max is not None:
        found.is_full = store.client.xlen(store.keys.audit(identity.name)) >= hard_max
    return found


def read_subject(
    settings: Settings,
    identity: Identity,
    limit: Limit,
    subject: bytes,
    state: ModelState,
    now_us: int,
) -> None:
    """Read the count of one token (by its id) or one captured segment into *state*."""
    record = settings.client.get(subject_key(settings.keyspace, identity, limit, subject))
    if record:
        state.counts[limit.name, subject] = limit.read_record(record, now_us)


ACTIVE = "<active policy>"


@dataclass(frozen=True)
class DecisionContext:
    """The policy, the limit counts and the time of a decision.

    Attributes:
        file: The policy's name in spans; `ACTIVE` for the server's.
        lines: The lines of the document.
        state: The limit counts; none for a file.
        now_us: The server's time, or this machine's for a file.
        token_id: The calling token, for limits per token; empty for an unused one.
        denial: The denial of every call with that token, if it is revoked or expired.
    """

    identity: Identity
    table: CommandTable
    file: str
    lines: tuple[str, ...]
    digest: str
    state: ModelState
    now_us: int
    token_id: str = ""
    denial: Decision | None = None

    @property
    def is_live(self) -> bool:
        """True for the server's active policy."""
        return self.file == ACTIVE

    def decision(self, words: tuple[str, ...]) -> Decision:
        """Return the guard's decision on a call."""
        argv = as_sent(words)
        declared = declared_keys(self.table, argv)
        decision = decide(
            self.identity, self.table, argv, declared, self.state, self.now_us, self.token_id
        )
        # The identity is checked before its token.
        is_stopped = any(isinstance(step, StandingStep) for step in decision.trace)
        return decision if is_stopped or self.denial is None else self.denial


def context_of_file(file: str, name: str) -> DecisionContext:
    """Return the context of a policy file with unused limits; `-` is standard input.

    Raises:
        PolicyError: The file has problems.
        OperationError (unknown-identity): It has no identity *name*.
    """
    shown, text = read_text(file)
    table = load_table()
    policy = parse_policy(text, file=shown, commands=table)
    return DecisionContext(
        identity=_require_identity(policy, name, shown),
        table=table,
        file=shown,
        lines=tuple(text.splitlines()),
        digest=policy_digest(policy),
        state=ModelState(),
        now_us=time.time_ns() // 1_000_000 * 1000,
    )


def context_of_server(
    settings: Settings, name: str, words: tuple[str, ...], token_id: str | None
) -> DecisionContext:
    """Return the context of the active policy, with the limit counts for a call of *name*.

    Raises:
        OperationError (no-policy): No policy is active.
        OperationError (unknown-identity): The active policy has no identity *name*.
        OperationError (unknown-token-id): *name* has no token of that id.
    """
    active = require_active(settings.store)
    policy = parse_policy(active.document, file=ACTIVE, commands=None)
    identity = _require_identity(policy, name, "the active policy")
    try:
        table = read_table(settings.client)
    except UnreadableCommandsError:
        # The guards too were then compiled for the shipped table.
        table = load_table()
    now_us = settings.store.now_ms() * 1000
    return DecisionContext(
        identity=identity,
        table=table,
        file=ACTIVE,
        lines=tuple(active.document.splitlines()),
        digest=active.digest,
        state=stored_counts(settings, identity, table, words, token_id or "", now_us),
        now_us=now_us,
        token_id=token_id or "",
        denial=_token_denial(settings, name, token_id) if token_id else None,
    )


def _token_denial(settings: Settings, name: str, token_id: str) -> Decision | None:
    tokens = list_tokens(settings.store, name)
    info = next((token for token in tokens if token.id == token_id), None)
    if info is None:
        raise OperationError(
            "unknown-token-id",
            f"`{name}` has no token with the id `{printable(token_id)}`",
            help=f"see `keyleash token list {name}`",
        )
    if info.state is TokenState.LIVE:
        return None
    is_revoked = info.state is TokenState.REVOKED
    code = ReplyCode.TOKEN_REVOKED if is_revoked else ReplyCode.TOKEN_EXPIRED
    return Decision(code, {}, (TokenStep(code=code),))


def _require_identity(policy: Policy, name: str, where: str) -> Identity:
    found = policy.identity(name)
    if found is None:
        help_ = which_identity(name, (identity.name for identity in policy.identities))
        raise OperationError("unknown-identity", f"{where} has no identity `{name}`", help=help_)
    return found
