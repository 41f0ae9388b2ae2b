"""JSON on a server with the module: classes, events, undo, rules for values, and bounds."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from redis.exceptions import ResponseError

import keyleash
from keyleash.audit.entry_text import short_value
from keyleash.audit.read import read_events
from keyleash.commands.facts import MODULE_KEYS
from keyleash.commands.work import DEFAULT_WORK
from support.leash import Leash, grant, policy
from support.servers import RealServer

ALL: dict[str, Any] = {
    "grants": [grant("read", "write", "delete", keys="doc:*")],
    "audit": {"before_images": {"max_bytes": "64kb"}},
}
KEYS = (b"doc:1", b"doc:2", b"doc:3")
DEPTH = 120


def chain(depth: int, leaf: str = "1") -> str:
    """Return an object in an object, *depth* times."""
    return '{"a":' * depth + leaf + "}" * depth


@pytest.fixture
def leash(stack_server: RealServer) -> Leash:
    leash = Leash(stack_server)
    leash.load(one=ALL)
    return leash


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("read", "JSON.GET doc:1 $.a"),
        ("read", "JSON.MGET doc:1 doc:2 $.a"),
        # The length of what a filter finds shows whether a guess was right.
        ("read", "JSON.ARRLEN doc:1 $[?(@.secret>5)]"),
        ("read", "JSON.RESP doc:1"),
        ("write", "JSON.SET doc:1 $.a 1"),
        ("write", "JSON.MSET doc:1 $.a 1 doc:2 $ 2"),
        ("write", "JSON.ARRAPPEND doc:1 $.l 1"),
        ("write", "JSON.MERGE doc:1 $ {}"),
        ("read write", "JSON.NUMINCRBY doc:1 $.a 1"),
        ("read write", "JSON.TOGGLE doc:1 $.b"),
        ("delete", "JSON.DEL doc:1 $.a"),
        ("delete", "JSON.CLEAR doc:1"),
        ("delete", "JSON.ARRTRIM doc:1 $.l 0 1"),
        ("read delete", "JSON.ARRPOP doc:1 $.l"),
    ],
)
def test_command_needs_exactly_its_classes(leash: Leash, classes: str, words: str) -> None:
    """A call that changes data has an event."""
    needed, calls = classes.split(), words.split()
    without = [name for name in ("read", "write", "delete") if name not in needed]
    lacking = [[*needed[:place], *needed[place + 1 :], *without] for place in range(len(needed))]
    bodies = {"exact": {"grants": [grant(*needed, keys="doc:*")]}}
    for place, some in enumerate(lacking):
        bodies[f"lacks{place}"] = {"grants": [grant(*some, keys="doc:*")]}
    leash.load(policy(**bodies))
    for key in ("doc:1", "doc:2"):
        leash.admin.execute_command("JSON.SET", key, "$", '{"a":1,"b":true,"l":[1,2,3]}')

    leash.agent("exact").execute_command(*calls)
    for place in range(len(lacking)):
        with pytest.raises(keyleash.ClassNotGrantedError):
            leash.agent(f"lacks{place}").execute_command(*calls)
    events = [*read_events(leash.store, ["exact"])]
    assert [event.op for event in events] == ([] if needed == ["read"] else [calls[0]])


def test_changes_of_documents_are_undone(leash: Leash) -> None:
    """The before-image is the whole key, much shorter than the memory of the document."""
    document = {"a": "one", "x": [1, 2.5, {"y": None}], "z": 1, "text": ["word"] * 3000}
    leash.admin.execute_command("JSON.SET", "doc:1", "$", json.dumps(document))
    assert leash.admin.memory_usage("doc:1") > 64 * 1024
    agent: Any = leash.agent("one")
    with keyleash.correlation("job"):
        agent.json().set("doc:1", "$.a", "two")
        agent.json().arrappend("doc:1", "$.x", 5)
        agent.json().set("doc:2", "$", {"a": "new"})
        pipe = agent.pipeline()
        pipe.json().delete("doc:1", "$.x[*]")
        pipe.json().mset([("doc:3", "$", 1), ("doc:2", "$.a", 2)])
        pipe.execute()
    operator = keyleash.Operator.from_url(leash.server.url)
    plan = operator.undo.plan(correlation="job")
    made, changed = (next(item for item in plan.keys if item.key == key) for key in KEYS[1::-1])
    assert short_value(made.current, plan.time_ms) == 'JSON {"a":2}'
    assert short_value(changed.target, plan.time_ms).startswith('JSON {"a":"one"')
    undone = operator.undo.apply(plan)
    assert ({*undone.restored}, {*undone.removed}) == ({*KEYS[:1]}, {*KEYS[1:]})

    kept = json.loads(leash.admin.execute_command("JSON.GET", "doc:1"))
    assert (kept, [*kept]) == (document, [*document])
    assert leash.admin.exists("doc:2", "doc:3") == 0


def test_undo_finds_a_later_change_of_others(leash: Leash) -> None:
    """It compares documents by their dumps."""
    agent: Any = leash.agent("one")
    with keyleash.correlation("job"):
        agent.json().set("doc:1", "$", {"a": 1})
    leash.admin.execute_command("JSON.SET", "doc:1", "$.a", "2")
    operator = keyleash.Operator.from_url(leash.server.url)

    assert [key.key for key in operator.undo.plan(correlation="job").blocked] == [b"doc:1"]
    agent.json().set("doc:1", "$.a", 3)
    assert "a JSON of 7 bytes" in str(operator.audit.value_at("doc:1", timedelta(0)))


def test_rules_for_values_hold_for_documents(leash: Leash) -> None:
    """`max_bytes` bounds each argument; elements of a document are not known."""
    rules = {"max_bytes": "100b", "ttl": {"max": "1h"}}
    leash.load(
        one={"grants": [{**grant("read", "write", keys="doc:*"), "values": rules}]},
        few={"grants": [{**grant("write", keys="doc:*"), "values": {"max_elements": 10}}]},
        new={"grants": [{**grant("write", keys="doc:*"), "values": {"only": "absent"}}]},
    )
    agent = leash.agent("one")

    agent.execute_command("JSON.SET", "doc:1", "$", "[1]")
    assert 3500 < leash.admin.ttl("doc:1") <= 3600
    with pytest.raises(keyleash.ValueTooLargeError):
        agent.execute_command("JSON.ARRAPPEND", "doc:1", "$", f'"{"x" * 100}"')
    with pytest.raises(keyleash.ValueRefusedError):
        leash.agent("few").execute_command("JSON.SET", "doc:1", "$", "1")
    with pytest.raises(keyleash.ValueRefusedError):
        leash.agent("new").execute_command("JSON.SET", "doc:1", "$", "1")


def test_set_that_changes_nothing_gets_no_expiry(leash: Leash) -> None:
    """With NX it replies null."""
    rules = {"ttl": {"max": "1h"}}
    leash.load(one={"grants": [{**grant("write", keys="doc:*"), "values": rules}]})
    leash.admin.execute_command("JSON.SET", "doc:1", "$", "1")

    assert leash.agent("one").execute_command("JSON.SET", "doc:1", "$", "2", "NX") is None
    assert leash.admin.ttl("doc:1") == -1


def test_batch_counts_documents_that_it_makes(leash: Leash) -> None:
    """A read after a write is estimated again."""
    pipe: Any = leash.agent("one").pipeline(transaction=False)
    pipe.json().set("doc:1", "$", [[0] * 100] * 100)
    for _ in range(3):
        pipe.execute_command("JSON.GET", "doc:1", "$..*")
    for _ in range(100):
        pipe.json().set("doc:2", "$", 1)
    first, *reads, last = pipe.execute(raise_on_error=False)[:5]

    assert (first, last) == (True, True)
    assert {type(reply) for reply in reads} == {keyleash.WorkTooLargeError}


HOSTILE = {
    "deep": chain(DEPTH),
    "text": chain(DEPTH, json.dumps("x" * 100_000)),
    "nested": "[" * DEPTH + ",".join("1" * 2000) + "]" * DEPTH,
    "chains": "[" + ",".join([chain(DEPTH)] * 1300) + "]",
    "wide": json.dumps([{"a": i, "b": {"a": [i, i]}, "id": i} for i in range(24_000)]),
    "objects": "[" + ",".join(["{}"] * 300_000) + "]",
    "numbers": "[" + ",".join(map(str, range(170_000))) + "]",
}
"""Documents of up to 1 MB."""
PARTS = (
    *(".a", ".b", ".*", "..a", "..*", "..[0]", "[*]", "[0]", "[-1]", "[0:5]", "[::2]", "['a','b']"),
    *("[0,0,0]", "[0,0]", "[?(@.a>1)]", "[?(@..a>1)]", "[?(@.a=~'x')]", "[?(@==$[*].id)]"),
    *("[?(@.b.a[0]>1&&@.a<9)]", "[?(" + "||".join(["@<0"] * 60) + ")]", "\0", ".a" * 40),
)
"""Parts of hostile paths."""


@pytest.mark.slow
def test_hostile_paths_leave_the_server_within_its_memory(leash: Leash) -> None:
    """Each is denied, or its reply and what it adds are bounded: a few times the default work."""
    admin, agent = leash.admin, leash.agent("one")
    for name, text in HOSTILE.items():
        admin.execute_command("JSON.SET", f"doc:{name}", "$", text)
    admin.config_set("maxmemory", admin.info("memory")["used_memory"] + 64 * 1024 * 1024)
    names = [name for name, keys in MODULE_KEYS.items() if name.startswith("JSON.")]
    source = random.Random(7)
    codes, longest = set(), 0
    for _ in range(600):
        name, document = source.choice(names), source.choice([*HOSTILE])
        path = "$" + "".join(source.choices(PARTS, k=source.choice((1, 1, 2, 3))))
        words = [name, f"doc:{document}", path, *extra(name, source)]
        peak = admin.info("memory")["used_memory"]
        try:
            reply = agent.execute_command(*words)
            longest = max(longest, len(json.dumps(reply, default=str)))
            codes.add("allowed")
        except keyleash.LeashError as error:
            codes.add(type(error).__name__)
        except ResponseError:
            codes.add("error")
        assert admin.info("memory")["used_memory"] - peak < 32 * 1024 * 1024, words
        assert "oom" not in str(admin.info("errorstats")).lower(), words
        if not admin.exists(f"doc:{document}") or source.random() < 0.1:
            admin.execute_command("JSON.SET", f"doc:{document}", "$", HOSTILE[document])

    assert {"allowed", "error", "CommandRefusedError", "WorkTooLargeError"} <= codes
    assert longest < 25_000_000


@pytest.mark.slow
def test_explain_decides_hostile_calls_as_the_guard_does(leash: Leash) -> None:
    """With the same work in the denial."""
    operator, agent = keyleash.Operator.from_url(leash.server.url), leash.agent("one")
    for name, text in HOSTILE.items():
        leash.admin.execute_command("JSON.SET", f"doc:{name}", "$", text)
    names = [name for name in MODULE_KEYS if name.startswith("JSON.")]
    source, codes = random.Random(11), set()
    for _ in range(300):
        name, document = source.choice(names), source.choice([*HOSTILE])
        path = "$" + "".join(source.choices(PARTS, k=source.choice((0, 1, 1, 2))))
        words = [name, f"doc:{document}", path, *extra(name, source)]
        expected = operator.explain("one", *words).decision
        try:
            agent.execute_command(*words)
            code, work = None, None
        except keyleash.LeashError as error:
            code, work = error.code, error.details.get("work")
        except ResponseError:
            code, work = None, None
        assert code == expected.code, words
        # Texts of the estimate are rounded.
        assert abs(int(work or 0) - int(expected.details.get("work", 0))) <= 1, words
        codes.add(code)

    assert codes >= {None, "COMMAND_REFUSED", "WORK_TOO_LARGE"}


def extra(name: str, source: random.Random) -> Sequence[str]:
    """Return the words after the path that a command needs."""
    value = source.choice(["1", '"x"', "[1]", '{"z":1}', f'"{"x" * 2000}"', chain(DEPTH)])
    return {
        "JSON.SET": [value],
        "JSON.MSET": [value],
        "JSON.MERGE": [value],
        "JSON.ARRAPPEND": [value, value],
        "JSON.ARRINSERT": ["0", value],
        "JSON.STRAPPEND": ['"x"'],
        "JSON.ARRINDEX": [value],
        "JSON.NUMINCRBY": ["1"],
        "JSON.NUMMULTBY": ["2"],
        "JSON.ARRTRIM": ["0", "100000"],
    }.get(name, [])


NUMBERS = "[" + ",".join(["1"] * 240_000) + "]"
MOVING = (
    *("JSON.ARRINSERT $.l 0 1", "JSON.ARRINSERT .l 0 1", "JSON.ARRTRIM $.l 1 -1"),
    *("JSON.DEL $.l[0]", "JSON.DEL l[0]", "JSON.FORGET .l.[0]", "JSON.DEL $['l'][0]"),
    *("JSON.ARRPOP $.l 0", "JSON.ARRPOP l 0", 'JSON.STRAPPEND $.s "x"', "JSON.STRLEN .s"),
    "JSON.ARRINDEX .l 7",
)


@pytest.mark.parametrize("words", MOVING)
def test_batch_counts_the_elements_that_each_of_its_commands_moves(
    leash: Leash, words: str
) -> None:
    """Removed from the front of 3,000,000, or inserted there, 1,000 took seconds."""
    text = json.dumps("x" * 300_000)
    leash.admin.execute_command("JSON.SET", "doc:1", "$", f'{{"l":{NUMBERS},"s":{text}}}')
    name, *rest = words.split()

    leash.agent("one").execute_command(name, "doc:1", *rest)
    pipe: Any = leash.agent("one").pipeline()
    for _ in range(300):
        pipe.execute_command(name, "doc:1", *rest)
    with pytest.raises(keyleash.WorkTooLargeError):
        pipe.execute()


@pytest.mark.parametrize(
    ("document", "is_allowed"), [(NUMBERS, False), (NUMBERS[:40] + "1]", True)]
)
def test_insertion_counts_values_times_elements(
    leash: Leash, document: str, is_allowed: bool
) -> None:
    """The module moves the array for each value."""
    leash.admin.execute_command("JSON.SET", "doc:1", "$", document)
    words = ("JSON.ARRINSERT", "doc:1", "$", "0", *["1"] * 6900)
    decision = keyleash.Operator.from_url(leash.server.url).explain("one", *words).decision

    assert decision.allowed is is_allowed
    if is_allowed:
        leash.agent("one").execute_command(*words)
        return
    with pytest.raises(keyleash.WorkTooLargeError) as caught:
        leash.agent("one").execute_command(*words)
    # A question is asked as a batch, which counts the reading of sizes too.
    assert int(caught.value.details["work"]) == pytest.approx(
        int(decision.details["work"]), rel=1e-3
    )


def test_batch_measures_a_document_once(leash: Leash) -> None:
    """For each of 900 reads of one member it took 10 ms."""
    leash.admin.execute_command("JSON.SET", "doc:1", "$", f'{{"a":1,"l":{NUMBERS}}}')
    pipe: Any = leash.agent("one").pipeline()
    for _ in range(300):
        pipe.execute_command("JSON.GET", "doc:1", ".a")
    leash.admin.config_resetstat()

    assert pipe.execute() == [b"1"] * 300
    assert leash.admin.info("commandstats")["cmdstat_memory|usage"]["calls"] == 1


def test_documents_do_not_grow_deeper_call_by_call(leash: Leash) -> None:
    """A server that reads a value of 22,000 levels overflows its stack and ends."""
    agent = leash.agent("one")
    agent.execute_command("JSON.SET", "doc:1", "$", chain(DEPTH, '{"leaf":1}'))
    with pytest.raises(keyleash.CommandRefusedError, match="its paths may select too much"):
        agent.execute_command("JSON.SET", "doc:1", "$..leaf", chain(DEPTH))
    with pytest.raises(keyleash.CommandRefusedError):
        agent.execute_command("JSON.SET", "doc:1", "$" + ".a" * 33, chain(DEPTH))
    assert agent.execute_command("JSON.SET", "doc:1", "$..leaf", "2")
    assert agent.execute_command("JSON.SET", "doc:1", "$" + ".a" * 32, chain(DEPTH))

    assert leash.admin.execute_command("JSON.GET", "doc:1").count(b"{") == 32 + DEPTH


def test_indentation_is_denied(leash: Leash) -> None:
    """The text comes before each value, as often as it is deep."""
    for option in ("indent", "NEWLINE", "Space"):
        with pytest.raises(keyleash.CommandRefusedError, match="one call may take too much"):
            leash.agent("one").execute_command("JSON.GET", "doc:1", option, "x" * 1000, "$")


@pytest.mark.parametrize(
    "path", ["$.l[9223372036854775808]", "l[0,-9223372036854775809]", "$..[0: 9223372036854775808]"]
)
def test_place_that_is_no_number_of_the_module_is_denied(leash: Leash, path: str) -> None:
    """It stopped the server."""
    leash.admin.execute_command("JSON.SET", "doc:1", "$", '{"l": [1], "12345678901234567890": 2}')
    call = leash.agent("one").execute_command

    for words in (("JSON.GET", "doc:1", path), ("JSON.MSET", "doc:1", "$", "1", "doc:2", path, 1)):
        with pytest.raises(keyleash.CommandRefusedError, match="places in arrays of up to 18"):
            call(*words)
    assert call("JSON.GET", "doc:1", "$['12345678901234567890']") == b"[2]"
    assert call("JSON.GET", "doc:1", "$.l[?(@>0)]") == b"[1]"


@pytest.mark.parametrize(
    ("document", "words", "is_allowed"),
    [
        ("wide", "JSON.GET $[0].id", True),
        ("wide", "JSON.TYPE $", True),
        ("wide", "JSON.GET $[*].id", False),
        ("wide", "JSON.GET $", True),
        ("objects", "JSON.DEL $[*]", False),
        ("objects", "JSON.FORGET $[*]", False),
        ("objects", "JSON.DEL $[0]", True),
        ("chains", "JSON.GET $..a", False),
        ("nested", "JSON.ARRLEN $..*", False),
        ("wide", "JSON.OBJKEYS $", False),
        ("deep", "JSON.GET $..a", True),
        ("text", "JSON.GET $..a", False),
    ],
)
def test_work_counts_the_memory_of_what_a_path_may_select(
    leash: Leash, document: str, words: str, is_allowed: bool
) -> None:
    """`explain` and the guard agree."""
    leash.admin.execute_command("JSON.SET", "doc:1", "$", HOSTILE[document])
    name, path = words.split()
    operator = keyleash.Operator.from_url(leash.server.url)
    decision = operator.explain("one", name, "doc:1", path).decision

    assert decision.allowed is is_allowed
    if is_allowed:
        leash.agent("one").execute_command(name, "doc:1", path)
        return
    assert decision.details["limit"] == str(DEFAULT_WORK)
    with pytest.raises(keyleash.WorkTooLargeError) as caught:
        leash.agent("one").execute_command(name, "doc:1", path)
    assert int(caught.value.details["work"]) == int(decision.details["work"])
