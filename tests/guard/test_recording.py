"""Optional fields of events: number, cost, arguments, masks, images."""

from __future__ import annotations

import hashlib
import json
import random
import time
from typing import Any

import pytest
import redis

import keyleash
from keyleash.audit.entries import ABSENT, LARGE, AuditEvent, BeforeImage, KeyChange
from keyleash.audit.read import read_events
from keyleash.audit.undo.key_values import read_keys
from keyleash.compiler.emit import MAX_EVENT_BYTES
from keyleash.limits import Counter
from keyleash.store.wire import MAX_IMAGES
from support.clustered import NODES
from support.leash import NAMES, Leash, grant, with_files

ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*")]}
IMAGES = {"before_images": {"max_bytes": "4kb"}}


def audited(**audit: Any) -> dict[str, Any]:
    return {**ALL, "audit": audit}


def trail(leash: Leash, identity: str = "one") -> list[AuditEvent]:
    return list(read_events(leash.store, [identity]))


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def test_events_are_numbered_through_loads_and_errors(leash: Leash) -> None:
    """Consecutive numbers show that nothing is missing; denials and reads take none."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    agent.set("doc:{d}1", "x")
    agent.get("doc:{d}1")
    with pytest.raises(keyleash.KeyNotGrantedError):
        agent.set("{d}other", "x")
    with pytest.raises(redis.ResponseError):
        agent.lpush("doc:{d}1", "x")
    with agent.batch() as batch:
        batch.set("doc:{d}1", "y")
        batch.set("doc:{d}2", "y")
    leash.load(one={**ALL, "rate": {"writes": "9/day"}, "budget": {"requests": "9/day"}})
    agent.set("doc:{d}1", "z")

    assert [(item.op, item.seq) for item in trail(leash)] == [
        ("SET", 1), ("LPUSH", 2), ("SET", 3), ("SET", 3), ("SET", 4),
    ]  # fmt: skip


def test_cost_is_what_the_call_took_of_each_counter(leash: Leash) -> None:
    """A batch's is of all of its commands that passed, those that leave no event among them."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    agent.set("doc:{d}1", "x")
    agent.incr("doc:{d}n")
    agent.rename("doc:{d}1", "doc:{d}2")
    with agent.pipeline(transaction=False) as pipe:
        pipe.get("doc:{d}1")
        pipe.set("doc:{d}1", "x")
        pipe.delete("doc:{d}1")
        pipe.set("{d}other", "x")
        pipe.execute(raise_on_error=False)

    requests, reads, writes, deletes = (item for item in Counter if not item.is_bytes)
    events = trail(leash)
    assert [dict(event.cost) for event in events[:3]] == [
        {requests: 1, writes: 1},
        {requests: 1, reads: 1, writes: 1},
        {requests: 1, reads: 1, writes: 1, deletes: 1},
    ]
    assert {tuple(event.cost.items()) for event in events[3:]} == {
        ((requests, 3), (reads, 1), (writes, 1), (deletes, 1))
    }


def test_reads_are_recorded_where_the_policy_says_so(leash: Leash) -> None:
    """Whatever touches a key; PING touches none."""
    leash.load(one=audited(reads=True))
    agent = leash.agent("one")
    agent.ping()
    agent.get("doc:{d}1")
    agent.exists("doc:{d}1", "doc:{d}2")
    with agent.pipeline(transaction=False) as pipe:
        pipe.get("doc:{d}1")
        pipe.ping()
        pipe.execute()

    assert [(item.op, item.keys, item.item) for item in trail(leash)] == [
        ("GET", (b"doc:{d}1",), 0),
        ("EXISTS", (b"doc:{d}1", b"doc:{d}2"), 0),
        ("GET", (b"doc:{d}1",), 0),
    ]


@pytest.mark.parametrize("batched", [False, True])
def test_arguments_are_told_as_the_policy_says(leash: Leash, batched: bool) -> None:
    """Those that are no keys: not at all, by length, by digest or as they are."""
    leash.load(
        none=audited(),
        length=audited(values="length"),
        digest=audited(values="digest"),
        full=audited(values="full"),
    )
    logged = {}
    for identity in ("none", "length", "digest", "full"):
        agent = leash.agent(identity)
        if batched:
            with agent.batch() as batch:
                batch.mset({"doc:{d}1": "x\xe9", "doc:{d}2": ""})
        else:
            agent.mset({"doc:{d}1": "x\xe9", "doc:{d}2": ""})
        (event,) = trail(leash, identity)
        logged[identity] = (event.lengths, event.args_sha1, event.args)

    assert logged == {
        "none": (None, None, None),
        "length": ((3, 0), None, None),
        "digest": (None, sha1("3:x\xe9,0:,"), None),
        "full": (None, None, ("x\xe9".encode(), b"")),
    }


def test_name_of_a_sub_command_is_no_argument(leash: Leash) -> None:
    """It is in the event's operation, alone and in a batch."""
    leash.load(one=audited(values="full"))
    agent = leash.agent("one")
    agent.xgroup_create("doc:1", "g", "0", mkstream=True)
    with agent.batch() as batch:
        batch.xgroup_create("doc:1", "h", "0")

    assert [(item.op, item.args) for item in trail(leash)] == [
        ("XGROUP CREATE", (b"g", b"0", b"MKSTREAM")),
        ("XGROUP CREATE", (b"h", b"0")),
    ]


def test_masked_key_is_recorded_as_prefix_and_digest(leash: Leash) -> None:
    """In events, alone and among others, and in refusals; its arguments by length alone."""
    masks = ["doc:secret:*", "doc:{user}:pin"]
    leash.load(
        one={
            **audited(mask_keys=masks, values="full", **IMAGES),
            "deny": [{"keys": ["doc:secret:no"]}],
        }
    )
    agent = leash.agent("one")
    agent.set("doc:secret:{d}a", "x")
    agent.mset({"doc:{d}1": "y", "doc:{d}7:pin": "1234"})
    with pytest.raises(keyleash.KeyDeniedError):
        agent.get("doc:secret:no")

    alone, among = trail(leash)
    assert alone.keys == (f"doc:secret:#{sha1('doc:secret:{d}a')}".encode(),)
    assert among.keys == (b"doc:{d}1", f"doc:#{sha1('doc:{d}7:pin')}".encode())
    assert (alone.args, alone.lengths, among.lengths) == (None, (1,), (1, 4))
    # No before-image reveals a masked key.
    assert [change.key for change in (*alone.changes, *among.changes)] == [b"doc:{d}1"]
    (denial,) = leash.denials("one")
    assert denial["key"] == f"doc:secret:#{sha1('doc:secret:no')}"
    assert denial["reason"] == "doc:secret:no"
    stream = leash.admin.xrange(NAMES.audit("one")) + leash.admin.xrange(NAMES.denied("one"))
    assert b"7:pin" not in str(stream).encode()


@pytest.mark.parametrize("batched", [False, True])
def test_error_that_names_a_masked_key_is_recorded_by_its_code(leash: Leash, batched: bool) -> None:
    """The agent gets the whole error; that of a key without a mask is recorded whole."""
    leash.load(one=audited(mask_keys=["doc:secret:*"]))
    issued = leash.issue("one")
    read = ("XREADGROUP", "GROUP", "g", "c", "STREAMS")
    commands = [(*read, "doc:secret:{d}a", ">"), (*read, "doc:{d}1", ">")]
    if batched:
        replies = leash.batch("one", issued.token, "each", *commands)
    else:
        replies = [leash.call("one", issued.token, *command) for command in commands]

    assert "doc:secret:{d}a" in replies[0]
    masked, plain = (event.error for event in trail(leash))
    assert masked == "NOGROUP"
    assert plain is not None
    assert "'doc:{d}1'" in plain


@pytest.mark.parametrize("values", ["digest", "full"])
def test_masked_key_in_a_malformed_call_is_not_recorded_as_an_argument(
    leash: Leash, values: str
) -> None:
    """Where their number is wrong, the server finds no keys, and so neither does the guard."""
    leash.load(one=audited(mask_keys=["doc:secret:*"], values=values))
    agent = leash.agent("one")
    with pytest.raises(redis.ResponseError):
        agent.execute_command("LMPOP", "0x2", "doc:1", "doc:secret:a", "LEFT")

    (event,) = trail(leash)
    assert (event.lengths, event.args_sha1, event.args) == ((3, 5, 12, 4), None, None)


@pytest.mark.parametrize("batched", [False, True])
def test_image_of_what_stood_there_is_kept_and_a_digest_of_what_came(
    leash: Leash, batched: bool
) -> None:
    """Once for each key that changes; a key that was not there is known to have been absent."""
    leash.load(one=audited(**IMAGES))
    leash.admin.set("doc:{d}1", "old", pxat=4_000_000_000_000)
    agent = leash.agent("one")
    if batched:
        with agent.batch() as batch:
            batch.rename("doc:{d}1", "doc:{d}2")
            batch.append("doc:{d}2", "!")
    else:
        agent.rename("doc:{d}1", "doc:{d}2")
        leash.admin.append("doc:{d}2", "!")

    first = trail(leash)[0]
    after = "old!" if batched else "old"
    assert first.changes == (
        KeyChange(b"doc:{d}1", BeforeImage(("value", b"old"), 4_000_000_000_000), 0, ABSENT),
        KeyChange(b"doc:{d}2", BeforeImage(), 0, sha1(after), 4_000_000_000_000),
    )


def test_image_of_another_type_is_what_dump_says(leash: Leash) -> None:
    """Twice the same value gives the same image and digest."""
    leash.load(one=audited(**IMAGES))
    leash.admin.hset("doc:1", mapping={"f": "v"})
    dump = leash.admin.dump("doc:1")
    agent = leash.agent("one")
    for _ in range(2):
        agent.hdel("doc:1", "none")

    events = [event for event in trail(leash) if event.op == "HDEL"]
    assert [event.changes[0].before for event in events] == [BeforeImage(("image", dump))] * 2
    assert len({event.changes[0].after for event in events}) == 1


def test_key_that_is_only_read_has_no_image(leash: Leash) -> None:
    """COPY changes its target alone, and a stored SORT likewise."""
    leash.load(one=audited(**IMAGES))
    leash.admin.rpush("doc:{d}1", "2", "1")
    agent = leash.agent("one")
    agent.copy("doc:{d}1", "doc:{d}2")
    agent.sort("doc:{d}1", store="doc:{d}3")
    agent.get("doc:{d}4")

    assert [[change.key for change in item.changes] for item in trail(leash)] == [
        [b"doc:{d}2"], [b"doc:{d}3"],
    ]  # fmt: skip


def test_key_over_the_bound_is_said_to_be_too_large(leash: Leash) -> None:
    """This holds for before-images and after-digests; the call itself is allowed."""
    leash.load(one=audited(**IMAGES))
    leash.admin.set("doc:1", "x" * 5000)
    agent = leash.agent("one")
    agent.set("doc:1", "small")
    agent.set("doc:1", "x" * 5000)

    shrunk, grown = (event.changes[0] for event in trail(leash))
    assert (shrunk.before, shrunk.after) == (None, sha1("small"))
    assert shrunk.large == 5000
    assert (grown.large, grown.after) == (0, LARGE)


def test_grant_says_how_much_is_kept_of_its_keys(leash: Leash) -> None:
    """Of the grants with a bound of their own the first that matches, else the identity."""
    grants = [
        grant("read", keys="doc:*"),
        {**grant("write", keys="doc:whole:*"), "before_images": {"max_bytes": "4kb"}},
        {**grant("write", keys="doc:off:*"), "before_images": "off"},
        grant("write", keys="doc:*"),
    ]
    leash.load(
        some={"grants": grants}, most={"grants": grants, "audit": IMAGES},
    )  # fmt: skip
    recorded = {}
    for identity in ("some", "most"):
        agent = leash.agent(identity)
        agent.mset({"doc:whole:{d}1": "x", "doc:off:{d}1": "x", "doc:{d}1": "x"})
        (event,) = trail(leash, identity)
        recorded[identity] = [change.key for change in event.changes]

    assert recorded == {"some": [b"doc:whole:{d}1"], "most": [b"doc:whole:{d}1", b"doc:{d}1"]}


@pytest.mark.parametrize(
    "words", ["INCRBY 1", "HINCRBY f 1", "LPUSH x", "SETEX 9 x", "DEL", "SET x"]
)
def test_single_command_with_images_runs_in_batches_and_scripts(leash: Leash, words: str) -> None:
    """Images are counted as work where nothing else of the identity is."""
    name, *arguments = words.split()
    text = f"return redis.call('{name}', KEYS[1], unpack(ARGV))"
    allowed = {**grant("read", "write", "delete", keys="doc:*"), "only": [name], "scripts": ["it"]}
    document = {
        "version": 1,
        "scripts": {"it": {"file": "it.lua"}},
        "identities": {"one": {"kind": "machine", "grants": [allowed], "audit": IMAGES}},
    }
    leash.load(with_files(json.dumps(document), {"it.lua": text}))
    token = leash.issue("one").token
    client: Any = leash.client(token)
    if not NODES:
        pool = keyleash.pool(f"redis://localhost:{leash.server.port}", token=token)
        client = redis.Redis(connection_pool=pool)
    client.eval(text, 1, "doc:1", *arguments)
    with leash.client(token).pipeline(transaction=False) as pipe:
        for _ in range(3):
            pipe.execute_command(name, "doc:1", *arguments)
        pipe.execute()

    assert [item.op for item in trail(leash)] == [name] * 4


def test_event_of_very_many_keys_keeps_no_images(leash: Leash) -> None:
    """Lua can append a limited number of fields in one call; the event itself is complete."""
    leash.load(one=audited(**IMAGES))
    agent = leash.agent("one")
    agent.mset({f"doc:{{d}}{n}": "x" for n in range(MAX_IMAGES)})
    agent.mset({f"doc:{{d}}{n}": "x" for n in range(MAX_IMAGES + 1)})

    many, more = trail(leash)
    assert (len(many.changes), len(more.changes)) == (MAX_IMAGES, 0)
    assert len(more.keys) == MAX_IMAGES + 1


def test_images_of_an_event_have_a_bound_together(leash: Leash) -> None:
    """Images beyond the bound are recorded as too large, the others whole."""
    leash.load(one=audited(before_images={"max_bytes": "16mb"}))
    size = MAX_EVENT_BYTES // 5 + 1
    keys = [f"doc:{{d}}{n}" for n in range(6)]
    for key in keys[:5]:
        leash.admin.set(key, b"x" * size)
    leash.admin.set(keys[5], b"x" * (16 * 1024 * 1024 + 1))
    leash.agent("one").delete(*keys)

    (event,) = trail(leash)
    assert [change.large for change in event.changes] == [0, 0, 0, 0, size, 16 * 1024 * 1024 + 1]


def test_largest_batch_with_images_fits(leash: Leash) -> None:
    """The batch has 1,000 commands with logged arguments, and the maximum of images."""
    leash.load(one=audited(values="length", **IMAGES))
    agent = leash.agent("one")
    with agent.batch() as batch:
        for n in range(1000):
            batch.set(f"doc:{{d}}{n % MAX_IMAGES}", "x")

    events = trail(leash)
    assert len(events) == 1000
    assert events[0].changes == (KeyChange(b"doc:{d}0", BeforeImage(), 0, sha1("x")),)


def fill(leash: Leash, key: str, kind: str) -> None:
    admin = leash.admin
    match kind:
        case "string":
            admin.set(key, b"\0\xff")
        case "list":
            admin.rpush(key, *range(300))
        case "hash":
            admin.hset(key, mapping={f"f{n}": "v" * 70 for n in range(20)})
        case "set":
            admin.sadd(key, *(f"member {n}" for n in range(300)))
        case "zset":
            admin.zadd(key, {f"m{n}": n / 3 for n in range(300)})
        case _:
            admin.xadd(key, {"f": "v"}, id="1-1")


@pytest.mark.parametrize("kind", ["string", "list", "hash", "set", "zset", "stream"])
def test_digest_is_of_what_a_key_holds_and_not_of_how(leash: Leash, kind: str) -> None:
    """The server's order of a hash table does not change the digest."""
    leash.load(one=audited(before_images={"max_bytes": "1mb"}))
    agent = leash.agent("one")
    fill(leash, "doc:1", kind)
    agent.persist("doc:1")
    leash.admin.restore("doc:2", 0, leash.admin.dump("doc:1"))
    agent.persist("doc:2")
    if kind in ("hash", "set"):
        leash.admin.delete("doc:2")
        if kind == "hash":
            for field, value in reversed(leash.admin.hgetall("doc:1").items()):
                leash.admin.hset("doc:2", field, value)
        else:
            leash.admin.sadd("doc:2", *sorted(leash.admin.smembers("doc:1"))[::-1])
        agent.persist("doc:2")

    digests = {event.changes[0].after for event in trail(leash)}
    assert len(digests) == 1
    assert len(digests.pop() or "") == 40


def test_digest_of_a_sorted_set_that_shrank_is_that_of_the_same_one_restored(leash: Leash) -> None:
    """A server goes on holding it in the form of a large one; what undo restores is a small one."""
    leash.load(one=audited(before_images={"max_bytes": "1mb"}))
    agent = leash.agent("one")
    fill(leash, "doc:1", "zset")
    agent.zremrangebyrank("doc:1", 3, -1)
    leash.admin.restore("doc:2", 0, leash.admin.dump("doc:1"))
    agent.persist("doc:2")

    shrunk, restored = (event.changes[0].after for event in trail(leash))
    assert shrunk == restored


def test_digest_of_a_hash_does_not_tell_that_fields_might_have_expired(leash: Leash) -> None:
    """On Redis an expiry that no field got leaves the hash in another form."""
    leash.load(one=audited(**IMAGES))
    agent = leash.agent("one")
    agent.hset("doc:1", "f", "v")
    try:
        agent.execute_command("HPEXPIRE", "doc:1", 100_000, "FIELDS", 1, "none")
    except redis.ResponseError:
        pytest.skip("the server knows no expiries of fields")

    first, other = (event.changes[0].after for event in trail(leash))
    assert first == other


def test_count_that_pfcount_caches_is_no_change_to_a_digest(leash: Leash) -> None:
    """PFCOUNT reads, and writes what it found into the key; who undoes must not meet that."""
    leash.load(one=audited(before_images={"max_bytes": "64kb"}))
    agent = leash.agent("one")
    agent.pfadd("doc:1", "a", "b")
    before = leash.admin.get("doc:1")
    agent.pfcount("doc:1")
    counted = leash.admin.get("doc:1")
    agent.persist("doc:1")
    agent.set("doc:2", before)
    agent.set("doc:2", counted, keepttl=True)

    assert counted != before
    assert len({event.changes[0].after for event in trail(leash)}) == 1
    held = read_keys(leash.store, [b"doc:1"])[b"doc:1"]
    assert held.digest == trail(leash)[0].changes[0].after


def test_key_that_takes_more_than_was_estimated_is_too_large(leash: Leash) -> None:
    """MEMORY USAGE looks at a few fields of a large hash, and mostly misses the one that counts."""
    leash.load(one=audited(before_images={"max_bytes": "64kb"}))
    leash.admin.hset("doc:1", mapping={f"f{n}": "v" for n in range(600)})
    leash.admin.hset("doc:1", "f", random.Random(1).randbytes(100_000))
    agent = leash.agent("one")
    for n in range(20):
        agent.hset("doc:1", "f1", n)

    changes = [event.changes[0] for event in trail(leash)]
    assert {change.before for change in changes} == {None}
    assert all(change.large > 65_536 for change in changes)


def test_expiry_in_the_far_future_is_kept_in_digits(leash: Leash) -> None:
    """A Lua number of 18 digits would become text with an exponent."""
    leash.load(one=audited(**IMAGES))
    leash.admin.set("doc:1", "x", pxat=9_000_000_000_000_000_000)
    leash.agent("one").append("doc:1", "y")

    (event,) = trail(leash)
    assert event.changes[0].before == BeforeImage(("value", b"x"), 9_000_000_000_000_000_000)


def test_key_that_has_expired_is_absent_to_an_image_and_to_a_digest(leash: Leash) -> None:
    """Until the server removes it, MEMORY USAGE still has its size; the command must run."""
    leash.load(one=audited(**IMAGES))
    agent = leash.agent("one")
    leash.admin.config_set("hz", 1)
    leash.admin.set("doc:1", "x", px=1)
    time.sleep(0.005)

    agent.set("doc:1", "y")
    agent.set("doc:1", "z", pxat=1)

    first, second = (event.changes[0] for event in trail(leash))
    leash.admin.config_set("hz", 10)
    assert first.before == BeforeImage()
    assert second.after == ABSENT


def test_events_older_than_retain_says_are_trimmed(leash: Leash) -> None:
    """`30d` keeps by age; whole nodes are trimmed, so some older ones stay for a while."""
    leash.load(one=audited(retain="1h"))
    issued = leash.issue("one")
    with leash.admin.pipeline(transaction=False) as pipe:
        for n in range(1, 1001):
            pipe.xadd(leash.names_at("doc:1").audit("one"), {"seq": n}, id=f"{n}-0")
        pipe.execute()
    agent = leash.client(issued.token)
    for _ in range(300):
        agent.set("doc:1", "x")

    entries = leash.admin.xrange(leash.names_at("doc:1").audit("one"))
    ids = [int(entry_id.partition(b"-")[0]) for entry_id, _ in entries]
    assert len(ids) < 600
    assert len([item for item in ids if item > 1_000_000]) == 300


@pytest.mark.parametrize("mode", ["each", "all"])
def test_trail_that_waits_for_its_export_is_never_trimmed(leash: Leash, mode: str) -> None:
    """Past `hard_max` what would leave an event is refused, and what leaves none passes."""
    leash.load(one=audited(retain={"until": "exported", "hard_max": 200}))
    issued = leash.issue("one")
    agent = leash.client(issued.token)
    for _ in range(200):
        agent.set("doc:1", "x")

    with pytest.raises(keyleash.AuditFullError) as full:
        agent.set("doc:1", "y")
    assert full.value.details == {"events": "200"}
    assert agent.get("doc:1") == b"x"
    refused = leash.batch("one", issued.token, mode, ("GET", "doc:1"), ("SET", "doc:1", "y"))
    expected = "LEASH AUDIT_FULL events=200"
    assert refused == ([b"x", expected] if mode == "each" else f"{expected} item=2")
    assert leash.admin.xlen(leash.names_at("doc:1").audit("one")) == 200
    leash.admin.xtrim(leash.names_at("doc:1").audit("one"), 100, approximate=False)
    agent.set("doc:1", "z")
    assert leash.admin.xlen(leash.names_at("doc:1").audit("one")) == 101


def test_policy_without_images_has_no_trace_of_them(leash: Leash) -> None:
    """A disabled feature costs nothing: the guard's text has no part of it."""
    leash.load(off=audited(before_images="off"), on=audited(**IMAGES))
    off, on = map(leash.stored_script, ("off", "on"))

    assert "DUMP', key" not in off
    assert "DUMP', key" in on
