"""The reasons of denials: one sentence in every place, and a help for each reader."""

from __future__ import annotations

import re

import pytest
from tools.error_messages import error_codes
from tools.site_pages import error_page

import keyleash
from client.alike import ONE_EITHER
from client.test_errors import CAUSES
from keyleash import LeashError, ReplyCode
from keyleash.audit.entry_text import reason_of_denial
from keyleash.audit.read import read_denials
from keyleash.errors import DENIALS
from keyleash.errors.sentences import REASONS, Reason, reason_of
from keyleash.evaluate.decision_text import reason as explained_reason
from keyleash.operator.decisions import explain
from support.leash import Leash

EVERY = [(code, reason) for code, reasons in REASONS.items() for reason in reasons]
MORE_RIGHTS = re.compile(
    r"\b(add|raise|change|edit|load|reset it|grant it|allow it)\b|`keyleash |\bin the policy\b"
)
"""Advice that an agent must not get."""
SAYS_WHAT_TO_DO = re.compile(
    r"\b(use|retry|try again|ask|report|write|set|leave|wait|make|check|do)\b"
)


def test_each_code_has_reasons_and_a_public_class() -> None:
    """Without an entry a denial would have no sentence, or be an unknown code."""
    assert set(REASONS) == set(DENIALS) == set(ReplyCode)
    for kind in DENIALS.values():
        assert getattr(keyleash, kind.__name__) is kind


CALLS: dict[ReplyCode, tuple[str, ...]] = {
    ReplyCode.SUSPENDED: ("GET", "t:a"),
    ReplyCode.COMMAND_REFUSED: ("FLUSHALL",),
    ReplyCode.CLASS_NOT_GRANTED: ("SET", "t:a", "1"),
    ReplyCode.KEY_NOT_GRANTED: ("GET", "u:\xe9 x"),
    ReplyCode.KEY_DENIED: ("GET", "t:deny"),
    ReplyCode.CHANNEL_NOT_GRANTED: ("PUBLISH", "d:x", "hello"),
    ReplyCode.ARGS_TOO_MANY: ("MGET", *["t:a"] * 7001),
    ReplyCode.WORK_TOO_LARGE: ("SRANDMEMBER", "t:a", "-1000000000"),
    ReplyCode.KEY_TOO_LONG: ("GET", "t:" + "a" * 1023),
    ReplyCode.VALUE_TOO_LARGE: ("SETRANGE", "t:a", str(2**26), "x"),
    ReplyCode.VALUE_REFUSED: ("SADD", "t:s", "a", "b"),
    ReplyCode.RATE_LIMITED: ("GET", "t:a"),
    ReplyCode.BUDGET_EXHAUSTED: ("GET", "t:a"),
    ReplyCode.AUDIT_FULL: ("SET", "t:a", "2"),
    ReplyCode.COUNTER_CORRUPT: ("GET", "t:a"),
}
"""The calls that `CAUSES` makes, for those codes that `explain` predicts without a token."""
UNRECORDED = {ReplyCode.POLICY_STALE, ReplyCode.NOT_ACTIVE, ReplyCode.REPLAYED}


@pytest.mark.parametrize(
    ("code", "reason"), EVERY, ids=[f"{code}-{number}" for number, (code, _) in enumerate(EVERY)]
)
def test_help_for_the_agent_says_what_to_do_and_never_to_widen_access(
    code: ReplyCode, reason: Reason
) -> None:
    """A model that reads "add a grant" will try; the operator reads which rule decided."""
    assert SAYS_WHAT_TO_DO.search(reason.agent)
    assert not MORE_RIGHTS.search(reason.agent)
    assert not re.search(r"\w\(", reason.agent), "calls of Python"
    assert (reason == REASONS[code][-1]) == (not reason.when)


@ONE_EITHER
@pytest.mark.parametrize("code", CAUSES)
def test_denial_has_one_sentence_in_every_place(one_leash: Leash, code: ReplyCode) -> None:
    """The client, `explain` and the audit log read the same declaration."""
    with pytest.raises(LeashError) as caught:
        CAUSES[code][0](one_leash)
    sentence = reason_of(caught.value).sentence

    if code not in UNRECORDED:
        *_, entry = (item for item in read_denials(one_leash.store, ["one"]) if item.code == code)
        recorded = reason_of_denial(entry)
        assert recorded is not None
        # The log names the key also where no grant has the class.
        assert recorded.sentence.removesuffix(", on the key `t:a`") == sentence
    if code in CALLS:
        decision = explain(one_leash.store, "one", *CALLS[code]).decision
        assert decision.code is code
        assert explained_reason(decision).sentence == sentence


@ONE_EITHER
@pytest.mark.parametrize(
    "words",
    [
        ("PUBSUB", "NUMSUB", "c"),
        ("EVAL", "return 1", "0"),
        ("EVAL", "return 1"),
        ("COPY", "t:a", "t:b", "DB", "1"),
        ("BITFIELD", "t:a", "GET", "u60", "0"),
        ("XGROUP", "NOPE", "t:a"),
        ("NOSUCH", "t:a"),
        ("RESTORE", "t:a", "0", "x"),
        ("SCAN", "0", "MATCH", "u:*"),
        ("SORT", "t:a", "BY", "weight:*"),
    ],
    ids=" ".join,
)
def test_explain_has_the_sentence_of_the_client(one_leash: Leash, words: tuple[str, ...]) -> None:
    """Also where the client adds what the guard does not know."""
    allow = ["read", "write", "delete", "scan"]
    one_leash.load(one={"grants": [{"allow": allow, "keys": ["t:*"]}]})
    with pytest.raises(LeashError) as caught:
        one_leash.agent("one").execute_command(*words)

    decision = explain(one_leash.store, "one", *words).decision
    assert explained_reason(decision, "one") == reason_of(caught.value)


def test_pages_of_denials_have_every_help() -> None:
    """They are generated from the declaration."""
    for code, reasons in REASONS.items():
        assert error_page(error_codes()[code]).count("\n| ") == len(reasons) + 2
