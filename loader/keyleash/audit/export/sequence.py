"""Sequence numbers, followed from entry to entry: what is missing between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BreakKind(StrEnum):
    """How a number does not follow the one before it."""

    BEGINS = "begins"
    """The trail was trimmed before it was first exported."""
    GAP = "gap"
    """Numbers are missing."""
    ANEW = "anew"
    """It is 1 again: the identity's state was lost, or expired after it left the policy."""
    BACK = "back"
    """It was there before: the server lost what it had acknowledged, or was restored."""


@dataclass(frozen=True, slots=True)
class Break:
    """
    A place where numbers do not follow each other.

    Attributes:
        before: The number before it; 0 if there is none.
        seq: The number that came.
        id: The entry that has it.
    """

    kind: BreakKind
    before: int
    seq: int
    id: str

    @property
    def is_loss(self) -> bool:
        """Whether it shows that the archive is not what it should be."""
        return self.kind in {BreakKind.GAP, BreakKind.BACK}

    def __str__(self) -> str:
        missing = f"{self.before + 1} to {self.seq - 1}"
        match self.kind:
            case BreakKind.BEGINS:
                return f"begins at seq {self.seq}: what came before was gone already"
            case BreakKind.GAP if self.seq == self.before + 2:
                return f"seq {self.before + 1} is missing, before {self.id}"
            case BreakKind.GAP:
                return f"seq {missing} are missing, before {self.id}"
            case BreakKind.ANEW:
                return f"seq begins anew after {self.before}, at {self.id}"
            case BreakKind.BACK:
                return f"seq goes back from {self.before} to {self.seq}, at {self.id}"


class SequenceCheck:
    """Follows the numbers of one trail; *last* is the one before, 0 at its beginning."""

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def follow(self, seq: int, entry_id: str) -> Break | None:
        """Take the next entry's number, 0 if it has none, and say how it does not follow."""
        if not seq:
            return None
        before, self.last = self.last, seq
        if seq == before + 1:
            return None
        if not before:
            kind = BreakKind.BEGINS
        elif seq > before:
            kind = BreakKind.GAP
        else:
            kind = BreakKind.ANEW if seq == 1 else BreakKind.BACK
        return Break(kind, before, seq, entry_id)
