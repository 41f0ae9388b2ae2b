"""What a load leaves behind: a history that agrees with what is active, read back and compared."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from keyleash.compiler.render import examples_root
from keyleash.operator import (
    PreparedPolicy,
    Transport,
    activate_policy,
    load_policy,
    prepare_policy,
    preview_load,
    verify_activation,
)
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import read_active, read_history
from support.errors import raises_code
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
    return prepare_policy(client, document)


def test_history_is_written_by_the_activation_itself(client: Any) -> None:
    """What is kept of the active policy is its record, to the millisecond."""
    for document in (EXAMPLE, OTHER, EXAMPLE):
        load_policy(client, document, actor="ops")

    active = read_active(client, NAMES)
    newest, older = read_history(client, NAMES)

    assert newest == active
    assert (newest.generation, older.generation) == (3, 2)
    assert older.document == OTHER
    assert (newest.before, older.before) == (older.digest, newest.digest)


def test_load_of_a_plan_that_is_out_of_date_changes_nothing(client: Any) -> None:
    """Two people plan, one loads: what the other agreed to is not what would happen now."""
    load_policy(client, EXAMPLE)
    mine = prepared(client, THIRD)
    plan = preview_load(client, mine, NAMES, Transport.EVALSHA)
    load_policy(client, OTHER, actor="faster")
    before = (read_active(client, NAMES), read_history(client, NAMES))

    with raises_code("activation-conflict", match="since the plan"):
        activate_policy(client, mine, expected=plan.generation)

    assert (read_active(client, NAMES), read_history(client, NAMES)) == before
    assert client.xlen(NAMES.control) == 2


def test_activation_that_cannot_write_history_activates_nothing(client: Any) -> None:
    """A key of the wrong type is found before the first write, as a script does not roll back."""
    load_policy(client, EXAMPLE)
    before = read_active(client, NAMES)
    client.delete(NAMES.history)
    client.set(NAMES.history, "not ours")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        load_policy(client, OTHER)

    assert read_active(client, NAMES) == before
    assert not client.keys(NAMES.staged_prefix + "*")


@pytest.mark.parametrize("transport", [*Transport])
def test_verification_passes_what_was_activated(client: Any, transport: Transport) -> None:
    """By either transport."""
    policy = prepared(client, EXAMPLE)
    result = activate_policy(client, policy, transport=transport)

    verify_activation(client, policy, NAMES, transport, result.generation)

    client.function_flush()
    client.script_flush()
    with raises_code("not-verified", match="the scripts of `agent-reader`"):
        verify_activation(client, policy, NAMES, transport, result.generation)


@pytest.mark.parametrize(
    ("key", "finding"),
    [
        (NAMES.policy, "the record of the active policy"),
        (NAMES.guard("agent-runner"), "the guard record or the state of `agent-runner`"),
        (NAMES.state("agent-runner"), "the guard record or the state of `agent-runner`"),
        (NAMES.source("agent-runner"), "the stored scripts of `agent-runner`"),
    ],
)
def test_verification_names_what_is_missing(client: Any, key: str, finding: str) -> None:
    """Whatever else writes to the server may have taken it."""
    policy = prepared(client, EXAMPLE)
    result = activate_policy(client, policy)
    client.delete(key)

    with raises_code("not-verified") as caught:
        verify_activation(client, policy, NAMES, Transport.EVALSHA, result.generation)

    assert caught.value.message.endswith(f": {finding}")


def test_verification_tells_another_load_from_a_fault(client: Any) -> None:
    """Whoever was overtaken learns by whom."""
    policy = prepared(client, EXAMPLE)
    result = activate_policy(client, policy)
    load_policy(client, OTHER, actor="colleague")

    with raises_code("activation-conflict", match="`colleague`"):
        verify_activation(client, policy, NAMES, Transport.EVALSHA, result.generation)


def test_preview_of_an_active_policy_that_cannot_be_read_takes_all_for_new(client: Any) -> None:
    """A later version may have written it; what widens is then to be allowed, not assumed."""
    load_policy(client, EXAMPLE)
    client.hset(NAMES.policy, mapping={"document": "version: 9\n", "digest": "0" * 64})

    preview = preview_load(client, prepared(client, OTHER), NAMES, Transport.EVALSHA)

    assert not preview.is_readable
    assert preview.needs_permission
    assert [identity.before for identity in preview.diff.identities] == [None] * 4
