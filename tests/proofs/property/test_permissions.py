"""Generated policies, restrictions and calls: published grants and `check` agree with the guard."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from keyleash.errors import ReplyCode
from keyleash.evaluate.access import named
from keyleash.evaluate.evaluate import decide
from keyleash.policy import Identity
from keyleash.store.grants import pack_grants, unpack_grants
from keyleash.store.restrictions import Restrictions
from keyleash.store.wire import BatchMode, declared_keys
from proofs.oracle.data import model_state
from proofs.property.test_bound_tokens import bind, cases
from proofs.property.test_verdicts import (
    COMMANDS,
    SKETCHES,
    TABLE,
    Call,
    Sketch,
    Twins,
    drawn,
    pool,
)
from support.decisions import decision_in
from support.servers import RealServer
from support.thorough import thorough

BEYOND_GRANTS = {
    ReplyCode.ARGS_TOO_MANY, ReplyCode.BUDGET_EXHAUSTED, ReplyCode.KEY_DENIED,
    ReplyCode.RATE_LIMITED, ReplyCode.VALUE_REFUSED, ReplyCode.VALUE_TOO_LARGE,
    ReplyCode.WORK_TOO_LARGE,
}  # fmt: skip
"""The codes of limits, of rules for values, and of deny rules."""


@pytest.mark.parametrize("examples", [5, pytest.param(300, marks=pytest.mark.slow)])
def test_call_outside_the_published_grants_is_never_allowed(
    embedded: RealServer, examples: int
) -> None:
    """
    A call inside is denied only by what grants leave open, and `check` has the guard's verdict.

    Of any policy, for bound tokens, keys and channels.
    """
    twins, verdicts = Twins(embedded), Counter[tuple[bool, bool]]()

    @settings(thorough(examples), phases=[Phase.generate])
    @given(cases().filter(bool), st.lists(SKETCHES, min_size=COMMANDS, max_size=COMMANDS))
    def compare(case: tuple[str, Identity, Restrictions], sketches: list[Sketch]) -> None:
        document, identity, found = case
        twins.begin(document)
        bind(twins, found)
        published = unpack_grants(pack_grants(identity))
        assert published is not None
        grants, _ = published.narrowed(found)
        holder = replace(identity, grants=grants, deny=(), rates=(), budgets=())
        keys = pool(identity)
        for sketch in sketches:
            argv = drawn(sketch, keys).argv
            spec = named(TABLE, argv)
            if spec is None or spec.waits or spec.refused or not argv[0].isupper():
                continue
            declared = [*declared_keys(TABLE, argv)]
            # A call without any key touches none, whatever the grants say of keys.
            if not declared and spec.channel is None:
                continue
            state = model_state(restrictions=Restrictions(keys=found.keys))
            inside = decide(holder, TABLE, argv, declared, state, 0, twins.token_id)
            asked = twins.batch(BatchMode.CHECK, [argv])
            reply = decision_in(twins.call(Call(argv, declared)))
            verdicts[inside.allowed, reply.allowed] += 1
            assert decision_in(None if asked == [] else asked) == reply, (argv, found)
            if reply.allowed:
                assert inside.allowed, (argv, found)
            elif inside.allowed:
                assert reply.code in BEYOND_GRANTS, (argv, found, reply)

    compare()
    assert min(verdicts[True, True], verdicts[False, False]) >= 10
