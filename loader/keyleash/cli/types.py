"""Parameter types for files and directories."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType


class FileName(StringParamType):
    """
    The name of a file or directory. Commands check that it exists.

    Args:
        kind: `file` or `dir`.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Leave it to the shell."""
        return [CompletionItem(incomplete, type=self._kind)]


FILE = FileName("file")
DIRECTORY = FileName("dir")
