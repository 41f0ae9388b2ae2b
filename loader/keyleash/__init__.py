"""Scoped, short-lived, budgeted and audited credentials for autonomous agents, enforced in Redis.

Agents use `keyleash.Redis` in place of `redis.Redis`, or `keyleash.asyncio.Redis` in place of
`redis.asyncio.Redis`; operators use the `keyleash` command.
"""

from keyleash import asyncio
from keyleash.client import Redis, correlation
from keyleash.errors import (
    ArgsTooManyError,
    AuditFullError,
    BudgetExhaustedError,
    ChannelNotGrantedError,
    ClassNotGrantedError,
    CommandRefusedError,
    CounterCorruptError,
    GuardLostError,
    KeyDeniedError,
    KeyleashError,
    KeyNotGrantedError,
    KeysMismatchError,
    LeashError,
    NotActiveError,
    NotReplicatedError,
    PolicyStaleError,
    RateLimitedError,
    ReplyCode,
    SuspendedError,
    TokenExpiredError,
    TokenRevokedError,
    TokenUnknownError,
    ValueTooLargeError,
    WorkTooLargeError,
)

__version__ = "0.1.0"

__all__ = [
    "ArgsTooManyError",
    "AuditFullError",
    "BudgetExhaustedError",
    "ChannelNotGrantedError",
    "ClassNotGrantedError",
    "CommandRefusedError",
    "CounterCorruptError",
    "GuardLostError",
    "KeyDeniedError",
    "KeyNotGrantedError",
    "KeyleashError",
    "KeysMismatchError",
    "LeashError",
    "NotActiveError",
    "NotReplicatedError",
    "PolicyStaleError",
    "RateLimitedError",
    "Redis",
    "ReplyCode",
    "SuspendedError",
    "TokenExpiredError",
    "TokenRevokedError",
    "TokenUnknownError",
    "ValueTooLargeError",
    "WorkTooLargeError",
    "asyncio",
    "correlation",
]
