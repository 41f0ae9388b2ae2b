"""`keyleash test`: unit tests of a policy."""

from keyleash.cli.test.command import test

__all__ = ["test"]
