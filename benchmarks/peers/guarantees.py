"""What each way of doing the work guarantees, as data that stands beside its figures."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from enum import StrEnum


class Answer(StrEnum):
    """Whether a guarantee is given; `PART`: only as the remark says."""

    YES = "yes"
    PART = "part"
    NO = "no"


YES, PART, NO = Answer.YES, Answer.PART, Answer.NO


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What holds whatever other clients do meanwhile, and if this one dies in the middle.

    Attributes:
        atomic: All of checking, charging, writing and recording happens, or none.
        race_free: No order of concurrent calls lets one pass that a limit refuses.
        free: A refused call takes nothing from any limit.
        audited: There is no write without its event.
        enforced: The server refuses, not the goodwill of the program that calls.
        clock: Every time is the server's.
        revocable: A revoke binds the very next write.
        remark: What the answers leave out, in words.
    """

    atomic: Answer
    race_free: Answer
    free: Answer
    audited: Answer
    enforced: Answer
    clock: Answer
    revocable: Answer
    remark: str

    @property
    def answers(self) -> tuple[Answer, ...]:
        """In the order of `QUESTIONS`."""
        return astuple(self)[:-1]


QUESTIONS = ("atomic", "race-free", "free", "audited", "enforced", "clock", "revocable")
"""The table's columns."""
