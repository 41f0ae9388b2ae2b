"""A server that may evict control keys is refused, unless it is wanted all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyleash.errors import EvictionError
from keyleash.operator import load_policy
from keyleash.operator.load.checks import EvictionRisk, find_eviction_risk
from support.command_line import Cli
from support.keyspaces import whole_keyspace
from support.leash import grant, policy
from support.servers import RealServer

ONE = policy(one={"grants": [grant("read", keys="k:*")]})
LARGE = 1 << 40


@pytest.fixture
def bounded(server: RealServer) -> Iterator[RealServer]:
    """A server with a `maxmemory` that is far away; its policy is noeviction at first."""
    admin = server.client()
    admin.config_set("maxmemory", LARGE)
    try:
        yield server
    finally:
        admin.config_set("maxmemory", 0)
        admin.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("evicts", ["allkeys-lru", "allkeys-random", "volatile-ttl"])
def test_load_refuses_a_server_that_evicts_and_writes_nothing(
    bounded: RealServer, evicts: str
) -> None:
    """A counter that is thrown away is a limit forgotten; no agent would notice."""
    admin = bounded.client()
    admin.config_set("maxmemory-policy", evicts)

    with pytest.raises(EvictionError, match=f"`maxmemory-policy {evicts}`") as caught:
        load_policy(admin, ONE)

    assert "`maxmemory-policy noeviction`" in str(caught.value.help)
    assert whole_keyspace(admin) == {}


def test_load_that_allows_eviction_warns(bounded: RealServer) -> None:
    """Whoever takes the risk is told which."""
    admin = bounded.client()
    admin.config_set("maxmemory-policy", "volatile-lru")

    [warning] = load_policy(admin, ONE, allow_eviction=True).warnings

    assert warning.code == "eviction"
    assert "token records, and counters per token or segment" in warning.message


def test_policy_that_evicts_without_a_bound_only_warns(bounded: RealServer) -> None:
    """Nothing is evicted yet, and somebody may set a bound one day."""
    admin = bounded.client()
    admin.config_set("maxmemory", 0)
    admin.config_set("maxmemory-policy", "allkeys-lfu")

    [warning] = load_policy(admin, ONE).warnings

    assert "once a `maxmemory` is set, states, tokens and events" in warning.message


def test_server_that_evicts_nothing_is_no_risk(bounded: RealServer) -> None:
    """A bound alone makes it refuse writes, and never forget."""
    assert find_eviction_risk(bounded.client()) is None
    assert load_policy(bounded.client(), ONE).warnings == ()


def test_user_who_may_not_ask_gets_a_warning(bounded: RealServer) -> None:
    """What cannot be told is said, and does not keep a policy from being loaded."""
    admin = bounded.client()
    admin.execute_command("ACL", "SETUSER", "loader", "on", "nopass", "~*", "&*", "+@all", "-info")
    user = bounded.client(username="loader", password="x")

    risk = find_eviction_risk(user)
    assert risk is not None
    assert risk.policy is None
    assert not risk.has_bound
    [warning] = load_policy(user, ONE).warnings
    assert warning.message.startswith("cannot determine whether the server evicts keys: ")


def test_answer_without_a_bound_counts_as_one() -> None:
    """A managed server that names its policy alone has a bound, as all of them do."""

    class Managed:
        def info(self, _section: str) -> dict[str, str]:
            return {"maxmemory_policy": "volatile-lru"}

    assert find_eviction_risk(Managed()) == EvictionRisk("volatile-lru", has_bound=True)


def test_command_says_what_to_do(bounded: RealServer, tmp_path: Path) -> None:
    """The refusal names the setting and the way past it; the way past it works."""
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
