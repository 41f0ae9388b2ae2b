"""`keyleash undo`: the way back, from what the trails tell."""

from keyleash.cli.undo.command import undo

__all__ = ["undo"]
