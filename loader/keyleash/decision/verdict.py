"""What is decided of a call, never true or false by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyleash.decision.trace import Step
from keyleash.errors import ReplyCode

SHOWN_BYTES = 128
"""How much of a value a refusal repeats."""


@dataclass(frozen=True, slots=True)
class Decision:
    """
    Allowed, or refused with a code and details; never true or false by itself.

    Attributes:
        trace: The steps that led to it, in order; two decisions are the same without.
    """

    code: ReplyCode | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    trace: tuple[Step, ...] = field(default=(), compare=False, repr=False)

    @property
    def allowed(self) -> bool:
        return self.code is None

    def __bool__(self) -> bool:
        raise TypeError("a decision is neither true nor false; ask for `.allowed`")


ALLOWED = Decision()


def refused(code: ReplyCode, **details: bytes | str | int) -> Decision:
    """A refusal; `class_` stands for the detail that Python cannot name."""
    return Decision(code, {name.rstrip("_"): _shown(value) for name, value in details.items()})


def _shown(value: bytes | str | int) -> str:
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return raw[:SHOWN_BYTES].decode("utf-8", "surrogateescape")
