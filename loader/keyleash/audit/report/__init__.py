"""What a report of some time tells: numbers, a timeline, lives of keys, tokens and policies."""

from keyleash.audit.operator_actions import PolicyUse
from keyleash.audit.report.activity import (
    Activity,
    DenialGroup,
    IdentityRules,
    TokenUse,
    read_activity,
    read_standing,
)
from keyleash.audit.report.key_history import BeforeAndAfter, KeyLife, Lives, Timeline, read_lives

__all__ = [
    "Activity",
    "BeforeAndAfter",
    "DenialGroup",
    "IdentityRules",
    "KeyLife",
    "Lives",
    "PolicyUse",
    "Timeline",
    "TokenUse",
    "read_activity",
    "read_lives",
    "read_standing",
]
