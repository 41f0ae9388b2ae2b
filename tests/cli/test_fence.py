"""`keyleash fence`."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from support.command_line import Cli
from support.servers import RealServer, find_server_binaries

POLICY = """\
version: 1
identities:
  one:
    kind: machine
    grants: [{allow: [read, write], keys: ["a:{id}:*"]}]
  two:
    kind: machine
    grants: [{allow: [read], keys: ["b[\\\\]:*", "c)"]}]
"""


@pytest.fixture
def fenced(cli: Cli, policy: Path) -> Cli:
    """The command, with an active policy that can be fenced."""
    policy.write_text(POLICY)
    cli.ok("load", policy, "--yes")
    return cli


def passwords(text: str) -> dict[str, str]:
    return dict(line.split(" ") for line in text.splitlines())


def can_log_in(cli: Cli, user: str, password: str) -> bool:
    try:
        with redis.Redis.from_url(cli.url, username=user, password=password) as client:
            return bool(client.ping())
    except redis.AuthenticationError:
        return False


def test_plan_exits_with_1_while_changes_are_due(fenced: Cli) -> None:
    """It changes nothing."""
    before = fenced.run("fence", "plan")
    assert before.exit_code == 1
    assert "one   new   there is no such user" in before.stdout
    again = fenced.run("fence", "plan")
    assert again.stdout == before.stdout
    fenced.ok("fence", "apply", "--mint", "--yes")
    after = fenced.run("fence", "plan")
    assert after.exit_code == 0
    assert "nothing to change" in after.stderr


def test_generated_passwords_are_the_only_output(fenced: Cli) -> None:
    """They can be redirected to a file, and are printed once."""
    result = fenced.run("fence", "apply", "--mint", "--yes")
    assert result.exit_code == 0
    minted = passwords(result.stdout)
    assert list(minted) == ["one", "two"]
    assert all(can_log_in(fenced, name, password) for name, password in minted.items())
    assert not any(password in result.stderr for password in minted.values())
    again = fenced.run("fence", "apply", "--mint", "--yes")
    assert again.stdout == ""
    assert "nothing changed; verified" in again.stderr


def test_passwords_are_written_to_a_private_file_before_users_change(
    fenced: Cli, tmp_path: Path, embedded: RealServer
) -> None:
    """A second run leaves the file alone, and passwords that cannot be stored change no user."""
    file = tmp_path / "passwords"
    missing = fenced.run("fence", "apply", "--passwords", tmp_path / "no" / "file", "--yes")
    assert (missing.exit_code, embedded.client().acl_users()) == (1, ["default"])

    result = fenced.run("fence", "apply", "--passwords", file, "--yes")

    assert (result.exit_code, result.stdout) == (0, "")
    assert f"2 passwords written to `{file}`" in result.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    written = file.read_text()
    assert all(can_log_in(fenced, *item) for item in passwords(written).items())
    again = fenced.json("fence", "apply", "--passwords", file, "--yes")
    assert (again["changed"], again["passwords"]) == (False, [])
    refused = fenced.run("fence", "rotate", "one", "--passwords", file)
    assert refused.exit_code == 1
    assert f"`{file}` exists, and was not written" in refused.stderr
    assert fenced.ok("fence", "rotate", "--finish") == "no user had an older password\n"
    assert file.read_text() == written
    document = fenced.json("fence", "rotate", "one", "--passwords", tmp_path / "second")
    assert document == {"passwords": [], "added": 1}
    assert can_log_in(fenced, "one", passwords((tmp_path / "second").read_text())["one"])
    assert fenced.run("fence", "rotate", "--finish", "--passwords", file).exit_code == 2


def test_password_that_cannot_be_printed_changes_no_user(fenced: Cli, embedded: RealServer) -> None:
    """Nothing else would have it."""
    with Path("/dev/full").open("w") as full:
        words = (*fenced.command, "fence", "apply", "--mint", "--yes")
        done = subprocess.run(words, env=fenced.process_env(), stdout=full, check=False)
    assert done.returncode == 1
    assert embedded.client().acl_users() == ["default"]


def test_users_without_passwords_are_off(fenced: Cli) -> None:
    """A note lists them."""
    result = fenced.run("fence", "apply", "--yes")
    assert result.exit_code == 0
    assert result.stderr.count("disabled until they have a password: one, two") == 1
    assert not can_log_in(fenced, "one", "")


def test_password_hashes_are_read_from_a_file(fenced: Cli, tmp_path: Path) -> None:
    """Or from standard input; malformed lines are not repeated in errors."""
    file = tmp_path / "hashes"
    sha256 = hashlib.sha256(b"secret").hexdigest()
    file.write_text(f"# ours\none {sha256}\n\n")
    fenced.ok("fence", "apply", "--hashes", file, "--yes")
    assert can_log_in(fenced, "one", "secret")
    fenced.ok("fence", "apply", "--hashes", "-", "--yes", stdin=f"one {sha256}\n")

    for line, message in (
        ("one secret", "line 1 of the hashes is malformed"),
        (f"three {sha256}", "names an unknown identity"),
        (f"one {'0' * 64}", "`one` has a password already"),
        (f"two {sha256}\ntwo {sha256}", "repeats `two`"),
    ):
        result = fenced.run("fence", "apply", "--hashes", "-", "--yes", stdin=line)
        assert result.exit_code != 0
        assert message in result.stderr
        assert "secret" not in result.stderr


def test_rotation_prints_new_passwords_until_it_is_finished(fenced: Cli) -> None:
    """Two are valid meanwhile; another rotation must wait for the end of the first."""
    first = passwords(fenced.ok("fence", "apply", "--mint", "--yes"))["one"]
    second = passwords(fenced.ok("fence", "rotate", "one"))["one"]
    assert can_log_in(fenced, "one", first)
    assert can_log_in(fenced, "one", second)
    refused = fenced.run("fence", "rotate")
    assert refused.exit_code == 1
    assert "`one` has two passwords already" in refused.stderr
    assert refused.stdout == ""
    assert fenced.ok("fence", "rotate", "--finish") == "dropped the older password of: one\n"
    assert not can_log_in(fenced, "one", first)
    assert can_log_in(fenced, "one", second)
    third = hashlib.sha256(b"third").hexdigest()
    assert fenced.ok("fence", "rotate", "one", "--hashes", "-", stdin=f"one {third}") == ""
    assert can_log_in(fenced, "one", "third")


def test_removal_asks_and_reports(fenced: Cli) -> None:
    """Foreign users remain, and an identity without a user is an error."""
    fenced.ok("fence", "apply", "--mint", "--yes")
    assert fenced.run("fence", "remove").exit_code == 2
    assert fenced.run("fence", "remove", "one").exit_code == 2  # there is no terminal to ask on
    assert "deleted `one` from" in fenced.ok("fence", "remove", "one", "--yes")
    assert fenced.run("fence", "remove", "one", "--yes").exit_code == 1
    assert fenced.json("fence", "remove", "--all", "--yes")["removed"][0]["identity"] == "two"
    assert fenced.ok("fence", "remove", "--all", "--yes") == "no user to delete\n"


def test_removal_reports_a_foreign_user_that_remains(fenced: Cli, embedded: RealServer) -> None:
    """The operator must know that this name can still log in."""
    fenced.ok("fence", "apply", "--mint", "--yes")
    opened = ("reset", "on", "nopass", "~*", "+@all")
    embedded.client().execute_command("ACL", "SETUSER", "one", *opened)

    result = fenced.run("fence", "remove", "--all", "--yes")

    assert result.exit_code == 1
    assert "it was not made by keyleash" in result.stderr
    assert "ACL DELUSER" in result.stderr
    embedded.client().execute_command("ACL", "DELUSER", "one")
    assert fenced.run("fence", "remove", "one", "--yes").exit_code == 0


def test_json_has_steps_and_notes_but_no_passwords(
    fenced: Cli, embedded: RealServer, tmp_path: Path
) -> None:
    """A full disk must not lose passwords of users that changed, so these need a file."""
    plan = fenced.json("fence", "plan", exit_code=1)
    assert plan["changes"] is True
    assert {user["what"] for user in plan["users"]} == {"created"}
    assert {note["code"] for note in plan["notes"]} == {"left-out"}
    denied = fenced.json("fence", "apply", "--mint", "--yes", exit_code=2)["error"]
    assert denied["message"] == "`--json` prints no passwords; no user was changed"
    assert denied["help"].startswith("add `--passwords FILE`")
    assert embedded.client().acl_users() == ["default"]
    made = fenced.json("fence", "apply", "--passwords", tmp_path / "first", "--yes")
    assert made["passwords"] == []
    assert made["changed"] is True
    assert made["unsaved"] == [fenced.url]
    assert fenced.json("fence", "apply", "--yes")["changed"] is False
    assert fenced.json("fence", "rotate", "two", exit_code=2)["error"]["code"] == "usage"
    assert fenced.json("fence", "rotate", "--finish") == {"finished": []}
    assert fenced.json("fence", "rotate", "two", "--passwords", tmp_path / "second")["added"] == 1
    assert fenced.json("fence", "rotate", "--finish") == {"finished": ["two"]}


def test_inactive_policy_is_an_error(fenced: Cli, policy: Path) -> None:
    """The file confirms which policy is fenced."""
    fenced.ok("fence", "apply", policy, "--mint", "--yes")
    policy.write_text(POLICY.replace("[read, write]", "[read]"))
    refused = fenced.run("fence", "apply", policy, "--yes")
    assert refused.exit_code == 1
    assert "not the active one" in refused.stderr
    assert "load it first" in refused.stderr


def test_load_updates_users_and_lists_identities_without_one(fenced: Cli, policy: Path) -> None:
    """New identities have none; users of removed identities are deleted."""
    fenced.ok("fence", "apply", "--mint", "--yes")
    policy.write_text(POLICY.replace("  two:", "  three:"))
    loaded = fenced.run("load", policy, "--yes", "--allow-widening", "--allow-removal")
    assert "note: without an ACL user: three" in loaded.stderr
    with redis.Redis.from_url(fenced.url) as admin:
        assert set(admin.acl_users()) == {"default", "one"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["fence", "apply", "--wide", "three"], 2, "no identity `three`"),
        (["fence", "rotate"], 1, "no identity has an ACL user"),
        (["fence", "rotate", "--finish", "--hashes", "-"], 2, "adds no passwords"),
        (["fence", "plan", "--node", "redis://u:hush@127.0.0.1:1"], 2, "a password on the command"),
        (["fence", "plan", "--node", "redis://127.0.0.1:1"], 69, "`redis://127.0.0.1:1` does not"),
    ],
)
def test_mistake_is_an_error_with_help(
    fenced: Cli, words: list[str], code: int, message: str
) -> None:
    """Nothing is changed."""
    result = fenced.run(*words)
    assert result.exit_code == code
    assert message in result.stderr
    assert "help: " in result.stderr


def test_password_of_a_server_is_never_shown(fenced: Cli) -> None:
    """Servers are named by their URL without the password."""
    with redis.Redis.from_url(fenced.url) as admin:
        admin.execute_command("ACL", "SETUSER", "ops", "on", ">hush", "~*", "&*", "+@all")
    node = fenced.url.replace("redis://", "redis://ops:hush@")
    result = fenced.run("fence", "plan", KEYLEASH_NODES=node)
    assert "ops@" in result.stdout
    assert "hush" not in result.output
    wrong = fenced.run("fence", "plan", KEYLEASH_NODES=node.replace("hush", "wrong"))
    assert wrong.exit_code != 0
    assert "wrong" not in wrong.output


def test_credentials_default_to_those_of_the_first_server(fenced: Cli) -> None:
    """The secret is not needed in every URL."""
    with redis.Redis.from_url(fenced.url) as admin:
        admin.execute_command("ACL", "SETUSER", "ops", "on", ">hush", "~*", "&*", "+@all")
        admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">other")
        url = fenced.url.replace("redis://", "redis://ops:hush@")
        try:
            result = fenced.run("fence", "plan", "--node", fenced.url, KEYLEASH_URL=url)
        finally:
            admin.execute_command("ACL", "SETUSER", "default", "nopass")
    assert result.exit_code == 1
    assert result.stdout.count("there is no such user") == 4


@contextlib.contextmanager
def with_aclfile(binary: Path, file: Path, folder: Path) -> Iterator[str]:
    """Yield the URL of a server that stores its users in *file*."""
    socket = folder / "socket"
    options = {"port": "0", "unixsocket": str(socket), "save": "", "dir": str(folder)}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with subprocess.Popen(
        [binary, *words, "--aclfile", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            url = f"unix://{socket}"
            while process.poll() is None and not answers(url):
                time.sleep(0.01)
            yield url
        finally:
            process.terminate()


def answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_acl_file_output_creates_the_same_users(server: RealServer, tmp_path: Path) -> None:
    """A server starts with the file, and can read what it saves."""
    cli, policy = Cli(server.url), tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    cli.ok("load", policy, "--yes")
    minted = passwords(cli.ok("fence", "apply", "--mint", "--yes"))
    file = tmp_path / "users.acl"
    lines = cli.ok("fence", "plan", "--output", "acl")
    file.write_text(f"user default on nopass ~* &* +@all\n{lines}")
    with (
        with_aclfile(find_server_binaries()[server.label], file, tmp_path) as url,
        redis.Redis.from_url(url) as admin,
    ):
        other = Cli(url)
        other.ok("load", policy, "--yes")
        assert all(can_log_in(other, name, word) for name, word in minted.items())
        users = admin.acl_list()
        result = other.run("fence", "apply", "--hashes", "-", "--yes", stdin=hashes_of(minted))
        assert "nothing changed; verified" in result.stderr
        assert file.read_text() != lines  # saved
        admin.acl_load()
        assert admin.acl_list() == users


def hashes_of(minted: dict[str, str]) -> str:
    return "".join(
        f"{name} {hashlib.sha256(word.encode()).hexdigest()}\n" for name, word in minted.items()
    )


@pytest.mark.parametrize("program", ["redis-cli", "valkey-cli"])
def test_redis_cli_output_creates_the_same_users(fenced: Cli, program: str) -> None:
    """The lines are its standard input."""
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    fenced.ok("fence", "apply", "--mint", "--yes")
    lines = fenced.ok("fence", "plan", "--output", "redis-cli")
    with redis.Redis.from_url(fenced.url) as admin:
        users = admin.acl_list()
        admin.acl_deluser("one", "two")
        result = subprocess.run(
            [program, "-u", fenced.url], input=lines, capture_output=True, text=True, check=True
        )
        assert result.stdout.split() == ["OK", "OK"]
        assert admin.acl_list() == users
