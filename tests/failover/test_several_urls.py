"""Several URLs of one deployment: commands go on with a server that answers."""

from __future__ import annotations

import pytest
import redis

import keyleash
from keyleash.store.connect import has_password, shown_url, split_urls
from support.command_line import Cli
from support.leash import Leash, grant
from support.replication import Node
from support.servers import RealServer

Pair = tuple[Node, Node]
FREEZE = ("freeze", "one", "--reason", "x")


@pytest.mark.slow
def test_commands_go_on_if_the_first_server_hangs(pair: Pair) -> None:
    """It takes connections, and answers none."""
    primary, replica = pair
    leash = Leash(primary)
    leash.load(one={"grants": [grant("read", "write", keys="t:*")]})
    primary.settle()
    replica.halt()
    urls = f"{replica.url},{primary.url}"
    cli = Cli(urls)

    assert cli.json("status")["server"] == primary.url
    cli.ok("exec", "SET", "t:1", "v", KEYLEASH_TOKEN=leash.issue("one").token)
    with keyleash.Operator.from_url(urls) as op:
        assert op.identities() == ("one",)


def test_primary_is_preferred_to_a_replica(pair: Pair) -> None:
    """A replica denies changes; it answers if no primary does."""
    primary, replica = pair
    Leash(primary).load(one={"grants": [grant("read", keys="t:*")]})
    primary.settle()
    cli = Cli(f"{replica.url},{primary.url}")
    cli.ok(*FREEZE)

    primary.settle()
    primary.halt()
    try:
        assert cli.json("status")["server"] == replica.url
    finally:
        primary.go_on()


def test_server_that_rejects_the_user_is_not_skipped(pair: Pair) -> None:
    """The next one may be unrelated, and would be changed in its place."""
    primary, server = pair
    Leash(primary).load(one={"grants": [grant("read", keys="t:*")]})
    primary.settle()
    primary.admin.config_set("requirepass", "secret")
    try:
        for user in ("absent:pw@", ""):
            url = primary.url.replace("//", f"//{user}")
            result = Cli(f"{url},{server.url}").run(*FREEZE)
            assert (result.exit_code, result.stdout) == (77, "")
            assert "user and password" in result.stderr or "requires" in result.stderr
            with pytest.raises(redis.AuthenticationError):
                keyleash.Operator.from_url(f"{url},{server.url}").identities()
    finally:
        primary.admin.config_set("requirepass", "")


def test_note_names_a_server_that_is_not_the_first(server: RealServer) -> None:
    """An operator sees which one is changed."""
    Leash(server).load(one={"grants": [grant("read", keys="t:*")]})
    note = f"note: the server is `{server.url}`; those before it do not answer, or are replicas\n"
    down = "redis://127.0.0.1:1"
    assert note in Cli(f"{down},{server.url}").run(*FREEZE).stderr
    assert "note" not in Cli(f"{server.url},{down}").run("thaw", "one").stderr


def test_error_names_all_servers_without_passwords_if_none_answers() -> None:
    """Each may be the one that is wanted."""
    urls = "redis://:se,cret@127.0.0.1:1,redis://u:geheim@127.0.0.1:2"
    result = Cli(urls).run("status")
    assert result.exit_code == 69
    assert "cannot reach `redis://127.0.0.1:1, redis://u@127.0.0.1:2`" in result.output
    assert keyleash.Operator.from_url(urls)
    assert "se,cret" not in result.output
    assert "geheim" not in result.output


def test_commas_in_passwords_and_options_end_no_url() -> None:
    """Only one before a scheme does, which no password can contain."""
    urls = ["redis://u:a,b,redis@h:1/0?client_name=a,b", "rediss://:c,@i", "unix:///a,b"]
    assert split_urls(",".join(urls)) == urls
    assert shown_url(",".join(urls)) == "redis://u@h:1/0, rediss://i, unix:///a,b"
    assert has_password(",".join(urls))
    assert not has_password("redis://a,redis://b")


@pytest.mark.parametrize("urls", ["redis://a,http://b", "redis://a,", "redis://a,redis://b?x=1"])
def test_wrong_url_of_several_is_an_error(urls: str) -> None:
    """Also of one that is not needed."""
    with pytest.raises(keyleash.OperationError):
        keyleash.Operator.from_url(urls).close()


def test_password_in_any_url_of_an_option_is_rejected() -> None:
    """Arguments are visible in the process list."""
    result = Cli("redis://a").run("--url", "redis://a,redis://:pw@b", "status")
    assert result.exit_code == 2
