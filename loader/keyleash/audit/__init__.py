"""The trail: what each identity changed, what it was refused, and what operators did."""

from keyleash.audit.control import ControlEvent, read_control
from keyleash.audit.event import AuditEvent, Denial
from keyleash.audit.merging import merged, newest
from keyleash.audit.query import EVERYTHING, Query
from keyleash.audit.reader import read_denials, read_events

__all__ = [
    "EVERYTHING",
    "AuditEvent",
    "ControlEvent",
    "Denial",
    "Query",
    "merged",
    "newest",
    "read_control",
    "read_denials",
    "read_events",
]
