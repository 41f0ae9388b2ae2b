"""Guards of sealed and open servers give the same replies."""

from __future__ import annotations

from typing import Any, cast

import pytest

from client.twin import OTHER_DB, Call, Outcome, Piped, Twin, count_token_calls, difference
from keyleash.commands import load_table
from keyleash.commands.keys import patterns_of
from support.sealed import SEALED, assert_hidden
from support.servers import RealServer

UNLIKE = {"MEMORY USAGE", "SCAN"}
"""A longer name takes more memory; and the twin's own keys are no agent's."""


def is_denied_pattern(call: Call, outcome: Outcome) -> bool:
    """Return whether a call is denied for its patterns, as on every sealed server."""
    spec = load_table().find(call.words)
    assert spec is not None
    has_pattern = any(item == b"#" or b"*" in item for item in patterns_of(spec, call.words))
    return has_pattern and "COMMAND_REFUSED command='SORT" in str(outcome.reply)


def compare(twin: Twin) -> tuple[list[str], list[Outcome]]:
    """Return differences between raw and guarded replies, and the guarded replies."""
    found, outcomes = [], []
    for call in count_token_calls():
        if call.name not in twin.commands:
            continue
        raw = twin.outcome(twin.raw, call, with_data=True)
        guarded = twin.outcome(twin.guarded, call, with_data=True)
        outcomes.append(guarded)
        if is_denied_pattern(call, guarded):
            continue
        problem = difference(call.mark, raw, guarded)
        if problem is not None and call.command not in UNLIKE:
            found.append(f"{call}: {problem}")
    return found, outcomes


@pytest.mark.parametrize("piped", [False, True], ids=["alone", "piped"])
def test_sealed_guard_replies_as_a_raw_call(server: RealServer, piped: bool) -> None:
    """Replies, errors and data of every command are equal; no reply contains a prefix."""
    twin = Twin(server, SEALED)
    guarded: Any = twin.guarded
    if piped:
        twin.raw, twin.guarded = (
            cast(Any, Piped(client, transaction=False)) for client in (twin.raw, twin.guarded)
        )

    found, outcomes = compare(twin)

    assert found == []
    assert_hidden(*(outcome.reply for outcome in outcomes))
    assert len(outcomes) > 900
    trails = [twin.admin.execute_command("XRANGE", SEALED.audit("one"), "-", "+")]
    trails += [twin.admin.execute_command("XRANGE", SEALED.denied("one"), "-", "+")]
    assert_hidden(*trails)
    guarded.close()
    assert not server.client(db=OTHER_DB).dbsize()
