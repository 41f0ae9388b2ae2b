"""A model of leased authority: a token that the home revokes, and shards that accept it a while.

The network is the adversary of `model.budgets`. A shard may lose its state, or the lease of the
token, or fall back to an earlier state of both.

Once a shard was reached after a revocation, it accepts the token no more, until it falls back; and
no shard accepts it once the life of a lease has passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from proofs.model.explore import Step

ASKINGS_A_TICK = 100


class Broken(Enum):
    """A rule that is left out, to see that exploration finds it."""

    LEASE_EPOCH = auto()
    """The epoch of a lease is not compared."""
    BIRTH = auto()
    """Vouchers for an asking before the state began are accepted."""
    LEASE_BIRTH = auto()
    """Leases for an asking before the state began are accepted."""
    LIFE = auto()
    """Life is counted from the arrival of a voucher."""


class Lease(NamedTuple):
    """The lease of the token, at a shard."""

    until: int
    epoch: int
    asked: int


class Shard(NamedTuple):
    """A shard; it has no state if `born` is 0."""

    born: int = 0
    min_epoch: int = 0
    asked: int = 0
    lease: Lease | None = None


class Granted(NamedTuple):
    """A voucher."""

    shard: int
    asked: int
    epoch: int
    life: int


class World(NamedTuple):
    """The state of everything.

    Attributes:
        events: The number of events that shards time, by which those of a tick are ordered.
        revoked: The tick in which the token was revoked; None if it was not.
        reached: The shards that were reached after that.
        accepted: The reason for which a call should have been denied; empty if there was none.
    """

    now: int
    events: int
    revoked: int | None
    shards: tuple[Shard, ...]
    requests: frozenset[tuple[int, int]]
    vouchers: frozenset[Granted]
    pasts: tuple[frozenset[Shard], ...]
    reached: frozenset[int] = frozenset()
    losses: int = 0
    falls: int = 0
    accepted: str = ""


@dataclass(frozen=True, slots=True)
class Authority:
    """A small cluster with one token.

    Attributes:
        life: The ticks of a lease.
        losses: The most losses of states and leases.
    """

    life: int = 2
    shards: int = 1
    ticks: int = 4
    events: int = 4
    losses: int = 0
    falls: int = 0
    broken: Broken | None = None

    def start(self) -> World:
        none: frozenset[Shard] = frozenset()
        shards, pasts = (Shard(),) * self.shards, (none,) * self.shards
        return World(0, 0, None, shards, frozenset(), frozenset(), pasts)

    def violation(self, world: World) -> str:
        return world.accepted

    def steps(self, world: World) -> Iterator[tuple[Step, World]]:
        for place in range(self.shards):
            yield from self._shard_steps(world, place)
            yield from self._faults(world, place)
        if world.revoked is None:
            yield Step("revoke"), world._replace(revoked=world.now)
            for place, asked in world.requests:
                voucher = Granted(place, asked, 0, self.life)
                if voucher not in world.vouchers:
                    vouchers = world.vouchers | {voucher}
                    yield Step("grant", voucher), world._replace(vouchers=vouchers)
        for voucher in world.vouchers:
            after = self._take(world.shards[voucher.shard], voucher, world.now)
            if after:
                yield Step("take", voucher), self._put(world, voucher.shard, after)
        if world.now + 1 < self.ticks:
            yield Step("tick"), world._replace(now=world.now + 1)

    def _shard_steps(self, world: World, place: int) -> Iterator[tuple[Step, World]]:
        shard = world.shards[place]
        number = world.now * ASKINGS_A_TICK + world.events + 1
        born = shard.born or number
        if world.events < self.events:
            after = shard._replace(born=born, asked=number)
            requests = world.requests | {(place, number)}
            following = self._put(world, place, after)._replace(events=world.events + 1)
            yield Step("ask", place), following._replace(requests=requests)
        if world.revoked is not None and place not in world.reached:
            reached = world.reached | {place}
            following = self._put(world, place, shard._replace(born=born, min_epoch=1))
            events = world.events + 1
            yield Step("reach", place), following._replace(reached=reached, events=events)
        if world.revoked is not None and self._accepts(shard, world.now, number):
            if place in world.reached:
                yield Step("use", place), world._replace(accepted="a shard that was reached")
            if world.now >= world.revoked + self.life:
                yield Step("use", place), world._replace(accepted="the life has passed")

    def _accepts(self, shard: Shard, now: int, number: int) -> bool:
        lease = shard.lease
        return (
            lease is not None
            and now < lease.until
            and (lease.epoch >= shard.min_epoch or self.broken is Broken.LEASE_EPOCH)
            and (lease.asked >= (shard.born or number) or self.broken is Broken.LEASE_BIRTH)
        )

    def _faults(self, world: World, place: int) -> Iterator[tuple[Step, World]]:
        shard = world.shards[place]
        if world.losses < self.losses:
            following = world._replace(losses=world.losses + 1)
            if shard.born:
                yield (
                    Step("lose state", place),
                    self._put(following, place, Shard(lease=shard.lease)),
                )
            if shard.lease:
                after = shard._replace(lease=None)
                yield Step("lose lease", place), self._put(following, place, after)
        if world.falls < self.falls:
            following = world._replace(falls=world.falls + 1, reached=world.reached - {place})
            for past in world.pasts[place]:
                yield Step("fall back", past), self._put(following, place, past)

    def _put(self, world: World, place: int, shard: Shard) -> World:
        shards, pasts = list(world.shards), list(world.pasts)
        if world.falls < self.falls:
            pasts[place] |= {shards[place]}
        shards[place] = shard
        return world._replace(shards=tuple(shards), pasts=tuple(pasts))

    def _take(self, shard: Shard, voucher: Granted, now: int) -> Shard | None:
        # A shard without state begins one when a voucher comes, after the asking of that.
        is_born = shard.born and voucher.asked >= shard.born
        if not is_born and self.broken is not Broken.BIRTH:
            return None
        if voucher.epoch < shard.min_epoch:
            return None
        start = now if self.broken is Broken.LIFE else voucher.asked // ASKINGS_A_TICK
        lease = Lease(start + voucher.life, voucher.epoch, voucher.asked)
        born = shard.born or now * ASKINGS_A_TICK + 1
        return shard._replace(born=born, lease=lease)
