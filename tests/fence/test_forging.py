"""Events that a fenced agent forges in its audit stream are not trusted for keys of others."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from keyleash.audit.point_in_time import value_at
from keyleash.audit.read import Query
from keyleash.audit.undo.apply import apply_undo
from keyleash.audit.undo.key_plans import ConflictKind, UndoPlan, plan_undo
from keyleash.errors import NothingToUndoError
from keyleash.policy.patterns import parse_pattern
from keyleash.text import moment
from support.command_line import Cli
from support.fences import FencedLeash
from support.leash import NAMES, grant

IMAGES = {"audit": {"before_images": {"max_bytes": "64kb"}}}
FORGED = 5


def owner(*keys: str, **more: Any) -> dict[str, Any]:
    return {"grants": [grant("read", "write", "delete", keys=list(keys))], **IMAGES, **more}


def forge(leash: FencedLeash, key: str, entry_id: str = "*", **fields: Any) -> None:
    """Append, as the fenced user of `one`, a SET of *key* with the before-image `evil`."""
    policy = leash.events("one")[0]["policy"] if leash.events("one") else "p 1,1w"
    event = {"seq": 1, "token": "t", "policy": policy, "correlation": "c", "SET": key}
    event |= {"before": key, "expires": -1, "value": "evil", **fields}
    words = [word for pair in event.items() for word in pair]
    direct = leash.direct("one")
    appended = direct.execute_command("XADD", NAMES.audit("one"), entry_id, *words).decode()
    if entry_id == "*":
        after = hashlib.sha1(b"evil2", usedforsecurity=False).hexdigest()
        direct.execute_command("XADD", NAMES.audit("one"), "*", "of", appended, "after", after)


def now(leash: FencedLeash) -> datetime:
    """Return a server time with no event in the same millisecond."""
    time.sleep(0.002)
    found = moment(leash.store.now_ms())
    time.sleep(0.002)
    return found


def plan(leash: FencedLeash, pattern: str, **options: Any) -> UndoPlan:
    return plan_undo(leash.store, Query(pattern=parse_pattern(pattern)), **options)


@pytest.fixture
def fenced(leash: FencedLeash) -> FencedLeash:
    """Two fenced agents; `one` forged changes of a key that `two` changed, at several times."""
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


def test_undo_of_a_key_ignores_forged_events(fenced: FencedLeash) -> None:
    """The key gets its previous value, and the plan lists the ignored events."""
    for pattern in ("b:1", "b:*"):
        made = plan(fenced, pattern)

        assert [(key.key, key.is_blocked, key.conflicts) for key in made.keys] == [
            (b"b:1", False, ())
        ]
        assert made.untrusted == {"one": FORGED}

    apply_undo(fenced.store, made)
    assert fenced.admin.get("b:1") == b"old"


def test_conflict_is_not_attributed_to_a_forger(fenced: FencedLeash) -> None:
    """A change outside the guards is not shown as the forger's change."""
    fenced.admin.set("b:1", "outside")

    (blocked,) = plan(fenced, "b:*").blocked

    (conflict,) = blocked.conflicts
    assert (conflict.kind, conflict.by) == (ConflictKind.CHANGED, ())


def test_as_of_ignores_forged_events(leash: FencedLeash) -> None:
    """An agent that trims its own stream does not hide values of others either."""
    leash.load(one=owner("a:*"), two=owner("b:*"))
    leash.fence()
    leash.agent("one").set("a:1", "x")
    leash.agent("two").set("b:1", "old")
    at = now(leash)
    forge(leash, "b:1")
    leash.agent("two").set("b:1", "new")
    forge(leash, "b:1")
    leash.admin.set("b:2", "untouched")

    then = value_at(leash.store, b"b:1", at)
    assert (then.value.elements, then.is_compared) == ((b"old",), True)
    assert then.untrusted == {"one": 2}
    leash.direct("one").execute_command("XTRIM", NAMES.audit("one"), "MAXLEN", 0)
    assert value_at(leash.store, b"b:2", at).value.elements == (b"untouched",)


def test_undo_of_a_forged_event_is_an_error(fenced: FencedLeash) -> None:
    """Also if it is named explicitly; the error gives the reason."""
    made_up = fenced.admin.xrevrange(NAMES.audit("one"), count=1)[0][0].decode()

    with pytest.raises(NothingToUndoError, match="untrusted: 1 of `one`"):
        plan_undo(fenced.store, events=(f"one/{made_up}",))


def test_event_is_trusted_while_its_identity_had_the_grant(leash: FencedLeash) -> None:
    """Also after it left the policy; later events are not trusted."""
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
        apply_undo(leash.store, plan(leash, pattern, across_policies=True))
    assert leash.admin.mget("c:1", "d:1") == [b"old", b"old"]


def test_event_of_a_deleted_policy_is_trusted(leash: FencedLeash) -> None:
    """The control stream still lists the identities of that policy."""
    leash.load(one=owner("c:*"))
    leash.admin.set("c:1", "old")
    leash.agent("one").set("c:1", "new")
    time.sleep(0.002)
    leash.load(one=owner("a:*"))
    for digest in leash.admin.zrange(NAMES.history, 0, 0):
        leash.admin.delete(NAMES.stored_policy(digest.decode()))
        leash.admin.zrem(NAMES.history, digest)

    assert plan(leash, "c:*").untrusted == {}


def test_event_before_the_first_policy_is_not_trusted(leash: FencedLeash) -> None:
    """An agent without events may choose any entry id."""
    leash.load(one=owner("a:*"), two=owner("b:*"))
    leash.fence()
    leash.admin.set("b:1", "old")
    forge(leash, "b:1", entry_id="1-1")

    with pytest.raises(NothingToUndoError, match="untrusted"):
        plan(leash, "b:*")


def test_event_of_a_masked_key_is_trusted(leash: FencedLeash) -> None:
    """The key's name is unknown, but its prefix is not."""
    rules = owner("a:*", audit={"mask_keys": ["a:secret:*"]})
    leash.load(one=rules, two=owner("b:*"))
    leash.agent("one").set("a:secret:1", "x")

    assert [conflict.kind for key in plan(leash, "a:*").keys for conflict in key.conflicts] == [
        ConflictKind.MASKED
    ]
    assert plan(leash, "a:secret:1").untrusted == {}


def test_tools_report_untrusted_events(fenced: FencedLeash, tmp_path: Path) -> None:
    """In text, JSON and the report; all events of the owner are shown."""
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
