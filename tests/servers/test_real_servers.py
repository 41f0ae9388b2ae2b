"""The servers of the test suite."""

from __future__ import annotations

from support.servers import RealServer, embedded_label, find_server_binaries


def test_server_is_the_product_and_version_of_its_label(server: RealServer) -> None:
    """A wrong label would hide differences between servers."""
    info = server.client().info("server")
    product, version = server.label.removeprefix("embedded-").rsplit("-", 1)

    assert info[f"{product}_version"] == version
    assert info["process_id"] == server.pid


def test_server_is_empty_at_the_start_of_a_test(server: RealServer) -> None:
    """Data of other tests is removed."""
    client = server.client(decode_responses=True)
    client.set("left", "behind")
    digest = client.script_load("return 1")
    client.acl_setuser("left", enabled=True)

    server.clean()

    assert client.dbsize() == 0
    assert client.script_exists(digest) == [False]
    assert client.acl_users() == ["default"]
    assert client.info("commandstats").get("cmdstat_set") is None


def test_embedded_server_is_always_available(embedded: RealServer) -> None:
    """Tests that need one server run everywhere."""
    assert embedded.label == embedded_label()
    assert embedded.label.startswith("embedded-valkey-")
    assert embedded.label in find_server_binaries()
    assert embedded.client().ping() is True
