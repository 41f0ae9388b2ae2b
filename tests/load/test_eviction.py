"""Loads on a server that may evict control keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyleash.errors import EvictionError
from keyleash.operator.load.checks import EvictionRisk, find_eviction_risk
from keyleash.store.store import Store
from support.command_line import Cli
from support.keyspaces import whole_keyspace
from support.leash import grant, policy
from support.loading import load_policy
from support.servers import RealServer

ONE = policy(one={"grants": [grant("read", keys="k:*")]})
LARGE = 1 << 40


@pytest.fixture
def bounded(server: RealServer) -> Iterator[RealServer]:
    """A server with a large `maxmemory` and the policy noeviction."""
    admin = server.client()
    admin.config_set("maxmemory", LARGE)
    try:
        yield server
    finally:
        admin.config_set("maxmemory", 0)
        admin.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("evicts", ["allkeys-lru", "allkeys-random", "volatile-ttl"])
def test_load_on_a_server_that_evicts_fails_and_writes_nothing(
    bounded: RealServer, evicts: str
) -> None:
    """An evicted counter would reset a limit without notice."""
    admin = bounded.client()
    admin.config_set("maxmemory-policy", evicts)

    with pytest.raises(EvictionError, match=f"`maxmemory-policy {evicts}`") as caught:
        load_policy(Store(admin), ONE)

    assert "`maxmemory-policy noeviction`" in str(caught.value.help)
    assert whole_keyspace(admin) == {}


def test_load_that_allows_eviction_warns(bounded: RealServer) -> None:
    """The warning names the risk."""
    admin = bounded.client()
    admin.config_set("maxmemory-policy", "volatile-lru")

    [warning] = load_policy(Store(admin), ONE, allow_eviction=True).warnings

    assert warning.code == "eviction"
    assert "token records, and counters per token or segment" in warning.message


def test_eviction_policy_without_maxmemory_only_warns(bounded: RealServer) -> None:
    """Nothing is evicted until `maxmemory` is set."""
    admin = bounded.client()
    admin.config_set("maxmemory", 0)
    admin.config_set("maxmemory-policy", "allkeys-lfu")

    [warning] = load_policy(Store(admin), ONE).warnings

    assert "once a `maxmemory` is set, states, tokens and events" in warning.message


def test_server_with_noeviction_has_no_warning(bounded: RealServer) -> None:
    """With noeviction, a full server denies writes."""
    assert find_eviction_risk(bounded.client()) is None
    assert load_policy(Store(bounded.client()), ONE).warnings == ()


def test_unreadable_settings_are_a_warning(bounded: RealServer) -> None:
    """They do not prevent a load."""
    admin = bounded.client()
    admin.execute_command("ACL", "SETUSER", "loader", "on", "nopass", "~*", "&*", "+@all", "-info")
    user = bounded.client(username="loader", password="x")

    risk = find_eviction_risk(user)
    assert risk is not None
    assert risk.policy is None
    assert not risk.has_bound
    [warning] = load_policy(Store(user), ONE).warnings
    assert warning.message.startswith("cannot determine whether the server evicts keys: ")


def test_unreported_maxmemory_counts_as_set() -> None:
    """A managed server that reports only its policy has a limit."""

    class Managed:
        def info(self, _section: str) -> dict[str, str]:
            return {"maxmemory_policy": "volatile-lru"}

    assert find_eviction_risk(Managed()) == EvictionRisk("volatile-lru", has_bound=True)


def test_error_names_the_setting_and_the_option(bounded: RealServer, tmp_path: Path) -> None:
    """The option works."""
    file = tmp_path / "policy.json"
    file.write_text(ONE)
    bounded.client().config_set("maxmemory-policy", "allkeys-lru")
    cli = Cli(bounded.url)

    refused = cli.run("load", file, "--yes")

    assert refused.exit_code == 1
    assert "error: with `maxmemory-policy allkeys-lru` the server evicts" in refused.stderr
    assert "help: set `maxmemory-policy noeviction`; `--allow-eviction`" in refused.stderr
    allowed = cli.run("load", file, "--yes", "--allow-eviction")
    assert allowed.exit_code == 0
    assert "warning: with `maxmemory-policy allkeys-lru`" in allowed.stderr
