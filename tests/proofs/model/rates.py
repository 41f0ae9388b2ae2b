"""A model of leased rates: units that live for a while, granted by an exact rate or one with burst.

The network is the adversary of `model.budgets`. Time matters more here, so there are fewer faults:
a shard may fall back to any earlier state, with what was used since.

The uses of the history that survives are within the limit: of an exact rate in every period, of a
rate with burst in every stretch of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import combinations_with_replacement, product
from typing import NamedTuple

from keyleash.store.leases import GROWTH
from proofs.model.explore import Step

ASKINGS_A_TICK = 100


class Broken(Enum):
    """A rule that is left out, to see that exploration finds it."""

    SEQ = auto()
    """Vouchers count at any seq."""
    LIFE = auto()
    """Life is counted from the arrival of a voucher."""
    REPEATED_LIFE = auto()
    """A repeated grant has its whole life again."""
    LATEST_LIFE = auto()
    """A repeated grant has the life that is asked for now, not that of its grant."""
    PLACES = auto()
    """Units fill their places from the grant on, not from the end of their life."""
    OLD_UNITS = auto()
    """Units whose life is over are added to those of a new voucher."""
    LATER_END = auto()
    """All units live as long as those of the newest voucher."""


class Shard(NamedTuple):
    """The state of a shard; `uses` are the times of the units used."""

    seq: int = 0
    asked: int = 0
    credit: int = 0
    until: int = 0
    uses: tuple[int, ...] = ()


class Entry(NamedTuple):
    """The newest grant to a shard, at the home."""

    seq: int = -1
    asked: int = 0
    granted: int = 0
    amount: int = 0
    life: int = 0


class Asked(NamedTuple):
    """A request, `made` for an asking that may be older, and the life of units that it leads to."""

    shard: int
    seq: int
    asked: int
    made: int
    want: int
    life: int


class Granted(NamedTuple):
    """A voucher."""

    shard: int
    seq: int
    asked: int
    amount: int
    life: int
    age: int


class World(NamedTuple):
    """The state of everything; `places` are those of a ring, or a TAT alone."""

    now: int
    askings: int
    places: tuple[int, ...]
    entries: tuple[Entry, ...]
    shards: tuple[Shard, ...]
    requests: frozenset[Asked]
    vouchers: frozenset[Granted]
    pasts: tuple[frozenset[Shard], ...]
    falls: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """A small cluster with one rate.

    Attributes:
        limit: The units of each period of an exact rate; the burst of another.
        period: The ticks of a period; the emission interval of a rate with burst.
        lives: The ticks for which units may be used, one of which each request leads to.
        has_burst: Whether it is a rate with burst.
        repeats: Whether requests are made again for an asking.
    """

    limit: int = 2
    period: int = 2
    lives: tuple[int, ...] = (1,)
    has_burst: bool = False
    repeats: bool = False
    wants: tuple[int, ...] = (1,)
    shards: int = 2
    ticks: int = 4
    askings: int = 3
    falls: int = 0
    broken: Broken | None = None

    def start(self) -> World:
        none: frozenset[Shard] = frozenset()
        # A place holds the end of the life of its unit.
        places = (0,) if self.has_burst else (-self.period,) * self.limit
        entries, shards = (Entry(),) * self.shards, (Shard(),) * self.shards
        pasts = (none,) * self.shards
        return World(0, 0, places, entries, shards, frozenset(), frozenset(), pasts)

    def violation(self, world: World) -> str:
        uses = sorted(time for shard in world.shards for time in shard.uses)
        for first, last in combinations_with_replacement(range(len(uses)), 2):
            length = uses[last] - uses[first]
            if self.has_burst:
                most = self.limit + length // self.period
            else:
                most = self.limit * (length // self.period + 1)
            if last - first + 1 > most:
                return f"{last - first + 1} units are used within {length} ticks, of {most}"
        return ""

    def steps(self, world: World) -> Iterator[tuple[Step, World]]:
        for place in range(self.shards):
            yield from self._shard_steps(world, place)
        for request in world.requests:
            following, voucher = self._grant(world, request)
            if voucher and (following != world or voucher not in world.vouchers):
                yield (
                    Step("grant", voucher),
                    following._replace(vouchers=world.vouchers | {voucher}),
                )
        for voucher in world.vouchers:
            after = self._take(world.shards[voucher.shard], voucher, world.now)
            if after:
                yield Step("take", voucher), self._put(world, voucher.shard, after)
        if world.now + 1 < self.ticks:
            yield Step("tick"), self._tick(world)

    def _shard_steps(self, world: World, place: int) -> Iterator[tuple[Step, World]]:
        shard = world.shards[place]
        if shard.credit > 0 and world.now < shard.until:
            after = shard._replace(credit=shard.credit - 1, uses=(*shard.uses, world.now))
            yield Step("use", place), self._put(world, place, after)
        if world.askings < self.askings:
            number = world.now * ASKINGS_A_TICK + world.askings + 1
            after = shard._replace(asked=number)
            following = world._replace(askings=world.askings + 1)
            yield from self._requests(self._put(following, place, after), place)
            if self.repeats and shard.asked and shard.asked // ASKINGS_A_TICK < world.now:
                yield from self._requests(following, place)
        if world.falls < self.falls:
            for past in world.pasts[place]:
                following = self._put(world, place, past)
                yield Step("fall back", past), following._replace(falls=world.falls + 1)

    def _requests(self, world: World, place: int) -> Iterator[tuple[Step, World]]:
        shard = world.shards[place]
        for want, life in product(self.wants, self.lives):
            request = Asked(place, shard.seq, shard.asked, world.now, want, life)
            if request not in world.requests:
                yield Step("ask", request), world._replace(requests=world.requests | {request})

    def _put(self, world: World, place: int, shard: Shard) -> World:
        shards, pasts = list(world.shards), list(world.pasts)
        if world.falls < self.falls:
            pasts[place] |= {shards[place]}
        shards[place] = shard
        return world._replace(shards=tuple(shards), pasts=tuple(pasts))

    def _tick(self, world: World) -> World:
        now = world.now + 1
        if self.has_burst:
            return world._replace(now=now)
        # No period of those to come has earlier uses.
        oldest = now - self.period + 1
        shards = tuple(_since(oldest, shard) for shard in world.shards)
        pasts = tuple(frozenset(_since(oldest, shard) for shard in past) for past in world.pasts)
        return world._replace(now=now, shards=shards, pasts=pasts)

    def _grant(self, world: World, request: Asked) -> tuple[World, Granted | None]:
        entry, now, places = world.entries[request.shard], world.now, world.places
        if request.seq == entry.seq:
            age = 0 if self.broken is Broken.REPEATED_LIFE else now - entry.granted
            life = (request.life if self.broken is Broken.LATEST_LIFE else entry.life) - age
            after = entry._replace(asked=max(entry.asked, request.asked))
        elif request.seq < entry.seq and request.asked <= entry.asked:
            return world, None
        else:
            life = request.life
            amount = min(self._free(places, now), max(request.want, GROWTH * entry.amount))
            if amount < 1:
                return world, None
            places = self._fill(places, now, amount, life)
            after = Entry(request.seq, request.asked, now, amount, life)
        amount = after.amount if life > 0 else 0
        entries = list(world.entries)
        entries[request.shard] = after
        age = request.made - request.asked // ASKINGS_A_TICK
        voucher = Granted(request.shard, request.seq, request.asked, amount, max(0, life), age)
        return world._replace(entries=tuple(entries), places=places), voucher

    def _free(self, places: tuple[int, ...], now: int) -> int:
        """Return the units that can be granted."""
        if not self.has_burst:
            return sum(place + self.period <= now for place in places)
        tolerance = (self.limit - 1) * self.period
        return min(tolerance, now + tolerance - places[0]) // self.period + 1

    def _fill(self, places: tuple[int, ...], now: int, amount: int, life: int) -> tuple[int, ...]:
        end = now if self.broken is Broken.PLACES else now + life
        if self.has_burst:
            return (max(places[0], end) + amount * self.period,)
        return (*places[amount:], *[end] * amount)

    def _take(self, shard: Shard, voucher: Granted, now: int) -> Shard | None:
        if self.broken is not Broken.SEQ and (voucher.seq, voucher.asked) != shard[:2]:
            return None
        made = voucher.asked // ASKINGS_A_TICK + voucher.age
        start = now if self.broken is Broken.LIFE else made
        credit, until = voucher.amount, start + voucher.life
        is_usable = now < shard.until or self.broken is Broken.OLD_UNITS
        if shard.credit > 0 and is_usable:
            credit += shard.credit
            if self.broken not in {Broken.OLD_UNITS, Broken.LATER_END}:
                until = min(until, shard.until) if voucher.amount else shard.until
        return shard._replace(seq=shard.seq + 1, asked=0, credit=credit, until=until)


def _since(oldest: int, shard: Shard) -> Shard:
    return shard._replace(uses=tuple(time for time in shard.uses if time >= oldest))
