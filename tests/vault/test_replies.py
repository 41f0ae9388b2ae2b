"""Guards of sealed and open servers give the same replies."""

from __future__ import annotations

from typing import Any, cast

import pytest

from client.twin import OTHER_DB, Outcome, Piped, Twin, count_token_calls, difference
from support.sealed import SEALED, assert_hidden
from support.servers import RealServer

UNLIKE = {"MEMORY USAGE", "SCAN"}
"""A longer name takes more memory; and the twin's own keys are no agent's."""


def compare(twin: Twin) -> tuple[list[str], list[Outcome]]:
    """Return differences between raw and guarded replies, and the guarded replies."""
    found, outcomes = [], []
    for call in count_token_calls():
        if call.name not in twin.commands:
            continue
        raw = twin.outcome(twin.raw, call, with_data=True)
        guarded = twin.outcome(twin.guarded, call, with_data=True)
        outcomes.append(guarded)
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
