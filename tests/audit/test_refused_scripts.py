"""Denied calls of scripts, in the audit log and in the list for review."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

import keyleash
from keyleash.audit.entry_text import reason_of_denial
from keyleash.policy.bundles import BUNDLES
from keyleash.store.keyspace import script_digest
from support.leash import Leash, grant, with_files
from support.scripted import scripted
from support.servers import RealServer

TEXT = "return redis.call('GET', KEYS[1])"
OTHER = "return 1"
DIGESTS = [script_digest(text) for text in (TEXT, OTHER)]
GRANTS = {"grants": [grant("read", "write", keys="app:*")]}


@pytest.fixture
def leash(embedded: RealServer) -> Leash:
    """The embedded server, with an identity whose grants name no script."""
    leash = Leash(embedded)
    leash.load(one=GRANTS)
    return leash


def call(client: Any, *words: Any, correlation: str = "r-1") -> keyleash.CommandRefusedError:
    """Make a call that is denied; return the denial."""
    with keyleash.correlation(correlation), pytest.raises(keyleash.CommandRefusedError) as caught:
        client.execute_command(*words)
    return caught.value


def operator(leash: Leash) -> keyleash.Operator:
    return keyleash.Operator(leash.admin, actor="ops")


@pytest.mark.parametrize(
    "words",
    [
        ("EVAL", TEXT, 1, "app:a"),
        ("EVAL_RO", TEXT, 1, "app:a"),
        ("EVALSHA", DIGESTS[0].upper(), 1, "app:a"),
        ("SCRIPT", "LOAD", TEXT),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("approves", [False, True], ids=["no scripts", "another script"])
def test_denial_of_a_script_has_its_digest(
    leash: Leash, words: tuple[Any, ...], approves: bool
) -> None:
    """For the caller, and in the audit log; the text is not sent."""
    client = scripted(leash, OTHER) if approves else leash.client(leash.issue("one").token)
    denial = call(client, *words)
    (recorded,) = operator(leash).audit.denials(op=words[0].lower())

    assert (denial.details["command"], denial.details["script"]) == (words[0], DIGESTS[0])
    assert (recorded.op, recorded.script, recorded.keys) == (words[0], DIGESTS[0], ())
    assert recorded.to_dict()["script"] == DIGESTS[0]
    reason = reason_of_denial(recorded)
    assert reason is not None
    assert f"no grant approves the script {DIGESTS[0]}" in reason.sentence


def test_malformed_call_of_a_script_names_none(leash: Leash) -> None:
    """The reason is that of a server."""
    denial = call(leash.client(leash.issue("one").token), "EVALSHA", DIGESTS[0], 2, "app:a")
    (recorded,) = operator(leash).audit.denials()

    assert "greater than number of args" in denial.details["reason"]
    assert (recorded.op, recorded.script, recorded.is_any_command) == ("EVALSHA", "", False)


def test_refused_scripts_are_counted_by_digest(leash: Leash) -> None:
    """Also in one minute, in the order of their last calls, with the caller of that."""
    issued = leash.issue("one")
    client = leash.client(issued.token)
    for number, text in enumerate([TEXT, OTHER, TEXT]):
        call(client, "EVAL", text, 0, correlation=f"r-{number}")
    call(client, "EVALSHA", DIGESTS[1], 0)

    found = operator(leash).audit.refused_scripts()
    counts = {(item.digest, item.identity): item.calls for item in found.scripts}
    assert counts == {(digest, "one"): 2 for digest in DIGESTS}
    assert {item.token for item in found.scripts} == {issued.id}
    assert all(item.first_ms <= item.last_ms for item in found.scripts)
    assert found.unnamed == 0
    assert operator(leash).audit.refused_scripts("one", since="1h").scripts == found.scripts


def test_script_is_pending_until_a_policy_approves_it(leash: Leash) -> None:
    """The entries of the audit log stay."""
    client = leash.client(leash.issue("one").token)
    for text in (TEXT, OTHER):
        call(client, "EVAL", text, 0)
    document = {
        "version": 1,
        "scripts": {"s": {"file": "s.lua"}},
        "identities": {
            "one": {
                "kind": "machine",
                "grants": [{"allow": ["read"], "keys": ["app:*"], "scripts": ["s"]}],
            }
        },
    }
    leash.load(with_files(json.dumps(document), {"s.lua": TEXT}))

    assert [item.digest for item in operator(leash).audit.refused_scripts().scripts] == DIGESTS[1:]


def test_script_of_a_bundle_is_named(leash: Leash) -> None:
    digest = BUNDLES["rq"].digests["rq.scripts:RELEASE_LOCK_SCRIPT"][0]
    call(leash.client(leash.issue("one").token), "EVALSHA", digest, 0)

    (found,) = operator(leash).audit.refused_scripts().scripts
    assert (found.digest, found.bundle) == (digest, "rq")


def test_scripts_without_an_entry_are_counted(leash: Leash) -> None:
    """A minute has few entries of one token, and other clients may not send a digest."""
    client = leash.client(leash.issue("one").token)
    for number in range(60):
        with contextlib.suppress(keyleash.LeashError):
            client.eval(f"return {number}", 0)
    leash.call("one", leash.issue("one").token, "EVAL", TEXT, "0")

    found = operator(leash).audit.refused_scripts()
    calls = sum(item.calls for item in found.scripts)
    assert 8 <= calls < 60
    assert calls + found.unnamed == 61
