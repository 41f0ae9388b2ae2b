"""The identity, the expiry and the remaining limits of a token, as its guard reports them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from keyleash.store.records import GuardRecord
from keyleash.store.token import TokenRecord, use_noted_us
from keyleash.store.wire import reading_reply
from keyleash.text import json_object, moment

if TYPE_CHECKING:
    from keyleash.limits import BaseCount, Limit
    from keyleash.policy import Grant, Pattern
    from keyleash.store.restrictions import Restrictions


@dataclass(frozen=True, slots=True)
class RemainingLimit:
    """The remaining calls of one limit.

    Attributes:
        name: As denials name it, such as `rate.writes`.
        allows: The limit in words, such as `600 a minute, 60 at once`.
        per: `identity`, `token` or `capture`: what has a counter of its own.
        of: The most calls that it allows at one moment.
        left: The calls that it allows now; None if each captured segment has its own counter.
        resets_at: When all of it is free again; None if it is, or if a cap is for the token's life.
    """

    name: str
    allows: str
    per: str
    of: int
    left: int | None = None
    resets_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as `keyleash whoami --json` prints it."""
        return json_object(self)


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """The identity, the expiry and the remaining limits of a token. Times are the server's.

    Attributes:
        identity: The identity's name.
        token_id: The public id of the token.
        now: The time at which the guard replied.
        expires_at: When the token expires.
        idle_ends_at: When it expires if it is not used before; None without an idle timeout.
        limits: In the order in which the guard checks them; caps of the token come last.
        restrictions: What the token may do of what the identity may do; None if all of that.
        renewable_until: The latest time until which the client may renew it; None if it may not.
        grants: The grants of the identity, as the restrictions narrow them; None if the policy
            hides them by `token: {publish_grants: false}`. The texts of their scripts are empty.
        deny: The patterns of keys that are denied whatever the grants allow; None likewise.
    """

    identity: str
    token_id: str
    now: datetime
    expires_at: datetime
    idle_ends_at: datetime | None
    limits: tuple[RemainingLimit, ...]
    restrictions: Restrictions | None = None
    renewable_until: datetime | None = None
    grants: tuple[Grant, ...] | None = field(default=None, repr=False)
    deny: tuple[Pattern, ...] | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as an object for JSON, with times in ISO 8601, and grants as in a policy."""
        from keyleash.store.grants import PublishedGrants  # noqa: PLC0415

        published: Any = {"grants": None, "deny": None}
        if self.grants is not None:
            published = PublishedGrants(self.grants, self.deny or ()).to_dict()
        return {**json_object(self), **published}


def read_whoami(identity: str, guard: GuardRecord, reply: Any) -> WhoAmI:
    """Read the reply to a batch in mode `whoami`.

    Raises:
        UnexpectedReplyError: It is malformed.
    """
    # Here, since limits need time zones, which slow down the import of the client.
    from keyleash.limits import SubjectKind, unpack_limits  # noqa: PLC0415
    from keyleash.store.grants import unpack_grants  # noqa: PLC0415
    from keyleash.store.restrictions import restrictions_of  # noqa: PLC0415
    from keyleash.store.state import layout_of, unpack_state  # noqa: PLC0415

    with reading_reply("whoami"):
        now_text, packed, state, *records = reply
        latest_ms = int(records[-2]) if guard.renew else 0
        now_us = int(now_text)
        token = TokenRecord.unpack(packed)
        limits = unpack_limits(guard.limits)
        stored = {item.slot.name: item for item in unpack_state(state, layout_of(limits)).limits}
        of_token = iter(records)
        left: list[RemainingLimit] = []
        for limit in limits:
            count: BaseCount | None = None
            if limit.subject.kind is SubjectKind.IDENTITY:
                count = limit.count_of(stored[limit.name])
            elif limit.subject.kind is SubjectKind.TOKEN:
                record = next(of_token)
                count = limit.read_record(record, now_us) if record else limit.new_count()
                if count.limit != limit:
                    count = count.migrated(limit, now_us)
            left.append(remaining_limit(limit, count, now_us))
        restrictions = restrictions_of(token)
        caps = restrictions.counts if restrictions else ()
        left += [remaining_limit(count.limit, count, now_us) for count in caps]
        published = unpack_grants(guard.grants)
        grants, deny = published.narrowed(restrictions) if published else (None, None)
        idle_us = token.used_us + use_noted_us(guard.idle_s) + guard.idle_s * 1_000_000
        return WhoAmI(
            identity=identity,
            token_id=token.id,
            now=moment(now_us // 1000),
            expires_at=moment(token.expires_us // 1000),
            idle_ends_at=moment(idle_us // 1000) if guard.idle_s else None,
            limits=tuple(left),
            restrictions=restrictions,
            renewable_until=moment(latest_ms) if latest_ms else None,
            grants=grants,
            deny=deny,
        )


def remaining_limit(limit: Limit, count: BaseCount | None, now_us: int) -> RemainingLimit:
    """Return what is left of a limit; without a count, if each segment has its own."""
    from keyleash.limits.caps import Cap  # noqa: PLC0415

    is_for_life = isinstance(limit, Cap) and limit.is_for_life
    resets_us = None if count is None or is_for_life else count.resets_us(now_us)
    return RemainingLimit(
        limit.name,
        limit.describe(),
        str(limit.subject.kind),
        limit.at_once,
        None if count is None else count.left(now_us),
        None if resets_us is None else moment(-(-resets_us // 1000)),
    )
