"""What a decision is made from: a policy file, or the server as it stands; neither is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyleash.cli.documents import read_text
from keyleash.cli.explain.counted import counted_on_server
from keyleash.cli.explain.errors import NothingActiveError, NotInPolicyError, NotItsTokenError
from keyleash.cli.settings import Settings
from keyleash.cli.text import printable
from keyleash.policy.problems import which_identity

if TYPE_CHECKING:
    from keyleash.commands import CommandTable
    from keyleash.decision import Decision, ModelState
    from keyleash.policy import Identity, Policy

ACTIVE = "<active policy>"


@dataclass(frozen=True)
class Basis:
    """
    A policy and a moment.

    Attributes:
        file: The policy's name in places; `ACTIVE` for the server's.
        lines: Of the document.
        digest: Of the policy's meaning.
        state: What the limits have counted; nothing, for a file.
        now_us: The server's clock, or for a file this machine's.
        is_live: Whether it is the server's.
        token_id: Whose calls limits per token count; empty for a token that is not used yet.
        dead: What calls with that token are answered, if it is revoked or expired.
    """

    identity: Identity
    table: CommandTable
    file: str
    lines: tuple[str, ...]
    digest: str
    state: ModelState
    now_us: int
    is_live: bool
    token_id: str = ""
    dead: Decision | None = None

    def decision(self, words: tuple[str, ...]) -> Decision:
        """What the guard would answer to a call with these words."""
        from keyleash.decision import decide
        from keyleash.decision.command import as_sent
        from keyleash.decision.trace import StandingStep
        from keyleash.protocol.request import declared_keys

        argv = as_sent(words)
        declared = declared_keys(self.table, argv)
        decision = decide(
            self.identity, self.table, argv, declared, self.state, self.now_us, self.token_id
        )
        # The identity is judged before its token.
        is_stopped = any(isinstance(step, StandingStep) for step in decision.trace)
        return decision if is_stopped or self.dead is None else self.dead


def basis_of_file(file: str, name: str) -> Basis:
    """
    The policy of *file*, under which nothing was counted yet; `-` is standard input.

    Raises:
        PolicyError: with every problem of the file.
        NotInPolicyError: it has no identity *name*.
    """
    import time

    from keyleash.commands import load_table
    from keyleash.decision import ModelState
    from keyleash.policy import parse_policy, policy_digest

    shown, text = read_text(file)
    table = load_table()
    policy = parse_policy(text, file=shown, commands=table)
    return Basis(
        identity=_require_identity(policy, name, shown),
        table=table,
        file=shown,
        lines=tuple(text.splitlines()),
        digest=policy_digest(policy),
        state=ModelState(),
        now_us=time.time_ns() // 1_000_000 * 1000,
        is_live=False,
    )


def basis_of_server(
    settings: Settings, name: str, words: tuple[str, ...], token_id: str | None
) -> Basis:
    """
    The active policy, and what the limits of *name* that count a call with *words* have counted.

    Raises:
        NothingActiveError: no policy is active.
        NotInPolicyError: the active policy has no identity *name*.
        NotItsTokenError: *name* has no token of that id.
    """
    from keyleash.cli.standing import server_time_ms
    from keyleash.commands import load_table
    from keyleash.commands.server import UnreadableCommandsError, read_table
    from keyleash.policy import parse_policy
    from keyleash.protocol.active import read_active

    active = read_active(settings.client, settings.keyspace)
    if active is None:
        raise NothingActiveError("no policy is active", help="load one, or name a file: `--policy`")
    policy = parse_policy(active.document, file=ACTIVE, commands=None)
    identity = _require_identity(policy, name, "the active policy")
    try:
        table = read_table(settings.client)
    except UnreadableCommandsError:
        # The guards were made for the same commands, for the same reason.
        table = load_table()
    now_us = server_time_ms(settings.client) * 1000
    return Basis(
        identity=identity,
        table=table,
        file=ACTIVE,
        lines=tuple(active.document.splitlines()),
        digest=active.digest,
        state=counted_on_server(settings, identity, table, words, token_id or "", now_us),
        now_us=now_us,
        is_live=True,
        token_id=token_id or "",
        dead=_answer_to_dead(settings, name, token_id) if token_id else None,
    )


def _answer_to_dead(settings: Settings, name: str, token_id: str) -> Decision | None:
    from keyleash.decision import Decision
    from keyleash.decision.trace import TokenStep
    from keyleash.errors import ReplyCode
    from keyleash.tokens import TokenState, list_tokens

    tokens = list_tokens(settings.client, name, keyspace=settings.keyspace)
    info = next((one for one in tokens if one.id == token_id), None)
    if info is None:
        raise NotItsTokenError(
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
        help_ = which_identity(name, (one.name for one in policy.identities))
        raise NotInPolicyError(f"{where} has no identity `{name}`", help=help_)
    return found
