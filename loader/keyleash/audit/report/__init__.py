"""What a report of some time tells: numbers, a timeline, lives of keys, tokens and policies."""

from keyleash.audit.control import PolicyUse
from keyleash.audit.report.activity import Activity, Refused, read_activity
from keyleash.audit.report.lives import BeforeAndAfter, KeyLife, Lives, read_lives
from keyleash.audit.report.standing import Standing, TokenUse, read_standing
from keyleash.audit.report.timeline import Timeline

__all__ = [
    "Activity",
    "BeforeAndAfter",
    "KeyLife",
    "Lives",
    "PolicyUse",
    "Refused",
    "Standing",
    "Timeline",
    "TokenUse",
    "read_activity",
    "read_lives",
    "read_standing",
]
