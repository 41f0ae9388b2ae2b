"""Sources of tokens: a text, a callable, a file, or the environment."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from redis.connection import parse_url

from keyleash.errors import OperationError

TokenSource: TypeAlias = str | Callable[[], str]
"""A token, or a callable that returns the current one."""
AsyncTokenSource: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""The same for async clients; the callable may be a coroutine function."""

MAX_FILE_BYTES = 4096
"""The part of a token file that is read; a token has at most 160 bytes."""


def call_source(source: Any) -> Any:
    """Return the token of a callable."""
    return source()


async def acall_source(source: Any) -> Any:
    """Return the token of a callable, or of a coroutine function."""
    token = source()
    return await token if inspect.isawaitable(token) else token


class TokenFile:
    """A file with the token on its first line, read again when the token has ended.

    Pass it as `token=` of a client. To rotate a token, write the new one to the file: a call that
    gets TOKEN_EXPIRED or TOKEN_REVOKED reads the file again and is repeated once. A denied call
    ran nothing.

    Args:
        path: The file, best replaced by a rename, so that a reader never sees half of it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __call__(self) -> str:
        """Return the token in the file.

        Raises:
            OperationError (file): It cannot be read, or has no token.
        """
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES)
        except OSError as error:
            raise self._error(f"cannot be read: {(error.strerror or 'failed').lower()}") from None
        token = content.partition(b"\n")[0].strip().decode("ascii", "replace")
        del content
        if not token:
            raise self._error("is empty")
        return token

    def __repr__(self) -> str:
        return f"TokenFile({str(self.path)!r})"

    def _error(self, problem: str) -> OperationError:
        return OperationError(
            "file",
            f"the token file `{self.path}` {problem}",
            help="write the token to its first line, readable by this process",
        )


def url_from_env() -> str:
    """Return the server's URL in `KEYLEASH_URL`.

    Raises:
        OperationError (bad-environment): It is not set.
        OperationError (bad-url): It does not name a server.
    """
    url = os.environ.get("KEYLEASH_URL", "").strip()
    help = "write redis://USER:PASSWORD@HOST:PORT/DB, rediss://… or unix://PATH"
    if not url:
        raise OperationError("bad-environment", "`KEYLEASH_URL` is not set", help=help)
    try:
        parse_url(url)
    except ValueError:
        # Its message may contain the password.
        raise OperationError(
            "bad-url", "`KEYLEASH_URL` does not name a server", help=help
        ) from None
    return url


def token_from_env() -> str | TokenFile:
    """Return the token in `KEYLEASH_TOKEN`, or the file named by `KEYLEASH_TOKEN_FILE`.

    Raises:
        OperationError (bad-environment): None of them is set, or both are.
    """
    token = os.environ.get("KEYLEASH_TOKEN", "").strip()
    file = os.environ.get("KEYLEASH_TOKEN_FILE", "").strip()
    if bool(token) == bool(file):
        raise OperationError(
            "bad-environment",
            "both `KEYLEASH_TOKEN` and `KEYLEASH_TOKEN_FILE` are set"
            if token
            else "neither `KEYLEASH_TOKEN` nor `KEYLEASH_TOKEN_FILE` is set",
            help="set one: the token, or the path of a file with the token on its first line",
        )
    return token or TokenFile(file)
