"""The trail: what each identity changed, and what it was refused."""

from keyleash.audit.event import AuditEvent, Denial
from keyleash.audit.reader import read_events

__all__ = ["AuditEvent", "Denial", "read_events"]
