"""`keyleash gateway` as a process: addresses, certificates, signals, and what stops it."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

from click.testing import Result

from gateway.conftest import BROAD
from keyleash.addons.servers import EmbeddedServer
from keyleash.addons.servers.embedded import free_port, free_ports
from support.command_line import Cli
from support.fronts import certificate
from support.gateway_processes import spawned_gateway
from support.gateways import request
from support.leash import Leash
from support.replication import wait_until
from support.servers import RealServer

ADMIN = ("--admin", "127.0.0.1:0")


class Secured:
    """A client of a socket of any kind."""

    def __init__(self, item: socket.socket) -> None:
        self._item = item
        self._item.settimeout(20)

    def __enter__(self) -> Secured:
        return self

    def __exit__(self, *_: object) -> None:
        self._item.close()

    def call(self, *words: Any) -> bytes:
        """Send a command; return the bytes of its reply, which are few."""
        self._item.sendall(request(words))
        return self._item.recv(1000)


def over_tls(port: int, authority: Path, own: Path | None = None) -> Secured:
    """Return a client that trusts *authority*; *own* is the folder of its certificate."""
    context = ssl.create_default_context(cafile=str(authority))
    if own is not None:
        context.load_cert_chain(*certificate(own))
    item = socket.create_connection(("127.0.0.1", port))
    return Secured(context.wrap_socket(item, server_hostname="localhost"))


def over_unix(path: Path) -> Secured:
    """Return a client of a unix socket."""
    item = socket.socket(socket.AF_UNIX)
    item.connect(str(path))
    return Secured(item)


def folder(path: Path) -> Path:
    """Return a new folder."""
    path.mkdir()
    return path


def test_unix_socket_serves_beside_the_port(one_leash: Leash, tmp_path: Path) -> None:
    """Only its owner and group may use it; the source of its calls is `unix`."""
    one_leash.load(one={**BROAD, "audit": {"source": True}})
    path = tmp_path / "socket"
    with spawned_gateway(one_leash.server.url, tmp_path, "--unix", str(path)) as gateway:
        assert path.stat().st_mode & 0o777 == 0o660
        assert gateway.announced["unix"] == str(path)
        with over_unix(path) as agent:
            assert agent.call("AUTH", one_leash.issue("one").token) == b"+OK\r\n"
            assert agent.call("SET", "k:a", "1") == b"+OK\r\n"
        assert gateway.terminate() == 0
    assert [event["source"] for event in one_leash.events("one")] == ["unix"]


def test_unix_socket_of_a_killed_gateway_is_used_again(one_leash: Leash, tmp_path: Path) -> None:
    """A socket that a crash left does not stop the next start."""
    path = tmp_path / "socket"
    with spawned_gateway(one_leash.server.url, tmp_path, "--unix", str(path)) as gateway:
        gateway.kill()
        gateway.start()
        with over_unix(path) as agent:
            assert agent.call("AUTH", one_leash.issue("one").token) == b"+OK\r\n"


def test_subject_of_a_client_certificate_is_recorded(one_leash: Leash, tmp_path: Path) -> None:
    """With `--client-ca` an agent needs one."""
    one_leash.load(one={**BROAD, "audit": {"source": True}})
    authority, key = certificate(folder(tmp_path / "server"))
    own = folder(tmp_path / "agent")
    names = {"--tls-cert": authority, "--tls-key": key, "--client-ca": certificate(own)[0]}
    options = [str(word) for option in names.items() for word in option]
    with spawned_gateway(one_leash.server.url, tmp_path, *options) as gateway:
        assert gateway.announced["url"] == f"rediss://127.0.0.1:{gateway.port}"
        with over_tls(gateway.port, authority, own) as agent:
            assert agent.call("AUTH", one_leash.issue("one").token) == b"+OK\r\n"
            assert agent.call("SET", "k:a", "1") == b"+OK\r\n"
            assert agent.call("GET", "x").startswith(b"-LEASH KEY_NOT_GRANTED")
        # Refused after the handshake of the client, which thinks that it is over.
        with contextlib.suppress(OSError), over_tls(gateway.port, authority) as agent:
            assert agent.call("PING") == b""
    (event,), (denial,) = one_leash.events("one"), one_leash.denials("one")
    for source in (event["source"], denial["source"]):
        assert source.startswith("127.0.0.1:")
        assert source.endswith(" commonName=localhost")


def test_certificates_are_read_again_at_sighup(one_leash: Leash, tmp_path: Path) -> None:
    """Connections go on; a pair that cannot be read leaves the old one in use."""
    first, second = folder(tmp_path / "first"), folder(tmp_path / "second")
    used = [tmp_path / "cert.pem", tmp_path / "key.pem"]

    def use(files: tuple[Path, Path]) -> None:
        for path, file in zip(used, files, strict=True):
            path.write_bytes(file.read_bytes())

    use(certificate(first))
    options = ("--tls-cert", str(used[0]), "--tls-key", str(used[1]))
    token = one_leash.issue("one").token
    with spawned_gateway(one_leash.server.url, tmp_path, *options) as gateway:
        with over_tls(gateway.port, used[0]) as old:
            assert old.call("AUTH", token) == b"+OK\r\n"
            use(certificate(second))
            gateway.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "read the certificate again" in gateway.log.read_text())
            with over_tls(gateway.port, certificate(second)[0]) as agent:
                assert agent.call("AUTH", token) == b"+OK\r\n"
            used[1].write_text("no key")
            gateway.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "the old certificate stays in use" in gateway.log.read_text())
            with over_tls(gateway.port, certificate(second)[0]) as agent:
                assert agent.call("AUTH", token) == b"+OK\r\n"
            assert old.call("GET", "k:a") == b"$-1\r\n"
        assert token not in gateway.log.read_text()


def test_what_is_no_tls_gets_no_reply(one_leash: Leash, tmp_path: Path) -> None:
    """And a handshake that never ends is given up; others are served meanwhile."""
    authority, key = certificate(folder(tmp_path / "server"))
    options = ("--tls-cert", str(authority), "--tls-key", str(key))
    with spawned_gateway(one_leash.server.url, tmp_path, *options) as gateway:
        silent = socket.create_connection(("127.0.0.1", gateway.port))
        with (
            Secured(socket.create_connection(("127.0.0.1", gateway.port))) as plain,
            contextlib.suppress(ConnectionError),
        ):
            # A TLS alert, or nothing.
            assert not plain.call("PING").startswith((b"+", b"-"))
        with over_tls(gateway.port, authority) as agent:
            assert agent.call("AUTH", one_leash.issue("one").token) == b"+OK\r\n"
        silent.close()


def failed(result: Any, code: int, *texts: str) -> None:
    """Assert that a start failed with one error line, an exit code, and these texts in it."""
    found = result.exit_code if isinstance(result, Result) else result.returncode
    assert found == code, result
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: "), lines
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert "Traceback" not in result.stderr
    for text in texts:
        assert text in result.stderr, result.stderr


def test_a_start_that_fails_says_why(embedded: RealServer, tmp_path: Path) -> None:
    """A used port or path, certificates, no server: one line, and the exit code of the CLI."""
    cli = Cli(embedded.url)
    with socket.create_server(("127.0.0.1", 0)) as used:
        address = f"127.0.0.1:{used.getsockname()[1]}"
        free, refused = ("gateway", "--listen", "127.0.0.1:0"), f"cannot listen on {address}"
        failed(cli.process("gateway", "--listen", address, *ADMIN), 1, refused)
        failed(cli.process(*free, "--admin", address), 1, refused)
    missing = str(tmp_path / "none" / "socket")
    failed(cli.process(*free, *ADMIN, "--unix", missing), 1, missing)
    authority, key = map(str, certificate(tmp_path))
    other = certificate(folder(tmp_path / "other"))
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for files in (
        (authority, str(other[1])), (str(junk), key), (authority, str(junk)),
    ):  # fmt: skip
        options = ("--tls-cert", files[0], "--tls-key", files[1])
        failed(cli.run(*free, *ADMIN, *options), 1, "cannot be read", files[0])
    good = ("--tls-cert", authority, "--tls-key", key)
    failed(cli.run(*free, *ADMIN, *good, "--client-ca", str(junk)), 1, str(junk))
    failed(cli.run(*free, "--tls-cert", str(tmp_path / "no"), "--tls-key", key), 1, "no")
    failed(cli.run(*free, "--tls-cert", authority), 2, "--tls-key")
    failed(cli.run(*free, "--client-ca", authority), 2, "--client-ca")
    failed(cli.run("gateway", "--listen", "nowhere"), 2, "`nowhere` is no HOST:PORT")
    failed(cli.run("gateway", "--listen", "0.0.0.0:0"), 2, "--insecure")
    failed(cli.run("gateway", "--listen", "[::]:0"), 2, "--insecure")
    nowhere = Cli(f"redis://:secret-password@127.0.0.1:{free_port()}")
    result = nowhere.process(*free, *ADMIN)
    failed(result, 69, "127.0.0.1")
    assert "secret-password" not in result.stderr


def test_beyond_loopback_it_starts_with_tls_or_where_one_insists(
    one_leash: Leash, tmp_path: Path
) -> None:
    """Loopback needs neither."""
    authority, key = certificate(tmp_path)
    cli = Cli(one_leash.server.url)
    for options in (("--insecure",), ("--tls-cert", str(authority), "--tls-key", str(key))):
        with cli.spawn(["gateway", "--listen", "0.0.0.0:0", *ADMIN, *options]) as process:
            assert process.stdout is not None
            assert "://0.0.0.0:" in process.stdout.readline()
            process.terminate()
            process.communicate()
            assert process.returncode == 0


def test_it_waits_for_the_server_where_it_is_asked_to(tmp_path: Path) -> None:
    """And ends at SIGTERM while it waits."""
    port, listen = free_ports(2)
    cli = Cli(f"redis://127.0.0.1:{port}")
    words = ["gateway", "--wait", "--listen", f"127.0.0.1:{listen}", *ADMIN]
    with cli.spawn(words) as process:
        assert process.stderr is not None
        assert "waiting for" in process.stderr.readline()
        process.terminate()
        process.communicate()
        assert process.returncode == 0
    with cli.spawn(words) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "waiting for" in process.stderr.readline()
        with EmbeddedServer(port=port):
            assert process.stdout.readline() == f"redis://127.0.0.1:{listen}\n"
            process.terminate()
            process.communicate()
            assert process.returncode == 0


def test_help_says_what_it_takes() -> None:
    """Each option, and how agents connect."""
    text = Cli("redis://unused").ok("gateway", "--help")
    for option in ("--listen", "--unix", "--tls-cert", "--tls-key", "--client-ca", "--admin",
                   "--insecure", "--wait", "--sentinel", "--service"):  # fmt: skip
        assert option in text
    assert "redis://IDENTITY:TOKEN@HOST:PORT" in text
