"""`keyleash gateway`: a Redis port for agents in any language."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import click
from redis.exceptions import AuthenticationError, ConnectionError, TimeoutError

from keyleash.cli.listening import Address, allow_files, require_tls, shown_address
from keyleash.cli.nodes import sentinel_option, service_option
from keyleash.cli.options import FILE, example, with_settings
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.errors import OperationError, UsageError
from keyleash.extras import import_with_extra
from keyleash.gateway.serve import Gateway, load_certificate, tls_context
from keyleash.gateway.upstream import RETRY_S, WAIT_S, Upstream


@click.command(epilog=example("keyleash gateway --listen 127.0.0.1:6380"))
@click.option(
    "--listen",
    metavar="HOST:PORT",
    type=Address(),
    default="127.0.0.1:6380",
    help="The address for agents; port 0 picks a free one.",
)
@click.option("--unix", metavar="PATH", help="Also listen on this unix socket.")
@click.option("--tls-cert", metavar="FILE", type=FILE, help="Certificate for agents.")
@click.option("--tls-key", metavar="FILE", type=FILE, help="Key of the certificate.")
@click.option(
    "--client-ca",
    metavar="FILE",
    type=FILE,
    help="Require certificates of agents that this one signed.",
)
@click.option(
    "--admin",
    metavar="HOST:PORT",
    type=Address(),
    default="127.0.0.1:9122",
    help="Serve /healthz, /readyz and /metrics here.",
)
@click.option("--insecure", is_flag=True, help="Listen beyond loopback without TLS.")
@click.option("--share-port", is_flag=True, help="Let other gateways listen on the same port.")
@click.option("--wait", is_flag=True, help="Wait for the server to start.")
@click.option(
    "--hold",
    metavar="SECONDS",
    type=click.FloatRange(min=0, max=60),
    default=WAIT_S,
    show_default=True,
    help="Hold commands so long while the server is lost; then they are not sent.",
)
@sentinel_option
@service_option
@with_settings
def gateway(
    settings: Settings,
    listen: tuple[str, int],
    unix: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    client_ca: str | None,
    admin: tuple[str, int],
    insecure: bool,
    share_port: bool,
    wait: bool,
    hold: float,
    sentinels: tuple[str, ...],
    service: str,
) -> None:
    """Let agents use any Redis client: the token is the password.

    Agents connect with redis://IDENTITY:TOKEN@HOST:PORT; every command of theirs is a call of their
    guard on the server of --url. SIGTERM ends it when replies are delivered, at the latest after
    10 seconds; SIGHUP reads certificate and key again.
    """
    if (tls_cert is None) is not (tls_key is None) or (client_ca and not tls_cert):
        raise UsageError("`--tls-cert` and `--tls-key` belong together, and `--client-ca` to them")
    require_tls(listen[0], tls_cert, insecure)
    uvloop = import_with_extra("uvloop")
    tls = tls_context(tls_cert, tls_key, client_ca) if tls_cert and tls_key else None

    def reload() -> None:
        if tls is None or tls_cert is None or tls_key is None:
            return
        try:
            load_certificate(tls, tls_cert, tls_key)
            print_note("read the certificate again")
        except OperationError as error:
            print_note(f"error: {error.message}; the old certificate stays in use")

    async def serve() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        loop.add_signal_handler(signal.SIGHUP, reload)
        url = await asyncio.to_thread(settings.chosen_url)
        upstream = Upstream(url, sentinels, service, hold)
        is_waiting = False
        while True:
            try:
                await upstream.open()
                break
            except AuthenticationError:
                raise
            except (ConnectionError, TimeoutError, OSError):
                if not wait:
                    raise
            if not is_waiting:
                print_note(f"waiting for {settings.shown_url}")
                is_waiting = True
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ended.wait(), RETRY_S)
                return
        gate = Gateway(upstream)
        port = await gate.listen(*listen, unix, tls, share_port=share_port)
        urls = {"url": f"{'rediss' if tls else 'redis'}://{shown_address(listen[0], port)}"}
        urls["admin"] = f"http://{shown_address(admin[0], await gate.listen_for_admin(*admin))}"
        _announce(settings, urls, unix)
        sweeping = loop.create_task(gate.sweep())
        await ended.wait()
        sweeping.cancel()
        await gate.drain()

    allow_files()
    uvloop.run(serve())
    print_note("stopped")


def _announce(settings: Settings, urls: dict[str, str], unix: str | None) -> None:
    if settings.json:
        print_json({**urls, "unix": unix, "server": settings.shown_url})
    else:
        click.echo(urls["url"])
        print_note(f"calls go to {settings.shown_url}")
        print_note(f"health and metrics: {urls['admin']}")
    sys.stdout.flush()
