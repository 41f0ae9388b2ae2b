"""The audit log of a cluster: the streams of all shards, as one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

import keyleash
from keyleash.audit.lookup import Gap, Restart, with_gaps
from keyleash.client.caller import Caller
from keyleash.store.keyspace import HOME_TAG, Keyspace
from support.clusters import RealCluster
from support.command_line import Cli
from support.errors import raises_code
from support.leases import HOME, tag_of, write_lease

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}"], before_images: {max_bytes: 1kb}}]
    budget: {writes: 300/day}
"""


@pytest.fixture
def agent(cluster: RealCluster, op: keyleash.Operator) -> keyleash.RedisCluster:
    """An agent that has written the same key of each node three times, in turn."""
    agent = cluster.agent(op.tokens.issue("agent").token)
    for number in range(3):
        for node in cluster.primaries:
            agent.set(node.key("jobs:"), str(number))
    return agent


def stream(cluster: RealCluster, tag: str) -> Any:
    """Return a client of the node that has the streams of a shard."""
    return cluster.owner(Keyspace().at_shard(tag).audit("agent")).admin


def add_event(cluster: RealCluster, tag: str, entry_id: str, **fields: int | str) -> None:
    """Append an event to the stream of a shard, as a guard writes it."""
    head = {"seq": 1, "token": "t", "policy": "p 1,1w", "correlation": "c"}
    name = Keyspace().at_shard(tag).audit("agent")
    stream(cluster, tag).xadd(name, {**head, **fields, "SET": "jobs:1"}, id=entry_id)


def test_entries_of_shards_and_home_have_the_source_of_their_call(
    embedded_cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home records renewals, children and denied leases; the source comes with the call."""
    monkeypatch.setattr(Caller, "origin", "10.0.0.7:51234")
    rules = "token: {bound: true, renew: true, max_ttl: 1d}, delegate: {depth: 1}"
    grants = 'grants: [{allow: [write], keys: ["jobs:*"]}], budget: {writes: 9/day}'
    document = f"{{kind: machine, {rules}, {grants}, audit: {{source: true}}}}"
    with keyleash.Operator.from_url(embedded_cluster.url, actor="test") as op:
        op.load(keyleash.Policy(f"version: 1\nidentities: {{agent: {document}}}"))
        agent = embedded_cluster.agent(op.tokens.issue("agent").token)
        for node in embedded_cluster.primaries:
            agent.set(node.key("jobs:"), "x")
        agent.renew("1d")
        agent.delegate()
        with pytest.raises(keyleash.KeyNotGrantedError):
            agent.set("other", "x")
        with suppress(keyleash.BudgetExhaustedError):
            for _ in range(9):
                agent.set("jobs:1", "x")
        events, denials = [*op.audit.events("agent")], [*op.audit.denials("agent")]

    shards = {tag_of(node) for node in embedded_cluster.primaries}
    assert {event.shard for event in events} == {HOME_TAG, *shards}
    assert {event.op for event in events if event.shard == HOME_TAG} == {"RENEW", "DELEGATE"}
    assert {denial.code for denial in denials} == {"KEY_NOT_GRANTED", "BUDGET_EXHAUSTED"}
    assert HOME_TAG in {denial.shard for denial in denials}
    assert {entry.source for entry in (*events, *denials)} == {"10.0.0.7:51234"}
    assert not any("\n" in entry.correlation for entry in (*events, *denials))


def test_log_merges_the_events_of_all_shards(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """By time, and in both directions; each event names its shard, whose numbers are its own."""
    tags = [tag_of(node) for node in cluster.primaries]
    events = list(op.audit.events("agent"))

    assert sorted(event.shard for event in events) == sorted(3 * tags)
    assert [event.time_ms for event in events] == sorted(event.time_ms for event in events)
    for tag in tags:
        assert [event.seq for event in events if event.shard == tag] == [1, 2, 3]
    assert list(op.audit.events("agent", newest_first=True)) == events[::-1]
    assert list(with_gaps(events)) == events
    assert op.audit.stats("agent").identities["agent"].events == 9

    assert {line["shard"] for line in Cli(cluster.url).lines("audit", "log", "agent")} == {*tags}


def test_denials_of_shards_and_of_the_home_are_read(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """A guard denies a key; the home denies a lease."""
    node = cluster.primaries[1]
    for _ in range(2):
        with pytest.raises(redis.ResponseError, match="KEY_NOT_GRANTED"):
            agent.set(node.key("other:"), "v")
    op.tokens.revoke(identity="agent")
    with pytest.raises(redis.ResponseError, match="TOKEN_REVOKED"):
        agent.set(node.key("jobs:"), "v")

    found = {(denial.code, denial.shard, denial.repeats) for denial in op.audit.denials()}
    assert found == {("KEY_NOT_GRANTED", tag_of(node), 2), ("TOKEN_REVOKED", HOME_TAG, 1)}
    assert op.audit.stats().codes["KEY_NOT_GRANTED"].denied == 2


def test_follow_yields_events_of_all_shards_and_of_new_ones(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """A shard begins with the first call at its node."""
    agent = cluster.agent(op.tokens.issue("agent").token)
    first, *others = cluster.primaries
    agent.set(first.key("jobs:"), "before")
    followed = op.audit.follow("agent", since="1h")
    assert next(followed).shard == tag_of(first)
    for node in others:
        agent.set(node.key("jobs:"), "after")
        event = next(followed)
        assert (event.shard, event.seq) == (tag_of(node), 1)


def test_gap_names_its_shard(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """Each shard has numbers of its own, so an event is missed at one of them."""
    tag = tag_of(cluster.primaries[0])
    removed = next(item for item in op.audit.events() if item.shard == tag and item.seq == 2)
    stream(cluster, tag).xdel(Keyspace().at_shard(tag).audit("agent"), removed.id)

    (gap,) = [item for item in with_gaps(op.audit.events()) if isinstance(item, Gap)]
    assert (gap.shard, gap.first, gap.last) == (tag, 2, 2)
    assert f"of agent@{tag} missing" in str(gap)
    assert gap.to_dict()["shard"] == tag


def test_shard_that_lost_its_state_begins_again_without_a_gap(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster, tmp_path: Path
) -> None:
    """Its numbers restart at 1, which the log and an archive note."""
    node = cluster.primaries[2]
    node.admin.delete(Keyspace().at_shard(tag_of(node)).state("agent"))
    agent.set(node.key("jobs:"), "v")

    events = list(op.audit.events())
    mine = [item for item in events if item.shard == tag_of(node)]
    assert [item.seq for item in mine] == [1, 2, 3, 1]
    restart, *others = [item for item in with_gaps(events) if item not in events]
    assert isinstance(restart, Restart)
    assert others == []
    assert (restart.shard, restart.after, restart.before) == (tag_of(node), mine[2].id, mine[3].id)
    assert restart in list(with_gaps(reversed(events), newest_first=True))
    assert op.audit.stats().gaps == []
    assert f"agent@{tag_of(node)} restart at 1" in Cli(cluster.url).run("audit", "log").stderr
    assert restart.to_dict() in Cli(cluster.url).lines("audit", "log")
    op.audit.export(tmp_path / "archive")
    report = op.audit.verify(tmp_path / "archive")
    assert report.is_valid
    (note,) = [note for item in report.streams for note in item.notes]
    assert "seq restarts after 3" in note


def test_id_that_two_shards_have_is_ambiguous_until_one_is_named(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Clocks of two nodes may give the same id to different events of one identity."""
    first, second, _ = write_lease(cluster)
    for tag in (first, second):
        add_event(cluster, tag, "1-0", lengths="3")

    with raises_code("ambiguous-event") as caught:
        op.audit.find("agent/1-0")
    assert f"`agent@{first}/1-0`, `agent@{second}/1-0`" in (caught.value.help or "")
    details = op.audit.find(f"agent@{second}/1-0")
    assert details.to_dict()["entries"][0]["shard"] == second
    assert f"shard        {second}\n" in str(details)


def test_timeline_and_past_values_are_found_at_the_node_of_the_key(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """Before-images are in the stream beside the key."""
    for node in cluster.primaries:
        key = node.key("jobs:")
        timeline = op.audit.timeline(key)
        assert [entry.shard for entry in timeline.entries] == [tag_of(node)] * 3
        second = timeline.entries[1]
        then = op.audit.value_at(key, second.time)
        assert then.value.elements[0] in {b"1", b"2"}
        assert op.audit.value_at(key, op.now()).value.elements == (b"2",)


def test_report_covers_all_nodes(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """With the values of keys from their nodes."""
    page = op.audit.report(since="1h").html
    assert all(node.key("jobs:") in page for node in cluster.primaries)


def test_streams_are_found_after_their_slot_has_moved(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """The tag stays the same; another node serves its slot."""
    before = list(op.audit.events())
    found = op.audit.events()
    source = cluster.other(cluster.owner(HOME.policy))
    cluster.move_slot(key_slot(tag_of(source).encode()), cluster.other(source))

    assert list(found) == before
    assert list(op.audit.events()) == before


def test_node_out_of_reach_is_named(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """Commands show the events of the others, and say that these are not all."""
    victim = cluster.other(cluster.owner(HOME.policy))
    victim.kill()

    with raises_code("node-unreachable") as caught:
        list(op.audit.events())
    assert f"127.0.0.1:{victim.port}" in str(caught.value)
    for command in (["log"], ["log", "--denied"], ["stats"], ["timeline", "jobs:1"]):
        shown = Cli(cluster.url).run("audit", *command)
        assert shown.exit_code == 1
        assert f"127.0.0.1:{victim.port}" in shown.stderr


def test_archive_has_a_folder_for_each_shard_and_continues(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster, tmp_path: Path
) -> None:
    """Each stream has its own cursor and chain; an event has a follow-up, by its before-image."""
    tags = [tag_of(node) for node in cluster.primaries]
    target = tmp_path / "archive"
    first = op.audit.export(target)
    added = {item.stream: item.count for item in first.exported}
    assert added == {"control": 2, **{f"audit/agent@{tag}": 6 for tag in tags}}

    node = cluster.primaries[1]
    agent.set(node.key("jobs:"), "v")
    again = op.audit.export(target)
    added = {item.stream: item.count for item in again.exported}
    assert added == {f"audit/agent@{tag_of(node)}": 2}

    report = op.audit.verify(target)
    assert report.is_valid
    assert {item.stream: item.entries for item in report.streams} == {
        "control": 2,
        **{f"audit/agent@{tag}": 6 + 2 * (tag == tag_of(node)) for tag in tags},
    }
    file = next((target / f"audit/agent@{tags[0]}").glob("*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b"jobs", b"joba"))
    assert not op.audit.verify(target).is_valid


def test_export_continues_after_the_slot_of_a_shard_has_moved(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster, tmp_path: Path
) -> None:
    """The record of the export is beside the stream, and moves with it."""
    source = cluster.other(cluster.owner(HOME.policy))
    tag = tag_of(source)
    op.audit.export(tmp_path)
    cluster.move_slot(key_slot(tag.encode()), cluster.other(source))
    agent.set(source.key("jobs:"), "v")

    again = op.audit.export(tmp_path)

    added = {item.stream: item.count for item in again.exported}
    assert added == {f"audit/agent@{tag_of(source)}": 2}
    assert tag != tag_of(source)
    report = op.audit.verify(tmp_path)
    assert report.is_valid
    assert {item.stream for item in report.streams} >= {f"audit/agent@{tag}"}


def test_export_trims_the_streams_of_all_shards(
    cluster: RealCluster, op: keyleash.Operator, tmp_path: Path
) -> None:
    """Guards do not, if events are stored until they are exported."""
    retain = POLICY + "    audit: {retain: {until: exported, hard_max: 1000}}\n"
    op.load(keyleash.Policy(retain), allow_widening=True)
    agent = cluster.agent(op.tokens.issue("agent").token)
    for node in cluster.primaries:
        agent.set(node.key("jobs:"), "v")

    op.audit.export(tmp_path)

    names = [(node, Keyspace().at_shard(tag_of(node)).audit("agent")) for node in cluster.primaries]
    assert [node.admin.xlen(name) for node, name in names] == [0, 0, 0]
    assert list(op.audit.events("agent")) == []
