"""Write a guard's plain data as Lua text. Every decision is made by the passes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from functools import partial
from typing import NamedTuple

from keyleash.commands.facts import MAX_LISTED, MAX_PATHS, MAY_REPLICATE, PATHS
from keyleash.compiler.delegation import delegation_values
from keyleash.compiler.ir import Check, Guard, LimitPlan, Requirement
from keyleash.compiler.leases import cap_plans, lease_values, shard_values
from keyleash.compiler.passes.place_on_shards import place_on_shards
from keyleash.compiler.quoting import Text, lua_literal
from keyleash.compiler.render import render
from keyleash.compiler.sizes import sizes_of
from keyleash.doubles import DOUBLE
from keyleash.limits import COUNTS, SECOND_US, Counter
from keyleash.limits.budget import UTC
from keyleash.limits.calendar import PERIOD_US, Period, window_runs
from keyleash.limits.caps import CAP_COUNTERS
from keyleash.limits.rate import RATE_PERIODS_US
from keyleash.policy.lua import LIBRARIES
from keyleash.policy.model import Identity, Values
from keyleash.policy.quantities import MAX_REPLY_BYTES
from keyleash.store.state import STAMP_BYTES
from keyleash.store.token import (
    KEEP_AFTER_EXPIRY_MS,
    MAX_TOKEN_BYTES,
    REVOKED_OFFSET,
    use_noted_us,
)
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS, MAX_ID_BYTES
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
MAX_IMAGES = 500
"""The keys whose before-images fit into one event beside 1,000 commands: unpack is limited."""
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
    "path_bounds": (MAX_PATHS, MAX_LISTED, PATHS),
    "max_event_bytes": MAX_EVENT_BYTES,
    "subject_ring_offset": 3 * DOUBLE,
    "keep_record_us": KEEP_AFTER_EXPIRY_MS * 1000,
    # The place in a record behind expiry and last use, from 1.
    "flags_at": REVOKED_OFFSET + 1,
    "max_arguments": MAX_ARGUMENTS,
    "max_batch_commands": MAX_BATCH_COMMANDS,
    "max_token_bytes": MAX_TOKEN_BYTES,
    "max_id_bytes": MAX_ID_BYTES,
    "most_reply_bytes": MAX_REPLY_BYTES,
    "token_pattern": TOKEN_IN_LUA,
    # The tokens whose keys a function keeps in the memory of the server's Lua.
    "remembered_tokens": 1000,
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

_STAMP = Text("\0")
"""A placeholder for the stamp until the rest is written; no script has such a byte."""


class Scripts(NamedTuple):
    """The scripts of a guard, in ASCII.

    Attributes:
        single: The Lua text for one command.
        batch: The Lua text for a batch.
        script: The Lua text for approved scripts; empty if there are none.
        lease: The Lua text for the home of a cluster; empty on one server.
        stamp: The number that ties a state to this guard: 48 bits, never 0.
    """

    single: str
    batch: str
    script: str
    lease: str
    stamp: int


def emit(guard: Guard, approved: Guard | None = None) -> Scripts:
    """Render *guard* and stamp it with a digest of its text.

    Args:
        approved: The same guard with the commands of approved scripts alone; None without any.
    """
    lease = _unstamped(guard, "lease.lua", batch=False, home=True) if guard.shards else ""
    if guard.shards:
        guard, approved = place_on_shards(guard), approved and place_on_shards(approved)
    single = _unstamped(guard, "guard.lua", batch=False)
    batch = _unstamped(guard, "batch.lua", batch=True)
    script = _unstamped(approved, "script.lua", batch=False, sandbox=True) if approved else ""
    texts = [single, batch, script, lease]
    written = hashlib.sha256("".join(texts).encode()).digest()
    stamp = int.from_bytes(written[:STAMP_BYTES], "big") | 1
    single, batch, script, lease = (text.replace(_STAMP, str(stamp)) for text in texts)
    return Scripts(single, batch, script, lease, stamp)


def _unstamped(
    guard: Guard, template: str, *, batch: bool, sandbox: bool = False, home: bool = False
) -> str:
    cluster = guard.shards is not None and not home
    vault, numbers = guard.keyspace.vault, _numbers(guard, cluster=cluster)
    running = batch and guard.takes_runs
    policy = guard.policy_digest[:POLICY_DIGITS]
    variables = {field.name: getattr(guard, field.name) for field in fields(guard)}
    variables |= _CONSTANTS | _identity_values(guard.identity) | delegation_values(guard)
    variables |= sizes_of(guard, batch=batch or sandbox, sandbox=sandbox)
    if guard.identity.token.bound:
        month = window_runs(Period.MONTH, UTC, guard.calendar_year)
        variables["month"] = {"period_us": PERIOD_US[Period.MONTH], "runs": month}
    variables |= {"names": _names(guard), "numbers_at": 2 * DOUBLE, "between": False}
    variables |= {"has_id": Text("once"), "token_account": None, "cap_plans": (), "counts": _counts}
    variables |= _byte_values(guard, cluster=cluster)
    if guard.shards:
        variables |= lease_values(guard)
    if cluster:
        variables |= shard_values(guard)
    return render(
        template,
        **variables,
        batch=batch,
        sandbox=sandbox,
        name_at=None if batch or sandbox else NAME_AT,
        # Of the keys of a script, those that were imaged already come first.
        imaged_from=Text("imaged_to + 1") if sandbox else 1,
        running=running,
        # The commands that are taken at once.
        taken=Text("taken") if running else 1,
        run_end=Text("run_end or stop") if running else Text("stop"),
        repeating=_repeating(guard) if running else frozenset(),
        places=Text("nil" + ", nil" * 15),
        subscribing=_between_commas(
            use.spec.name for use in guard.usages if use.spec.subscribes and use.missing is None
        ),
        has_mset=any(use.spec.name == "MSET" and use.missing is None for use in guard.usages),
        declared=_declared(guard),
        uses=frozenset(name for item in guard.identity.scripts for name in item.text.uses),
        writing=_writing(guard) if sandbox else "",
        members={name: " ".join(sorted(members)) for name, members in LIBRARIES.items()},
        cluster=cluster,
        # On a cluster the home renews.
        renews=guard.identity.token.renew and not cluster,
        vault=vault,
        vault_bytes=len(vault),
        **(_SLOT_NAMES if cluster else _vault_names(vault)),
        sealed=bool(vault),
        state_format=f"<{'d' * guard.layout.numbers}",
        numbers=numbers,
        charging=_charging(guard, batch=batch, cluster=cluster),
        # The sequence number comes first.
        numbers_format=f"<{'d' * (1 + len(numbers))}",
        stamp=_STAMP,
        waiting=not (batch or sandbox) and any(rule.waits for rule in guard.rules),
        policy=policy,
        charges={name: f"{policy} {cost}" for name, cost in _COSTS.items()},
        often_ruled=frozenset(rule for branch in guard.dispatch for _, rule in branch.commands),
        scan_check=next((rule.check for rule in guard.rules if rule.scan), None),
        one_check=len(guard.checks) == 1,
        checks_differ=any(rule.rest != rule.check for rule in guard.rules),
    )


def _byte_values(guard: Guard, *, cluster: bool) -> dict[str, object]:
    """Return the template variables about limits and caps of bytes."""
    plans = guard.limits
    # Counted behind the command.
    of_replies = tuple(plan for plan in plans if plan.counter is Counter.BYTES_READ)
    return {
        "byte_limits": tuple(plan for plan in plans if plan.counter.is_bytes),
        "call_limits": tuple(plan for plan in plans if not plan.counter.is_bytes),
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


def _vault_names(vault: str) -> dict[str, object]:
    """Return the functions of templates that name keys in the vault of one server, and back."""
    prefix = lua_literal(vault)
    return {
        "physical": lambda name: Text(f"{prefix} .. {name}"),
        "logical": lambda name: Text(f"string.sub({name}, {len(vault) + 1})"),
        "without_vault": lambda text: Text(f"string.gsub({text}, {prefix}, '')"),
    }


def _called(function: str, argument: str) -> Text:
    return Text(f"{function}({argument})")


_SLOT_NAMES = {
    function: partial(_called, function) for function in ("physical", "logical", "without_vault")
}
"""The same where names keep their slot: calls of the functions of `vault_names.lua`."""


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


def _identity_values(identity: Identity) -> dict[str, object]:
    """Return the template variables about tokens, audit, circuit breaker and idempotency."""
    audit, breaker, idle_s = identity.audit, identity.on_denials, identity.token.idle_s
    once = identity.idempotency
    return {
        "bound_tokens": identity.token.bound,
        "max_ttl_us": identity.token.max_ttl_s * SECOND_US,
        "idle_us": None if idle_s is None else idle_s * SECOND_US,
        "use_noted_us": use_noted_us(idle_s),
        "retain": audit.retain,
        "retain_us": None if audit.retain_s is None else audit.retain_s * SECOND_US,
        "hard_max": audit.hard_max,
        "records_reads": audit.reads,
        "values": audit.values.value,
        "idempotency": once is not None,
        "once_keep_ms": once and once.keep_s * 1000,
        "once_reply_bytes": once and once.max_reply_bytes,
        "logs_arguments": audit.values is not Values.NONE,
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
