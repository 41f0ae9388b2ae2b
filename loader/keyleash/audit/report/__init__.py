"""The incident report: activity, key histories, policies and tokens of a time range."""

from keyleash.audit.operator_actions import PolicyUse
from keyleash.audit.report.activity import (
    Activity,
    DenialGroup,
    ReportContext,
    TokenUse,
    read_activity,
    read_context,
)
from keyleash.audit.report.key_history import (
    BeforeAndAfter,
    KeyHistories,
    KeyHistory,
    Timeline,
    read_before_and_after,
)

__all__ = [
    "Activity",
    "BeforeAndAfter",
    "DenialGroup",
    "KeyHistories",
    "KeyHistory",
    "PolicyUse",
    "ReportContext",
    "Timeline",
    "TokenUse",
    "read_activity",
    "read_before_and_after",
    "read_context",
]
