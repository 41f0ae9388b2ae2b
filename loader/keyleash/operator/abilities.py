"""The commands that an identity may call, with its denied keys and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keyleash.commands.work import DEFAULT_VALUE_BYTES
from keyleash.evaluate.abilities import AllowedCommands, allowed_commands
from keyleash.evaluate.trace import Decision, StandingStep, TokenStep
from keyleash.operations import operation
from keyleash.operations.types import IdentityName
from keyleash.operator.decisions import DecisionContext, context_of_server, grant_json, place_json
from keyleash.policy.canonical import plain
from keyleash.results import Result
from keyleash.store.store import Store
from keyleash.text import json_object


@dataclass(frozen=True)
class Abilities(Result):
    """The commands, denied keys and limits of an identity.

    Attributes:
        context: The policy and the identity.
        commands: The commands that each grant allows, and several together.
        stopped: The denial of every call at present, if any.
    """

    context: DecisionContext
    commands: AllowedCommands
    stopped: Decision | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as `keyleash can-i --list --json` prints it, with every command by name."""
        context, identity, stopped = self.context, self.context.identity, self.stopped
        return {
            **json_object(identity, "identity=name", "kind"),
            "policy": context.policy_json(),
            "denied_now": None if stopped is None else json_object(stopped, "code", "details"),
            "grants": [
                {
                    **grant_json(grant),
                    "value_bytes": grant.values.max_bytes or DEFAULT_VALUE_BYTES,
                    "values": plain(grant.values),
                    "commands": list(names),
                    "place": place_json(grant.span, context.lines),
                }
                for grant, names in zip(identity.grants, self.commands.by_grant, strict=True)
            ],
            "together": list(self.commands.together),
            "deny": [pattern.source for pattern in identity.denied_keys],
            "limits": [
                {
                    **json_object(limit, "name", "kind"),
                    "allows": limit.describe(),
                    "per": str(limit.subject),
                }
                for limit in identity.limits
            ],
            **json_object(identity, "work", "strings", "key_bytes"),
        }


@operation()
def identity_abilities(
    store: Store, identity: IdentityName, *, token_id: str | None = None
) -> Abilities:
    """Return the commands that an identity may call, its denied keys and its limits.

    Args:
        identity: A name in the active policy.
        token_id: The calling token; an unused one if None.

    Errors are those of `explain`.
    """
    return abilities_in(context_of_server(store, identity, (), token_id))


def abilities_in(context: DecisionContext) -> Abilities:
    """Return what the identity of a context may do."""
    decision = context.decision(("PING",))
    is_stopped = any(isinstance(step, StandingStep | TokenStep) for step in decision.trace)
    return Abilities(
        context,
        allowed_commands(context.identity.grants, context.table),
        decision if is_stopped and not decision.allowed else None,
    )
