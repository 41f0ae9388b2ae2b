"""`keyleash acl`: users with exactly the rights of a role, on real servers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from click.testing import Result

from keyleash.operations.rights import RIGHTS
from keyleash.operator.roles import ROLES, roles_with
from support.clusters import RealCluster
from support.command_line import Cli
from support.servers import RealServer, RealServers, find_server_binaries

POLICY = """\
version: 1
identities:
  writer:
    kind: machine
    grants: [{{allow: [read, write, delete], keys: ["agents:jobs:{{job_id}}:state"]}}]
    rate: {{writes: {rate}/minute}}
    budget: {{requests: 1000/day, writes: {{limit: 100/day, per: "{{job_id}}"}}}}
    on_denials: {{threshold: 10/minute, suspend: 1h}}
    audit: {{before_images: {{max_bytes: 64kb}}}}
  {other}:
    kind: machine
    grants: [{{allow: [read], keys: ["agents:shared:*"]}}]
    audit: {{retain: {{until: exported, hard_max: 10000}}}}
"""
PASSWORD = "0123456789abcdef"
KEY = "agents:jobs:1:state"


@dataclass
class Stage:
    """A server with events to work on, and the command as an administrator."""

    admin: Cli
    server: RealServer | RealCluster
    folder: Path
    policy: str = POLICY
    key: str = KEY

    def file(self, rate: int, other: str = "reader") -> Path:
        path = self.folder / f"{rate}-{other}.yaml"
        path.write_text(self.policy.format(rate=rate, other=other))
        return path

    def user(self, role: str, *options: str) -> Cli:
        """Make the role's user by the printed line; return the command as that user."""
        line = self.admin.ok("acl", role, *options).strip()
        for client in self.clients:
            client.execute_command(*line.split(" "))
            client.execute_command("ACL SETUSER", f"keyleash-{role}", f">{PASSWORD}")
        place = urlsplit(self.server.url).netloc
        return Cli(f"redis://keyleash-{role}:{PASSWORD}@{place}")

    @property
    def clients(self) -> list[Any]:
        """Administrators' clients of all servers."""
        if isinstance(self.server, RealCluster):
            return [node.admin for node in self.server.nodes]
        return [self.server.client()]

    def denied(self) -> set[str]:
        """Return what the rules of users denied."""
        return {item["object"] for client in self.clients for item in client.acl_log()}

    def call(self, cli: Cli, operation: str) -> Result:
        """Run an operation."""
        return cli.run(*self.words(operation))

    def words(self, operation: str) -> list[str | Path]:
        self.admin.token("writer")
        token = self.admin.json("token", "list", "writer")["tokens"][0]["id"]
        given: dict[str, list[str | Path]] = {
            "token issue": ["writer", "--note", "ci"],
            "token show": [token],
            "token renew": [token, "--ttl", "1d"],
            "token tree": [token],
            "token rotate": [token],
            "token revoke": ["--identity", "writer"],
            "plan": [self.file(600)],
            "load": [self.file(700), "--yes", "--allow-widening", "--allow-removal"],
            "rollback": ["--yes", "--allow-widening", "--allow-removal"],
            "explain": ["writer", "GET", f"{self.key}:x"],
            "can-i": ["writer", "GET", f"{self.key}:x"],
            "learn": ["writer", "--min", "1"],
            "backtest": [self.file(600)],
            "audit show": [f"writer/{self.event()}"],
            "audit timeline": [self.key],
            "audit as-of": ["1s", self.key],
            "audit follow": ["--since", "1h"],
            "audit report": ["--since", "1h", "-o", self.folder / "report.html"],
            "undo --dry-run": ["--correlation", "req-1"],
            "undo": ["--correlation", "req-1", "--yes"],
            "freeze": ["writer", "--reason", "incident"],
            "thaw": ["--yes"],
            "limits reset": ["writer", "--reason", "incident"],
            "audit export": ["--to", self.folder / "exported"],
            "audit verify --recorded": [self.folder / "exported"],
        }
        return [*operation.split(), *given.get(operation, [])]

    def event(self) -> str:
        events = self.admin.lines("audit", "log", "writer")
        return str([item for item in events if item["op"] == "RPUSH"][-1]["id"])

    def act(self) -> None:
        """Record events of an agent: strings and other types, and a denial."""
        token = self.admin.token("writer")
        keys = [self.key.replace("1", str(number)) for number in range(6)]
        for call in (
            f"SET {keys[1]} a", f"SET {keys[1]} b", f"RPUSH {keys[2]} x", f"RPUSH {keys[2]} y",
            f"HSET {keys[3]} f v", f"HSET {keys[3]} f w", f"SADD {keys[4]} x",
            f"ZADD {keys[5]} 1 x", f"ZADD {keys[5]} 2 x", "GET other",
        ):  # fmt: skip
            self.admin.run(*("exec", "--correlation", "req-1", *call.split()), KEYLEASH_TOKEN=token)


LABELS = list(find_server_binaries())
SLOW = pytest.mark.slow
LEAST = [name for name in ROLES if name != "admin"]
"""Roles with least privilege."""
MANY = {"loader", "issuer", "incident-responder"}
"""Roles that together may do almost everything that a role may."""


@pytest.fixture
def stage(
    request: pytest.FixtureRequest, real_servers: RealServers, tmp_path: Path
) -> Iterator[Stage]:
    """Every available server."""
    with real_servers.lend(request.param) as server:
        yield prepared(server, tmp_path)


def prepared(server: RealServer, folder: Path) -> Stage:
    stage = Stage(Cli(server.url), server, folder)
    stage.admin.ok("load", stage.file(500, "gone"), "--yes")
    stage.admin.ok("load", stage.file(600), "--yes", "--allow-widening", "--allow-removal")
    stage.act()
    stage.admin.ok("audit", "export", "--to", folder / "exported")
    return stage


DENIES = {"explain", "can-i"}
"""Operations that exit with 1 here: the call is of no agent's key."""

FOLLOWED = {"audit follow"}
"""Operations without an end, which have a test of their own."""


OF_CLUSTERS = {"budget collect"}
"""Operations that one server has nothing for; tests/cluster/test_roles.py has them."""
UNDENIED = {*FOLLOWED, *OF_CLUSTERS}
"""Operations that a user without their rights is not denied as others are."""

MISSING = re.compile(r"which lacks (the command `|`[A-Z ]+` on (one of )?`|a key of the script `)")
TRIED = {"config|get", "xrevrange"}
"""Commands that operations of roles try without a right, and do without.

CONFIG GET would give the server's passwords, and audit streams hold before-images of values.
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "role"),
    [
        # Servers differ in what rules say, not in which a role has.
        pytest.param(stage, role, marks=() if stage == LABELS[0] or role in MANY else SLOW)
        for stage in LABELS
        for role in LEAST
    ],
    indirect=["stage"],
)
def test_user_of_a_role_can_do_its_operations_and_no_other(stage: Stage, role: str) -> None:
    """The printed rules suffice for every operation of the role, and allow no further one."""
    user = stage.user(role)

    # Reversed: a dry run comes before the undo.
    for operation in sorted(set(ROLES[role].operations) - FOLLOWED - OF_CLUSTERS, reverse=True):
        result = stage.call(user, operation)
        assert result.exit_code == (operation in DENIES), (operation, result.output)
    assert stage.denied() <= TRIED

    others = set(RIGHTS) - set(ROLES[role].operations) - UNDENIED
    for operation in sorted(others):
        result = stage.call(user, operation)
        assert result.exit_code == 77, (operation, result.output)
        assert MISSING.search(result.output), result.output
        assert f"`keyleash acl {roles_with(operation)[0]}`" in result.output


def test_auditor_follows_the_audit_log(embedded: RealServer, tmp_path: Path) -> None:
    """Following needs XREAD."""
    stage = prepared(embedded, tmp_path)
    auditor = stage.user("auditor")

    with auditor.spawn(["audit", "follow", "--since", "1h"]) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        line = process.stdout.readline()
        process.terminate()
    assert KEY in first + line


def test_role_in_another_database_may_select_it(embedded: RealServer, tmp_path: Path) -> None:
    """Connections begin in database 0."""
    stage = Stage(Cli(f"{embedded.url}/3"), embedded, tmp_path)
    stage.admin.ok("load", stage.file(600), "--yes")
    user = stage.user("issuer")

    assert user.run("token", "issue", "writer").exit_code != 0
    assert Cli(f"{user.url}/3").ok("token", "issue", "writer")


def test_exporter_trims_exported_events(embedded: RealServer, tmp_path: Path) -> None:
    """An identity with `until: exported` needs its room back."""
    stage = prepared(embedded, tmp_path)
    writing = tmp_path / "writing.yaml"
    writing.write_text(stage.file(600).read_text().replace("[read]", "[write]"))
    stage.admin.ok("load", writing, "--yes", "--allow-widening")
    token = stage.admin.token("reader")
    stage.admin.ok("exec", "SET", "agents:shared:a", "1", KEYLEASH_TOKEN=token)
    exporter = stage.user("exporter")

    exporter.ok("audit", "export", "--to", tmp_path / "exported")
    exporter.ok("audit", "verify", tmp_path / "exported", "--recorded")
    assert not stage.admin.lines("audit", "log", "reader")


def test_loader_loads_many_identities_and_retires_old_policies(
    embedded: RealServer, tmp_path: Path
) -> None:
    """A large load runs the server's collector, and the history holds 20 policies."""
    stage = prepared(embedded, tmp_path)
    loader = stage.user("loader")
    rules = "{kind: machine, grants: [{allow: [read], keys: ['k:*']}]}"
    names = "".join(f"  agent-{number}: {rules}\n" for number in range(120))
    large = tmp_path / "large.yaml"
    large.write_text(f"version: 1\nidentities:\n{names}")
    loader.ok("load", large, "--yes", "--allow-widening", "--allow-removal")
    for rate in range(700, 722):
        loader.ok("load", stage.file(rate), "--yes", "--allow-widening", "--allow-removal")

    assert len(loader.lines("policy", "history")) == 20
    assert not embedded.client().acl_log()


def test_revocation_without_the_right_to_read_streams_reports_unknown_calls(
    embedded: RealServer, tmp_path: Path
) -> None:
    """An issuer revokes tokens and does not learn what agents did."""
    issuer = prepared(embedded, tmp_path).user("issuer")

    document = issuer.json("token", "revoke", "--identity", "writer")
    assert [item["recorded_in_the_minute_before"] for item in document["revoked"]] == [None]
    issuer.token("writer")
    assert "unknown" in issuer.ok("token", "revoke", "--identity", "writer")


def test_line_replaces_rules_and_leaves_the_password(embedded: RealServer, tmp_path: Path) -> None:
    """Rules are printed again after a change of patterns or prefixes."""
    stage = prepared(embedded, tmp_path)
    stage.user("auditor")
    document = stage.admin.json("acl", "issuer", "--user", "keyleash-auditor")
    embedded.client().execute_command("ACL SETUSER", document["user"], *document["rules"])

    auditor = Cli(f"redis://keyleash-auditor:{PASSWORD}@127.0.0.1:{embedded.port}")
    assert auditor.ok("token", "issue", "writer")
    assert auditor.run("audit", "log").exit_code == 77


def test_data_rules_are_the_patterns_of_the_policy(embedded: RealServer, tmp_path: Path) -> None:
    """An incident responder does not reach keys that no agent has."""
    stage = prepared(embedded, tmp_path)

    line = stage.admin.ok("acl", "incident-responder")
    assert "%W~agents:jobs:*:state" in line
    assert "~*" not in line.split()


def test_data_role_without_a_policy_is_an_error(cli: Cli) -> None:
    """There are no patterns to derive its rules from."""
    assert cli.json("acl", "auditor", exit_code=1)["error"]["code"] == "no-policy"
    assert cli.ok("acl", "loader").startswith("ACL SETUSER keyleash-loader on ")


def test_unknown_role_and_bad_user_name_are_errors(cli: Cli) -> None:
    """The error lists the roles."""
    error = cli.json("acl", "root", exit_code=2)["error"]
    assert error["code"] == "unknown-role"
    assert "`issuer`, `loader`" in error["help"]
    assert cli.run("acl", "issuer", "--user", "a b").exit_code == 2
    assert cli.run("acl", "issuer", "--user", "").exit_code == 2


def test_roles_are_listed_without_a_server(offline: Cli) -> None:
    """A line for each role."""
    lines = offline.ok("acl").splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(ROLES)
    assert [item["role"] for item in offline.json("acl")] == list(ROLES)


def test_each_operation_of_a_role_has_rights() -> None:
    """Without them the rules of the role could not be made."""
    assert {name for role in LEAST for name in ROLES[role].operations} <= set(RIGHTS)


def test_admin_replaces_the_user_default(server: RealServer, tmp_path: Path) -> None:
    """It does what no other role may, after the user that agents shared was turned off."""
    stage = Stage(Cli(server.url), server, tmp_path)
    stage.admin.ok("load", stage.file(600), "--yes")
    admin = stage.user("admin")
    with redis.Redis.from_url(admin.url) as client:
        client.execute_command("ACL SETUSER", "default", "off")
        try:
            client.execute_command("CLIENT KILL", "TYPE", "normal", "USER", "default")
            denied = stage.admin.run("status")
            admin.ok("load", stage.file(700), "--yes", "--allow-widening")
            assert admin.run("doctor").exit_code in (0, 1)
        finally:
            client.execute_command("ACL SETUSER", "default", "on")
    assert denied.exit_code == 77, denied.output
    error = stage.user("issuer").json("freeze", "reader", "--reason", "x", exit_code=77)["error"]
    assert "`keyleash acl incident-responder`" in error["help"]


def test_page_has_the_operations_of_each_role() -> None:
    """The table of docs/how-to/operator-users.md is that of the code."""
    page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "operator-users.md"
    rows = re.findall(r"^\| `([a-z-]+)` \| (`.*`) \|$", page.read_text("utf-8"), re.M)

    assert {name: tuple(re.findall("`([^`]+)`", cells)) for name, cells in rows} == {
        role.name: role.operations for role in ROLES.values()
    }
