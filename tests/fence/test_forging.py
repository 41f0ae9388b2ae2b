"""A fenced agent makes up events in its own audit stream: no tool believes them of others' keys."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from keyleash.audit.point_in_time import value_as_of
from keyleash.audit.undo import ConflictKind, UndoPlan, UndoSelection, apply_undo, plan_undo
from keyleash.errors import NothingToUndoError
from keyleash.policy.patterns import parse_pattern
from support.command_line import Cli
from support.fences import FencedLeash
from support.leash import NAMES, grant

IMAGES = {"audit": {"before_images": {"max_bytes": "64kb"}}}
FORGED = 5


def owner(*keys: str, **more: Any) -> dict[str, Any]:
    return {"grants": [grant("read", "write", "delete", keys=list(keys))], **IMAGES, **more}


def forge(leash: FencedLeash, key: str, entry_id: str = "*", **fields: Any) -> None:
    """Make up, as the fenced user of `one`, that it set *key*, which had held `evil`."""
    event = {"seq": 1, "token": "t", "op": "SET", "key": key, "correlation": "c"}
    event |= {"policy": leash.events("one")[0]["policy"] if leash.events("one") else "p 1,1w"}
    event |= {"before": key, "expires": -1, "value": "evil", **fields}
    words = [word for pair in event.items() for word in pair]
    direct = leash.direct("one")
    appended = direct.execute_command("XADD", NAMES.audit("one"), entry_id, *words).decode()
    if entry_id == "*":
        after = hashlib.sha1(b"evil2", usedforsecurity=False).hexdigest()
        direct.execute_command("XADD", NAMES.audit("one"), "*", "of", appended, "after", after)


def now_ms(leash: FencedLeash) -> int:
    """A moment with nothing before and behind it in the same millisecond."""
    time.sleep(0.002)
    seconds, micros = leash.admin.time()
    time.sleep(0.002)
    return int(seconds) * 1000 + int(micros) // 1000


def plan(leash: FencedLeash, pattern: str, **options: Any) -> UndoPlan:
    return plan_undo(leash.admin, UndoSelection(pattern=parse_pattern(pattern)), **options)


@pytest.fixture
def fenced(leash: FencedLeash) -> FencedLeash:
    """Two fenced agents; `two` has changed its key, and `one` makes up that it did before and
    after, alone and in a batch, under a mask, and in times to come."""
    leash.load(one=owner("a:*"), two=owner("b:*"))
    leash.fence()
    leash.admin.set("b:1", "old")
    leash.agent("one").set("a:1", "x")
    forge(leash, "b:1")
    leash.agent("two").set("b:1", "new")
    forge(leash, "b:1")
    mask = f"b:#{hashlib.sha1(b'b:1', usedforsecurity=False).hexdigest()}"
    forge(leash, mask)
    head = ("seq", 9, "token", "t", "policy", "p 2,2w", "correlation", "c")
    batch = ("DEL", "b:1", "before", "b:1", "expires", -1, "value", "evil")
    leash.direct("one").execute_command("XADD", NAMES.audit("one"), "*", *head, *batch)
    forge(leash, "b:1", entry_id="9999999999999-1")
    return leash


def test_undo_of_a_key_leaves_out_what_others_made_up(fenced: FencedLeash) -> None:
    """The key gets back what its owner found there, and the plan says what it left out."""
    for pattern in ("b:1", "b:*"):
        made = plan(fenced, pattern)

        assert [(key.key, key.is_blocked, key.conflicts) for key in made.keys] == [
            (b"b:1", False, ())
        ]
        assert made.untrusted == {"one": FORGED}

    apply_undo(fenced.admin, made)
    assert fenced.admin.get("b:1") == b"old"


def test_conflict_does_not_name_whoever_made_it_up(fenced: FencedLeash) -> None:
    """What changed the key outside the guards is not told as the forger's deed."""
    fenced.admin.set("b:1", "outside")

    (blocked,) = plan(fenced, "b:*").blocked

    (conflict,) = blocked.conflicts
    assert (conflict.kind, conflict.by) == (ConflictKind.CHANGED, ())


def test_value_as_of_a_time_is_not_the_made_up_one(leash: FencedLeash) -> None:
    """Nor does a trail that its agent trimmed make the values of others unknown."""
    leash.load(one=owner("a:*"), two=owner("b:*"))
    leash.fence()
    leash.agent("one").set("a:1", "x")
    leash.agent("two").set("b:1", "old")
    at = now_ms(leash)
    forge(leash, "b:1")
    leash.agent("two").set("b:1", "new")
    forge(leash, "b:1")
    leash.admin.set("b:2", "untouched")

    then = value_as_of(leash.admin, b"b:1", at)
    assert (then.value.elements, then.is_compared) == ((b"old",), True)
    assert then.untrusted == {"one": 2}
    leash.direct("one").execute_command("XTRIM", NAMES.audit("one"), "MAXLEN", 0)
    assert value_as_of(leash.admin, b"b:2", at).value.elements == (b"untouched",)


def test_made_up_event_alone_is_no_plan(fenced: FencedLeash) -> None:
    """Not even if it is named; the error says why."""
    made_up = fenced.admin.xrevrange(NAMES.audit("one"), count=1)[0][0].decode()

    with pytest.raises(NothingToUndoError, match="untrusted: 1 of `one`"):
        plan_undo(fenced.admin, UndoSelection(events=(f"one/{made_up}",)))


def test_identity_that_had_the_grant_is_trusted_for_that_time(leash: FencedLeash) -> None:
    """Also when it left the policy; for what it appends later it is not, whatever it names."""
    leash.load(one=owner("a:*", "c:*"), two=owner("b:*", "d:*"))
    leash.fence()
    leash.admin.mset({"c:1": "old", "d:1": "old"})
    leash.agent("one").set("c:1", "new")
    leash.agent("two").set("d:1", "new")
    leash.load(one=owner("a:*"))
    time.sleep(0.002)
    forge(leash, "c:1")

    for pattern, untrusted in (("c:*", {"one": 1}), ("d:*", {})):
        made = plan(leash, pattern)
        assert made.untrusted == untrusted
        assert [[conflict.kind for conflict in key.conflicts] for key in made.keys] == [
            [ConflictKind.UNGRANTED]
        ]
        apply_undo(leash.admin, plan(leash, pattern, across_policies=True))
    assert leash.admin.mget("c:1", "d:1") == [b"old", b"old"]


def test_policy_that_is_no_longer_kept_is_no_reason_for_distrust(leash: FencedLeash) -> None:
    """The control stream still says that it named the identity."""
    leash.load(one=owner("c:*"))
    leash.admin.set("c:1", "old")
    leash.agent("one").set("c:1", "new")
    time.sleep(0.002)
    leash.load(one=owner("a:*"))
    for digest in leash.admin.zrange(NAMES.history, 0, 0):
        leash.admin.delete(NAMES.stored_policy(digest.decode()))
        leash.admin.zrem(NAMES.history, digest)

    assert plan(leash, "c:*").untrusted == {}


def test_event_before_any_policy_is_made_up(leash: FencedLeash) -> None:
    """An agent that has done nothing yet may choose any id."""
    leash.load(one=owner("a:*"), two=owner("b:*"))
    leash.fence()
    leash.admin.set("b:1", "old")
    forge(leash, "b:1", entry_id="1-1")

    with pytest.raises(NothingToUndoError, match="untrusted"):
        plan(leash, "b:*")


def test_masked_key_is_trusted_if_the_policy_masks_it(leash: FencedLeash) -> None:
    """The name of the key is not known, but what it begins with is."""
    rules = owner("a:*", audit={"mask_keys": ["a:secret:*"]})
    leash.load(one=rules, two=owner("b:*"))
    leash.agent("one").set("a:secret:1", "x")

    assert [conflict.kind for key in plan(leash, "a:*").keys for conflict in key.conflicts] == [
        ConflictKind.MASKED
    ]
    assert plan(leash, "a:secret:1").untrusted == {}


def test_tools_report_untrusted_events(fenced: FencedLeash, tmp_path: Path) -> None:
    """In text, in JSON and on the page of a report; the owner's events are all there."""
    cli = Cli(fenced.server.url)
    note = f"untrusted events are left out: {FORGED} of `one`"

    undo = ("undo", "--key", "b:*", "--since", "1h", "--dry-run")
    assert note in cli.run(*undo).stderr
    assert cli.json(*undo)["untrusted"] == {"one": FORGED}
    shown = cli.run("audit", "timeline", "b:1")
    assert note in shown.stderr
    assert "two" in shown.stdout
    assert "one" not in shown.stdout
    lines = cli.lines("audit", "timeline", "b:1")
    assert [line["identity"] for line in lines if line["kind"] == "event"] == ["two"]
    assert lines[-1] == {"kind": "untrusted", "identity": "one", "events": FORGED}
    log = cli.lines("audit", "log")
    assert [line.get("untrusted", False) for line in log if line["identity"] == "two"] == [False]
    assert sum(line.get("untrusted", False) for line in log if line["identity"] == "one") == FORGED
    assert "ok (untrusted)" in cli.ok("audit", "log", "one")
    as_of = cli.run("--json", "audit", "as-of", "1s", "b:1")
    assert "evil" not in as_of.stdout
    page = tmp_path / "report.html"
    cli.ok("audit", "report", "--since", "1h", "-o", page)
    text = page.read_text()
    # One of them is of a time to come, behind the end of the report.
    for count in (FORGED - 1, FORGED):
        assert f"Untrusted events are left out: {count} of `one`" in text
    assert "evil" not in text
    assert json.loads(cli.run("--json", *undo).stdout)["blocked"] == 0
