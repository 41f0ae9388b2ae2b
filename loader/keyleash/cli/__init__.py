"""The `keyleash` command, for operators."""

from keyleash.cli.program import main

__all__ = ["main"]
