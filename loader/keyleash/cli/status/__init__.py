"""`keyleash status`: what is active, who acts, and how much is used."""

from keyleash.cli.status.command import status

__all__ = ["status"]
