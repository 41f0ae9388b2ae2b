"""What lint finds."""

from __future__ import annotations

from dataclasses import dataclass

from keyleash.errors import Problem, Span
from keyleash.policy.model import Identity
from keyleash.policy.patterns import NOWHERE


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a valid policy that is probably not what was meant, and whose it is."""

    identity: str
    problem: Problem


def finding(identity: Identity, code: str, message: str, span: Span | None, help: str) -> Finding:
    """What *code* finds in *identity*: at *span*, or at its name if that is None."""
    return Finding(identity.name, Problem(code, message, span or identity.span or NOWHERE, help))
