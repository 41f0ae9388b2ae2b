"""`keyleash mcp`: Redis for language models, over stdio or HTTP."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.listening import Address, is_loopback, listener, require_tls, shown_address
from keyleash.cli.options import FILE, example, json_option, require_token, token_option
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.client.tokens import TokenFile, token_from_env
from keyleash.errors import UsageError
from keyleash.store.connect import TIMEOUT_S
from keyleash.text import without_tokens

if TYPE_CHECKING:
    from keyleash.mcp.serve import HttpServer

MAX_CONNECTIONS = 1024


@click.command(epilog=example("keyleash mcp --tools class"))
@click.option(
    "--http",
    metavar="HOST:PORT",
    type=Address(),
    help="Serve HTTP here, not one client over stdio.",
)
@click.option(
    "--tools",
    type=click.Choice(["named", "class"]),
    default="named",
    show_default=True,
    help="A tool for each command, or for each class of operations.",
)
@click.option("--operator", is_flag=True, help="Read-only tools of operators; no token.")
@token_option
@click.option("--tls-cert", metavar="FILE", type=FILE, help="Certificate for clients of HTTP.")
@click.option("--tls-key", metavar="FILE", type=FILE, help="Key of the certificate.")
@click.option("--insecure", is_flag=True, help="Listen beyond loopback without TLS.")
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="A host name by which clients call HTTP, besides that of --http; repeatable.",
)
@json_option
@pass_settings
def mcp(
    settings: Settings,
    http: tuple[str, int] | None,
    tools: str,
    operator: bool,
    token_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    insecure: bool,
    hosts: tuple[str, ...],
) -> None:
    """Let language models use Redis by the Model Context Protocol.

    Over stdio the token is that of the environment or of --token; over HTTP each request has its
    own, as a bearer. Tools are what the grants of the token allow; each call is a call of its
    guard.
    """
    if (tls_cert is None) is not (tls_key is None) or (tls_cert and http is None):
        raise UsageError("`--tls-cert` and `--tls-key` belong together, and to `--http`")
    if operator and http is not None:
        raise UsageError("`--operator` is for stdio alone: a bearer is no operator")
    _log_without_tokens()
    url = settings.chosen_url()
    options: dict[str, Any] = {
        "by_class": tools == "class", "timeout_s": settings.timeout_s or TIMEOUT_S
    }  # fmt: skip
    if http is None:
        asyncio.run(_stdio(settings, url, operator, token_file, options))
        return
    if token_file is not None:
        raise UsageError("over HTTP each request has its token: leave `--token` out")
    require_tls(http[0], tls_cert, insecure)
    # Imported here, as everything of the extra `mcp`.
    from keyleash.mcp.serve import HttpServer  # noqa: PLC0415

    _serve_http(settings, HttpServer(url, **options), http, hosts, tls_cert, tls_key)
    print_note("stopped")


async def _stdio(
    settings: Settings, url: str, operator: bool, token_file: str | None, options: dict[str, Any]
) -> None:
    from keyleash.mcp import operators  # noqa: PLC0415
    from keyleash.mcp.holder import Holder  # noqa: PLC0415
    from keyleash.mcp.serve import OneServer  # noqa: PLC0415

    if operator:
        from keyleash.api.operator import AsyncOperator  # noqa: PLC0415

        rights = AsyncOperator.from_url(url, actor=settings.actor, timeout=settings.timeout_s)
        server = OneServer(operators.OperatorTools(rights), operators.INSTRUCTIONS)
    else:
        first = require_token(token_file)
        source = TokenFile(token_file) if token_file not in (None, "-") else token_from_env()
        server = OneServer(Holder(url, source if callable(source) else first, **options))
    await server.serve_stdio()


def _serve_http(
    settings: Settings,
    server: HttpServer,
    address: tuple[str, int],
    hosts: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
) -> None:
    import uvicorn  # noqa: PLC0415

    loopback = ("127.0.0.1", "localhost", "[::1]") if is_loopback(address[0]) else ()
    names = [*loopback, f"[{address[0]}]" if ":" in address[0] else address[0], *hosts]
    sock = listener(*address, option="--http")
    where = shown_address(address[0], sock.getsockname()[1])
    url = f"{'https' if tls_cert else 'http'}://{where}/mcp"
    config = uvicorn.Config(
        server.app(names),
        access_log=False,
        log_config=None,
        limit_concurrency=MAX_CONNECTIONS,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        server_header=False,
        timeout_graceful_shutdown=5,
        ws="none",
    )
    if settings.json:
        print_json({"url": url, "server": settings.shown_url})
    else:
        click.echo(url)
        print_note(f"calls go to {settings.shown_url}")
    sys.stdout.flush()
    # uvicorn repeats the signal that ended it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run([sock])


class _WithoutTokens(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; errors may repeat what a client sent."""
        return without_tokens(super().format(record))


def _log_without_tokens() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithoutTokens("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
