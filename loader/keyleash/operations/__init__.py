"""Declare an operation once, and bind it to a server: in the calling thread, or with asyncio."""

from keyleash.operations.arguments import checked
from keyleash.operations.declare import F, Noun, operation, reading
from keyleash.operations.run import AsyncRunner, Runner

__all__ = ["AsyncRunner", "F", "Noun", "Runner", "checked", "operation", "reading"]
