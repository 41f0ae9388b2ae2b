"""The template variables of guards of a cluster, and of the script of their home."""

from __future__ import annotations

from keyleash.compiler.ir import Guard, LimitPlan
from keyleash.compiler.quoting import Text, lua_literal
from keyleash.doubles import DOUBLE
from keyleash.store import leases
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.leases import PLACES

MAX_VOUCHER_BYTES = 2048
"""More than a request or a voucher has for the most limits that an identity may have."""
MAX_RATE_UNITS = 1000
"""The slots of a ring that one grant reads."""
NEW_STATE_MS = 60_000
"""The life of a shard's state before its first grant."""

RECORD_BYTES = 4 * DOUBLE + 12
"""The bytes of a token's record at a shard."""

_CONSTANTS = {
    **PLACES,
    "home_tag": HOME_TAG,
    "max_voucher_bytes": MAX_VOUCHER_BYTES,
    "max_rate_units": MAX_RATE_UNITS,
    "new_state_ms": NEW_STATE_MS,
    "lease_record_bytes": RECORD_BYTES,
    "skew_us": leases.CLOCK_BACK_US,
    "refresh_us": leases.REFRESH_US,
    "max_shards": leases.MAX_SHARDS,
    "first_amount": leases.FIRST_AMOUNT,
    "growth": leases.GROWTH,
    "rest_shares": leases.REST_SHARES,
    "budget_shares": leases.BUDGET_SHARES,
    "rate_shares": leases.RATE_SHARES,
    "epoch_field": leases.EPOCH_FIELD,
    "request_start": leases.REQUEST_START,
    "voucher_start": leases.VOUCHER_START,
}


def lease_values(guard: Guard) -> dict[str, object]:
    """Return the variables that shards and the home share."""
    assert guard.shards is not None  # noqa: S101 - callers ask for guards of a cluster
    identity, keys = guard.identity.name, guard.keyspace
    inner, outer = leases.mac_pads(leases.identity_key(guard.shards.master_key, identity))
    leased = [plan for plan in guard.limits if plan.is_leased]
    count = len(leased)
    return {
        **_CONSTANTS,
        "leased": leased,
        "mac_inner": inner,
        "mac_outer": outer,
        "request_words": 4 + 3 * count,
        "leases_key": keys.leases(identity),
        "lease_us": guard.shards.lease_us,
        "shard_layout": leases.leased_layout(guard.layout),
        "whole_shard_bytes": PLACES["shard_bytes"] + PLACES["leased_bytes"] * count,
        "shard_windows_at": PLACES["shard_bytes"] + PLACES["pair_bytes"] * count,
        "shard_format": f"<{'d' * (8 + 4 * count)}",
        "shard_hot_format": f"<{'d' * (8 + 2 * count)}",
        "credits": [*_names(leased, "credit"), *_names(leased, "until")],
        "no_credits": Text(", ".join(["0, 0"] * count)),
        "windows": _names(leased, "window", "have"),
        "grants": _names(leased, "amount", "window", "have", "last"),
        "whole_entry_bytes": PLACES["entry_bytes"] + PLACES["leased_bytes"] * count,
        "entry_format": f"<ddddd{'dddd' * count}",
    }


def shard_values(guard: Guard) -> dict[str, object]:
    """Return the variables of a shard's guard that stand for others on one server."""
    assert guard.shards is not None  # noqa: S101 - as above
    # A mark instead of a tag, so that only this module knows where it stands in a name.
    mark = "\0"
    identity, keys = guard.identity.name, guard.keyspace.at_shard(mark)
    beginning = keys.root.partition(mark)[0]

    def named(name: str) -> Text:
        parts = (beginning, name.removeprefix(beginning + mark))
        return Text(" .. tag .. ".join(map(lua_literal, parts)))

    return {
        "between": guard.shards.between,
        "shard_state": named(keys.state(identity)),
        "shard_token": named(keys.token_prefix(identity)),
        "no_name": named(keys.none),
        "names": {
            "state": Text("state_key"),
            "audit": named(keys.audit(identity)),
            "denied": named(keys.denied(identity)),
            "repeats": named(keys.repeats(identity)),
            "suspension": named(keys.suspension(identity)),
            "refused": named(keys.refused(identity)),
        },
        "keep_record_us": leases.KEEP_LEASED_TOKEN_MS * 1000,
        "numbers_at": PLACES["sequence_at"],
    }


def _names(plans: list[LimitPlan], *numbers: str) -> list[str]:
    return [f"{number}_{plan.number}" for plan in plans for number in numbers]
