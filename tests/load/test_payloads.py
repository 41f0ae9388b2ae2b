"""Policies that allow RESTORE, on servers that do not validate payloads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyleash.errors import UnvalidatedRestoreError
from keyleash.store.server_check import PayloadRisk, find_payload_risk
from keyleash.store.store import Store
from support.command_line import Cli
from support.keyspaces import whole_keyspace
from support.leash import grant, policy
from support.loading import load_policy
from support.servers import RealServer, embedded_label

RESTORES = grant("write", keys="k:*", only=["RESTORE"])
ONE = policy(one={"grants": [grant("read", "write", keys="k:*"), RESTORES]})
PLAIN = policy(one={"grants": [grant("read", "write", keys="k:*")]})
SETTING = "sanitize-dump-payload"


@pytest.fixture
def settable(server: RealServer) -> Iterator[RealServer]:
    """A server with the setting, `no` at first."""
    admin = server.client()
    if not admin.config_get(SETTING):
        pytest.skip("the server has no such setting: it validates every payload")
    try:
        yield server
    finally:
        admin.config_set(SETTING, "no")


@pytest.mark.parametrize("setting", ["no", "clients"])
def test_load_rejects_a_policy_that_allows_restore_and_writes_nothing(
    settable: RealServer, setting: str
) -> None:
    """`clients` leaves out users with `skip-sanitize-payload`."""
    admin = settable.client()
    admin.config_set(SETTING, setting)

    with pytest.raises(UnvalidatedRestoreError) as caught:
        load_policy(Store(admin), ONE)

    assert f"`one` may RESTORE, and with `{SETTING} {setting}`" in str(caught.value)
    assert f"set `{SETTING} yes`" in str(caught.value.help)
    assert whole_keyspace(admin) == {}


def test_load_on_a_server_that_validates_has_no_warning(settable: RealServer) -> None:
    """The option is not needed."""
    admin = settable.client()
    admin.config_set(SETTING, "yes")

    assert load_policy(Store(admin), ONE).warnings == ()


def test_valkey_without_the_setting_validates(embedded: RealServer) -> None:
    """Valkey 9.1.2 ignores the setting, does not show it and rejects every corrupt payload."""
    assert embedded.client().config_get(SETTING) == {}
    assert load_policy(Store(embedded.client()), ONE).warnings == ()


def test_other_server_without_the_setting_counts_as_not_validating() -> None:
    """Servers from before Redis 6.2 validated nothing."""

    class Old:
        def config_get(self, _name: str) -> dict[str, str]:
            return {}

        def info(self, _section: str) -> dict[str, str]:
            return {"redis_version": "6.0.16"}

    assert find_payload_risk(Old()) == PayloadRisk(None, f"it has no setting `{SETTING}`")


def test_load_that_allows_unvalidated_restore_warns(settable: RealServer) -> None:
    """The result has the warning."""
    [warning] = load_policy(Store(settable.client()), ONE, allow_unvalidated_restore=True).warnings

    assert warning.code == "unvalidated-restore"
    assert "a corrupt one can crash it" in warning.message


def test_policy_without_restore_does_not_read_the_setting(server: RealServer) -> None:
    """Managed servers deny CONFIG."""
    admin = server.client()
    admin.execute_command(
        "ACL", "SETUSER", "loader", "on", "nopass", "~*", "&*", "+@all", "-config"
    )
    loader = server.client(username="loader", password="x")

    assert load_policy(Store(loader), PLAIN).changed
    with pytest.raises(UnvalidatedRestoreError, match="cannot tell whether the server validates"):
        load_policy(Store(loader), ONE)
    assert load_policy(Store(loader), ONE, allow_unvalidated_restore=True).changed


def test_commands_reject_the_policy_and_name_the_option(
    settable: RealServer, tmp_path: Path
) -> None:
    """`plan` previews the rejection; `load` and `rollback` need the option each time."""
    files = {name: tmp_path / f"{name}.json" for name in ("one", "plain")}
    files["one"].write_text(ONE)
    files["plain"].write_text(PLAIN)
    cli = Cli(settable.url)
    consent = "--allow-unvalidated-restore"

    for words in (("plan", files["one"]), ("load", files["one"], "--yes")):
        denied = cli.run(*words)
        assert denied.exit_code == 1
        assert "error: `one` may RESTORE, and with `sanitize-dump-payload no`" in denied.stderr
        assert f"help: set `sanitize-dump-payload yes`; `{consent}`" in denied.stderr
    assert cli.run("plan", files["one"], consent).exit_code == 0
    allowed = cli.run("load", files["one"], "--yes", consent)
    assert allowed.exit_code == 0
    assert "warning: `one` may RESTORE, and" in allowed.stderr

    assert cli.run("load", files["plain"], "--yes").exit_code == 0
    denied = cli.run("rollback", "--yes", "--allow-widening", "--json")
    assert json.loads(denied.stdout)["error"]["code"] == "unvalidated-restore"
    assert cli.run("rollback", "--yes", "--allow-widening", consent).exit_code == 0


def test_embedded_server_is_the_one_without_the_setting(server: RealServer) -> None:
    """So that no test above passes by being skipped everywhere."""
    assert bool(server.client().config_get(SETTING)) == (server.label != embedded_label())
