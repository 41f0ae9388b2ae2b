"""Decisions on calls of an identity: by a policy document, or by the server's active policy."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import AuthorizationError, NoPermissionError

from keyleash.client.questions import ask_guard
from keyleash.commands import known_table, load_table
from keyleash.errors import OperationError, ReplyCode, Span, UnreadableCommandsError
from keyleash.evaluate.access import as_sent
from keyleash.evaluate.client_calls import REJECTED, client_call, decide_client_call
from keyleash.evaluate.decision_text import denial_text, reason, step_lines, text_at
from keyleash.evaluate.evaluate import subjects
from keyleash.evaluate.state import ModelState, stored_state
from keyleash.evaluate.trace import (
    ALLOWED,
    ArgumentsStep,
    ArgumentStep,
    ClassStep,
    CommandStep,
    ConnectionStep,
    Decision,
    KeyStep,
    LimitStep,
    Match,
    ScriptStep,
    StandingStep,
    Step,
    TokenStep,
    ValueStep,
    confirmed,
)
from keyleash.limits import SubjectKind
from keyleash.operations import operation
from keyleash.operations.types import IdentityName
from keyleash.operator.tokens.issue import require_identity
from keyleash.operator.tokens.list import TokenInfo, TokenState, list_tokens, require_token_id
from keyleash.policy import Grant, parse_policy
from keyleash.policy.canonical import policy_digest
from keyleash.policy.parse import ACTIVE, active_policy
from keyleash.results import Result
from keyleash.store.agent_keys import require_one_slot
from keyleash.store.identities import require_active
from keyleash.store.live_table import read_table
from keyleash.store.state import Layout
from keyleash.store.states import (
    read_counter,
    read_packed_layout,
    read_packed_state,
    read_suspension_reason,
)
from keyleash.store.store import Store
from keyleash.store.streams import audit_streams, stream_length
from keyleash.text import (
    clock_time,
    iso_time,
    json_bytes,
    json_object,
    printable,
    short_digest,
    without_tokens,
)

if TYPE_CHECKING:
    from keyleash.commands import CommandTable
    from keyleash.policy import Identity


def stored_counts(
    store: Store,
    identity: Identity,
    table: CommandTable,
    words: Sequence[str | bytes],
    token_id: str,
    now_us: int,
) -> ModelState:
    """Read the limit counts that apply to a call: of identity, token and captured segments."""
    state = _identity_counts(store, identity)
    keys = client_call(identity, as_sent(words)).touched(table)
    for limit in identity.limits:
        if limit.subject.kind is SubjectKind.IDENTITY:
            continue
        for subject in subjects(identity, limit, keys, token_id):
            if record := read_counter(store, identity.name, limit, subject):
                state.counts[limit.name, subject] = limit.read_record(record, now_us)
    return state


def _identity_counts(store: Store, identity: Identity) -> ModelState:
    """Read the counts of identity-wide limits, and the suspension."""
    packed = read_packed_state(store, identity.name)
    layout = read_packed_layout(store, identity.name)
    reason = read_suspension_reason(store, identity.name)
    found = stored_state(
        identity,
        packed,
        Layout.from_json(layout) if layout else None,
        reason.decode("utf-8", "surrogateescape"),
    )
    hard_max = identity.audit.hard_max
    if hard_max is not None:
        streams = audit_streams(store, [identity.name])
        found.is_full = any(stream_length(store, stream) >= hard_max for stream in streams)
    return found


@dataclass(frozen=True)
class DecisionContext:
    """The policy, the limit counts and the time of a decision.

    Attributes:
        file: The policy's name in spans; `ACTIVE` for the server's.
        lines: The lines of the document.
        state: The limit counts; none for a file.
        now_us: The server's time, or this machine's for a file.
        token_id: The calling token; empty for an unused one.
        counted_id: The token that limits per token count it as.
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
    counted_id: str = ""
    denial: Decision | None = None

    @property
    def is_live(self) -> bool:
        """True for the server's active policy."""
        return self.file == ACTIVE

    def restriction_lines(self) -> Iterator[tuple[str, str]]:
        """Yield the restrictions of the calling token."""
        restrictions = self.state.restrictions
        yield from restrictions.lines() if restrictions else ()

    def policy_json(self) -> dict[str, Any]:
        """Return the policy for JSON; its file is null for the server's."""
        return {"file": None if self.is_live else self.file, "digest": self.digest}

    def decision(self, words: tuple[str | bytes, ...]) -> Decision:
        """Return the guard's decision on a call."""
        call = client_call(self.identity, as_sent(words))
        decision = decide_client_call(
            self.identity, self.table, call, self.state, self.now_us, self.counted_id
        )
        # The identity is checked before its token.
        is_stopped = any(isinstance(step, StandingStep) for step in decision.trace)
        return decision if is_stopped or self.denial is None else self.denial


def explain_command(identity: str, words: Sequence[str | bytes], file: str = "") -> str:
    """Return the command line that explains a call, by a policy file or the active policy."""
    options = ["--policy", file] if file else []
    head = ["keyleash", "explain", identity, *options, "--"]
    return without_tokens(shlex.join([*head, *map(printable, words)]))


def context_of_document(document: str, name: str, file: str = "<policy>") -> DecisionContext:
    """Return the context of a policy document with unused limits.

    Raises:
        PolicyError: The document has problems.
        OperationError (unknown-identity): It has no identity *name*.
    """
    table = known_table()
    policy = parse_policy(document, file=file, commands=table)
    return DecisionContext(
        identity=require_identity(policy, name, file),
        table=table,
        file=file,
        lines=tuple(document.splitlines()),
        digest=policy_digest(policy),
        state=ModelState(),
        now_us=time.time_ns() // 1_000_000 * 1000,
    )


def context_of_server(
    store: Store, name: str, words: tuple[str | bytes, ...], token_id: str | None
) -> DecisionContext:
    """Return the context of the active policy, with the limit counts for a call of *name*.

    Raises:
        OperationError (no-policy): No policy is active.
        OperationError (unknown-identity): The active policy has no identity *name*.
        OperationError (unknown-token-id): *name* has no token of that id.
    """
    active = require_active(store)
    policy = active_policy(active.document)
    identity = require_identity(policy, name)
    try:
        table = read_table(store.client, is_cluster=store.cluster is not None)
    except UnreadableCommandsError:
        # The guards too were then compiled for the shipped table.
        table = load_table()
    now_us = store.now_ms() * 1000
    token, ancestors = _token_of(store, name, token_id) if token_id else (None, ())
    # An issued token and all tokens that were delegated from it count as one.
    counted_id = token.chain[0] if token and token.chain else token_id or ""
    state = stored_counts(store, identity, table, words, counted_id, now_us)
    if token is not None:
        state.restrictions = token.restrictions
        found = (item.restrictions for item in ancestors if item.restrictions)
        state.ancestors = tuple(count for item in found for count in item.counts)
    return DecisionContext(
        identity=identity,
        table=table,
        file=ACTIVE,
        lines=tuple(active.document.splitlines()),
        digest=active.digest,
        state=state,
        now_us=now_us,
        token_id=token_id or "",
        counted_id=counted_id,
        denial=None if token is None else _token_denial(identity, token, ancestors),
    )


def _token_of(store: Store, name: str, token_id: str) -> tuple[TokenInfo, list[TokenInfo]]:
    """Return a token and its ancestors."""
    require_token_id(token_id)
    tokens = {token.id: token for token in list_tokens(store, name)}
    info = tokens.get(token_id)
    if info is None:
        raise OperationError(
            "unknown-token-id",
            f"`{name}` has no token with the id `{printable(token_id)}`",
            help=f"see `keyleash token list {name}`",
        )
    return info, [tokens[id_] for id_ in info.chain if id_ in tokens]


def _token_denial(
    identity: Identity, token: TokenInfo, ancestors: Sequence[TokenInfo]
) -> Decision | None:
    depth, ended = identity.delegate.depth, _ended_ancestor(token, ancestors)
    is_too_deep = len(token.chain) > depth
    if token.state is TokenState.REVOKED and not ended:
        return _revoked()
    if token.restrictions and not identity.token.bound:
        return _revoked(bound="off")
    if token.state is TokenState.EXPIRED and (depth or not is_too_deep):
        return Decision(ReplyCode.TOKEN_EXPIRED, {}, (TokenStep(code=ReplyCode.TOKEN_EXPIRED),))
    if is_too_deep:
        return _revoked(depth=str(len(token.chain)))
    return _revoked(**ended) if token.state is TokenState.REVOKED else None


def _revoked(**details: str) -> Decision:
    return Decision(ReplyCode.TOKEN_REVOKED, details, (TokenStep(code=ReplyCode.TOKEN_REVOKED),))


def _ended_ancestor(token: TokenInfo, ancestors: Sequence[TokenInfo]) -> dict[str, str]:
    """Return the first ancestor that is over, and why, as the details of a denial."""
    known = {item.id: item for item in ancestors}
    for id_ in token.chain:
        found = known.get(id_)
        if found is not None and found.state is TokenState.REVOKED:
            return {"ancestor": id_, "state": "revoked"}
        if found is not None and found.replaced_by:
            return {"ancestor": id_, "state": "rotated"}
        # An idle timeout counts each token alone.
        if found is None or found.expires_ms <= found.read_ms:
            return {"ancestor": id_, "state": "expired"}
    return {}


@dataclass(frozen=True)
class Explanation(Result):
    """The decision on a call, and how it was reached.

    Attributes:
        context: The policy, the limit counts and the time.
        words: The command and its arguments.
        decision: The guard's decision, with its steps.
    """

    context: DecisionContext
    words: tuple[str | bytes, ...]
    decision: Decision

    @property
    def allowed(self) -> bool:
        """True if the call is allowed."""
        return self.decision.allowed

    @property
    def help(self) -> str:
        """The rule that denies the call, and what would change it; empty if it is allowed."""
        if self.allowed:
            return ""
        return reason(self.decision, self.context.identity.name).operator

    def __str__(self) -> str:
        """Return the decision as `keyleash explain` prints it, step by step."""
        context = self.context
        at = clock_time(context.now_us // 1000)
        limits = f"limits as of {at}" if context.is_live else "limits unused"
        call = shlex.join(map(printable, self.words))
        lines = [
            f"policy    {context.file}, digest {short_digest(context.digest)}, {limits}",
            f"call      {context.identity.name}: {without_tokens(call)}",
            *(f"{name:<10}{text}" for name, text in context.restriction_lines()),
            *map(without_tokens, step_lines(self.decision, context.lines)),
        ]
        if self.allowed:
            trace = self.decision.trace
            end = f"   but {REJECTED}" if ConnectionStep(REJECTED) in trace else ""
            end += " by the policy alone" if self.decision.is_open else ""
            return "\n".join([*lines, f"allowed{end}"])
        denied = f"denied    {denial_text(self.decision)}"
        return "\n".join([*lines, denied, f"help      {self.help}"])

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as `keyleash explain --json` prints it."""
        context = self.context
        return {
            "identity": context.identity.name,
            "command": list(map(printable, self.words)),
            "policy": context.policy_json(),
            "at": iso_time(context.now_us // 1000) if context.is_live else None,
            "token_id": context.token_id or None,
            "restrictions": context.state.restrictions and context.state.restrictions.to_dict(),
            **decision_json(self.decision, context.lines),
        }


@operation("explain")
def explain(
    store: Store, identity: IdentityName, *command: str | bytes, token_id: str | None = None
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
    if not command:
        raise ValueError("no command is given")
    context = context_of_server(store, identity, command, token_id)
    decision = context.decision(command)
    if decision.allowed:
        touched = client_call(context.identity, as_sent(command)).touched(context.table)
        require_one_slot(store, touched)
        decision = _confirmed(store, context, command, decision)
    return Explanation(context, command, decision)


def _confirmed(
    store: Store, context: DecisionContext, command: tuple[str | bytes, ...], decision: Decision
) -> Decision:
    """Return what the guard decides on a call that the policy allows, with the model's steps."""
    name = context.identity.name
    call = client_call(context.identity, as_sent(command))
    if call.scripts and as_sent(command)[0] == b"SCRIPT":
        command = ("EVALSHA", call.scripts[0].digest, str(len(call.keys)), *call.keys)
    try:
        denial = ask_guard(store, name, command, context.state.restrictions).denial
    except (NoPermissionError, AuthorizationError):
        # An operator who may only read cannot make the token for the question.
        return decision
    if denial is None:
        return confirmed(decision, ALLOWED)
    return confirmed(decision, Decision(ReplyCode(denial.code), denial.details))


@operation("can-i")
def can_i(
    store: Store, identity: IdentityName, *command: str | bytes, token_id: str | None = None
) -> bool:
    """Return whether the guard would allow a call; see `explain`."""
    return explain(store, identity, *command, token_id=token_id).allowed


HAVE_AN_END = (ReplyCode.RATE_LIMITED, ReplyCode.BUDGET_EXHAUSTED)
"""Denials by a limit that end by themselves; a corrupt counter denies until it is reset."""


def decision_json(decision: Decision, lines: Sequence[str]) -> dict[str, Any]:
    """Return a decision for JSON; *lines* are those of the policy document."""
    return {
        "allowed": decision.allowed,
        **json_object(decision, "code", "details"),
        "steps": [
            {
                "step": type(step).__name__.removesuffix("Step").lower(),
                **json_object(step, "code"),
                **_step(step, lines),
            }
            for step in decision.trace
        ],
    }


STEP_FIELDS: dict[type[Step], tuple[str, ...]] = {
    ArgumentsStep: ("arguments",),
    ValueStep: ("rule", "limit", "was"),
    CommandStep: ("command",),
    ConnectionStep: ("note",),
    ScriptStep: ("digest", "names"),
    ClassStep: ("class=needed",),
    ArgumentStep: ("aspect", "value"),
    KeyStep: ("key", "needs", "missing", "control_key=is_control"),
    LimitStep: ("subject", "left"),
}
"""The attributes of a step that JSON has as they are."""


def _step(step: Step, lines: Sequence[str]) -> dict[str, Any]:
    names = STEP_FIELDS.get(type(step))
    fields = json_object(step, *names) if names else {}
    match step:
        case ValueStep(key=key) if key:
            fields["key"] = json_bytes(key)
        case CommandStep() | ClassStep():
            fields["grants"] = [place_json(grant.span, lines) for grant in step.grants]
            if isinstance(step, CommandStep):
                fields["why"] = step.why or None
        case ArgumentStep() | KeyStep():
            fields["granted_by"] = [match_json(item, lines) for item in step.granted_by]
            if isinstance(step, KeyStep):
                fields["denied_by"] = [match_json(item, lines) for item in step.denied_by]
        case LimitStep():
            fields |= {
                "limit": step.limit.name,
                "per": str(step.limit.subject.kind),
                "of": step.limit.at_once,
                "free_at": _moment(step.free_us) if step.code in HAVE_AN_END else None,
                "resets_at": _moment(step.resets_us),
                "rule": place_json(step.limit.span, lines),
            }
    return fields


def _moment(at_us: int | None) -> str | None:
    return None if at_us is None else iso_time(-(-at_us // 1000))


def match_json(match: Match[Any], lines: Sequence[str]) -> dict[str, Any]:
    """Return a matching pattern, its captures, and their places."""
    return {
        "pattern": match.pattern.source,
        **json_object(match, "captures"),
        "allow": list(map(str, match.rule.allow)) if isinstance(match.rule, Grant) else None,
        "place": place_json(match.pattern.span, lines),
        "rule": place_json(match.rule.span, lines),
    }


def place_json(span: Span | None, lines: Sequence[str]) -> dict[str, Any] | None:
    """Return a place in the document with the text of its line."""
    if span is None:
        return None
    return {**json_object(span), "text": text_at(span, lines)}


def grant_json(grant: Grant) -> dict[str, Any]:
    """Return a grant for JSON."""
    return {
        **json_object(grant, "allow", "only", "except_"),
        "keys": [pattern.source for pattern in grant.keys],
        "channels": [pattern.source for pattern in grant.channels],
        "indexes": [pattern.source for pattern in grant.indexes],
    }
