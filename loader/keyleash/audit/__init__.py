"""The trail: what each identity changed, what it was refused, and what operators did."""

from keyleash.audit.control import ControlEvent, read_control
from keyleash.audit.event import AuditEvent, Denial
from keyleash.audit.finding import find_event
from keyleash.audit.gaps import Gap, with_gaps
from keyleash.audit.live import follow_control, follow_denials, follow_events
from keyleash.audit.merging import merged, newest
from keyleash.audit.query import EVERYTHING, Query
from keyleash.audit.reader import read_denials, read_events
from keyleash.audit.stats import Stats, count_entries

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
