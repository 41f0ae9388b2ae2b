"""The rules of shards and home in Python, with the numbers and times that the scripts store."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from keyleash.compiler.ir import LimitPlan
from keyleash.limits import SlotKind
from keyleash.limits.rate import RATE_SHARES
from keyleash.store.leases import (
    BUDGET_SHARES,
    CLOCK_BACK_US,
    DEFAULT_LEASE_US,
    FIRST_AMOUNT,
    GROWTH,
    REFRESH_US,
    rate_life_us,
)
from support.vouchers import LimitRequest, LimitVoucher, Request, TokenAsking, Voucher, grant_amount

NEW_STATE_US = 60_000_000
"""The life of a shard's state before its first grant."""
RAN = "ran"
NEEDED = "LEASE_NEEDED"
STALE = "POLICY_STALE"
REFUSED = {
    SlotKind.BUDGET: "BUDGET_EXHAUSTED",
    SlotKind.RING: "RATE_LIMITED",
    SlotKind.GCRA: "RATE_LIMITED",
}


@dataclass(frozen=True)
class Policy:
    """The leased limits of a policy, and the stamp of its guards.

    Attributes:
        limits: Those of the identity, then those per token, then caps of all tokens; a cap that no
            token has is 0.
    """

    stamp: int
    limits: Sequence[LimitPlan]

    @property
    def order(self) -> list[int]:
        """The places of the limits in the order in which guards check them."""
        return sorted(range(len(self.limits)), key=lambda place: self.limits[place].number)


@dataclass(frozen=True)
class Call:
    """A call of a guard.

    Attributes:
        policy: The place of the policy of the guard.
        costs: The units of each limit that one command costs.
        count: The number of commands, all the same.
        is_each: Whether a denied command of the batch leaves the others.
        is_run: Whether the commands are checked as a whole, as long as none is denied.
    """

    policy: int
    costs: Sequence[int]
    count: int = 1
    is_each: bool = False
    is_run: bool = False


@dataclass
class Credit:
    """The units of one limit at a shard."""

    credit: int = 0
    until: int = 0
    window: int = 0
    have: int = 0


@dataclass
class Account:
    """The units of the identity, or of one token, at a shard; they end at `ends`.

    Attributes:
        layout: The place of the policy that the units are of; None if there were none.
    """

    born: int
    seq: int
    limits: list[Credit]
    asked: int = 0
    ends: int | None = None
    layout: int | None = None

    def is_over(self, now: int) -> bool:
        return self.ends is not None and now >= self.ends

    def ask(self, now: int) -> None:
        if not (0 < self.asked <= now and now - self.asked < REFRESH_US):
            self.asked = now

    def known(self, policy: int) -> list[Credit]:
        """Return the units as the guards of a policy see them."""
        return self.limits if self.layout == policy else _none(self.limits)


@dataclass
class State(Account):
    """The state of a shard; it does not end once units were granted.

    Attributes:
        last: The time of the newest call that was charged.
    """

    min_epoch: int = 0
    last: int = 0


@dataclass
class Lease:
    """The lease of a token at a shard."""

    until: int
    epoch: int
    asked: int
    stamp: int

    def is_valid(self, state: State, stamp: int, now: int) -> bool:
        """Return whether a shard in that state accepts it."""
        return (
            now < self.until
            and self.epoch >= state.min_epoch
            and self.stamp == stamp
            and state.born <= self.asked <= now + CLOCK_BACK_US
        )


@dataclass
class Shard:
    """A node's records of the identity.

    Attributes:
        leases, tokens: The leases and the units of tokens.
        uses: The limits, tokens and times of the units used there.
        wants: The units of each limit that the newest call lacked.
        is_leased: Whether it had a lease of its token.
        is_partial: Whether that call can use less.
    """

    state: State | None = None
    leases: dict[str, Lease] = field(default_factory=dict)
    tokens: dict[str, Account] = field(default_factory=dict)
    uses: list[tuple[int, str, int]] = field(default_factory=list)
    wants: list[int] = field(default_factory=list)
    is_leased: bool = False
    is_partial: bool = False


@dataclass
class Entry:
    """The newest grant to a shard, at the home; `stamp` and `epoch` are those of the grant."""

    stamp: int
    epoch: int
    seq: int
    asked: int
    granted: int
    amounts: list[int]
    windows: list[int]
    haves: list[int]
    lasts: list[int]

    def answers(self, seq: int, stamp: int, epoch: int) -> bool:
        """Return whether it is the grant that the shard asks for."""
        return (self.seq, self.stamp, self.epoch) == (seq, stamp, epoch)


@dataclass
class Count:
    """The count of a limit at the home.

    Attributes:
        ends, used: Of a budget, the end of the window and its units.
        places: Of a rate, the times until which its places are used, the first to be free first.
        tat: Of a rate with a burst, the time when all of it is free.
    """

    ends: int = 0
    used: int = 0
    places: list[int] = field(default_factory=list)
    tat: int = 0


@dataclass
class Book:
    """The counts and grants of the home, for the identity or for one token."""

    counts: list[Count]
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass
class Home:
    """The state of the home."""

    own: Book
    tokens: dict[str, Book]
    epoch: int = 1
    is_revoked: bool = False


@dataclass
class Twin:
    """An identity with leased limits; callers copy what they want to keep.

    Attributes:
        policies: All policies that may become active; their limits differ only in numbers.
        active: The place of the active one.
    """

    policies: Sequence[Policy]
    home: Home
    shards: dict[str, Shard]
    active: int = 0

    @property
    def own(self) -> int:
        """The number of limits of the identity; those per token follow."""
        return len(self.home.own.counts)

    def call(
        self, tag: str, token: str, call: Call, voucher: Voucher | None, now: int
    ) -> list[str]:
        """Make a call; return its outcome, or one for each command of a batch that ran."""
        shard, policy = self.shards[tag], self.policies[call.policy]
        state = shard.state
        if state is None or state.is_over(now):
            none = _none(self.home.own.counts)
            state = shard.state = State(now, now, none, ends=now + NEW_STATE_US)
        answered, is_of_token = [False] * len(call.costs), False
        if voucher is not None and self._is_current(state, call.policy, voucher, now):
            is_of_token = self._lease(shard, token, voucher, now)
            asking = (voucher.seq, voucher.asked_us)
            answered[: self.own] = self._take(state, call.policy, 0, asking, voucher, now)
        lease = shard.leases.get(token)
        is_leased = lease is not None and lease.is_valid(state, policy.stamp, now)
        time = now
        if state.last - CLOCK_BACK_US <= now < state.last:
            now = state.last
        elif now < state.last:
            state.layout, state.asked, state.born, state.last = None, 0, now, now
            is_leased = False
        shard.wants, shard.is_partial = [0] * len(call.costs), call.is_each
        shard.is_leased = is_leased
        if not is_leased:
            state.ask(time)
            return [NEEDED]
        account = self._account(shard, state, token, time)
        if is_of_token and voucher is not None and voucher.token is not None:
            asking = (voucher.token.seq, voucher.token.asked_us)
            answered[self.own :] = self._take(account, call.policy, self.own, asking, voucher, now)
        limits = [*state.known(call.policy), *account.known(call.policy)]
        usable = [item.credit if now < item.until else 0 for item in limits]
        outcomes, lacks = self._check(call, usable, answered)
        if lacks and outcomes[-1] in (RAN, ""):
            shard.wants = [max(0, -units) for units in usable]
            state.ask(time)
            account.ask(time)
            return [NEEDED]
        passed = outcomes.count(RAN)
        if not call.is_each:
            outcomes = outcomes[-1:]
            passed *= outcomes[0] == RAN
        for place, cost in enumerate(call.costs):
            if passed and cost:
                # Units whose life is over are not used, but may still be stored.
                limits[place].credit -= cost * passed
                shard.uses += [(place, token, now)] * (cost * passed)
                state.last = now
        return outcomes

    def _check(
        self, call: Call, usable: list[int], answered: Sequence[bool]
    ) -> tuple[list[str], bool]:
        """Take the units of each command; return the outcomes, and whether units are missing.

        The outcomes end with the first denial if it denies all.
        """
        outcomes: list[str] = []
        lacks = False
        sizes = [call.count] if call.is_run else [1] * call.count
        while sizes:
            size, denial = sizes.pop(), ""
            policy = self.policies[call.policy]
            for place in policy.order:
                limit = policy.limits[place]
                if usable[place] >= call.costs[place] * size or not call.costs[place]:
                    continue
                if answered[place]:
                    denial = f"{REFUSED[limit.slot.kind]} {limit.slot.name}"
                    break
                lacks = True
            if denial and size > 1:
                sizes = [1] * size
            elif denial and not call.is_each:
                return [*outcomes, denial], lacks
            elif denial:
                outcomes.append(denial)
            else:
                outcomes += [RAN] * size
                for place, cost in enumerate(call.costs):
                    usable[place] -= cost * size
        return outcomes, lacks

    def overused(self) -> str:
        """Return the name of a limit of which too many units are used; empty if there is none."""
        limits = self.policies[0].limits
        of_all = [
            (limit, "", count) for limit, count in zip(limits, self.home.own.counts, strict=False)
        ]
        for token, book in self.home.tokens.items():
            of_all += [
                (limit, token, count)
                for limit, count in zip(limits[self.own :], book.counts, strict=True)
            ]
        uses = [use for shard in self.shards.values() for use in shard.uses]
        for limit, token, count in of_all:
            slot, place = limit.slot, limits.index(limit)
            most = max(policy.limits[place].slot.limit for policy in self.policies)
            times = sorted(time for of, user, time in uses if of == place and token in ("", user))
            if slot.kind is SlotKind.BUDGET:
                began = count.ends - slot.period_us if slot.period_us else 0
                is_over = sum(began < time for time in times) > most
            elif slot.kind is SlotKind.RING:
                is_over = any(
                    later - time < slot.period_us
                    for time, later in zip(times, times[most:], strict=False)
                )
            else:
                burst = limit.full_us // slot.interval_us
                is_over = any(
                    len(times) - number > burst + (times[-1] - time) // slot.interval_us
                    for number, time in enumerate(times)
                )
            if is_over:
                return slot.name
        return ""

    def request(self, tag: str, token: str, policy: int, now: int) -> Request:
        """Return the request with which a shard answers a call that lacks something."""
        shard = self.shards[tag]
        state = shard.state
        assert state is not None
        known, account = state.known(policy), shard.tokens.get(token)
        if account is None or not shard.is_leased:
            known, asking = [*known, *_none(self.home.tokens[token].counts)], TokenAsking(0, 0)
        else:
            known = [*known, *account.known(policy)]
            asking = TokenAsking(account.seq, account.asked)
        ages = [now - state.asked] * self.own
        ages += [now - asking.asked_us] * (len(known) - self.own)
        limits = tuple(
            LimitRequest(want, item.window if of.slot.kind is SlotKind.BUDGET else age, item.have)
            for of, item, want, age in zip(
                self.policies[policy].limits, known, shard.wants, ages, strict=True
            )
        )
        return Request(tag, state.seq, state.asked, shard.is_partial, limits, asking)

    def _account(self, shard: Shard, state: State, token: str, now: int) -> Account:
        """Return what a token has; nothing if the state has begun again since."""
        account = shard.tokens.get(token)
        is_there = account is not None and not account.is_over(now)
        if account is None or not is_there or account.born != state.born:
            seq = account.seq if account and is_there else now
            none = _none(self.home.tokens[token].counts)
            account = Account(state.born, seq, none, ends=now + NEW_STATE_US)
            shard.tokens[token] = account
        return account

    def _is_current(self, state: State, policy: int, voucher: Voucher, now: int) -> bool:
        return (
            voucher.stamp == self.policies[policy].stamp
            and voucher.epoch >= state.min_epoch
            and state.born <= voucher.asked_us <= now + CLOCK_BACK_US
        )

    def _lease(self, shard: Shard, token: str, voucher: Voucher, now: int) -> bool:
        """Take the lease of a token; return whether the voucher is for it."""
        until = voucher.asked_us + voucher.token_life_us
        until -= until % 1000
        if voucher.token_digest != token or until <= now:
            return False
        shard.leases[token] = Lease(until, voucher.epoch, voucher.asked_us, voucher.stamp)
        return True

    def _take(
        self,
        account: Account,
        policy: int,
        first: int,
        asking: tuple[int, int],
        voucher: Voucher,
        now: int,
    ) -> list[bool]:
        """Take the units of a voucher for an account, whose limits begin at a place."""
        answered = [False] * len(account.limits)
        if asking != (account.seq, account.asked):
            return answered
        if account.layout != policy:
            account.layout, account.limits = policy, _none(account.limits)
        limits = self.policies[policy].limits[first : first + len(answered)]
        units = voucher.limits[first : first + len(answered)]
        for place, (limit, item, granted) in enumerate(
            zip(limits, account.limits, units, strict=True)
        ):
            until = asking[1] + granted.life_us
            answered[place] = not granted.amount and granted.life_us > 0 and now < until
            if not granted.life_us:
                continue
            if limit.slot.kind is not SlotKind.BUDGET:
                # The time that the voucher took.
                item.have = max(1, now - asking[1] - granted.window_us)
            if limit.slot.kind is SlotKind.BUDGET:
                if granted.window_us != item.window:
                    item.credit, item.have, item.window = 0, 0, granted.window_us
                item.have += granted.amount
                item.credit, item.until = item.credit + granted.amount, until
                continue
            if not (item.credit > 0 and now < item.until):
                item.credit, item.until = granted.amount, until
            elif granted.amount:
                item.credit, item.until = item.credit + granted.amount, min(item.until, until)
        account.seq, account.asked, account.ends = account.seq + 1, 0, None
        if not isinstance(account, State):
            account.ends = max(now + NEW_STATE_US, *(item.until for item in account.limits))
        return answered

    def grant(
        self, request: Request, token: str, policy: int, now: int
    ) -> tuple[str, tuple[LimitVoucher, ...], int]:
        """Ask the home; return the denial or an empty text, the units, and the token's life."""
        home, asking = self.home, request.token
        assert asking is not None
        if policy != self.active:
            return STALE, (), 0
        if home.is_revoked:
            return "TOKEN_REVOKED", (), 0
        parts = [
            Asked(home.own, 0, request.seq, request.asked_us),
            Asked(home.tokens[token], self.own, asking.seq, asking.asked_us),
        ]
        for part in parts:
            entry = part.book.entries.get(request.tag)
            if part.seq and entry and part.seq < entry.seq and part.asked <= entry.asked:
                return "LEASE_REFUSED", (), 0
        granted: list[LimitVoucher] = []
        changed = []
        for part in parts:
            denial, units, after = self._propose(part, request, policy, now)
            if denial:
                return denial, (), 0
            granted += units
            if part.seq:
                changed.append((part.book, after))
        for book, after in changed:
            book.entries = after.entries
            # The home stores no window of a token that nothing was charged to.
            limits = self.policies[policy].limits[self.own if book is not home.own else 0 :]
            book.counts = [
                old if limit.subject == "token" and count.ends and not count.used else count
                for limit, old, count in zip(limits, book.counts, after.counts, strict=False)
            ]
        return "", tuple(granted), DEFAULT_LEASE_US

    def _propose(
        self, part: Asked, request: Request, policy: int, now: int
    ) -> tuple[str, list[LimitVoucher], Book]:
        """Return the denial or an empty text, the units, and the book after the grant."""
        stamp, epoch = self.policies[policy].stamp, self.home.epoch
        entry = part.book.entries.get(request.tag) if part.seq else None
        known = len(part.book.entries) + (entry is None)
        is_same = entry is not None and entry.answers(part.seq, stamp, epoch)
        is_void = entry is not None and (entry.seq, entry.stamp) == (part.seq, stamp)
        counts, granted = deepcopy(part.book.counts), []
        nothing = [[0] * len(counts) for _ in range(4)]
        entry = deepcopy(entry) or Entry(0, 0, -1, 0, 0, *nothing)
        for place, count in enumerate(counts):
            limit = self.policies[policy].limits[part.first + place]
            asked = request.limits[part.first + place]
            of_request = (asked, part.seq, request.partial)
            grant = Grant(place, limit, count, entry, *of_request, known, now, is_same, is_void)
            denial, amount, life = GRANTS[limit.slot.kind](grant)
            if denial:
                return f"{denial} {limit.slot.name}", [], part.book
            entry.amounts[place] = amount
            entry.lasts[place] = amount or entry.lasts[place]
            window = entry.windows[place]
            if limit.slot.kind is not SlotKind.BUDGET:
                # The age of the asking; life is counted from its begin.
                window, life = asked.window_us, life and life + asked.window_us
            granted.append(LimitVoucher(amount, life, window))
        if is_same:
            entry.asked, counts = max(entry.asked, part.asked), part.book.counts
        else:
            entry.stamp, entry.epoch, entry.seq = stamp, epoch, part.seq
            entry.asked, entry.granted = part.asked, now
        return "", granted, Book(counts, {**part.book.entries, request.tag: entry})


def _none(limits: Sequence[object]) -> list[Credit]:
    return [Credit() for _ in limits]


@dataclass(frozen=True)
class Asked:
    """The asking of a request for one book, whose limits begin at the place `first`."""

    book: Book
    first: int
    seq: int
    asked: int


@dataclass(frozen=True)
class Grant:
    """A grant of one limit that is being found; count and entry are changed."""

    place: int
    limit: LimitPlan
    count: Count
    entry: Entry
    asked: LimitRequest
    seq: int
    partial: bool
    known: int
    now: int
    is_same: bool
    is_void: bool

    @property
    def want(self) -> int:
        return self.asked.want

    @property
    def is_denied(self) -> bool:
        """Return whether a call is denied that does not get all."""
        return not self.partial

    def budget(self) -> tuple[str, int, int]:
        """Return a denial, or the amount and its life."""
        count, entry, place, limit = self.count, self.entry, self.place, self.limit.slot.limit
        period = self.limit.slot.period_us
        if not limit:
            return "", 0, 0
        if self.now >= count.ends:
            count.used, count.ends = 0, self.now - self.now % period + period
        window = count.ends if period else 1
        if entry.windows[place] != window:
            entry.amounts[place], entry.haves[place] = 0, 0
            entry.windows[place] = window
        asked, amount = self.asked, entry.amounts[place]
        life = count.ends - self.now
        if self.is_same:
            return "", amount, life if amount else 0
        void = 0
        if self.limit.subject == "cap" and self.is_void and self.want and amount <= count.used:
            void = amount
            count.used, entry.haves[place] = count.used - void, entry.haves[place] - void
        is_ahead = self.seq > entry.seq and asked.window_us == window
        if is_ahead and asked.have > entry.haves[place]:
            count.used = min(limit, count.used + asked.have - entry.haves[place])
            entry.haves[place] = asked.have
        rest = limit - count.used
        if self.want > rest and self.is_denied:
            return "BUDGET_EXHAUSTED", 0, 0
        if not self.want:
            return "", 0, 0
        last = entry.lasts[place]
        amount = grant_amount(
            rest, self.want, limit, shares=BUDGET_SHARES, shards=self.known, last=last
        )
        amount = max(0, void, amount)
        count.used += amount
        entry.haves[place] += amount
        return "", amount, life

    def ring(self) -> tuple[str, int, int]:
        """Return a denial, or the amount and its life."""
        if self.is_same or not self.want:
            return self._again()
        slot, places = self.limit.slot, self.count.places
        free = slot.capacity - len(places)
        for end in places:
            if end + slot.period_us > self.now:
                break
            free += 1
        amount = min(free, slot.capacity, self._most)
        if amount < self.want and self.is_denied:
            return "RATE_LIMITED", 0, 0
        life = self.limit.life_us
        if not amount:
            return "", 0, places[0] + slot.period_us - self.now
        self.count.places = [*places, *[self.now + life] * amount][-slot.capacity :]
        return "", amount, life

    def gcra(self) -> tuple[str, int, int]:
        """Return a denial, or the amount and its life."""
        if self.is_same or not self.want:
            return self._again()
        limit, count, now = self.limit, self.count, self.now
        interval, tolerance = int(limit.slot.interval_us), limit.tolerance_us
        life = rate_life_us(limit.slot.period_us, tolerance, self.asked.have)
        self.entry.haves[self.place] = life
        early = count.tat - tolerance
        amount = 0
        if early <= now:
            amount = min(self._most, min(tolerance, now - early) // interval + 1)
        if amount < self.want and self.is_denied:
            return "RATE_LIMITED", 0, 0
        if not amount:
            return "", 0, max(1, early - now)
        count.tat = max(count.tat, now + life) + amount * interval
        return "", amount, life

    @property
    def _most(self) -> int:
        share = max(1, self.limit.slot.limit // (RATE_SHARES * self.known))
        last = self.entry.lasts[self.place]
        return max(self.want, min(share, GROWTH * last or FIRST_AMOUNT))

    def _again(self) -> tuple[str, int, int]:
        """Return the units that were granted, for what is left of their life."""
        amount, life = self.entry.amounts[self.place], self.limit.life_us
        if self.limit.slot.kind is SlotKind.GCRA:
            life = self.entry.haves[self.place]
        left = min(life, life - (self.now - self.entry.granted))
        return ("", amount, left) if self.is_same and amount and left > 0 else ("", 0, 0)


GRANTS = {SlotKind.BUDGET: Grant.budget, SlotKind.RING: Grant.ring, SlotKind.GCRA: Grant.gcra}
