"""The template variables of guards of a cluster, and of the script of their home."""

from __future__ import annotations

from types import SimpleNamespace

from keyleash.compiler.ir import Guard, LimitPlan
from keyleash.compiler.passes.place_on_shards import leased
from keyleash.compiler.quoting import Text, lua_literal
from keyleash.doubles import DOUBLE
from keyleash.limits import Counter
from keyleash.limits.budget import UTC
from keyleash.limits.calendar import Period, window_runs
from keyleash.limits.caps import CAP_COUNTERS, Cap
from keyleash.limits.rate import RATE_SHARES
from keyleash.store import leases
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.leases import PLACES
from keyleash.store.state import Layout, token_layout
from keyleash.store.token import MOST_TAIL_BYTES

MAX_VOUCHER_BYTES = 2048
"""More than a request or a voucher has for the most limits that an identity may have."""
MAX_RATE_UNITS = 1000
"""The slots of a ring that one grant reads."""
NEW_STATE_MS = 60_000
"""The life of a shard's state before its first grant."""

MAX_PLACE_BYTES = 512
"""The longest hash tag, or key without one, that the name of a remembered call may have."""

RECORD_BYTES = 4 * DOUBLE + 12
"""The bytes of a token's record at a shard."""

_CONSTANTS = {
    **PLACES,
    "home_tag": HOME_TAG,
    "max_rate_units": MAX_RATE_UNITS,
    "new_state_ms": NEW_STATE_MS,
    "max_place_bytes": MAX_PLACE_BYTES,
    "record_bytes": RECORD_BYTES,
    "skew_us": leases.CLOCK_BACK_US,
    "refresh_us": leases.REFRESH_US,
    "max_shards": leases.MAX_SHARDS,
    "first_amount": leases.FIRST_AMOUNT,
    "growth": leases.GROWTH,
    "used_shares": leases.USED_SHARES,
    "rest_shares": leases.REST_SHARES,
    "budget_shares": leases.BUDGET_SHARES,
    "rate_shares": RATE_SHARES,
    "min_rate_life_us": leases.MIN_RATE_LIFE_US,
    "short_life_parts": leases.SHORT_LIFE_PARTS,
    "epoch_field": leases.EPOCH_FIELD,
    "request_start": leases.REQUEST_START,
    "voucher_start": leases.VOUCHER_START,
}


def lease_values(guard: Guard) -> dict[str, object]:
    """Return the variables that shards and the home share, most of them in the group `lease`."""
    assert guard.shards is not None  # noqa: S101 - callers ask for guards of a cluster
    identity, keys = guard.identity.name, guard.keyspace
    inner, outer = leases.mac_pads(leases.identity_key(guard.shards.master_key, identity))
    own = [plan for plan in guard.limits if plan.is_leased and plan.subject == "identity"]
    of_token = [plan for plan in guard.limits if plan.is_leased and plan.subject == "token"]
    caps = cap_plans(guard)
    of_token += caps
    own_account = _account("", own, guard.layout, 0, has_token=bool(of_token))
    limit_words = 2 * bool(of_token) + 3 * len([*own, *of_token])
    token_account = _account("token_", of_token, token_layout(guard.identity.limits), len(own))
    lease = {
        **_CONSTANTS,
        "own_account": own_account,
        "accounts": [own_account, *([token_account] if of_token else [])],
        # In the order of requests and vouchers.
        "leased": [*own, *of_token],
        "mac_inner": inner,
        "mac_outer": outer,
        "request_words": 4 + limit_words,
        # With the restrictions of a bound token, as the last word.
        "voucher_words": 9 + limit_words,
        "max_voucher_bytes": MAX_VOUCHER_BYTES + (2 * MOST_TAIL_BYTES if caps else 0),
        "key": keys.leases(identity),
        "life_us": guard.shards.lease_us,
    }
    return {
        "lease": SimpleNamespace(**lease),
        "token_account": token_account if of_token else None,
        "cap_plans": caps,
    }


def cap_plans(guard: Guard) -> tuple[LimitPlan, ...]:
    """Return a plan for each cap that a token may have; its limit is in the token's record."""
    if not guard.identity.token.bound:
        return ()
    runs = window_runs(Period.MONTH, UTC, guard.calendar_year)
    first = len(guard.limits) + 1
    counters = [counter for counter in CAP_COUNTERS if counter is not Counter.BYTES_READ]
    return tuple(
        LimitPlan(number, counter, Cap.of(counter).slot(), runs=runs, subject="cap")
        for number, counter in enumerate(counters, first)
    )


def _account(
    of: str, leased: list[LimitPlan], layout: Layout, before: int, *, has_token: bool = True
) -> dict[str, object]:
    """Return the variables about units that are granted under one number.

    Args:
        of: What the Lua names of the account begin with.
        leased: Its limits.
        layout: Their layout.
        before: The limits before these in requests and vouchers.
        has_token: Whether these have the number and time of the asking of a token.
    """
    count = len(leased)
    limits_at = 2 * has_token + 3 * before
    return {
        "of": of,
        "leased": leased,
        "layout_number": leases.leased_layout(layout),
        "state_bytes": PLACES["shard_bytes"] + PLACES["leased_bytes"] * count,
        "windows_at": PLACES["shard_bytes"] + PLACES["pair_bytes"] * count,
        "state_format": f"<{'d' * (8 + 4 * count)}",
        "hot_format": f"<{'d' * (8 + 2 * count)}",
        # From the first word; the number of the grant is followed by the time of asking.
        "voucher_at": 9 if of else 2,
        "voucher_limits_at": 9 + limits_at,
        "request_limits_at": 5 + limits_at,
        "credits": [*_names(leased, "credit"), *_names(leased, "until")],
        "no_credits": Text(", ".join(["0, 0"] * count)),
        "credits_format": f"<{'dd' * count}",
        "windows": _names(leased, "window", "have"),
        "grants": _names(leased, "amount", "window", "have", "last"),
        "entry_size": PLACES["entry_bytes"] + PLACES["leased_bytes"] * count,
        "entry_format": f"<ddddd{'dddd' * count}",
    }


def shard_values(guard: Guard) -> dict[str, object]:
    """Return the variables of a shard's guard that stand for others on one server."""
    assert guard.shards is not None  # noqa: S101 - as above
    # A mark instead of a tag, so that only this module knows where it stands in a name.
    mark = "\0"
    identity, keys = guard.identity.name, guard.keyspace.at_shard(mark)
    beginning = keys.root.partition(mark)[0]

    def named(name: str, tag: str = "tag") -> Text:
        parts = (beginning, name.removeprefix(beginning + mark))
        return Text(f" .. {tag} .. ".join(map(lua_literal, parts)))

    limits_tokens = any(plan.subject == "token" for plan in guard.limits)
    return {
        "between": guard.shards.between,
        # Tokens delegate at the home; a shard knows the ids of the ancestors of a child.
        "delegate": None,
        "has_paths": bool(guard.identity.delegate.depth),
        "cap_plans": tuple(map(leased, cap_plans(guard))),
        # The units of a token are read only if something counts them.
        "has_units": Text("not lacks" if limits_tokens else "not lacks and caps"),
        # Without a lease the call is repeated.
        "has_id": Text("once and not lacks"),
        "shard_state": named(keys.state(identity)),
        "shard_token": named(keys.token_prefix(identity)),
        "no_name": named(keys.none),
        "names": {
            "state": Text("state_key"),
            "audit": named(keys.audit(identity)),
            "denied": named(keys.denied(identity)),
            "repeats": named(keys.repeats(identity)),
            "scratch": named(keys.scratch(identity)),
            "suspension": named(keys.suspension(identity)),
            "refused": named(keys.refused(identity)),
            # Beside the first key of the call.
            "once_prefix": named(keys.once_prefix(identity), "place"),
        },
        "keep_record_us": leases.KEEP_LEASED_TOKEN_MS * 1000,
        "numbers_at": PLACES["sequence_at"],
    }


def _names(plans: list[LimitPlan], *numbers: str) -> list[str]:
    return [f"{number}_{plan.number}" for plan in plans for number in numbers]
