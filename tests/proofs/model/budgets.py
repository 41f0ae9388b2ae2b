"""A model of leased budgets: the rules of shards and home, with the network as adversary.

All texts ever signed may arrive at any time, any number of times, or never; so the crashes,
retries and malice of clients are in it. A shard may fall back to any earlier state, with what was
used since (a failover), or lose its state alone. The home may fall back too. Time passes in ticks.
Operators may collect units, and reset the limit, which begins a new epoch.

With limits per token, there is a state for each token at each shard, and a count for each token.

In every window, the units used of the history that survives, and since the limit was reset, are
within the limit, plus what the home forgot when it fell back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from keyleash.store.leases import BUDGET_SHARES
from proofs.model.explore import Step
from support.vouchers import grant_amount

ASKINGS_A_TICK = 100
"""An asking is numbered by its tick times this, and by its place among all askings."""
NEW_LIFE = 1000
"""The distance of the first `seq` of a state from those of the life before."""


class Broken(Enum):
    """A rule that is left out, to see that exploration finds it."""

    SEQ = auto()
    """Vouchers count at any seq."""
    ASKED = auto()
    """Vouchers count for any asking: safe, since each has a life of its own."""
    NEW_SEQ = auto()
    """A state begins with seq 0, so numbers of an earlier life come again."""
    WINDOW = auto()
    """Units of an earlier window stay when those of a new one come."""
    LIFE = auto()
    """Life is counted from the arrival of a voucher."""
    SAME_WINDOW = auto()
    """The home repeats a grant of an earlier window."""
    REPEAT = auto()
    """The home charges again for a seq that it granted: safe, but units are lost."""
    REFUND = auto()
    """Requests give back the units that are left, and vouchers confirm it."""
    RETURN_SEQ = auto()
    """Units return also if the shard was granted others since they were collected."""
    RETURN_EPOCH = auto()
    """Units return that were collected before a reset."""
    BEHIND = auto()
    """Units return before the replicas of the shard know that they were collected."""
    TOKEN = auto()
    """A voucher counts for every token."""
    BIRTH = auto()
    """A reset leaves the units of shards."""
    EPOCH = auto()
    """The home repeats a grant from before a reset."""


class Shard(NamedTuple):
    """The state of a shard, or of a token there; `used` is beside it: units used in the window."""

    seq: int = 0
    asked: int = 0
    credit: int = 0
    until: int = 0
    window: int = 0
    have: int = 0
    used: int = 0


class Entry(NamedTuple):
    """The newest grant to a shard, at the home."""

    seq: int = -1
    asked: int = 0
    amount: int = 0
    window: int = 0
    have: int = 0
    returned: int = 0
    epoch: int = 0


class Home(NamedTuple):
    """The state of the home; `charged` is by token."""

    window: int
    charged: tuple[int, ...]
    entries: tuple[Entry, ...]
    epoch: int = 0


class Asked(NamedTuple):
    """A request; `returned` is part of a broken rule."""

    shard: int
    seq: int
    asked: int
    want: int
    window: int
    have: int
    returned: int = 0


class Granted(NamedTuple):
    """A voucher."""

    shard: int
    seq: int
    asked: int
    amount: int
    life: int
    window: int
    returned: int = 0


class Collected(NamedTuple):
    """The reply of a shard to an operator who collects its units."""

    shard: int
    seq: int
    window: int
    credit: int
    epoch: int


class World(NamedTuple):
    """The state of everything.

    Attributes:
        askings: The number of askings so far.
        collected: The collections so far, each of which may reach the home at any time.
        pasts: For each shard, the states that it may fall back to.
        falls: The number of falls of shards and losses so far.
        forgotten: The units that the home granted in this window and forgot.
    """

    now: int
    askings: int
    home: Home
    shards: tuple[Shard, ...]
    requests: frozenset[Asked]
    vouchers: frozenset[Granted]
    pasts: tuple[frozenset[Shard], ...]
    home_pasts: frozenset[Home]
    falls: int = 0
    home_falls: int = 0
    forgotten: int = 0
    collected: frozenset[Collected] = frozenset()


@dataclass(frozen=True, slots=True)
class Budgets:
    """A small cluster with one budget, or one for each token.

    Attributes:
        limit: The units of each window.
        wants: The numbers of units for which a shard may ask; it takes less.
        window: The ticks of a window.
        falls: The most falls of shards back to earlier states, and losses of states.
        losses: Whether a shard may lose its state.
        collects: The most collections of units.
        resets: The most resets of the limit.
        tokens: The tokens, for a budget per token; `shards` are then the states of tokens.
        lossless: Whether it is checked that no unit is lost: without falls and within a window.
    """

    limit: int = 2
    wants: tuple[int, ...] = (1,)
    shards: int = 2
    ticks: int = 1
    window: int = 100
    askings: int = 4
    falls: int = 0
    home_falls: int = 0
    losses: bool = False
    collects: int = 0
    resets: int = 0
    tokens: int = 1
    lossless: bool = False
    broken: Broken | None = None

    def start(self) -> World:
        none: frozenset[Shard] = frozenset()
        home = Home(self.window, (0,) * self.tokens, (Entry(),) * self.shards)
        shards = (Shard(),) * self.shards
        pasts = (none,) * self.shards
        return World(0, 0, home, shards, frozenset(), frozenset(), pasts, frozenset())

    def violation(self, world: World) -> str:
        for token, charged in enumerate(world.home.charged):
            shards = world.shards[token :: self.tokens]
            used = sum(shard.used for shard in shards)
            if used > self.limit + world.forgotten:
                return f"{used} units of {self.limit} are used"
            entries = world.home.entries[token :: self.tokens]
            if self.lossless and charged != used + sum(map(_granted, shards, entries)):
                return "units are lost"
        return ""

    def steps(self, world: World) -> Iterator[tuple[Step, World]]:
        for place in range(self.shards):
            yield from self._shard_steps(world, place)
        for request in world.requests:
            home, voucher = self._grant(world.home, request, world.now)
            if voucher and (home != world.home or voucher not in world.vouchers):
                pasts = world.home_pasts
                if world.home_falls < self.home_falls:
                    pasts |= {world.home}
                vouchers = world.vouchers | {voucher}
                following = world._replace(home=home, vouchers=vouchers, home_pasts=pasts)
                yield Step("grant", voucher), following
        for voucher in world.vouchers:
            for place in self._places(voucher):
                after = self._take(world.shards[place], voucher, world.now)
                if after:
                    yield Step("take", voucher), self._put(world, place, after)
        for reply in world.collected:
            home = self._return(world.home, reply)
            if home != world.home:
                yield Step("return", reply), world._replace(home=home)
        yield from self._common_steps(world)

    def _common_steps(self, world: World) -> Iterator[tuple[Step, World]]:
        if world.home.epoch < self.resets:
            yield Step("reset"), self._reset(world)
        if world.now + 1 < self.ticks:
            yield Step("tick"), self._tick(world)
        if world.home_falls < self.home_falls:
            for past in world.home_pasts:
                yield Step("home falls back", past), self._home_falls(world, past)

    def _shard_steps(self, world: World, place: int) -> Iterator[tuple[Step, World]]:
        shard = world.shards[place]
        is_usable = shard.credit > 0 and world.now < shard.until
        if is_usable:
            after = shard._replace(credit=shard.credit - 1, used=shard.used + 1)
            yield Step("use", place), self._put(world, place, after)
        is_refund = self.broken is Broken.REFUND
        if (not is_usable or is_refund) and world.askings < self.askings:
            number = world.now * ASKINGS_A_TICK + self._askings(world, place) + 1
            after = shard._replace(asked=number)
            following = self._put(world, place, after)._replace(askings=world.askings + 1)
            returned = shard.credit if is_refund else 0
            for want in self.wants:
                request = Asked(place, shard.seq, number, want, shard.window, shard.have, returned)
                requests = world.requests | {request}
                yield Step("ask", request), following._replace(requests=requests)
        if len(world.collected) < self.collects:
            yield self._collect(world, place)
        if world.falls < self.falls:
            falls = world.falls + 1
            for past in world.pasts[place]:
                following = self._put(world, place, past)
                yield Step("fall back", (place, past)), following._replace(falls=falls)
            if self.losses and shard.seq + shard.asked:
                seq = 0 if self.broken is Broken.NEW_SEQ else falls * NEW_LIFE
                following = self._put(world, place, Shard(seq, used=shard.used))
                yield Step("lose", place), following._replace(falls=falls)

    def _askings(self, world: World, place: int) -> int:
        """Return the number of askings of a token: two tokens may ask at the same time."""
        if self.tokens == 1:
            return world.askings
        token = place % self.tokens
        return len({item.asked for item in world.requests if item.shard % self.tokens == token})

    def _places(self, voucher: Granted) -> Iterable[int]:
        """Return the states that may take a voucher: its own, or all at that shard."""
        if self.broken is not Broken.TOKEN:
            return (voucher.shard,)
        first = voucher.shard - voucher.shard % self.tokens
        return range(first, first + self.tokens)

    def _reset(self, world: World) -> World:
        """Clear all counts, and drop the units of shards; each of them is reached."""
        home = world.home._replace(charged=(0,) * self.tokens, epoch=world.home.epoch + 1)
        none: frozenset[Shard] = frozenset()
        shards = tuple(
            shard._replace(
                asked=0, credit=shard.credit if self.broken is Broken.BIRTH else 0, used=0
            )
            for shard in world.shards
        )
        pasts = (none,) * self.shards
        return world._replace(home=home, shards=shards, pasts=pasts, home_pasts=frozenset())

    def _collect(self, world: World, place: int) -> tuple[Step, World]:
        shard = world.shards[place]
        reply = Collected(place, shard.seq, shard.window, shard.credit, world.home.epoch)
        after = shard._replace(seq=shard.seq + 1, asked=0, credit=0, have=shard.have - shard.credit)
        following = self._put(world, place, after)
        if self.broken is not Broken.BEHIND:
            # All replicas have the change: whichever becomes primary has no units.
            none: frozenset[Shard] = frozenset()
            pasts = (*world.pasts[:place], none, *world.pasts[place + 1 :])
            following = following._replace(pasts=pasts)
        collected = world.collected | {reply}
        return Step("collect", reply), following._replace(collected=collected)

    def _return(self, home: Home, reply: Collected) -> Home:
        entry = home.entries[reply.shard]
        if home.epoch != reply.epoch and self.broken is not Broken.RETURN_EPOCH:
            return home
        if entry.seq >= reply.seq and self.broken is not Broken.RETURN_SEQ:
            return home
        returned, token = 0, reply.shard % self.tokens
        if reply.window == home.window == entry.window:
            returned = min(reply.credit, entry.have, home.charged[token])
        entries = list(home.entries)
        entries[reply.shard] = entry._replace(
            seq=max(entry.seq, reply.seq), amount=0, have=entry.have - returned
        )
        charged = _with(home.charged, token, home.charged[token] - returned)
        return home._replace(charged=charged, entries=tuple(entries))

    def _put(self, world: World, place: int, shard: Shard) -> World:
        shards, pasts = list(world.shards), list(world.pasts)
        if world.falls < self.falls:
            pasts[place] |= {shards[place]}
        shards[place] = shard
        return world._replace(shards=tuple(shards), pasts=tuple(pasts))

    def _grant(self, home: Home, request: Asked, now: int) -> tuple[Home, Granted | None]:
        entry = home.entries[request.shard]
        window, token = self._window(now), request.shard % self.tokens
        counts = home.charged if home.window == window else (0,) * self.tokens
        charged = counts[token]
        amount, have, returned = entry.amount, entry.have, entry.returned
        if entry.window != window and self.broken is not Broken.SAME_WINDOW:
            amount, have = 0, 0
        is_same = request.seq == entry.seq
        if self.broken is not Broken.EPOCH:
            is_same = is_same and entry.epoch == home.epoch
        if is_same and self.broken is not Broken.REPEAT:
            asked = max(entry.asked, request.asked)
        elif request.seq <= entry.seq and request.asked <= entry.asked:
            return home, None
        else:
            asked, returned = request.asked, 0
            if request.seq > entry.seq:
                if request.window == window and request.have > have:
                    # This home forgot grants when it fell back.
                    charged = min(self.limit, charged + request.have - have)
                    have = request.have
                returned = request.returned
                charged, have = charged - returned, have - returned
            others = home.entries[token :: self.tokens]
            known = sum(item.seq >= 0 for item in others) + (entry.seq < 0)
            amount = grant_amount(
                self.limit - charged,
                request.want,
                self.limit,
                shares=BUDGET_SHARES,
                shards=known,
                last=entry.amount,
            )
            if amount < 1:
                return home, None
            charged, have = charged + amount, have + amount
        entries = list(home.entries)
        entries[request.shard] = Entry(
            request.seq, asked, amount, window, have, returned, home.epoch
        )
        voucher = Granted(
            request.shard, request.seq, request.asked, amount, window - now, window, returned
        )
        after = Home(window, _with(counts, token, charged), tuple(entries), home.epoch)
        return after, voucher

    def _take(self, shard: Shard, voucher: Granted, now: int) -> Shard | None:
        if self.broken is not Broken.SEQ and voucher.seq != shard.seq:
            return None
        if self.broken not in {Broken.SEQ, Broken.ASKED} and voucher.asked != shard.asked:
            return None
        credit, have = shard.credit - voucher.returned, shard.have - voucher.returned
        if voucher.window != shard.window and self.broken is not Broken.WINDOW:
            credit, have = 0, 0
        start = now if self.broken is Broken.LIFE else voucher.asked // ASKINGS_A_TICK
        return Shard(
            seq=shard.seq + 1,
            asked=0,
            credit=credit + voucher.amount,
            until=start + voucher.life,
            window=voucher.window,
            have=have + voucher.amount,
            used=shard.used,
        )

    def _window(self, now: int) -> int:
        return now - now % self.window + self.window

    def _tick(self, world: World) -> World:
        now = world.now + 1
        if now % self.window:
            return world._replace(now=now)
        pasts = tuple(frozenset(map(_in_new_window, past)) for past in world.pasts)
        shards = tuple(map(_in_new_window, world.shards))
        return world._replace(now=now, shards=shards, pasts=pasts, forgotten=0)

    def _home_falls(self, world: World, past: Home) -> World:
        window = self._window(world.now)
        forgotten = sum(
            max(0, _have(now, window) - _have(before, window))
            for now, before in zip(world.home.entries, past.entries, strict=True)
        )
        # Units whose return it forgot may return again, and be granted again.
        forgotten += sum(
            reply.credit
            for reply in world.collected
            if reply.window == window
            and past.entries[reply.shard].seq < reply.seq <= world.home.entries[reply.shard].seq
        )
        return world._replace(
            home=past, home_falls=world.home_falls + 1, forgotten=world.forgotten + forgotten
        )


def _with(numbers: tuple[int, ...], place: int, number: int) -> tuple[int, ...]:
    return (*numbers[:place], number, *numbers[place + 1 :])


def _granted(shard: Shard, entry: Entry) -> int:
    """Return the units that a shard has or that wait for it."""
    return shard.credit + (entry.amount if entry.seq == shard.seq else 0)


def _in_new_window(shard: Shard) -> Shard:
    return shard._replace(used=0)


def _have(entry: Entry, window: int) -> int:
    return entry.have if entry.window == window else 0
