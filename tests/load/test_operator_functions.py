"""Common rules of operator functions: their client, and texts with tokens."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import keyleash
from keyleash.audit import read_control
from keyleash.audit.export import Archiver
from keyleash.audit.undo import UndoSelection, apply_undo, plan_undo
from keyleash.errors import SecretInTextError
from keyleash.fence import FencedServers, FenceNode, apply_fences, remove_fences
from keyleash.operator import activate_policy, freeze, load_policy, thaw
from keyleash.operator.tokens import issue_token, list_tokens, revoke, rotate_token
from keyleash.status import read_snapshot
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import server_keyspace
from keyleash.vault import seal
from support.leash import Leash, grant, policy
from support.servers import RealServer

NAMES = Keyspace()
TOKEN = f"kl_one_{'A' * 32}"
PACKAGES = (
    "audit", "audit.export", "audit.report", "audit.undo", "fence", "operator", "status", "vault",
)  # fmt: skip


def plan(client: Any) -> Any:
    return plan_undo(client, UndoSelection(events=("@one:1",)))


TEXTS: dict[str, Callable[[Any, Any, str], Any]] = {
    "reason of freeze": lambda r, _, text: freeze(r, ["one"], reason=text),
    "actor of freeze": lambda r, _, text: freeze(r, ["one"], reason="x", actor=text),
    "actor of thaw": lambda r, _, text: thaw(r, ["one"], actor=text),
    "note of issue_token": lambda r, _, text: issue_token(r, "one", note=text),
    "actor of issue_token": lambda r, _, text: issue_token(r, "one", actor=text),
    "note of rotate_token": lambda r, _, text: rotate_token(r, identity="one", note=text),
    "actor of rotate_token": lambda r, _, text: rotate_token(r, identity="one", actor=text),
    "actor of revoke": lambda r, _, text: revoke(r, identity="one", actor=text),
    "actor of load_policy": lambda r, _, text: load_policy(r, "", actor=text),
    "accept of load_policy": lambda r, _, text: load_policy(
        r, policy(one={"grants": [grant("read", keys="k")], "accept": {"no-rate": text}})
    ),
    "actor of activate_policy": lambda r, prepared, text: activate_policy(r, prepared, actor=text),
    "actor of apply_fences": lambda r, _, text: apply_fences(
        FencedServers([FenceNode("it", r)], NAMES, {}), [], actor=text
    ),
    "actor of remove_fences": lambda r, _, text: remove_fences(
        FencedServers([FenceNode("it", r)], NAMES, {}), [], actor=text
    ),
    "actor of seal": lambda r, _, text: seal(r, actor=text),
    "actor of Archiver": lambda r, archive, text: Archiver(r, NAMES, archive, actor=text),
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


@pytest.mark.parametrize("parameter", ["description", "actor"])
def test_undo_with_a_token_in_a_text_changes_nothing(leash: Leash, parameter: str) -> None:
    """Its texts are in the control stream and in the events of the undo."""
    leash.agent("one").set("k", "new")
    selected = plan_undo(leash.admin, UndoSelection(identity="one"))
    texts: dict[str, Any] = {parameter: TOKEN}

    with pytest.raises(SecretInTextError, match=f"`{parameter}` contains a token"):
        apply_undo(leash.admin, selected, **texts)

    assert leash.admin.get("k") == b"new"


def test_correlation_id_that_contains_a_token_is_rejected() -> None:
    """Events show it to all readers of the audit log."""
    with pytest.raises(SecretInTextError) as caught, keyleash.correlation(f"for {TOKEN}"):
        pytest.fail("the block was entered")

    assert "AAAA" not in str(caught.value)


def functions_with_a_client() -> Iterator[Any]:
    for package in PACKAGES:
        module = importlib.import_module(f"keyleash.{package}")
        for name in module.__all__:
            found = getattr(module, name)
            if callable(found) and "client" in _parameters(found):
                yield pytest.param(found, id=f"{package}.{name}")


def _parameters(found: Any) -> Any:
    try:
        return inspect.signature(found).parameters
    except ValueError:
        return {}


@pytest.mark.parametrize("function", [*functions_with_a_client()])
def test_asynchronous_client_is_a_type_error_that_names_the_parameter(
    function: Callable[..., Any],
) -> None:
    """Otherwise the error would be about a coroutine."""
    wanted = [
        name
        for name, item in _parameters(function).items()
        if item.default is inspect.Parameter.empty and name not in ("client", "others")
    ]

    with pytest.raises(TypeError, match="`client` is an asynchronous client"):
        # A generator looks at it when it begins.
        next(iter(function(client=redis.asyncio.Redis(), **dict.fromkeys(wanted))))


def test_asynchronous_clients_of_other_servers_are_a_type_error(leash: Leash) -> None:
    """This includes clients in lists."""
    other: Any = redis.asyncio.Redis()

    with pytest.raises(TypeError, match="`others` is an asynchronous client"):
        load_policy(leash.admin, "", others=[other])
    with pytest.raises(TypeError, match="`client` is an asynchronous client"):
        FenceNode("it", other)


def test_client_with_decode_responses_works(server: RealServer) -> None:
    """Its connections are shared, and its own calls still decode."""
    leash = Leash(server)
    leash.admin = client = server.client(decode_responses=True, max_connections=1)
    body = {"grants": [grant("read", "write", keys="k")]}
    images = {"audit": {"before_images": {"max_bytes": "1kb"}}}

    assert leash.load(one={**body, **images}).generation == 1
    issued = issue_token(client, "one")
    leash.client(issued.token).set("k", "new")
    assert [token.id for token in list_tokens(client)] == [issued.id]
    assert rotate_token(client, token_id=issued.id).replaced
    assert freeze(client, ["one"], reason="x").identities[0].changed
    assert thaw(client).identities[0].changed
    assert len(revoke(client).tokens) == 2
    selected = plan_undo(client, UndoSelection(identity="one"))
    assert apply_undo(client, selected).removed == (b"k",)
    assert [identity.name for identity in read_snapshot(client).identities] == ["one"]
    assert {item.event for item in read_control(client, server_keyspace(client))} > {"issue"}
    assert client.get("none") is None
    assert client.ping() is True
    client.set("text", "läuft")
    assert client.get("text") == "läuft"
    assert client.connection_pool._created_connections == 1
