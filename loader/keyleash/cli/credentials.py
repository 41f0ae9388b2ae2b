"""A token as a command takes it: from the environment, a file or standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from keyleash.cli.errors import InputFileError, UsageError
from keyleash.cli.file_names import FILE
from keyleash.protocol.token import TOKEN_START

F = TypeVar("F", bound=Callable[..., Any])
STANDARD_INPUT = "-"
VARIABLE = "KEYLEASH_TOKEN"


def token_option(function: F) -> F:
    """Let `--token FILE` say where a token is."""
    return click.option(
        "--token",
        "token_file",
        metavar="FILE",
        type=FILE,
        help="A file with the token on its first line; `-` is standard input.  "
        "[default: the token in KEYLEASH_TOKEN]",
    )(function)


def require_token(file: str | None) -> str:
    """
    The token that is in *file*, or in the environment if no file was named.

    Raises:
        UsageError: there is none, or it stands on the command line itself.
        InputFileError: *file* is missing, or cannot be read.
    """
    if file is None:
        given = os.environ.get(VARIABLE, "").strip()
        if not given:
            raise UsageError(
                "there is no token", help=f"set {VARIABLE}, or pass `--token FILE`; `-` is stdin"
            )
        return given
    if file.startswith(TOKEN_START):
        raise UsageError(
            "a token on the command line can be read by every user of this machine",
            help=f"set {VARIABLE}, or pass `--token FILE`; revoke this token, it has been shown",
        )
    if file == STANDARD_INPUT:
        line = sys.stdin.readline().strip()
    else:
        # The name is not repeated: it may be a secret that was given in place of one.
        try:
            with Path(file).open(encoding="utf-8", errors="replace") as opened:
                line = opened.readline().strip()
        except (OSError, ValueError) as error:
            said = (getattr(error, "strerror", None) or "no such file or directory").lower()
            raise InputFileError(f"cannot read the file that `--token` names: {said}") from None
    if not line:
        raise UsageError("there is no token on the first line of what `--token` names")
    return line
