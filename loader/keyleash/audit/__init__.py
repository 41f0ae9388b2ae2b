"""The audit log: events of identities, their denials, and operator actions."""

from keyleash.audit.entries import AuditEvent, Denial
from keyleash.audit.follow import follow_control, follow_denials, follow_events
from keyleash.audit.lookup import Gap, find_event, with_gaps
from keyleash.audit.operator_actions import ControlEvent, read_control
from keyleash.audit.read import EVERYTHING, Query, read_denials, read_events
from keyleash.audit.stats import Stats, count_entries
from keyleash.audit.streams import merged, newest

__all__ = [
    "EVERYTHING",
    "AuditEvent",
    "ControlEvent",
    "Denial",
    "Gap",
    "Query",
    "Stats",
    "count_entries",
    "find_event",
    "follow_control",
    "follow_denials",
    "follow_events",
    "merged",
    "newest",
    "read_control",
    "read_denials",
    "read_events",
    "with_gaps",
]
