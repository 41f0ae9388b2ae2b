"""The incident report: activity, key histories, policies and tokens of a time range."""

from keyleash.audit.report.activity import read_activity, read_context
from keyleash.audit.report.key_history import read_before_and_after

__all__ = ["read_activity", "read_before_and_after", "read_context"]
