"""The scripts of a cluster against their twin in Python: one server, where each tag is a shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import astuple, dataclass, replace
from itertools import chain
from pathlib import Path
from struct import pack, unpack, unpack_from
from typing import Any

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from keyleash.addons.servers import EmbeddedServer
from keyleash.compiler import CompiledGuard
from keyleash.compiler.ir import LimitPlan
from keyleash.compiler.leases import cap_plans
from keyleash.doubles import DOUBLE
from keyleash.limits import Counter, SlotKind
from keyleash.limits.calendar import Period
from keyleash.limits.caps import Cap
from keyleash.store.keyspace import Keyspace, account
from keyleash.store.leases import (
    EPOCH_FIELD,
    LeaseEntry,
    ShardState,
    leased_layout,
    unpack_entry,
    unpack_shard,
)
from keyleash.store.restrictions import Restrictions
from keyleash.store.scripts import EXPIRE_LEASES
from keyleash.store.state import Layout, token_layout, unpack_state
from keyleash.store.token import (
    CAP_BYTES,
    CAP_FORMAT,
    FLAG_BOUND,
    KEEP_AFTER_EXPIRY_MS,
    RECORD_BYTES,
    REVOKED_OFFSET,
    TAIL_HEADER_BYTES,
    TokenRecord,
    token_digest,
)
from keyleash.store.wire import BatchMode
from proofs.model.twin import (
    NEEDED,
    RAN,
    Account,
    Book,
    Call,
    Count,
    Credit,
    Home,
    Policy,
    Shard,
    State,
    Twin,
)
from support.clocks import MovableClock
from support.leash import grant
from support.replication import wait_until
from support.servers import RealServer, embedded_label, find_server_binaries
from support.shards import HOME, Sharded
from support.thorough import thorough
from support.vouchers import Request, Voucher

POLICIES: list[dict[str, Any]] = [
    {
        "token": {"bound": True},
        "grants": [grant("read", "write", "delete", keys="doc:*")],
        "budget": {
            "deletes": f"{deletes}/minute",
            "writes": f"{writes}/hour",
            "reads": {"limit": f"{writes}/hour", "per": "token"},
        },
        "rate": {
            "reads": "30/minute",
            "writes": {"limit": "12/minute", "per": "token"},
            "deletes": {"limit": "30/minute", "burst": 10},
        },
    }
    for deletes, writes in ((60, 20), (120, 40), (20, 7))
]
"""Policies whose counts have the same places, so that those of one go on in the next."""
CAPS = (Cap(Counter.WRITES, 15, Period.HOUR), replace(Cap.of(Counter.DELETES), limit=40))
"""Those of every token."""
RESTRICTIONS = Restrictions(counts=tuple(cap.new_count() for cap in CAPS))
TAGS = ("a", "b1")
TOKENS = tuple(f"kl_agent_{digit * 32}" for digit in "01")
Command = tuple[str, ...]
COMMANDS = {
    ("PING",): (),
    ("GET", "doc:a"): ("rate.reads", "budget.reads"),
    ("SET", "doc:a", "x"): ("budget.writes", "rate.writes", "token.writes"),
    ("SET", "doc:a", "x", "GET"): (
        *("rate.reads", "budget.reads", "budget.writes", "rate.writes", "token.writes"),
    ),
    ("DEL", "doc:a"): ("budget.deletes", "rate.deletes", "token.deletes"),
}
"""Commands, and the limits to which they count."""
HOUR_S = 3600
ROUND_US = 2000
"""Guards compute the time from the remaining life of a key, in whole milliseconds."""
TOKEN_LIFE_US = 30 * 86_400_000_000

tags = st.sampled_from(TAGS)
modes = st.sampled_from([BatchMode.EACH, BatchMode.ALL])
policies = st.sampled_from([None] * 12 + list(range(len(POLICIES))))
"""The policy of the guards that a client calls; None for the active one."""
backs = st.integers(0, 9)


@dataclass(frozen=True)
class Made:
    """A call as a client makes it: of the guard of one policy, alone or as a batch."""

    token: str
    command: Command
    count: int
    mode: BatchMode
    policy: int | None


calls = st.builds(
    Made,
    st.sampled_from(TOKENS),
    st.sampled_from(list(COMMANDS)),
    st.sampled_from([1, 1, 1, 2, 5, 12]),
    modes,
    policies,
)


def new_book(limits: Sequence[LimitPlan], expires_us: int = 0) -> Book:
    return Book([Count(0 if limit.slot.period_us else expires_us) for limit in limits])


def of_identity(guard: CompiledGuard) -> list[LimitPlan]:
    return [limit for limit in guard.plan.limits if limit.subject == "identity"]


def of_token(guard: CompiledGuard) -> list[LimitPlan]:
    """Return the limits per token, and a plan for each cap that a token may have."""
    slots = {cap.counter: cap.slot() for cap in CAPS}
    limits = [limit for limit in guard.plan.limits if limit.subject == "token"]
    caps = cap_plans(guard.plan)
    return limits + [replace(plan, slot=slots.get(plan.counter, plan.slot)) for plan in caps]


def lease_key(tag: str, token: str) -> str:
    return Keyspace().at_shard(tag).token("agent", token_digest(token))


def units_key(tag: str, token: str) -> str:
    return Keyspace().at_shard(tag).state(account("agent", token[-12:]))


class Machine(RuleBasedStateMachine):
    """Calls, requests, vouchers and faults in any order.

    The twin decides by the times before and after a script, which are close to each other. The
    times that the script stores lie between those of the twin, and the twin continues with them.
    """

    client: redis.Redis
    real: Sharded
    guards: Sequence[CompiledGuard]
    state: bytes
    ahead_s = 0
    move: Callable[[int], None]

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        # Windows end at the same steps in every run.
        self.pass_time(HOUR_S - self._now() // 1_000_000 % HOUR_S)
        self.client.set(HOME.state("agent"), self.state)
        self.client.hset(HOME.leases("agent"), EPOCH_FIELD, 1)
        books = {}
        for token in TOKENS:
            expires_us = self._now() // 1000 * 1000 + TOKEN_LIFE_US
            record = TokenRecord(token[-12:], expires_us, 0, tail=RESTRICTIONS.pack())
            name = HOME.token("agent", token_digest(token))
            self.client.set(name, record.pack())
            self.client.pexpireat(name, record.expires_us // 1000 + KEEP_AFTER_EXPIRY_MS)
            books[token_digest(token)] = new_book(of_token(self.guards[0]), expires_us)
        plans = [
            Policy(guard.stamp, [*of_identity(guard), *of_token(guard)]) for guard in self.guards
        ]
        home = Home(new_book(of_identity(self.guards[0])), books)
        self.reached: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.vouchers: list[str] = []
        self.pasts: list[tuple[str, list[tuple[Any, int]], Shard]] = []
        self.twin = Twin(plans, home, {tag: Shard() for tag in TAGS})

    @rule(tag=tags, made=calls, times=st.sampled_from([1, 1, 2, 6]))
    def work(self, tag: str, made: Made, times: int) -> None:
        """Make calls as a client does."""
        for _ in range(times):
            request = self._call(tag, made, "")
            for _ in range(3):
                voucher = request and self._grant(request, made.token, made.policy)
                if voucher:
                    request = self._call(tag, made, voucher)

    @rule(tag=tags, made=calls)
    def ask(self, tag: str, made: Made) -> None:
        self._call(tag, made, "")

    @precondition(lambda self: self.requests)
    @rule(back=backs, policy=policies)
    def carry_request(self, back: int, policy: int | None) -> None:
        self._grant(*self.requests[-1 - back % len(self.requests)], policy)

    @precondition(lambda self: self.vouchers)
    @rule(back=backs, made=calls)
    def carry_voucher(self, back: int, made: Made) -> None:
        voucher = self.vouchers[-1 - back % len(self.vouchers)]
        self._call(voucher.partition(":")[0], made, voucher)

    @rule(seconds=st.sampled_from([1, 2, 6, 11, 30, 61, 3600]))
    def pass_time(self, seconds: int) -> None:
        type(self).ahead_s += seconds
        self.move(self.ahead_s)

    @rule(seconds=st.sampled_from([1, 2, 11, 61, 3600]))
    def step_back(self, seconds: int) -> None:
        """Set the clock back, as an administrator does."""
        # What has expired stays away; keys of the home live on for days.
        self._expire()
        self.pass_time(-seconds)

    @rule(policy=st.sampled_from(range(len(POLICIES))))
    def activate(self, policy: int) -> None:
        """Activate a policy: counts go on, and the epoch is the next one."""
        self.client.setrange(HOME.state("agent"), 0, pack("<d", self.guards[policy].stamp))
        epoch = int(self.client.hincrby(HOME.leases("agent"), EPOCH_FIELD, 1))
        self.twin.active, self.twin.home.epoch = policy, epoch

    @rule(tag=tags)
    def lose_state(self, tag: str) -> None:
        self.client.delete(self._names(tag)[0])
        self.twin.shards[tag].state = None

    @rule(tag=tags, token=st.sampled_from(TOKENS))
    def lose_lease(self, tag: str, token: str) -> None:
        self.client.delete(lease_key(tag, token))
        self.twin.shards[tag].leases.pop(token_digest(token), None)

    @rule(tag=tags, token=st.sampled_from(TOKENS))
    def lose_units(self, tag: str, token: str) -> None:
        self.client.delete(units_key(tag, token))
        self.twin.shards[tag].tokens.pop(token_digest(token), None)

    @rule(tag=tags)
    def replicate(self, tag: str) -> None:
        names = self._names(tag)
        values = [(self.client.get(name), self.client.pexpiretime(name)) for name in names]
        self.pasts.append((tag, values, deepcopy(self.twin.shards[tag])))

    @precondition(lambda self: self.pasts)
    @rule(back=backs)
    def fall_back(self, back: int) -> None:
        tag, values, shard = self.pasts[-1 - back % len(self.pasts)]
        self.reached.discard(tag)
        for name, (value, expires_ms) in zip(self._names(tag), values, strict=True):
            self.client.delete(name)
            if value is not None and (expires_ms < 0 or expires_ms * 1000 > self._now()):
                self.client.set(name, value, pxat=expires_ms if expires_ms > 0 else None)
        # A fall back loses what was used since, as it loses the events and the data.
        self.twin.shards[tag] = deepcopy(shard)
        self._expire()

    @rule(tag=tags, tokens=st.sampled_from(["", "", "1"]))
    def expire_leases(self, tag: str, tokens: str) -> None:
        """End the leases at a shard, and with *tokens* also the units of all tokens."""
        epoch = int(self.client.hincrby(HOME.leases("agent"), EPOCH_FIELD, 1))
        self.twin.home.epoch = epoch
        keys = Keyspace().at_shard(tag)
        before = self._now()
        words = EXPIRE_LEASES.arguments(keys, "", b"", tokens, "", "agent", epoch)
        self.client.execute_command("EVAL", EXPIRE_LEASES.text, *words)
        state = self.twin.shards[tag].state
        if state is None or (state.ends is not None and before >= state.ends):
            found = self.real.shard(tag)
            limits = [Credit() for _ in range(self.twin.own)]
            state = State(found.born_us, found.seq, limits, last=found.last_us)
            self.twin.shards[tag].state = state
        state.min_epoch, state.ends = epoch, None
        if tokens:
            state.asked, state.born = 0, self.real.shard(tag).born_us
        if self.twin.home.is_revoked:
            self.reached.add(tag)

    @rule(is_revoked=st.sampled_from([False] * 5 + [True]))
    def revoke(self, is_revoked: bool) -> None:
        for token in TOKENS:
            name = HOME.token("agent", token_digest(token))
            self.client.setrange(name, REVOKED_OFFSET, bytes([FLAG_BOUND + is_revoked]))
        self.twin.home.is_revoked = is_revoked
        self.reached.clear()

    def _call(self, tag: str, made: Made, voucher: str) -> str:
        """Call the guard; return the request if it needs a lease, or an empty text."""
        call = self._twin_call(made)
        self.real.guard, self.real.token = self.guards[call.policy], made.token
        digest = token_digest(made.token)
        before, twin = self._now() - ROUND_US, self.twin
        actual = self._outcomes(tag, made, voucher)
        after = self._now() + ROUND_US
        self.spread = after - before
        parsed = Voucher.verify(voucher, self.real.key) if voucher else None
        twins, found = [], None
        expected: list[list[str]] = []
        for now in (before, after):
            self.twin = deepcopy(twin)
            expected.append(self.twin.call(tag, digest, call, parsed, now))
            twins.append(self.twin)
            if _agree(actual, expected[-1]):
                found = self.twin
        assert found, (actual, expected, call, parsed)
        self.twin = found
        assert not self.twin.overused()
        assert RAN not in actual or tag not in self.reached
        self._adopt_shard(tag, twins[0], twins[1], after)
        self._adopt_units(tag, made.token, twins[0], twins[1], after)
        if NEEDED not in actual[0]:
            return ""
        request = actual[0].partition("request=")[2]
        expected_request = self.twin.request(tag, digest, call.policy, after)
        found_request = Request.verify(request, self.real.key)
        limits = zip(found_request.limits, expected_request.limits, strict=True)
        ages = [(item.window_us, ours.window_us) for item, ours in limits]
        assert all(0 <= ours - age <= self.spread for age, ours in ages), (ages, self.spread)
        assert replace(found_request, limits=()) == replace(expected_request, limits=())
        assert [(item.want, item.have) for item in found_request.limits] == [
            (item.want, item.have) for item in expected_request.limits
        ]
        self.requests.append((request, made.token))
        return request

    def _twin_call(self, made: Made) -> Call:
        counted = COMMANDS[made.command]
        return Call(
            self.twin.active if made.policy is None else made.policy,
            [limit.slot.name in counted for limit in self.twin.policies[0].limits],
            made.count,
            is_each=made.count > 1 and made.mode is BatchMode.EACH,
            # A run is a run of keys.
            is_run=len(made.command) > 1,
        )

    def _outcomes(self, tag: str, made: Made, voucher: str) -> list[str]:
        """Call the guard; return its outcome, or that of each command in a batch that ran."""
        try:
            if made.count == 1:
                self.real.single(tag, voucher, *made.command)
                return [RAN]
            replies = self.real.batch(tag, voucher, made.mode, *[made.command] * made.count)
        except redis.ResponseError as error:
            return [str(error).removeprefix("LEASH ")]
        outcomes = [
            str(reply).removeprefix("LEASH ") if isinstance(reply, Exception) else RAN
            for reply in replies
        ]
        return outcomes if made.mode is BatchMode.EACH else outcomes[:1]

    def _grant(self, request: str, token: str, policy: int | None) -> str:
        """Call the home; return the voucher, or an empty text if it denies."""
        policy = self.twin.active if policy is None else policy
        self.real.guard, self.real.token = self.guards[policy], token
        digest = token_digest(token)
        before, twin = self._now() - ROUND_US, self.twin
        try:
            reply, denial = self.real.grant(request), ""
        except redis.ResponseError as error:
            reply, denial = "", str(error)
        after = self._now() + ROUND_US
        asked = Request.verify(request, self.real.key)
        limits = Voucher.parse(reply).limits if reply else ()
        # A window may end between the two times.
        granted = [(item.amount, item.window_us) for item in limits]
        outcomes = []
        for now in (before, after):
            self.twin = deepcopy(twin)
            outcomes.append((self.twin, *self.twin.grant(asked, digest, policy, now)))
        (low, *_), (high, *_) = outcomes
        found = [
            item
            for item in outcomes
            if bool(item[1]) == bool(denial)
            and [(ours.amount, ours.window_us) for ours in item[2]] == granted
        ]
        assert found, (denial or Voucher.parse(reply), outcomes[0][1:], outcomes[1][1:], asked)
        self.twin, expected, units, life = found[0]
        if denial:
            assert all(word in denial for word in expected.split()), (denial, expected)
            return ""
        voucher = Voucher.verify(reply, self.real.key)
        place = (asked.tag, asked.seq, asked.asked_us)
        assert (voucher.tag, voucher.seq, voucher.asked_us) == place
        assert (voucher.epoch, voucher.token_digest) == (self.twin.home.epoch, digest)
        assert voucher.token == asked.token
        assert voucher.token_life_us == life
        for ours, theirs in zip(units, voucher.limits, strict=True):
            assert ours.window_us == theirs.window_us
            assert abs(ours.life_us - theirs.life_us) <= after - before
        entry = self.real.entry(asked.tag)
        self._adopt_entry(asked.tag, entry, *(twin.home.own for twin in (self.twin, low, high)))
        self._adopt_counts(after - before)
        assert asked.token is not None
        if asked.token.seq:
            packed = self.client.hget(HOME.leases(account("agent", token[-12:])), asked.tag)
            assert isinstance(packed, bytes)
            books = (twin.home.tokens[digest] for twin in (self.twin, low, high))
            self._adopt_entry(asked.tag, unpack_entry(packed), *books)
            self._adopt_token_counts(token)
        self.vouchers.append(reply)
        return reply

    def _adopt_shard(self, tag: str, low: Twin, high: Twin, after: int) -> None:
        """Compare the state of a shard, and take over its times."""
        ours, lows, highs = (twin.shards[tag].state for twin in (self.twin, low, high))
        assert ours is not None
        assert lows is not None
        assert highs is not None
        state = self.real.shard(tag)
        for name, value in (("born", state.born_us), ("seq", state.seq), ("asked", state.asked_us)):
            assert getattr(lows, name) <= value <= getattr(highs, name), name
            setattr(ours, name, value)
        assert state.min_epoch == ours.min_epoch
        # Units may have ended during the call, so that one of the two did not run.
        assert state.last_us == ours.last or lows.last <= state.last_us <= max(highs.last, after)
        ours.last = state.last_us
        self._compare_units(ours, state, [guard.layout for guard in self.guards], after)

    def _adopt_units(self, tag: str, token: str, low: Twin, high: Twin, after: int) -> None:
        """Compare what a token has at a shard, and take over its times."""
        ours, lows, highs = (
            twin.shards[tag].tokens.get(token_digest(token)) for twin in (self.twin, low, high)
        )
        packed = self.client.get(units_key(tag, token))
        if packed is None or ours is None or lows is None or highs is None:
            assert packed is None or ours is not None
            assert ours is None or ours.is_over(after) or packed is not None
            return
        assert isinstance(packed, bytes)
        state = unpack_shard(packed)
        for name, value in (("seq", state.seq), ("asked", state.asked_us)):
            assert getattr(lows, name) <= value <= getattr(highs, name), name
            setattr(ours, name, value)
        ours.born, ours.ends = state.born_us, self.client.pexpiretime(units_key(tag, token)) * 1000
        layouts = [token_layout(guard.plan.identity.limits) for guard in self.guards]
        self._compare_units(ours, state, layouts, after)

    def _compare_units(
        self, ours: Account, state: ShardState, layouts: Sequence[Layout], after: int
    ) -> None:
        numbers = list(map(leased_layout, layouts))
        assert state.layout == (0 if ours.layout is None else numbers[ours.layout])
        if state.layout:
            for item, stored in zip(ours.limits, state.limits, strict=True):
                # Some calls write that they are over.
                if item.until <= after and not stored.credit:
                    item.credit = 0
                if not item.window:
                    # Of a rate, the time that the newest voucher took.
                    assert abs(item.have - stored.have) <= self.spread
                    item.have = stored.have
            assert list(map(astuple, state.limits)) == list(map(astuple, ours.limits))

    def _adopt_entry(self, tag: str, entry: LeaseEntry, book: Book, low: Book, high: Book) -> None:
        """Compare what the home has of a shard, and take over its times."""
        ours = book.entries[tag]
        assert (entry.seq, entry.asked_us) == (ours.seq, ours.asked)
        assert low.entries[tag].granted <= entry.granted_us <= high.entries[tag].granted
        ours.granted = entry.granted_us
        for place, item in enumerate(entry.limits):
            numbers = (ours.amounts, ours.windows, ours.haves, ours.lasts)
            assert astuple(item) == tuple(values[place] for values in numbers)

    def _adopt_counts(self, spread: int) -> None:
        """Compare the counts of the identity, and take over their times."""
        data = self.client.get(HOME.state("agent"))
        assert isinstance(data, bytes)
        state = unpack_state(data, self.real.guard.layout)
        for count, limit in zip(self.twin.home.own.counts, state.limits, strict=True):
            match limit.slot.kind:
                case SlotKind.BUDGET:
                    assert (count.ends, count.used) == (limit.ends_us, limit.used)
                case SlotKind.RING:
                    assert len(count.places) == len(limit.calls_us)
                    count.places = list(limit.calls_us)
                case SlotKind.GCRA:
                    assert abs(count.tat - limit.tat_us) <= spread
                    count.tat = limit.tat_us

    def _expire(self) -> None:
        """Let the keys of shards expire whose time has come."""
        now = self._now()
        for tag in TAGS:
            shard = self.twin.shards[tag]
            if shard.state and not self.client.exists(self._names(tag)[0]):
                assert shard.state.ends is not None
                assert shard.state.ends <= now + ROUND_US
                shard.state = None
            for token in TOKENS:
                digest = token_digest(token)
                if digest in shard.leases and not self.client.exists(lease_key(tag, token)):
                    assert shard.leases.pop(digest).until <= now
                if digest in shard.tokens and not self.client.exists(units_key(tag, token)):
                    assert shard.tokens.pop(digest).is_over(now + ROUND_US)

    def _adopt_token_counts(self, token: str) -> None:
        """Compare the counts of a token, and take over their times."""
        book = self.twin.home.tokens[token_digest(token)]
        limits = self.twin.policies[0].limits[self.twin.own :]
        record = self.client.get(HOME.token("agent", token_digest(token)))
        assert isinstance(record, bytes)
        at = RECORD_BYTES + TAIL_HEADER_BYTES
        for limit, count in zip(limits, book.counts, strict=True):
            if limit.subject == "cap":
                if limit.slot.limit:
                    *_, used, ends = unpack_from(CAP_FORMAT, record, at)
                    assert (count.ends, count.used) == (ends, used)
                    at += CAP_BYTES
                continue
            data = self.client.get(f"{limit.key_prefix}{token[-12:]}")
            numbers: tuple[float, ...] = ()
            if isinstance(data, bytes):
                numbers = unpack(f"<{len(data) // DOUBLE}d", data)
            if limit.slot.kind is SlotKind.RING:
                places = [int(number) for number in numbers[3:]]
                head = int(numbers[0]) if numbers else 0
                assert len(count.places) == len(places)
                count.places = places[head:] + places[:head]
            else:
                assert (count.ends, count.used) == (numbers[:2] or (0, 0))

    def _names(self, tag: str) -> list[str]:
        """Return the keys of a shard: its state, and the leases and units of tokens."""
        keys = [(lease_key(tag, token), units_key(tag, token)) for token in TOKENS]
        return [Keyspace().at_shard(tag).state("agent"), *chain.from_iterable(keys)]

    def _now(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1_000_000 + int(micros)


def _agree(actual: Sequence[str], expected: Sequence[str]) -> bool:
    """Return whether the outcomes have all words of those of the twin."""
    return len(actual) == len(expected) and all(
        all(word in text for word in words.split())
        for text, words in zip(actual, expected, strict=True)
    )


@pytest.fixture
def moving(clock: Path, tmp_path: Path) -> Iterator[type[Machine]]:
    """The machine, on a server whose clock it moves."""
    movable = MovableClock(clock, tmp_path)
    binary = movable.starter(find_server_binaries()[embedded_label()])
    with EmbeddedServer(binary=binary) as process:
        server = RealServer(embedded_label(), process)
        client = server.client()

        def move(ahead_s: int) -> None:
            before = int(client.time()[0])
            movable.move(ahead_s)
            wait_until(lambda: int(client.time()[0]) != before)

        real = Sharded(client, **POLICIES[0])
        guards = [real.guard]
        for policy in POLICIES[1:]:
            real.activate(**policy)
            guards.append(real.guard)
        real.activate(**POLICIES[0])
        state = client.get(HOME.state("agent"))
        values = {"client": client, "real": real, "guards": guards, "state": state}
        yield type("Moving", (Machine,), {**values, "move": staticmethod(move)})
        server.close_clients()


def test_scripts_and_twin_agree(moving: type[Machine]) -> None:
    """Each reply, and each number that is stored."""
    run_state_machine_as_test(moving, settings=thorough(15))


@pytest.mark.slow
def test_scripts_and_twin_agree_for_long(moving: type[Machine]) -> None:
    """Rare orders of events."""
    run_state_machine_as_test(moving, settings=thorough(300))
