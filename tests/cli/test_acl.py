"""`keyleash acl`: users with the rights of a role, on real servers."""

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

from keyleash.api.operator import Server
from keyleash.operations import Noun, Operation, Reading
from keyleash.operator.roles import ROLES
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
DENIES = {"explain", "can-i"}
"""Operations that exit with 1 here: the call is of no agent's key."""
LEFT_OUT = {"audit follow", "budget collect", "doctor"}
"""Operations that do not end, have nothing to do on one server, or find more with other users."""
OPERATIONS = {name for role in ROLES.values() for name in role.operations} - LEFT_OUT
MISSING = re.compile(r"which lacks (the command `|`[A-Z ]+` on (one of )?`|a key of the script `)")
TRIED = re.compile(r"config\|get|set|xrevrange|keyleash:(\{\w+\}:)?(audit|tokens?):.*")
"""What operations try and do without: a reader cannot make the token that asks a guard."""


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


def require_role(stage: Stage, role: str) -> None:
    """Check that the rules of a role allow its operations, and no other."""
    user = stage.user(role)
    # Reversed: a dry run comes before the undo.
    for operation in sorted(OPERATIONS & {*ROLES[role].operations}, reverse=True):
        result = stage.call(user, operation)
        assert result.exit_code == (operation in DENIES), (operation, result.output)
    assert [item for item in stage.denied() if not TRIED.fullmatch(item)] == []
    if role == "admin":
        return
    for operation in sorted(OPERATIONS - {*ROLES[role].operations}):
        result = stage.call(user, operation)
        # An issuer writes states at the home of a cluster, to revoke.
        if operation == "limits reset" and "3 nodes not reached" in result.output:
            continue
        assert result.exit_code == 77, (operation, result.output)
        assert MISSING.search(result.output), result.output
        assert re.search(r"`keyleash acl (reader|issuer|admin)`", result.output)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("stage", LABELS, indirect=True)
def test_user_of_a_role_can_do_its_operations_and_no_other(stage: Stage, role: str) -> None:
    """The printed rules suffice for every operation of the role, and allow no further one."""
    require_role(stage, role)


def test_reader_follows_the_audit_log(embedded: RealServer, tmp_path: Path) -> None:
    """Following needs XREAD."""
    stage = prepared(embedded, tmp_path)
    reader = stage.user("reader")

    with reader.spawn(["audit", "follow", "--since", "1h"]) as process:
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
    """A user may get another role."""
    stage = prepared(embedded, tmp_path)
    stage.user("reader")
    document = stage.admin.json("acl", "issuer", "--user", "keyleash-reader")
    embedded.client().execute_command("ACL SETUSER", document["user"], *document["rules"])

    reader = Cli(f"redis://keyleash-reader:{PASSWORD}@127.0.0.1:{embedded.port}")
    assert reader.ok("token", "issue", "writer")
    assert reader.run("audit", "log").exit_code == 77


def test_unknown_role_and_bad_user_name_are_errors(cli: Cli) -> None:
    """The error lists the roles."""
    error = cli.json("acl", "root", exit_code=2)["error"]
    assert error["code"] == "unknown-role"
    assert "`issuer`, `reader`" in error["help"]
    assert cli.run("acl", "issuer", "--user", "a b").exit_code == 2
    assert cli.run("acl", "issuer", "--user", "").exit_code == 2


def test_roles_are_listed_without_a_server(offline: Cli) -> None:
    """A line for each role."""
    lines = offline.ok("acl").splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(ROLES)
    assert [item["role"] for item in offline.json("acl")] == list(ROLES)


def test_each_operation_is_one_of_a_role() -> None:
    """Otherwise the help of a denied one names no role."""
    items = [item for noun in (Server, *Noun.__subclasses__()) for item in vars(noun).values()]
    commands = {item.command for item in items if isinstance(item, Operation | Reading)}
    assert commands - {""} | {"doctor"} == OPERATIONS | LEFT_OUT


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
    assert "`keyleash acl admin`" in error["help"]


def test_page_has_the_operations_of_each_role() -> None:
    """The table of docs/how-to/operator-users.md is that of the code."""
    page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "operator-users.md"
    rows = re.findall(r"^\| `([a-z-]+)` \| (`.*`) \|$", page.read_text("utf-8"), re.M)

    assert {name: tuple(re.findall("`([^`]+)`", cells)) for name, cells in rows} == {
        role.name: role.operations for role in ROLES.values()
    }
