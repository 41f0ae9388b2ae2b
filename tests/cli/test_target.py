"""The server that a command is about to change: shown, and named by the user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyleash.addons.servers import EmbeddedServer
from keyleash.cli import main
from keyleash.cli.serve import SETTINGS
from support.command_line import Cli
from support.servers import RealServer

CHANGES = (("load", "FILE"), ("rollback", "--to", "DIGEST"))


def unnamed(url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return the command with *url* as the default address, and no server named."""
    (option,) = (item for item in main.params if item.name == "url")
    monkeypatch.setattr(option, "default", url)
    monkeypatch.delenv("KEYLEASH_URL", raising=False)
    cli = Cli(url)
    del cli.env["KEYLEASH_URL"]
    return cli


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The URL of a server with the settings of `keyleash serve`."""
    with EmbeddedServer(settings=SETTINGS) as server:
        yield server.url


@pytest.mark.parametrize("words", CHANGES, ids=" ".join)
def test_change_with_yes_of_a_server_that_nobody_named_is_rejected(
    loaded: Cli, example: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """A server that merely answers at the default address may be anybody's."""
    cli = unnamed(loaded.url, monkeypatch)
    digest = loaded.json("status")["policy"]["digest"]
    filled = [{"FILE": str(example), "DIGEST": digest}.get(word, word) for word in words]

    result = cli.run(*filled, "--yes")

    assert result.exit_code == 2
    assert "error: `--yes` needs a named server" in result.stderr
    assert f"{loaded.url} (Valkey " in result.stderr
    assert f"`keyleash --url {loaded.url} …`" in result.stderr
    assert loaded.json("status")["policy"]["generation"] == 1


def test_change_without_yes_of_a_server_that_nobody_named_is_noted_before_the_question(
    embedded: RealServer, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question decides; this one cannot be asked, since there is no terminal."""
    result = unnamed(embedded.url, monkeypatch).run("load", example)

    note, _, rest = result.stderr.partition("\nserver     ")
    assert "note: neither `--url` nor KEYLEASH_URL is set" in note
    assert "error: cannot ask for confirmation without a terminal" in rest


def test_url_option_names_the_server(
    embedded: RealServer, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is the default one, but the user wrote it."""
    unnamed(embedded.url, monkeypatch).ok("--url", embedded.url, "load", example, "--yes")


NAMING = (
    ("freeze", "agent-runner", "--reason", "x"),
    ("thaw", "agent-runner", "--reason", "x"),
    ("token", "issue", "agent-runner"),
    ("token", "rotate", "agent-runner"),
    ("token", "revoke", "--identity", "agent-runner"),
    ("limits", "reset", "agent-runner", "--reason", "x"),
    ("load", "FILE", "--yes"),
)


@pytest.mark.parametrize("words", NAMING, ids=" ".join)
def test_change_names_its_server_in_text_and_in_json(
    loaded: Cli, example: Path, policy: Path, words: tuple[str, ...]
) -> None:
    """A change of the wrong server is seen at once."""
    policy.write_text(example.read_text().replace("60/minute", "50/minute"))
    words = tuple({"FILE": str(policy)}.get(word, word) for word in words)

    shown = loaded.run(*words)
    document = loaded.json(*words)

    assert re.search(f"^server     {loaded.url}( |$)", shown.stderr, re.M), shown.output
    assert document["server"] == loaded.url


def test_change_of_the_default_server_says_so(loaded: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A freeze of the laptop's server must not look like one of production."""
    shown = unnamed(loaded.url, monkeypatch).run("freeze", "agent-runner", "--reason", "x")

    assert f"server     {loaded.url}, the default: set `--url` or KEYLEASH_URL\n" in shown.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("freeze", "a", "--reason", "x"),
        ("whoami",),
        ("gateway", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
    ],
)
def test_empty_variable_of_the_server_is_no_default(
    loaded: Cli, example: Path, words: tuple[str, ...]
) -> None:
    """A secret that CI lacks is an error, but of no command that needs no server."""
    token = loaded.token("agent-runner")

    result = loaded.run(*words, KEYLEASH_URL="", KEYLEASH_TOKEN=token)

    assert (result.exit_code, "KEYLEASH_URL is set, but empty" in result.stderr) == (2, True)
    loaded.ok("check", example, KEYLEASH_URL="")
    loaded.ok("--url", loaded.url, "status", KEYLEASH_URL="")


def test_server_options_are_accepted_after_the_command(loaded: Cli, offline: Cli) -> None:
    """They win over those before it, and passwords are rejected in both places."""
    shown = offline.run("token", "list", "--url", loaded.url, "--actor", "me", "--timeout", "9s")
    typed = offline.run("token", "list", "--url", "redis://u:secret@127.0.0.1")

    assert shown.exit_code == 0, shown.output
    assert typed.exit_code == 2
    assert "a password on the command line can be read" in typed.stderr
    offline.ok("freeze", "agent-runner", "--reason", "x", "--url", loaded.url, "--actor", "me")
    assert loaded.lines("audit", "log", "--control")[-1]["actor"] == "me"


def test_server_of_serve_needs_no_name(
    served: str, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tutorial works without `--url`."""
    unnamed(served, monkeypatch).ok("load", example, "--yes")


def test_load_shows_product_database_and_number_of_keys(
    embedded: RealServer, example: Path
) -> None:
    """A wrong server is recognized before it is changed."""
    embedded.client().mset({"a": 1, "b": 2})

    result = Cli(f"{embedded.url}/0").run("load", example, "--yes")

    line = next(line for line in result.stderr.splitlines() if line.startswith("server"))
    assert line.startswith(f"server     {embedded.url}/0 (Valkey 9.")
    assert line.endswith(", database 0, 2 keys)")


def test_user_without_info_and_dbsize_may_load(
    embedded: RealServer, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The description then has only what the user may read."""
    admin = embedded.client()
    admin.execute_command("ACL SETUSER few on nopass ~* &* +@all -info -dbsize")
    try:
        url = embedded.url.replace("://", "://few:x@")
        result = Cli(url).run("load", example, "--yes")
    finally:
        admin.acl_deluser("few")

    assert result.exit_code == 0, result.stderr
    assert "(database 0)" in result.stderr
