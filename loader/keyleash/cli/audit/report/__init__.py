"""`keyleash audit report`: what happened in some time, as one page for people."""

from keyleash.cli.audit.report.command import report

__all__ = ["report"]
