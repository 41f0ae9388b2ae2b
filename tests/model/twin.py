"""The rules of shards and home in Python, with the numbers and times that the scripts store."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from keyleash.limits import Slot, SlotKind
from keyleash.limits.calendar import PERIOD_US, Period
from keyleash.limits.rate import RATE_SHARES
from keyleash.store.leases import (
    BUDGET_SHARES,
    DEFAULT_LEASE_US,
    FIRST_AMOUNT,
    GROWTH,
    REFRESH_US,
    LimitRequest,
    LimitVoucher,
    Request,
    Voucher,
    grant_amount,
    rate_life_us,
)

NEW_STATE_US = 60_000_000
"""The life of a shard's state before its first grant."""
RAN = "ran"
NEEDED = "LEASE_NEEDED"
REFUSED = {SlotKind.BUDGET: "BUDGET_EXHAUSTED", SlotKind.RING: "RATE_LIMITED"}


@dataclass
class Credit:
    """The units of one limit at a shard."""

    credit: int = 0
    until: int = 0
    window: int = 0
    have: int = 0


@dataclass
class State:
    """The state of a shard; it ends at `ends` unless units were granted."""

    born: int
    seq: int
    limits: list[Credit]
    min_epoch: int = 0
    asked: int = 0
    ends: int | None = None


@dataclass
class Lease:
    """The lease of the token at a shard."""

    until: int
    epoch: int
    asked: int

    def is_valid(self, state: State, now: int) -> bool:
        """Return whether a shard in that state accepts it."""
        return now < self.until and self.epoch >= state.min_epoch and self.asked >= state.born


@dataclass
class Shard:
    """A node's records of the identity; `uses` are the limits and times of the units used there."""

    state: State | None = None
    lease: Lease | None = None
    uses: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Entry:
    """The newest grant to a shard, at the home; `epoch` is that of the grant."""

    epoch: int
    seq: int
    asked: int
    granted: int
    amounts: list[int]
    windows: list[int]
    haves: list[int]
    lasts: list[int]

    def answers(self, request: Request, epoch: int) -> bool:
        """Return whether it is the grant that the shard asks for."""
        return (self.seq, self.epoch) == (request.seq, epoch)


@dataclass
class Count:
    """The count of a limit at the home: units of a window, or the times when places end."""

    ends: int = 0
    used: int = 0
    places: list[int] = field(default_factory=list)


@dataclass
class Home:
    """The state of the home."""

    counts: list[Count]
    epoch: int = 1
    is_revoked: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass
class Twin:
    """An identity with leased limits; callers copy what they want to keep."""

    slots: Sequence[Slot]
    home: Home
    shards: dict[str, Shard]

    def call(self, tag: str, costs: Sequence[int], voucher: Voucher | None, now: int) -> str:
        """Make a call that costs units of each limit; return its outcome."""
        shard = self.shards[tag]
        state = shard.state
        if state is None or (state.ends is not None and now >= state.ends):
            limits = [Credit() for _ in self.slots]
            state = shard.state = State(now, now, limits, ends=now + NEW_STATE_US)
        answered = [False] * len(costs)
        if voucher is not None:
            answered = self._take(shard, state, voucher, now)
        lease = shard.lease
        if lease is None or not lease.is_valid(state, now):
            self._ask(state, now)
            return NEEDED
        usable = [item.credit if now < item.until else 0 for item in state.limits]
        lacks = False
        for slot, units, cost, is_answered in zip(self.slots, usable, costs, answered, strict=True):
            if units < cost:
                if is_answered:
                    return f"{REFUSED[slot.kind]} {slot.name}"
                lacks = True
        if lacks:
            self._ask(state, now)
            return NEEDED
        for place, cost in enumerate(costs):
            # Units whose life is over are not used, but may still be stored.
            state.limits[place].credit -= cost
            shard.uses += [(place, now)] * cost
        return RAN

    def overused(self, now: int) -> str:
        """Return the name of a limit of which too many units are used; empty if there is none."""
        for place, (slot, count) in enumerate(zip(self.slots, self.home.counts, strict=True)):
            is_budget = slot.kind is SlotKind.BUDGET
            begin = count.ends - slot.period_us if is_budget else now - slot.period_us
            uses = [use for shard in self.shards.values() for use in shard.uses]
            if sum(use == place and begin < time for use, time in uses) > slot.limit:
                return slot.name
        return ""

    def request(self, tag: str, costs: Sequence[int], now: int) -> Request:
        """Return the request with which a shard answers a call that lacks something."""
        shard = self.shards[tag]
        state, lease = shard.state, shard.lease
        assert state is not None
        if lease is None or not lease.is_valid(state, now):
            costs = [0] * len(costs)
        limits = [
            LimitRequest(
                max(0, cost - (item.credit if now < item.until else 0)), item.window, item.have
            )
            for item, cost in zip(state.limits, costs, strict=True)
        ]
        return Request(tag, state.seq, state.asked, limits=tuple(limits))

    def _ask(self, state: State, now: int) -> None:
        if not state.asked or now - state.asked >= REFRESH_US:
            state.asked = now

    def _take(self, shard: Shard, state: State, voucher: Voucher, now: int) -> list[bool]:
        answered = [False] * len(state.limits)
        if voucher.epoch < state.min_epoch or voucher.asked_us < state.born:
            return answered
        until = voucher.asked_us + voucher.token_life_us
        until -= until % 1000
        if until > now:
            shard.lease = Lease(until, voucher.epoch, voucher.asked_us)
        if (voucher.seq, voucher.asked_us) != (state.seq, state.asked):
            return answered
        for place, (slot, item, granted) in enumerate(
            zip(self.slots, state.limits, voucher.limits, strict=True)
        ):
            until = voucher.asked_us + granted.life_us
            answered[place] = granted.life_us > 0
            if not granted.life_us:
                continue
            if slot.kind is SlotKind.BUDGET:
                if granted.window_us != item.window:
                    item.credit, item.have, item.window = 0, 0, granted.window_us
                item.have += granted.amount
                item.credit, item.until = item.credit + granted.amount, until
            elif not (item.credit > 0 and now < item.until):
                item.credit, item.until = granted.amount, until
            elif granted.amount:
                item.credit, item.until = item.credit + granted.amount, min(item.until, until)
        state.seq, state.asked, state.ends = state.seq + 1, 0, None
        return answered

    def grant(self, request: Request, now: int) -> tuple[str, tuple[LimitVoucher, ...], int]:
        """Ask the home; return the denial or an empty text, the units, and the token's life."""
        home = self.home
        if home.is_revoked:
            return "TOKEN_REVOKED", (), 0
        entry = home.entries.get(request.tag)
        known = len(home.entries) + (entry is None)
        is_same = entry is not None and entry.answers(request, home.epoch)
        if entry and request.seq < entry.seq and request.asked_us <= entry.asked:
            return "LEASE_REFUSED", (), 0
        nothing = [[0] * len(self.slots) for _ in range(4)]
        entry = deepcopy(entry) or Entry(0, -1, 0, 0, *nothing)
        counts, granted = deepcopy(home.counts), []
        for place, (slot, count) in enumerate(zip(self.slots, counts, strict=True)):
            budget = slot.kind is SlotKind.BUDGET
            step = self._grant_budget if budget else self._grant_ring
            denial, amount, life = step(place, slot, count, entry, request, known, now)
            if denial:
                return f"{denial} {slot.name}", (), 0
            entry.amounts[place] = amount
            entry.lasts[place] = amount or entry.lasts[place]
            granted.append(LimitVoucher(amount, life, entry.windows[place]))
        if is_same:
            entry.asked = max(entry.asked, request.asked_us)
        else:
            entry.epoch, entry.seq = home.epoch, request.seq
            entry.asked, entry.granted = request.asked_us, now
            home.counts = counts
        home.entries[request.tag] = entry
        return "", tuple(granted), DEFAULT_LEASE_US

    def _grant_budget(
        self,
        place: int,
        slot: Slot,
        count: Count,
        entry: Entry,
        request: Request,
        known: int,
        now: int,
    ) -> tuple[str, int, int]:
        if now >= count.ends:
            period = PERIOD_US[Period(slot.calendar.split()[0])]
            count.used, count.ends = 0, now - now % period + period
        if entry.windows[place] != count.ends:
            entry.amounts[place], entry.haves[place] = 0, 0
            entry.windows[place] = count.ends
        asked, amount = request.limits[place], entry.amounts[place]
        if entry.answers(request, self.home.epoch):
            return "", amount, count.ends - now if amount else 0
        is_ahead = request.seq > entry.seq and asked.window_us == count.ends
        if is_ahead and asked.have > entry.haves[place]:
            count.used = min(slot.limit, count.used + asked.have - entry.haves[place])
            entry.haves[place] = asked.have
        rest = slot.limit - count.used
        if asked.want > rest:
            return "BUDGET_EXHAUSTED", 0, 0
        if not asked.want:
            return "", 0, 0
        last = entry.lasts[place]
        amount = grant_amount(
            rest, asked.want, slot.limit, shares=BUDGET_SHARES, shards=known, last=last
        )
        count.used += amount
        entry.haves[place] += amount
        return "", amount, count.ends - now

    def _grant_ring(
        self,
        place: int,
        slot: Slot,
        count: Count,
        entry: Entry,
        request: Request,
        known: int,
        now: int,
    ) -> tuple[str, int, int]:
        life, want = rate_life_us(slot.period_us), request.limits[place].want
        if entry.answers(request, self.home.epoch):
            left = min(life, life - (now - entry.granted))
            return (
                ("", entry.amounts[place], left)
                if entry.amounts[place] and left > 0
                else ("", 0, 0)
            )
        if not want:
            return "", 0, 0
        share = max(1, slot.limit // (RATE_SHARES * known))
        most = min(slot.limit, max(want, min(share, GROWTH * entry.lasts[place] or FIRST_AMOUNT)))
        taken = sum(end + slot.period_us > now for end in count.places)
        amount = min(most, slot.limit - taken)
        if amount < want:
            return "RATE_LIMITED", 0, 0
        count.places = [*count.places, *[now + life] * amount][-slot.limit :]
        return "", amount, life
