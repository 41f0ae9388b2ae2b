"""An agent that attacks a cluster with all that it holds gets no foreign key and no unit more."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import pytest

import keyleash
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.leases import EPOCH_FIELD, unpack_entry, unpack_shard
from keyleash.store.placement import key_slot, tag_of
from keyleash.store.token import token_digest
from proofs.redteam.cluster_intruder import (
    NEEDED,
    PUBLIC,
    Attack,
    ClusterIntruder,
    control_slots_of,
    forgeries,
)
from support.clusters import RealCluster
from support.leash import grant, policy

pytestmark = pytest.mark.slow

WORKER, CLERK, RUNNER = "worker", "clerk", "runner"
UNITS = 800
SECRET = "books-q5Zt9"
DOCUMENT = policy(
    worker={
        "token": {"bound": True},
        "grants": [grant("read", "write", keys="jobs:*")],
        "budget": {"requests": "800/day"},
    },
    clerk={
        "grants": [grant("read", "write", keys="books:*")],
        "budget": {"requests": "9/day"},
        "idempotency": {"keep": "1h"},
    },
    runner={
        "token": {"bound": True, "ttl": "1h", "max_ttl": "1h", "renew": True},
        "delegate": {"depth": 1},
        "grants": [grant("read", "write", keys="runs:*")],
        "budget": {"requests": "9000/day"},
        "idempotency": {"keep": "1h"},
    },
)
SET = ("SET", "jobs:{own}", "x")


@dataclass
class Scene:
    """A cluster with two agents."""

    cluster: RealCluster
    op: keyleash.Operator
    tokens: dict[str, str]

    def intruder(self, identity: str = WORKER, **more: Any) -> ClusterIntruder:
        """Return an attacker with the credentials of an identity."""
        return ClusterIntruder(self.cluster, identity, self.tokens[identity], **more)

    def agent(self) -> Any:
        """Return the client of an honest agent with the same token."""
        return keyleash.RedisCluster.from_url(self.cluster.url, token=self.tokens[WORKER])

    def data(self) -> dict[bytes, bytes]:
        """Return all keys of agents with their values."""
        found = {}
        for node in self.cluster.primaries:
            for key in node.admin.scan_iter(count=1000):
                if key.startswith((b"jobs:", b"books:")):
                    assert key not in found, key
                    found[key] = node.admin.get(key)
        return found

    def used(self) -> int:
        """Return the units of the worker's budget that the home has granted."""
        status = next(item for item in self.op.status().identities if item.name == WORKER)
        return status.limits[0].used or 0

    def undelivered(self) -> int:
        """Return the units that are not collected from shards which still wait for a grant.

        Those are the units of the grant, and what the shard has.
        """
        leases: Any = self.cluster.owner(PUBLIC.policy).admin.hgetall(PUBLIC.leases(WORKER))
        count = 0
        for tag, packed in leases.items():
            name = PUBLIC.at_shard(tag.decode()).state(WORKER)
            if tag != EPOCH_FIELD.encode():
                state, entry = self.cluster.owner(name).admin.get(name), unpack_entry(packed)
                # A state that never got a grant ends after a minute.
                shard = unpack_shard(state) if state else None
                if shard is None or shard.seq == entry.seq:
                    count += entry.limits[0].amount
                    count += sum(limit.credit for limit in shard.limits) if shard else 0
        return count

    def collected(self) -> int:
        """Return the units that are used when those of all shards are back at the home."""
        self.op.limits.collect()
        return self.used()


@pytest.fixture
def scene(cluster: RealCluster) -> Iterator[Scene]:
    """A cluster whose agents connect to it."""
    with keyleash.Operator.from_url(cluster.url, actor="test") as op:
        op.load(keyleash.Policy(DOCUMENT))
        tokens = {name: op.tokens.issue(name).token for name in (WORKER, CLERK, RUNNER)}
        scene = Scene(cluster, op, tokens)
        clerk = scene.intruder(CLERK)
        record = clerk.record
        _, voucher = clerk.lease(record, "SET", "books:1", SECRET)
        assert clerk.call(record, voucher, "SET", "books:1", SECRET) == "OK"
        yield scene


def test_attackers_get_no_unit_more_while_slots_move(scene: Scene) -> None:
    """Of N units exactly N are acknowledged, each with its key and its event.

    Less is possible if a voucher is withheld, of a shard that is not asked again.
    """
    seen: list[str] = []
    attacks = [Attack(scene.intruder(seen=seen), seed) for seed in range(3)]
    over = threading.Event()

    def run(attack: Attack) -> None:
        while not over.is_set() and attack.denied < 20:
            attack.step()

    cluster = scene.cluster
    data = [key_slot(b"jobs:%d-%d" % pair) for pair in itertools.product(range(3), range(1, 6))]
    home = key_slot(HOME_TAG.encode())
    with ThreadPoolExecutor(len(attacks)) as pool:
        running = [pool.submit(run, attack) for attack in attacks]
        try:
            for slot in [*control_slots_of(cluster.primaries), home, *data, home]:
                cluster.move_slot(slot, cluster.other(cluster.owner(slot)))
            wait(running, 20)
        finally:
            over.set()
        for attack in running:
            attack.result()
    acknowledged = {key for attack in attacks for key in attack.acknowledged}
    assert len(acknowledged) == sum(len(attack.acknowledged) for attack in attacks) > 50
    # Collecting ends the grants that shards still wait for.
    withheld = scene.undelivered()
    assert scene.collected() == len(acknowledged) + withheld
    assert sum(1 for _ in scene.op.audit.events(WORKER)) == len(acknowledged)

    # What shards of other tags have is collected before the second round.
    for name in ("honest", "late"):
        acknowledged |= use_up(scene.agent(), name)
        withheld += scene.undelivered()
        scene.op.limits.collect()

    assert len(acknowledged) + withheld == scene.used() == UNITS
    data_now = scene.data()
    assert {key.decode() for key in data_now if key.startswith(b"jobs:")} == acknowledged
    assert sum(1 for _ in scene.op.audit.events(WORKER)) == len(acknowledged)
    assert data_now[b"books:1"] == SECRET.encode()


def use_up(agent: Any, name: str) -> set[str]:
    """Write new keys until the budget is exhausted; return the keys."""
    done: set[str] = set()
    for key in (f"jobs:{name}:{number}" for number in itertools.count()):
        try:
            agent.set(key, "x")
        except keyleash.BudgetExhaustedError:
            return done
        done.add(key)
    raise AssertionError


def test_forged_vouchers_and_requests_are_denied_and_recorded(scene: Scene) -> None:
    """With any field changed, also to the same field of a real one."""
    by, record = scene.intruder(), scene.intruder().record
    request, voucher = by.lease(record, *SET)
    assert by.call(record, voucher, *SET) == "OK"
    key = scene.cluster.other(scene.cluster.owner(SET[1])).key("jobs:")
    others = [by.lease(record, "SET", key, "x")[1]]
    before = scene.used()

    for forged in forgeries(voucher, others):
        reply = by.call(record, forged, *SET)
        if forged.partition(":")[0] == voucher.partition(":")[0]:
            assert reply == "LEASH LEASE_REFUSED reason=voucher", forged
        assert reply != "OK"
    for forged in forgeries(request, [voucher]):
        assert by.fetch(record, forged) == "LEASH LEASE_REFUSED reason=request", forged

    assert scene.used() == before
    denials = [item for item in scene.op.audit.denials(WORKER) if item.code == "LEASE_REFUSED"]
    assert len({item.shard for item in denials}) > 1


def test_leases_of_another_identity_are_worth_nothing(scene: Scene) -> None:
    """Neither its vouchers at the own guard, nor own requests at its home script."""
    clerk, by = scene.intruder(CLERK), scene.intruder()
    record, clerks = by.record, clerk.record
    _, voucher = clerk.lease(clerks, "SET", "books:{own}", "x")
    before = scene.used()

    assert by.call(record, voucher, *SET) == "LEASH LEASE_REFUSED reason=voucher"
    reply = by.call(record, by.tag(by.port(SET[1].encode())), *SET)
    request = reply.removeprefix(NEEDED)
    for token in scene.tokens.values():
        assert is_denied(by.fetch(clerks, request, token))
        assert is_denied(by.call(clerks, request, *SET, token=token))

    assert scene.used() == before
    assert b"jobs:{own}" not in scene.data()
    assert not any(SECRET in text for text in by.replies)


def is_denied(reply: str) -> bool:
    """Return whether a guard, the home or an ACL rule denies a call."""
    return reply.startswith("LEASH") or "permissions" in reply


def test_lease_of_one_token_lets_no_other_token_act(scene: Scene) -> None:
    """Units are the identity's, but authority is the token's."""
    by, record = scene.intruder(), scene.intruder().record
    revoked = scene.op.tokens.issue(WORKER)
    scene.op.tokens.revoke(revoked.id)
    _, voucher = by.lease(record, *SET)

    for token in (revoked.token, f"kl_{WORKER}_{'0' * 32}", scene.tokens[CLERK], ""):
        reply = by.call(record, voucher, *SET, token=token)
        assert reply.startswith(("LEASH TOKEN", "LEASH LEASE_NEEDED")), reply
        if reply.startswith(NEEDED):
            assert by.fetch(record, reply.removeprefix(NEEDED), token).startswith("LEASH TOKEN")

    assert b"jobs:{own}" not in scene.data()


def test_bound_token_gets_no_key_and_no_call_beyond_its_restrictions(scene: Scene) -> None:
    """With vouchers of a wider token, its own, and changed ones, at every node."""
    by, record = scene.intruder(), scene.intruder().record
    foreign = [node.key("jobs:x") for node in scene.cluster.primaries]
    own = [node.key("jobs:own") for node in scene.cluster.primaries]
    wide = [by.lease(record, "SET", key, "x")[1] for key in foreign]
    scene.tokens[WORKER] = scene.op.tokens.issue(
        WORKER, keys=["jobs:own*"], budget={"writes": 9}
    ).token
    bound = scene.intruder()
    narrow = [bound.lease(record, "SET", key, "x")[1] for key in own]
    changed = [text for voucher in narrow for text in forgeries(voucher, wide)]

    for key, text in itertools.product(foreign, [*wide, *narrow, *changed]):
        assert bound.call(record, text, "SET", key, "x") != "OK", text
    assert not any(key.startswith(b"jobs:x") for key in scene.data())
    texts = itertools.product(own, [*narrow, *changed, *wide, *narrow])
    ran = [bound.call(record, text, "SET", key, "x") for key, text in texts].count("OK")
    assert ran + len(use_up(scene.agent(), "own")) == 9


def test_vouchers_from_before_a_revocation_are_outdated(scene: Scene) -> None:
    """Replayed at every shard, as often as one likes."""
    by, record = scene.intruder(), scene.intruder().record
    keys = [node.key("jobs:") for node in scene.cluster.primaries]
    leases = [by.lease(record, "SET", key, "x") for key in keys]
    assert by.call(record, leases[0][1], "SET", keys[0], "x") == "OK"
    scene.op.tokens.revoke(identity=WORKER)
    before = scene.data()

    for key, (request, voucher) in itertools.product(keys, leases):
        assert not by.call(record, voucher, "SET", key, "y").startswith("OK")
        assert by.fetch(record, request).startswith("LEASH TOKEN_REVOKED")

    assert scene.data() == before


def test_lease_of_one_shard_is_worth_nothing_at_another(scene: Scene) -> None:
    """Its tag names the state that is credited, and cannot be changed."""
    by, record = scene.intruder(), scene.intruder().record
    keys = [node.key("jobs:") for node in scene.cluster.primaries]
    leases = [by.lease(record, "SET", key, "x") for key in keys]
    granted = scene.used()

    for here, there in itertools.permutations(range(len(keys)), 2):
        tag = by.tag(by.port(keys[here].encode()))
        for text in leases[there]:
            assert by.call(record, text, "SET", keys[here], "x") != "OK"
            moved = f"{tag}:{text.partition(':')[2]}"
            assert "LEASE_REFUSED" in by.call(record, moved, "SET", keys[here], "x")
            assert "LEASE_REFUSED" in by.fetch(record, moved)

    assert scene.used() == granted
    assert not any(key.startswith(b"jobs:") for key in scene.data())


def test_made_up_tags_take_no_units_and_no_lasting_memory(scene: Scene) -> None:
    """States without a grant end by themselves, and the home knows canonical tags alone."""
    by, record = scene.intruder(), scene.intruder().record
    port = by.port(SET[1].encode())
    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    tags = {"".join(random.choices(letters, k=size)) for size in (2, 3, 4) for _ in range(150)}
    mine = [tag for tag in tags - {HOME_TAG} if by.port(tag.encode()) == port]
    made_up = [tag for tag in mine if tag_of(key_slot(tag.encode())) != tag]
    granted = scene.used()

    for tag in made_up:
        reply = by.call(record, tag, *SET)
        assert by.fetch(record, reply.removeprefix(NEEDED)) == "LEASH LEASE_REFUSED reason=tag"
    for tag in (HOME_TAG, "A", "zzzzz", "*", "", "{a}", "a}"):
        assert "COMMAND_REFUSED tag" in by.call(record, tag, *SET)

    assert len(made_up) > 20
    assert scene.used() == granted
    home = scene.cluster.owner(PUBLIC.policy).admin
    assert not {tag.encode() for tag in made_up} & {*home.hkeys(PUBLIC.leases(WORKER))}
    node = next(node for node in scene.cluster.primaries if node.port == port)
    states = [PUBLIC.at_shard(tag).state(WORKER) for tag in made_up]
    assert all(0 < node.admin.pttl(name) <= 60_000 for name in states)


def test_asking_and_readonly_open_nothing(scene: Scene) -> None:
    """Not while the control slot or the slot of the home is on its way."""
    by, record = scene.intruder(), scene.intruder().record
    cluster = scene.cluster
    agent = scene.agent()
    agent.set(SET[1], 0)
    for port in (node.port for node in cluster.primaries):
        by.say(port, "READONLY")
    source = cluster.owner(SET[1])
    target = cluster.other(source, cluster.owner(PUBLIC.policy))
    own = by.tag(source.port)
    used = scene.used()
    # While the slot of the key moves, a caller that sends ASKING can put its own key in the way.
    for slot in (key_slot(own.encode()), key_slot(HOME_TAG.encode())):
        there = cluster.other(cluster.owner(slot))
        with cluster.moving(slot, there):
            by.refresh()
            request = by.call(record, own, "SET", there.key("jobs:"), "x", asking=True)
            assert request != "OK"
            reply = by.call(record, by.tag(there.port), *SET, port=there.port, asking=True)
            assert reply != "OK"
            for item in list(by.seen):
                words = ("EVALSHA", record.lease, 1, PUBLIC.guard(WORKER), by.token, "c", item)
                by.say(there.port, *words, "SET", "", asking=True)
    assert target is not source

    assert scene.used() == used
    assert agent.incr(SET[1]) == 1
    assert scene.collected() == 2


def test_renewal_beyond_the_policy_is_refused_at_the_home_and_unknown_at_shards(
    scene: Scene,
) -> None:
    """Past `max_ttl`, of a child, of a revoked token and of others; no record lives longer."""
    by = scene.intruder(RUNNER)
    record, home = by.record, by.port(PUBLIC.guard(RUNNER).encode())
    owner = scene.cluster.owner(PUBLIC.policy).admin
    child, revoked = f"kl_{RUNNER}_child", scene.op.tokens.issue(RUNNER)
    scene.op.tokens.revoke(revoked.id)
    head = ("EVALSHA", record.lease, 1, PUBLIC.guard(RUNNER))
    words = (by.token, "c", "delegate", token_digest(child), "60")
    assert "LEASH" not in by.say(home, *head, *words)
    before = {name: owner.pexpiretime(name) for name in owner.scan_iter("*token*")}

    lives = ("", "99999999", "9" * 400, "-1", "1e9", "nan", " 9")
    tokens = (by.token, child, revoked.token, scene.tokens[CLERK])
    for token, life in itertools.product(tokens, lives):
        assert is_denied(by.say(home, *head, token, "c", "renew", 2, "RENEW", life)), life
        for node in scene.cluster.primaries:
            tag = by.tag(node.port)
            mode = ("EVALSHA", record.batch_digest, 0, token, "c", "renew", 2, "RENEW", life, tag)
            assert "LEASH" in by.say(node.port, *mode)

    assert {name: owner.pexpiretime(name) for name in owner.scan_iter("*token*")} == before


def with_id(by: ClusterIntruder, last: str, id: str, *words: str) -> str:
    """Call the own guard with an id, and a tag or a voucher."""
    head = ("EVALSHA", by.record.digest, 1, words[1], by.token, "c", "once", id)
    return by.say(by.port(words[1].encode()), *head, *words, last)


def leased(by: ClusterIntruder, id: str, *words: str) -> str:
    """The same with a new voucher, if the node needs one."""
    reply = with_id(by, by.tag(by.port(words[1].encode())), id, *words)
    if not reply.startswith(NEEDED):
        return reply
    return with_id(by, by.fetch(by.record, reply.removeprefix(NEEDED)), id, *words)


def test_call_with_an_id_runs_once_with_any_voucher(scene: Scene) -> None:
    """At each node, whatever voucher is replayed; a malformed id runs nothing."""
    by, record = scene.intruder(RUNNER), scene.intruder(RUNNER).record
    keys = [node.key("runs:") for node in scene.cluster.primaries]
    leases = {key: [by.lease(record, "SET", key, "0")[1] for _ in range(2)] for key in keys}
    for key in keys:
        by.call(record, leases[key][0], "SET", key, "0")
    texts = [text for vouchers in leases.values() for text in vouchers]

    for key in keys:
        tag = by.tag(by.port(key.encode()))
        replies = [with_id(by, text, "a", "INCR", key) for text in (*texts, tag, *texts)]
        assert {reply for reply in replies if reply.isdigit()} == {"1"}
        ids = ("*", "?", "[a]", "{a}")
        assert [leased(by, id, "INCR", key) for id in (*ids, *ids)] == 2 * ["2", "3", "4", "5"]
        for id in ("", "x" * 201, "x" * 100_000, "a\nb", "\0", "\u00e9", by.token):
            assert with_id(by, tag, id, "INCR", key).startswith("LEASH COMMAND_REFUSED once=")
        assert leased(by, "read", "GET", key) == "5"


def test_stored_replies_of_another_identity_are_out_of_reach(scene: Scene) -> None:
    """By its id and words, and by a key in the same slot."""
    clerk, by = scene.intruder(CLERK), scene.intruder(RUNNER)
    _, voucher = clerk.lease(clerk.record, "GETSET", "books:1", SECRET)
    assert with_id(clerk, voucher, "a", "GETSET", "books:1", SECRET) == SECRET
    beside = "runs:{books:1}"
    _, own = by.lease(by.record, "SET", beside, "x")

    for text in (own, voucher, by.tag(by.port(b"books:1"))):
        assert is_denied(with_id(by, text, "a", "GETSET", "books:1", SECRET))
    assert with_id(by, own, "a", "GETSET", beside, "y") == "None"
    assert not any(SECRET in text for text in by.replies)
