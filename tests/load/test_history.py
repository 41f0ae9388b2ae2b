"""The history of loads, and the verification of an activation."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from keyleash.compiler.render import examples_root
from keyleash.operator.load.activate import activate_policy, verify_activation
from keyleash.operator.load.compile import PreparedPolicy, prepare_policy
from keyleash.operator.load.preview import preview_load
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import read_active, read_history
from keyleash.store.store import Store
from support.errors import raises_code
from support.loading import load_policy
from support.servers import RealServer

NAMES = Keyspace()
EXAMPLE = (examples_root() / "agents.yaml").read_text("utf-8")
OTHER = EXAMPLE.replace("3000/minute", "2000/minute")
THIRD = EXAMPLE.replace("3000/minute", "1000/minute")


@pytest.fixture
def client(server: RealServer) -> Any:
    """An operator's client."""
    return server.client()


def prepared(client: Any, document: str) -> PreparedPolicy:
    return prepare_policy(Store(client), document)


def test_activation_writes_the_history(client: Any) -> None:
    """The stored policy equals the active record, to the millisecond."""
    for document in (EXAMPLE, OTHER, EXAMPLE):
        load_policy(Store(client, actor="ops"), document)

    active = read_active(Store(client, NAMES))
    newest, older = read_history(Store(client, NAMES))

    assert newest == active
    assert (newest.generation, older.generation) == (3, 2)
    assert older.document == OTHER
    assert (newest.before, older.before) == (older.digest, newest.digest)


def test_load_of_an_outdated_plan_changes_nothing(client: Any) -> None:
    """Another policy was activated since the plan, which therefore no longer applies."""
    load_policy(Store(client), EXAMPLE)
    mine = prepared(client, THIRD)
    plan = preview_load(Store(client, NAMES), mine)
    load_policy(Store(client, actor="faster"), OTHER)
    before = (read_active(Store(client, NAMES)), read_history(Store(client, NAMES)))

    with raises_code("activation-conflict", match="since the plan"):
        activate_policy(Store(client), mine, expected=plan.generation)

    assert (read_active(Store(client, NAMES)), read_history(Store(client, NAMES))) == before
    assert client.xlen(NAMES.control) == 2


def test_activation_that_cannot_write_history_activates_nothing(client: Any) -> None:
    """A wrong type is found before the first write, since a script does not roll back."""
    load_policy(Store(client), EXAMPLE)
    before = read_active(Store(client, NAMES))
    client.delete(NAMES.history)
    client.set(NAMES.history, "not ours")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        load_policy(Store(client), OTHER)

    assert read_active(Store(client, NAMES)) == before
    assert not client.keys(NAMES.staged_prefix + "*")


def test_verification_of_an_activation_passes_until_scripts_are_lost(client: Any) -> None:
    """It compares what the server has."""
    policy = prepared(client, EXAMPLE)
    result = activate_policy(Store(client), policy)

    verify_activation(Store(client, NAMES), policy, result.generation)

    client.script_flush()
    with raises_code("not-verified", match="the scripts of `agent-reader`"):
        verify_activation(Store(client, NAMES), policy, result.generation)


@pytest.mark.parametrize(
    ("key", "finding"),
    [
        (NAMES.policy, "the record of the active policy"),
        (NAMES.guard("agent-runner"), "the guard record or the state of `agent-runner`"),
        (NAMES.state("agent-runner"), "the guard record or the state of `agent-runner`"),
        (NAMES.source("agent-runner"), "the stored scripts of `agent-runner`"),
    ],
)
def test_verification_names_missing_records(client: Any, key: str, finding: str) -> None:
    """Other programs may have deleted them."""
    policy = prepared(client, EXAMPLE)
    result = activate_policy(Store(client), policy)
    client.delete(key)

    with raises_code("not-verified") as caught:
        verify_activation(Store(client, NAMES), policy, result.generation)

    assert caught.value.message.endswith(f": {finding}")


def test_verification_after_another_load_is_a_conflict(client: Any) -> None:
    """The error names the actor of the other load."""
    policy = prepared(client, EXAMPLE)
    result = activate_policy(Store(client), policy)
    load_policy(Store(client, actor="colleague"), OTHER)

    with raises_code("activation-conflict", match="`colleague`"):
        verify_activation(Store(client, NAMES), policy, result.generation)


def test_preview_of_an_unreadable_active_policy_treats_all_as_new(client: Any) -> None:
    """A later version may have written it, so the whole policy widens."""
    load_policy(Store(client), EXAMPLE)
    client.hset(NAMES.policy, mapping={"document": "version: 9\n", "digest": "0" * 64})

    preview = preview_load(Store(client, NAMES), prepared(client, OTHER))

    assert not preview.is_readable
    assert preview.needs_permission
    assert [identity.before for identity in preview.diff.identities] == [None] * 4
