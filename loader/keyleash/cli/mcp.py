"""`keyleash mcp`: Redis for language models, over stdio or HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from keyleash.cli.listening import (
    Address,
    allow_files,
    is_loopback,
    listener,
    require_tls,
    shown_address,
)
from keyleash.cli.options import FILE, example, require_token, token_file_option, with_settings
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import STANDARD_INPUT, print_json, print_note
from keyleash.client.tokens import TokenFile, token_from_env
from keyleash.errors import UsageError
from keyleash.extras import import_with_extra
from keyleash.store.connect import TIMEOUT_S
from keyleash.store.token import identity_of
from keyleash.text import without_tokens

MAX_CONNECTIONS = 1024
_SESSION = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


@click.command(epilog=example("keyleash mcp --tools class"))
@click.option("--http", metavar="HOST:PORT", type=Address(), help="Serve HTTP here, not stdio.")
@click.option(
    "--tools",
    type=click.Choice(["named", "class"]),
    help="A tool for each command, or for each class of operations.  [default: named]",
)
@click.option("--delegate", is_flag=True, help="A tool that returns child tokens to the model.")
@click.option("--operator", is_flag=True, help="Read-only tools of operators, without a token.")
@token_file_option
@click.option("--tls-cert", metavar="FILE", type=FILE, help="Certificate for clients of HTTP.")
@click.option("--tls-key", metavar="FILE", type=FILE, help="Key of the certificate.")
@click.option("--insecure", is_flag=True, help="Listen beyond loopback without TLS.")
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="A host by which clients call HTTP, besides that of --http; repeatable.",
)
@with_settings
def mcp(
    settings: Settings,
    http: tuple[str, int] | None,
    tools: str | None,
    delegate: bool,
    operator: bool,
    token_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    insecure: bool,
    hosts: tuple[str, ...],
) -> None:
    """Let language models use Redis, by the Model Context Protocol.

    The tools are what the grants of a token allow, and each call is a call of its guard. Over
    stdio the token is that of the environment or of --token; over HTTP each request has its own,
    as a bearer.
    """
    if (tls_cert is None) is not (tls_key is None):
        raise UsageError("`--tls-cert` and `--tls-key` belong together")
    if http is None and (tls_cert or insecure or hosts):
        raise UsageError("`--tls-cert`, `--insecure` and `--allow-host` are options of `--http`")
    if http is not None and (operator or token_file):
        raise UsageError("over HTTP each request has its token: no `--token`, and no `--operator`")
    if operator and (token_file or tools or delegate):
        raise UsageError("`--operator` has no `--token`, `--tools` and `--delegate`")
    if token_file == STANDARD_INPUT:
        raise UsageError("`--token` cannot be standard input, on which the client writes")
    _log_without_tokens()
    # Otherwise the thread that reads standard input would hold up the end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    timeout_s = settings.timeout_s or TIMEOUT_S
    if not (operator or http):
        require_token(token_file)
    serve = import_with_extra("keyleash.addons.mcp.serve")
    url = settings.chosen_url()
    by_class = tools == "class"
    make = partial(serve.Holder, url, by_class=by_class, timeout_s=timeout_s, delegate=delegate)
    if http is not None:
        require_tls(http[0], tls_cert, insecure)
        _serve_http(settings, serve.McpServer(make), http, hosts, tls_cert, tls_key)
    elif operator:
        from keyleash.addons.mcp.operators import INSTRUCTIONS, OperatorTools  # noqa: PLC0415
        from keyleash.api.operator import AsyncOperator  # noqa: PLC0415

        rights = AsyncOperator.from_url(url, actor=settings.actor, timeout=timeout_s)
        server = serve.McpServer(lambda _: OperatorTools(rights), INSTRUCTIONS)
        asyncio.run(server.serve_stdio())
    else:
        # A file is read again when its token has ended.
        token = TokenFile(token_file) if token_file else token_from_env()
        identity_of(token if isinstance(token, str) else token())
        asyncio.run(serve.McpServer(lambda _: make(token)).serve_stdio())


def _serve_http(
    settings: Settings,
    server: Any,
    address: tuple[str, int],
    hosts: Sequence[str],
    tls_cert: str | None,
    tls_key: str | None,
) -> None:
    import uvicorn  # noqa: PLC0415

    from keyleash.addons.mcp.requests import Connection  # noqa: PLC0415

    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    names = {shown, *hosts, *(("127.0.0.1", "localhost") if is_loopback(address[0]) else ())}
    sock = listener(address[0], address[1], "--http")
    config = uvicorn.Config(
        server.http_app(sorted(names)),
        access_log=False,
        http=Connection,
        log_config=None,
        limit_concurrency=MAX_CONNECTIONS,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        server_header=False,
        timeout_graceful_shutdown=5,
        ws="none",
    )
    running = uvicorn.Server(config)
    # uvicorn repeats the signal that ended it; while it starts, an exception would make it hang.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(running, "should_exit", True))
    where = shown_address(address[0], sock.getsockname()[1])
    url = f"{'https' if tls_cert else 'http'}://{where}/mcp"
    if settings.json:
        print_json({"url": url, "server": settings.shown_url})
    else:
        click.echo(url)
    sys.stdout.flush()
    allow_files()
    try:
        running.run([sock])
    finally:
        print_note("stopped")


def _log_without_tokens() -> None:
    handler = logging.StreamHandler()
    lines = logging.Formatter("%(levelname)s %(name)s: %(message)s")
    # Errors may repeat what a client sent, and its session.
    handler.format = lambda record: _SESSION.sub("…", without_tokens(lines.format(record)))  # type: ignore[method-assign]
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
