"""Write a guard's plain data as Lua text. Every decision is made by the passes."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from keyleash.compiler.ir import Guard
from keyleash.compiler.quoting import Text
from keyleash.compiler.render import render
from keyleash.compiler.sizes import sizes_of
from keyleash.limits import COUNTS, SECOND_US, Counter
from keyleash.limits.counters import DOUBLE
from keyleash.limits.rate import RATE_PERIODS_US
from keyleash.policy.model import Values
from keyleash.store.state import STAMP_BYTES
from keyleash.store.token import KEEP_AFTER_EXPIRY_MS, MAX_TOKEN_BYTES, use_noted_us
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS

DENIED_RETAIN = 10_000
MAX_KINDS = 128
"""The kinds of denials of one identity that have their own entries within a minute."""
TOKEN_KINDS = 24
"""The same for one token; further kinds are merged by their code."""
TOKEN_KINDS_BY_COMMAND = 8
"""The kinds of one token up to which commands are distinguished."""
MAX_IMAGES = 500
"""The keys whose before-images fit into one event beside 1,000 commands: unpack is limited."""
MAX_EVENT_BYTES = 64 * 1024 * 1024
"""The bytes of before-images in one event."""
NAME_AT = 4
"""The place of the command's name in a guard's arguments; in a batch it varies."""
SUBJECT_RING_OFFSET = 3 * DOUBLE
POLICY_DIGITS = 12
"""The number of digits of the policy digest in an event."""

_COSTS = {"call": "1", "read": "1,1r", "write": "1,1w", "read_write": "1,1r,1w"}
"""The cost of a call in an event."""
_COUNTED = {**{counter: counter.value for counter in Counter}, Counter.REQUESTS: "true"}
"""The Lua condition under which a call counts; every call is a request."""


_STAMP = Text("\0")
"""A placeholder for the stamp until the rest is written; no script has such a byte."""


class Scripts(NamedTuple):
    """The scripts of a guard.

    Attributes:
        one: The Lua text for one command, in ASCII.
        batch: The Lua text for a batch, in ASCII.
        stamp: The number that ties a state to this guard: 48 bits, never 0.
    """

    one: str
    batch: str
    stamp: int


def emit(guard: Guard) -> Scripts:
    """Render *guard* and stamp it with a digest of its text."""
    one = _unstamped(guard, "guard.lua", batch=False)
    batch = _unstamped(guard, "batch.lua", batch=True)
    written = hashlib.sha256(f"{one}{batch}".encode()).digest()
    stamp = int.from_bytes(written[:STAMP_BYTES], "big") | 1
    return Scripts(one.replace(_STAMP, str(stamp)), batch.replace(_STAMP, str(stamp)), stamp)


def _unstamped(guard: Guard, template: str, *, batch: bool) -> str:
    identity, vault = guard.identity, guard.keyspace.vault
    idle_s = identity.token.idle_s
    policy = guard.policy_digest[:POLICY_DIGITS]
    return render(
        template,
        batch=batch,
        name_at=None if batch else NAME_AT,
        names=_names(guard),
        vault=vault,
        vault_bytes=len(vault),
        sealed=bool(vault),
        layout=guard.layout,
        state_format=f"<{'d' * guard.layout.numbers}",
        numbers=_numbers(guard),
        # The sequence number comes first.
        numbers_format=f"<{'d' * (1 + len(_numbers(guard)))}",
        stamp=_STAMP,
        waiting=not batch and any(rule.waits for rule in guard.rules),
        counted=_COUNTED,
        limits=guard.limits,
        keep_record_us=KEEP_AFTER_EXPIRY_MS * 1000,
        idle_us=None if idle_s is None else idle_s * SECOND_US,
        use_noted_us=use_noted_us(idle_s),
        breaker=_breaker(guard),
        policy=policy,
        charges={name: f"{policy} {cost}" for name, cost in _COSTS.items()},
        max_arguments=MAX_ARGUMENTS,
        max_batch_commands=MAX_BATCH_COMMANDS,
        max_token_bytes=MAX_TOKEN_BYTES,
        subject_ring_offset=SUBJECT_RING_OFFSET,
        **sizes_of(guard, batch=batch),
        **_rule_values(guard),
        **_audit_values(guard),
    )


def _names(guard: Guard) -> dict[str, str]:
    identity, keyspace = guard.identity.name, guard.keyspace
    return {
        "state": keyspace.state(identity),
        "token_prefix": keyspace.token_prefix(identity),
        "audit": keyspace.audit(identity),
        "denied": keyspace.denied(identity),
        "repeats": keyspace.repeats(identity),
        "suspension": keyspace.suspension(identity),
        "refused": keyspace.refused(identity),
    }


def _rule_values(guard: Guard) -> dict[str, object]:
    often = frozenset(rule for branch in guard.dispatch for _, rule in branch.commands)
    return {
        "denied": guard.denied,
        "denied_last": guard.denied_last,
        "checks": guard.checks,
        "rules": guard.rules,
        "dispatch": guard.dispatch,
        "rare": guard.rare,
        "often_ruled": often,
        "containers": guard.containers,
        "scan_check": next((rule.check for rule in guard.rules if rule.scan), None),
        "one_check": len(guard.checks) == 1,
        "checks_differ": any(rule.rest != rule.check for rule in guard.rules),
    }


def _audit_values(guard: Guard) -> dict[str, object]:
    audit = guard.identity.audit
    return {
        "retain": audit.retain,
        "retain_us": None if audit.retain_s is None else audit.retain_s * SECOND_US,
        "hard_max": audit.hard_max,
        "records_reads": audit.reads,
        "values": audit.values.value,
        "tells_arguments": audit.values is not Values.NONE,
        "masks": guard.masks,
        "images": guard.images,
        "max_images": MAX_IMAGES,
        "max_event_bytes": MAX_EVENT_BYTES,
        "max_kinds": MAX_KINDS,
        "token_kinds": TOKEN_KINDS,
        "token_kinds_by_command": TOKEN_KINDS_BY_COMMAND,
        "denied_retain": DENIED_RETAIN,
    }


def _breaker(guard: Guard) -> dict[str, object] | None:
    breaker = guard.identity.on_denials
    if breaker is None:
        return None
    return {
        "threshold": breaker.threshold,
        "period_us": RATE_PERIODS_US[breaker.period],
        "suspend_us": breaker.suspend_s * SECOND_US,
        "reason": breaker.reason,
    }


def _numbers(guard: Guard) -> list[str]:
    """Return the Lua names of the state's numbers, in packed order."""
    by_name = {plan.slot.name: plan.number for plan in guard.limits}
    return [
        f"{number}_{by_name[slot.name]}"
        for slot in guard.layout.slots
        for number in COUNTS[slot.kind].numbers
    ]
