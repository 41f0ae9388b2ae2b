"""A load sends scripts without waiting for each reply."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from keyleash.compiler import compile_policy
from keyleash.policy import parse_policy
from keyleash.store import guards
from keyleash.store.guards import AT_ONCE, active_scripts, load_scripts, scripts_without_text
from keyleash.store.records import script_of
from keyleash.store.server_check import CallDeniedError
from keyleash.store.store import Store
from support.leash import NAMES, grant, policy
from support.loading import load_policy
from support.servers import RealServer

RULES = {"grants": [grant("read", keys="k:*")]}
MANY = {f"agent-{n}": RULES for n in range(AT_ONCE)}


def test_texts_of_many_scripts_are_loaded_and_stored(server: RealServer) -> None:
    """Texts are packed while the server compiles, each under its own digest."""
    store = Store(server.client())

    load_policy(store, policy(**MANY))

    owners = active_scripts(store, MANY)
    assert len(owners) == 2 * len(MANY)
    assert not scripts_without_text(store)
    assert all(store.client.script_exists(*owners))


def test_text_that_was_packed_in_advance_is_the_one_of_its_digest(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of the load do not mix."""
    monkeypatch.setattr(guards, "AT_ONCE", 3)
    parsed = parse_policy(policy(**MANY), file="p", commands=server.table)
    packed: dict[str, bytes] = {}

    load_scripts(Store(server.client()), compile_policy(parsed, server.table), packed=packed)

    assert len(packed) == 2 * len(MANY)
    assert all(script_of(text, digest) for digest, text in packed.items())


def test_load_while_the_interpreter_exits_packs_texts_by_itself(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may load in an `atexit` handler, when no thread starts."""

    def refuse(*_: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    store = Store(server.client())

    assert load_policy(store, policy(**MANY)).changed
    assert not scripts_without_text(store)


def test_denied_script_load_names_its_call_and_activates_nothing(server: RealServer) -> None:
    """Of the scripts that are sent at once, the first error is reported as if it were alone."""
    admin = server.client()
    rules: dict[str, Any] = {"categories": ["+@all"], "commands": ["-script|load"]}
    admin.acl_setuser("loader", enabled=True, nopass=True, keys=["*"], channels=["*"], **rules)
    loader = server.client(username="loader", password="any")
    try:
        with pytest.raises(CallDeniedError) as caught:
            load_policy(Store(loader), policy(**MANY))
    finally:
        admin.acl_deluser("loader")
    assert caught.value.call[0] == "SCRIPT LOAD"
    assert "redis.call" not in str(caught.value)
    assert not admin.exists(NAMES.policy)


def test_connection_that_ends_while_scripts_are_sent_activates_nothing(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next load continues with the scripts that the server lacks."""
    admin = server.client()
    load = guards._load

    def lost(store: Store, scripts: Any) -> None:
        load(store, scripts[:2])
        raise redis.ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(guards, "_load", lost)
        with pytest.raises(redis.ConnectionError):
            load_policy(Store(admin), policy(**MANY))
    assert not admin.exists(NAMES.policy)
    assert load_policy(Store(admin), policy(**MANY)).changed
