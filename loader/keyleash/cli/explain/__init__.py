"""`keyleash explain` and `keyleash can-i`: what a guard decides of a call, and why."""

from keyleash.cli.explain.command import can_i, explain

__all__ = ["can_i", "explain"]
