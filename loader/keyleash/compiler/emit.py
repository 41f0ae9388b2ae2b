"""Write a guard's plain data as Lua text. Every decision is made by the passes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from types import SimpleNamespace
from typing import NamedTuple

from keyleash.commands.facts import LISTS_INDEXES, MAY_REPLICATE
from keyleash.compiler.delegation import delegation_values
from keyleash.compiler.ir import Check, Guard, LimitPlan, Requirement
from keyleash.compiler.leases import cap_plans, lease_values, shard_values
from keyleash.compiler.passes.place_on_shards import place_on_shards
from keyleash.compiler.quoting import Text
from keyleash.compiler.render import render
from keyleash.compiler.sizes import sizes_of
from keyleash.doubles import DOUBLE
from keyleash.limits import COUNTS, SECOND_US, Counter
from keyleash.limits.budget import UTC
from keyleash.limits.calendar import PERIOD_US, Period, window_runs
from keyleash.limits.caps import CAP_COUNTERS
from keyleash.limits.rate import RATE_PERIODS_US
from keyleash.policy.lua.names import LIBRARIES
from keyleash.policy.model import Values
from keyleash.policy.quantities import MAX_REPLY_BYTES
from keyleash.store.state import STAMP_BYTES
from keyleash.store.token import KEEP_AFTER_EXPIRY_MS, MAX_TOKEN_BYTES, REVOKED_OFFSET, use_noted_us
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS, MAX_ID_BYTES, MAX_IMAGES
from keyleash.text import TOKEN_IN_LUA

NAME_AT = 3
"""The place of the command's name in a guard's arguments; in a batch it varies."""
POLICY_DIGITS = 12
"""The number of digits of the policy digest in an event."""

DENIED_RETAIN = 10_000
MAX_KINDS = 128
"""The kinds of denials of one identity that have their own entries within a minute."""
TOKEN_KINDS = 24
"""The same for one token; further kinds are merged by their code."""
MAX_EVENT_BYTES = 64 * 1024 * 1024
"""The bytes of before-images in one event."""

_CONSTANTS = {
    "denied_retain": DENIED_RETAIN,
    "max_kinds": MAX_KINDS,
    "token_kinds": TOKEN_KINDS,
    # The kinds of one token up to which commands are distinguished.
    "token_kinds_by_command": 8,
    "max_images": MAX_IMAGES,
    "listing": "KEYS",
    "max_event_bytes": MAX_EVENT_BYTES,
    "subject_ring_offset": 3 * DOUBLE,
    "keep_record_us": KEEP_AFTER_EXPIRY_MS * 1000,
    # The place in a record after expiry and last use, from 1.
    "flags_at": REVOKED_OFFSET + 1,
    "max_arguments": MAX_ARGUMENTS,
    "max_batch_commands": MAX_BATCH_COMMANDS,
    "max_token_bytes": MAX_TOKEN_BYTES,
    "max_id_bytes": MAX_ID_BYTES,
    "most_reply_bytes": MAX_REPLY_BYTES,
    "token_pattern": TOKEN_IN_LUA,
    # What each command of a script is, besides its own work.
    "command_units": 100,
    # What each argument of it is: the slowest commands take 2 µs for one.
    "word_units": 12,
    # Codes of errors on which a client repeats a call.
    "nothing_ran": " NOSCRIPT READONLY LOADING MASTERDOWN CLUSTERDOWN TRYAGAIN MOVED ASK BUSY ",
    "cap_number": lambda counter: CAP_COUNTERS.index(counter) + 1,
}
"""Template variables that are the same for all guards."""

_COSTS = {"call": "1", "read": "1,1r", "write": "1,1w", "read_write": "1,1r,1w"}
"""The cost of a call in an event."""

_AT_HOME = {
    "name_at": None,
    "images": (),
    "plans": "",
    "lengthening": "",
    "governing": "",
    "reply_limits": (),
}
"""Template variables of the home of a cluster, which runs no command on data."""

_STAMP = Text("\0")
"""A placeholder for the stamp until the rest is written; no script has such a byte."""


class Form(NamedTuple):
    """The form of one of a guard's scripts.

    Attributes:
        template: Its template.
        batch: Whether a call has several commands.
        sandbox: Whether it runs approved scripts.
        home: Whether it runs at the home of a cluster.
    """

    template: str
    batch: bool = False
    sandbox: bool = False
    home: bool = False


SINGLE = Form("guard.lua")
BATCH = Form("batch.lua", batch=True)
SCRIPT = Form("script.lua", batch=True, sandbox=True)
LEASE = Form("lease.lua", home=True)


def emit(guard: Guard) -> list[str]:
    """Render the texts of *guard*, in ASCII, with a placeholder for the stamp.

    They are those for one command, for a batch, for approved scripts and for the home of a cluster;
    the latter two are empty if there are none.
    """
    lease = _render(guard, LEASE) if guard.shards else ""
    if guard.shards:
        guard = place_on_shards(guard)
    single, batch = _render(guard, SINGLE), _render(guard, BATCH)
    return [single, batch, _render(guard, SCRIPT) if guard.scripts else "", lease]


def stamped(texts: Sequence[str]) -> tuple[list[str], int]:
    """Return the texts of a guard with a digest of them in place of the stamp, and that.

    It is the number that ties a state to this guard: 48 bits, never 0.
    """
    written = hashlib.sha256("".join(texts).encode()).digest()
    stamp = int.from_bytes(written[:STAMP_BYTES], "big") | 1
    return [text.replace(_STAMP, str(stamp)) for text in texts], stamp


def _render(guard: Guard, form: Form) -> str:
    """Return a script with a placeholder for the stamp."""
    cluster = guard.shards is not None and not form.home
    groups: list[Mapping[str, object]] = [
        {field.name: getattr(guard, field.name) for field in fields(guard)},
        _CONSTANTS,
        _identity_values(guard),
        delegation_values(guard),
        sizes_of(guard, batch=form.batch, sandbox=form.sandbox),
        _form_values(guard, form),
        _command_values(guard),
        _state_values(guard, form, cluster=cluster),
        {"names": _names(guard)},
        _byte_values(guard, cluster=cluster),
        lease_values(guard) if guard.shards else {},
        shard_values(guard) if cluster else {},
        _AT_HOME if form.home else {},
    ]
    return render(form.template, **{name: item for group in groups for name, item in group.items()})


def _form_values(guard: Guard, form: Form) -> dict[str, object]:
    """Return the template variables about the commands of one call."""
    running = form.batch and guard.takes_runs and not form.sandbox
    return {
        "batch": form.batch,
        "sandbox": form.sandbox,
        # Whether no command runs before the last one is checked.
        "checks_ahead": form.batch and not form.sandbox,
        "batch_work": form.batch,
        "search_ms": guard.identity.search_ms,
        "key_bytes": guard.identity.key_bytes,
        "too_long": Text(f"' bytes=' .. #key .. ' limit={guard.identity.key_bytes}'"),
        "name_at": None if form.batch else NAME_AT,
        "waiting": not form.batch and any(rule.waits for rule in guard.rules),
        # The keys of a script that have their images already come first.
        "imaged_from": Text("imaged_to + 1") if form.sandbox else 1,
        "running": running,
        # XADD, its stream and id, and the fields of a batch's event before those of commands.
        "event_words": 13 if guard.identity.audit.source else 11,
        # The commands that are taken at once.
        "taken": Text("taken") if running else 1,
        "run_end": Text("run_end or stop") if running else Text("stop"),
        "repeating": _repeating(guard) if running else frozenset(),
        "writing": _writing(guard) if form.sandbox else "",
    }


def _command_values(guard: Guard) -> dict[str, object]:
    """Return the template variables about commands, their rules, and approved scripts."""
    specs = [usage.spec for usage in guard.usages if usage.missing is None]
    indexes = [rule.index for rule in guard.rules if rule.index is not None]
    return {
        "places": Text("nil" + ", nil" * 15),
        "subscribing": _between_commas(spec.name for spec in specs if spec.subscribes),
        "has_mset": any(spec.name == "MSET" for spec in specs),
        "uses": frozenset(name for item in guard.identity.scripts for name in item.text.uses),
        "members": {name: " ".join(sorted(members)) for name, members in LIBRARIES.items()},
        "declared": _declared(guard),
        "often_ruled": frozenset(rule for branch in guard.dispatch for _, rule in branch.commands),
        "has_indexes": any(rule.index for rule in guard.rules),
        "index_listed": next((i.every_name for i in indexes if i.command == LISTS_INDEXES), ()),
        "scan_check": next((rule.check for rule in guard.rules if rule.scan), None),
        "one_check": len(guard.checks) == 1,
        "checks_differ": any(rule.rest != rule.check for rule in guard.rules),
    }


def _state_values(guard: Guard, form: Form, *, cluster: bool) -> dict[str, object]:
    """Return the template variables about the state, and what a call changes in it.

    Some have other values at a shard; see `shard_values`.
    """
    numbers, policy = _numbers(guard, cluster=cluster), guard.policy_digest[:POLICY_DIGITS]
    return {
        "cluster": cluster,
        "between": False,
        # On a cluster the home renews.
        "renews": guard.identity.token.renew and not cluster,
        "has_id": Text("once"),
        "token_account": None,
        "cap_plans": (),
        "counts": _counts,
        "state_format": f"<{'d' * guard.layout.numbers}",
        "numbers": numbers,
        "numbers_at": 2 * DOUBLE,
        # The sequence number comes first.
        "numbers_format": f"<{'d' * (1 + len(numbers))}",
        "charging": _charging(guard, batch=form.batch, cluster=cluster),
        "stamp": _STAMP,
        "policy": policy,
        "charges": {name: f"{policy} {cost}" for name, cost in _COSTS.items()},
    }


def _byte_values(guard: Guard, *, cluster: bool) -> dict[str, object]:
    """Return the template variables about limits and caps of bytes."""
    plans = guard.limits
    # Counted after the command.
    of_replies = tuple(plan for plan in plans if plan.counter is Counter.BYTES_READ)
    return {
        "byte_limits": tuple(plan for plan in plans if plan.counter.is_bytes),
        "reply_limits": of_replies,
        # On a cluster the home counts caps.
        "counts_bytes": guard.identity.token.bound and not cluster,
        # Whether bytes of the reply to a call, or to a command of a batch, or to any, count.
        "counts_reply": Text("reads" if of_replies else "byte_caps and reads"),
        "counts_item": Text("readers[i]" if of_replies else "readers and readers[i]"),
        "counts_items": Text("next(readers)" if of_replies else "readers"),
    }


def _counts(plan: LimitPlan) -> str:
    """Return the Lua condition on which a call counts towards a limit."""
    calls = _called_for(plan.counter.calls)
    return _with_cap(plan, calls) if plan.subject == "cap" else calls


def _called_for(counter: Counter, *, batch: bool = False) -> str:
    """Return the Lua condition on which a call, or one of a batch, counts; all are requests."""
    if counter is Counter.REQUESTS:
        return "passed > 0" if batch else "true"
    return f"passed_{counter} > 0" if batch else counter.value


def _with_cap(plan: LimitPlan, condition: str) -> str:
    return f"caps and caps[{CAP_COUNTERS.index(plan.counter) + 1}] and {condition}"


def _charging(guard: Guard, *, batch: bool, cluster: bool) -> tuple[Text, ...]:
    """Return the conditions on which a call changes the state; none if every call does."""
    counters = {
        plan.counter.calls
        for plan in guard.limits
        if plan.subject == "identity" or (cluster and plan.is_leased)
    }
    if Counter.REQUESTS in counters:
        return ()
    conditions = [_called_for(counter, batch=batch) for counter in sorted(counters)]
    for plan in cap_plans(guard) if cluster else ():
        conditions.append(_with_cap(plan, _called_for(plan.counter.calls, batch=batch)))
    return tuple(map(Text, conditions))


def _repeating(guard: Guard) -> frozenset[int]:
    """Return the rules whose calls may be in a run.

    Not one that a call gets by its options: the next call of the run may have others.
    """
    by_options = {rule.variant for rule in guard.rules}
    return frozenset(rule.id for rule in guard.rules if rule.repeats and rule.id not in by_options)


def _writing(guard: Guard) -> str:
    """Return the commands that a read-only script must not call, between commas."""
    specs = [use.spec for use in guard.usages]
    return _between_commas(
        spec.name for spec in specs if "write" in spec.flags or spec.name in MAY_REPLICATE
    )


def _between_commas(names: Iterable[str]) -> str:
    text = ",".join(names)
    return f",{text}," if text else ""


def _declared(guard: Guard) -> tuple[Check, ...]:
    """Return the check of a script's declared keys: any grant allows them."""
    matchers = dict.fromkeys(item for some in guard.matchers for item in some)
    return (Check(0, (Requirement(None, tuple(matchers), ()),)),)


def _names(guard: Guard) -> dict[str, str]:
    names = (
        "state",
        "token_prefix",
        "audit",
        "denied",
        "repeats",
        "suspension",
        "refused",
        "scratch",
        "delegated",
        "delegations",
        "children_prefix",
        "once_prefix",
        "tokens",
    )
    return {name: getattr(guard.keyspace, name)(guard.identity.name) for name in names}


def _identity_values(guard: Guard) -> dict[str, object]:
    """Return the template variables about tokens, audit, circuit breaker and idempotency."""
    identity = guard.identity
    audit, breaker, idle_s = identity.audit, identity.on_denials, identity.token.idle_s
    once = identity.idempotency
    return {
        "bound_tokens": identity.token.bound,
        # The calendar of caps per month.
        "month": identity.token.bound
        and {
            "period_us": PERIOD_US[Period.MONTH],
            "runs": window_runs(Period.MONTH, UTC, guard.calendar_year),
        },
        "max_ttl_us": identity.token.max_ttl_s * SECOND_US,
        "idle_us": None if idle_s is None else idle_s * SECOND_US,
        "use_noted_us": use_noted_us(idle_s),
        "audit": SimpleNamespace(
            retain=audit.retain,
            retain_us=None if audit.retain_s is None else audit.retain_s * SECOND_US,
            hard_max=audit.hard_max,
            records_reads=audit.reads,
            values=audit.values.value,
            logs_arguments=audit.values is not Values.NONE,
            source=audit.source,
            correlation=Text("correlation, 'source', source" if audit.source else "correlation"),
        ),
        "idempotency": once is not None,
        "once_keep_ms": once and once.keep_s * 1000,
        "once_reply_bytes": once and once.max_reply_bytes,
        "breaker": breaker
        and {
            "threshold": breaker.threshold,
            "period_us": RATE_PERIODS_US[breaker.period],
            "suspend_us": breaker.suspend_s * SECOND_US,
            "reason": breaker.reason,
        },
    }


def _numbers(guard: Guard, *, cluster: bool) -> list[str]:
    """Return the Lua names of the state's numbers, in packed order."""
    if cluster:
        leased = [plan for plan in guard.limits if plan.is_leased]
        own = [f"credit_{plan.number}" for plan in leased if plan.subject == "identity"]
        # The time of the newest call, if there are units that end.
        return ["now_us", *own] if leased or guard.identity.token.bound else []
    by_name = {plan.slot.name: plan.number for plan in guard.limits}
    return [
        f"{number}_{by_name[slot.name]}"
        for slot in guard.layout.slots
        for number in COUNTS[slot.kind].numbers
    ]
