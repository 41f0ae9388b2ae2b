"""Common rules of operator functions: their client, and texts with tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

import keyleash
from keyleash.addons.status.snapshot import read_snapshot
from keyleash.audit.operator_actions import read_control
from keyleash.audit.undo.apply import apply_undo
from keyleash.audit.undo.key_plans import plan_undo
from keyleash.errors import SecretInTextError
from keyleash.operator.suspension import freeze, thaw
from keyleash.operator.tokens.issue import issue_token
from keyleash.operator.tokens.list import list_tokens
from keyleash.operator.tokens.revoke import revoke
from keyleash.operator.tokens.rotate import rotate_token
from keyleash.store.deployment import Server
from keyleash.store.keyspace import Keyspace
from keyleash.store.store import Store
from support.leash import Leash, grant, policy
from support.loading import load_policy
from support.servers import RealServer

NAMES = Keyspace()
TOKEN = f"kl_one_{'A' * 32}"


def plan(client: Any) -> Any:
    return plan_undo(Store(client), events=("@one:1",))


TEXTS: dict[str, Callable[[Any, Any, str], Any]] = {
    "actor of a store": lambda r, _, text: Store(r, actor=text),
    "reason of freeze": lambda r, _, text: freeze(Store(r), "one", reason=text),
    "note of issue_token": lambda r, _, text: issue_token(Store(r), "one", note=text),
    "note of rotate_token": lambda r, _, text: rotate_token(Store(r), identity="one", note=text),
    "accept of load_policy": lambda r, _, text: load_policy(
        Store(r), policy(one={"grants": [grant("read", keys="k")], "accept": {"no-rate": text}})
    ),
}


@pytest.fixture
def leash(embedded: RealServer) -> Leash:
    leash = Leash(embedded)
    leash.load(
        one={
            "grants": [grant("read", "write", keys="k")],
            "audit": {"before_images": {"max_bytes": "1kb"}},
        }
    )
    return leash


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_contains_a_token_is_rejected_and_not_repeated(leash: Leash, name: str) -> None:
    """Reasons, notes and actors are stored and shown to others."""
    dumps = {key: leash.admin.dump(key) for key in leash.admin.scan_iter()}

    with pytest.raises(SecretInTextError) as caught:
        TEXTS[name](leash.admin, None, f"see {TOKEN}, please")

    assert isinstance(caught.value, ValueError)
    assert f"`{name.split(maxsplit=1)[0]}` contains a token" in str(caught.value)
    assert "AAAA" not in f"{caught.value!r} {caught.value} {caught.value.help}"
    assert {key: leash.admin.dump(key) for key in leash.admin.scan_iter()} == dumps


def test_undo_with_a_token_in_its_description_changes_nothing(leash: Leash) -> None:
    """Its texts are in the control stream and in the events of the undo."""
    leash.agent("one").set("k", "new")
    selected = plan_undo(leash.store, identity="one")

    with pytest.raises(SecretInTextError, match="`description` contains a token"):
        apply_undo(leash.store, replace(selected, description=TOKEN))

    assert leash.admin.get("k") == b"new"


def test_correlation_id_that_contains_a_token_is_rejected() -> None:
    """Events show it to all readers of the audit log."""
    with pytest.raises(SecretInTextError) as caught, keyleash.correlation(f"for {TOKEN}"):
        pytest.fail("the block was entered")

    assert "AAAA" not in str(caught.value)


def test_asynchronous_client_of_a_store_is_a_type_error() -> None:
    """Otherwise the error would be about a coroutine."""
    with pytest.raises(TypeError, match="`client` is an asynchronous client"):
        Store(redis.asyncio.Redis())


def test_asynchronous_client_of_a_server_is_a_type_error() -> None:
    """It would fail later, and elsewhere."""
    other: Any = redis.asyncio.Redis()

    with pytest.raises(TypeError, match="`client` is an asynchronous client"):
        Server("it", other)


def test_client_with_decode_responses_works(server: RealServer) -> None:
    """Its connections are shared, and its own calls still decode."""
    leash = Leash(server)
    leash.admin = client = server.client(decode_responses=True, max_connections=1)
    body = {"grants": [grant("read", "write", keys="k")]}
    images = {"audit": {"before_images": {"max_bytes": "1kb"}}}

    assert leash.load(one={**body, **images}).generation == 1
    issued = issue_token(Store(client), "one")
    leash.client(issued.token).set("k", "new")
    assert [token.id for token in list_tokens(Store(client))] == [issued.id]
    assert rotate_token(Store(client), issued.id).replaced
    assert freeze(Store(client), "one", reason="x").identities[0].changed
    assert thaw(Store(client)).identities[0].changed
    assert len(revoke(Store(client), all=True).tokens) == 2
    selected = plan_undo(Store(client), identity="one")
    assert apply_undo(Store(client), selected).removed == (b"k",)
    assert [identity.name for identity in read_snapshot(Store(client)).identities] == ["one"]
    assert {item.event for item in read_control(Store(client))} > {"issue"}
    assert client.get("none") is None
    assert client.ping() is True
    client.set("text", "läuft")
    assert client.get("text") == "läuft"
    assert client.connection_pool._created_connections == 1
