"""`keyleash plan`, and the plan as `load` and `rollback` show it."""

from keyleash.cli.plan.command import plan

__all__ = ["plan"]
