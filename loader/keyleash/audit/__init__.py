"""The audit log: events of identities, their denials, and operator actions."""

from keyleash.audit.entries import AuditEvent, Denial
from keyleash.audit.follow import follow_control, follow_denials, follow_events
from keyleash.audit.inspect import EventDetails, Timeline, read_details, read_timeline, resolve_key
from keyleash.audit.lookup import Gap, Restart, find_event, nothing_found, with_gaps
from keyleash.audit.operator_actions import ControlEvent, read_control
from keyleash.audit.read import EVERYTHING, Query, read_denials, read_events
from keyleash.audit.stats import Stats, count_entries, read_stats
from keyleash.audit.streams import merged, newest

__all__ = [
    "EVERYTHING",
    "AuditEvent",
    "ControlEvent",
    "Denial",
    "EventDetails",
    "Gap",
    "Query",
    "Restart",
    "Stats",
    "Timeline",
    "count_entries",
    "find_event",
    "follow_control",
    "follow_denials",
    "follow_events",
    "merged",
    "newest",
    "nothing_found",
    "read_control",
    "read_denials",
    "read_details",
    "read_events",
    "read_stats",
    "read_timeline",
    "resolve_key",
    "with_gaps",
]
