"""`keyleash audit`: filters, order, gaps, `show`, `timeline`, `stats` and invalid input."""

from __future__ import annotations

import pytest

from keyleash.store.keyspace import OPERATORS
from support.command_line import Cli
from support.servers import RealServer
from support.streams import KEYS, Streams

RUNNER = "agent-runner"
STATE = "agents:jobs:1:state"


@pytest.fixture
def streams(loaded: Cli, embedded: RealServer) -> Streams:
    """Streams of identities of the example policy, written by the test."""
    return Streams(embedded.client())


def ids(lines: list[dict[str, str]]) -> list[str]:
    return [line["id"] for line in lines]


def test_log_with_a_filter_shows_matching_entries(loaded: Cli, streams: Streams) -> None:
    """Every filter works as an option, and identities also as arguments."""
    streams.event(RUNNER, "1000-0", key="a:1", token="t1")
    streams.event(RUNNER, "2000-0", key="a:2", op="DEL", correlation="c2")
    streams.event("human-admin", "3000-0", key="b:1")
    streams.event(OPERATORS, "4000-0", key="b:1", actor="ops")

    def log(*options: str) -> list[str]:
        return ids(loaded.lines("audit", "log", *options))

    assert log() == ["1000-0", "2000-0", "3000-0", "4000-0"]
    assert log("--identity", RUNNER, "--identity", "human-admin") == ["1000-0", "2000-0", "3000-0"]
    assert log("human-admin", RUNNER) == ["1000-0", "2000-0", "3000-0"]
    assert log("--identity", OPERATORS) == ["4000-0"]
    assert log("--token", "t1") == ["1000-0"]
    assert log("--key", "a:{x}") == ["1000-0", "2000-0"]
    assert log("--key", "a:*", "--op", "del") == ["2000-0"]
    assert log("--correlation", "c2") == ["2000-0"]
    assert log("--since", "1970-01-01T00:00:02") == ["2000-0", "3000-0", "4000-0"]
    assert log("--since", "1970-01-01T01:00:02+01:00", "--until", "1970-01-01T00:00:03Z") == [
        "2000-0",
        "3000-0",
    ]


def test_source_of_a_call_is_shown_with_its_identity(loaded: Cli, streams: Streams) -> None:
    """In tables, on lines, in all details and in JSON; entries without one are as before."""
    source = "10.0.0.7:51234 CN=a\nb"
    streams.event(RUNNER, "1000-0", key="a:1", source=source)
    streams.event(RUNNER, "2000-0", key="a:2")
    streams.denial(RUNNER, "3000-0", source=source)

    for option in ("--key=*", "--denied"):
        assert rf" {RUNNER} from 10.0.0.7:51234 CN=a\nb  t" in loaded.ok("audit", "log", option)
        assert loaded.lines("audit", "log", option)[0]["source"] == source
    assert loaded.ok("audit", "log").count(" from ") == 1
    assert "source" not in loaded.lines("audit", "log")[1]
    for entry in (f"audit:{RUNNER}/1000-0", f"denied:{RUNNER}/3000-0"):
        shown = loaded.ok("audit", "show", entry)
        assert r"source       10.0.0.7:51234 CN=a\nb" in shown
    report = loaded.ok("audit", "report", "--since", "1970-01-01T00:00:00", "-o", "-")
    assert report.count("<small>from 10.0.0.7:51234") == 2


def test_log_since_a_duration_uses_server_time(loaded: Cli, streams: Streams) -> None:
    """The local clock is not used."""
    seconds, _ = streams.client.time()
    streams.event(RUNNER, f"{(seconds - 3600) * 1000}-0", key="old")
    streams.event(RUNNER, f"{(seconds - 60) * 1000}-0", key="new")

    (found,) = loaded.lines("audit", "log", "--since", "10m")
    (older,) = loaded.lines("audit", "log", "--until", "10m")

    assert (found["keys"], older["keys"]) == (["new"], ["old"])


def test_log_with_a_limit_shows_the_newest_entries_by_default(
    loaded: Cli, streams: Streams
) -> None:
    """A note on standard error reports that there are more."""
    for number in range(1, 6):
        streams.event(RUNNER, f"{number}-0")

    def log(*options: str) -> tuple[list[str], str]:
        result = loaded.run("--json", "audit", "log", "--limit", "2", *options)
        return ids(loaded.lines("audit", "log", "--limit", "2", *options)), result.stderr

    assert log() == (["4-0", "5-0"], "there is more: these are the newest 2\n")
    assert log("--newest-first") == (["5-0", "4-0"], "there is more: these are the newest 2\n")
    assert log("--oldest-first") == (["1-0", "2-0"], "there is more: these are the oldest 2\n")
    assert loaded.run("audit", "log", "--limit", "5").stderr == ""


def test_log_reports_gaps_unless_it_is_filtered(loaded: Cli, streams: Streams) -> None:
    """Sequence numbers that a filter leaves out are not missing."""
    for seq in (2, 3, 6):
        streams.event(RUNNER, f"{seq}000-0", seq=seq, key=f"k{seq}")

    assert loaded.run("audit", "log").stderr == (
        "gap: 2 events of agent-runner missing before 1970-01-01 00:00:06Z: 4 to 5\n"
    )
    lines = loaded.lines("audit", "log")
    assert [line["kind"] for line in lines] == ["event", "event", "gap", "event"]
    assert lines[2] == {
        "kind": "gap",
        "identity": RUNNER,
        "of": "event",
        "first": 4,
        "last": 5,
        "missing": 2,
        "after": "3000-0",
        "before": "6000-0",
        "time": "1970-01-01T00:00:06.000Z",
    }
    assert loaded.run("audit", "log", "--key", "k*").stderr == ""
    assert [line["kind"] for line in loaded.lines("audit", "stats")].count("gap") == 1


def test_log_by_code_shows_denials_with_repeats(loaded: Cli, streams: Streams) -> None:
    """`--code` implies `--denied`."""
    streams.denial(RUNNER, "1000-0", code="RATE_LIMITED", reason="writes")
    streams.denial(RUNNER, "2000-0")
    streams.repeats(RUNNER, "61000-0", of="1000-0", count=4)

    unknown = loaded.run("audit", "log", "--code", "nope")
    assert unknown.exit_code == 2
    assert "RATE_LIMITED" in unknown.stderr
    (line,) = loaded.lines("audit", "log", "--code", "rate_limited")

    assert (line["kind"], line["reason"], line["repeats"]) == ("denial", "writes", 4)
    assert "RATE_LIMITED ×4" in loaded.ok("audit", "log", "--denied")


def test_log_counts_denials_without_an_entry(loaded: Cli, streams: Streams) -> None:
    """Command and key of a folded entry are those of the first denial of its kind."""
    streams.denial(RUNNER, "1000-0", code="COMMAND_REFUSED", op="NOSUCH")
    streams.denial(RUNNER, "2000-0", folded="commands")
    streams.denial(RUNNER, "3000-0", folded="tokens")
    counts = ["of", "1000-0", "repeats", 12_000, "of", "2000-0", "repeats", 3]
    streams.append(KEYS.denied(RUNNER), "61000-0", *counts)

    shown = loaded.run("audit", "log", "--denied")

    assert "COMMAND_REFUSED ×12000 (also other commands)" in shown.stdout
    assert "KEY_NOT_GRANTED ×3 (also other commands)" in shown.stdout
    assert "KEY_NOT_GRANTED (also other tokens, commands and reasons)" in shown.stdout
    assert "12001 repeated denials are counted by `×`, not listed" in shown.stderr
    lines = loaded.lines("audit", "log", "--denied")
    assert [(line["repeats"], line["folded"]) for line in lines] == [
        (12_000, None),
        (3, "commands"),
        (1, "tokens"),
    ]
    assert [line["any_command"] for line in lines] == [True, True, True]
    assert "3, also of other commands" in loaded.ok("audit", "show", "2000-0")


def test_repeats_of_any_command_are_marked(loaded: Cli, streams: Streams) -> None:
    """Repeats of a code that does not depend on the command may be of any command."""
    streams.denial(RUNNER, "1000-0", code="COMMAND_REFUSED", op="RESTORE")
    streams.denial(RUNNER, "2000-0", code="WORK_TOO_LARGE", op="HGETALL")
    streams.denial(RUNNER, "3000-0", code="COMMAND_REFUSED", op="EVAL")
    counts = ["of", "1000-0", "repeats", 5, "of", "2000-0", "repeats", 3]
    streams.append(KEYS.denied(RUNNER), "61000-0", *counts)

    shown = loaded.ok("audit", "log", "--denied")

    assert "COMMAND_REFUSED ×5 (also other commands)" in shown
    assert "WORK_TOO_LARGE ×3: " in shown
    assert "WORK_TOO_LARGE ×3 (" not in shown
    assert shown.count("other commands") == 1


def test_log_of_denials_by_command_notes_its_limit(loaded: Cli, streams: Streams) -> None:
    """A folded denial of CONFIG may be in the entry of RESTORE."""
    streams.denial(RUNNER, "1000-0", code="COMMAND_REFUSED", op="RESTORE")
    streams.repeats(RUNNER, "61000-0", of="1000-0", count=5)

    shown = loaded.run("audit", "log", "--denied", "--op", "config")

    assert shown.exit_code == 1
    assert "`--op` misses denials counted in an entry of another command" in shown.stderr
    assert loaded.lines("audit", "log", "--denied", "--op", "restore")


def test_log_of_operator_actions_filters_by_identity(loaded: Cli) -> None:
    """Loads, issued tokens and suspensions; of all identities, or of one."""
    loaded.ok("freeze", RUNNER, "--reason", "x")

    assert [
        (line["kind"], line["event"], line["actor"])
        for line in loaded.lines("audit", "log", "--control")
    ] == [("control", "activate", "tester"), ("control", "freeze", "tester")]
    about = loaded.lines("audit", "log", "--control", "agent-reader")
    assert [line["event"] for line in about] == ["activate"]
    assert f"identities={RUNNER}" in loaded.ok("audit", "log", "--control")


def test_long_details_of_an_operator_action_are_cut_in_the_table(loaded: Cli) -> None:
    """JSON has all of them."""
    reason = "long " * 20
    loaded.ok("freeze", "agent-reader", "--reason", reason)

    table = loaded.ok("audit", "log", "--control")

    assert reason not in table
    assert "reason=long long" in table
    assert reason in loaded.ok("audit", "log", "--control", "--json")


def test_show_of_a_call_of_a_script_prints_its_name(loaded: Cli, streams: Streams) -> None:
    """As the log does."""
    streams.event(RUNNER, "1000-0", script="take")

    assert "script       take\nresult       ok\n" in loaded.ok("audit", "show", "1000-0")


def test_show_of_an_event_prints_all_fields(loaded: Cli, streams: Streams) -> None:
    """Arguments, before-image, result, identity and time."""
    streams.event(
        RUNNER,
        "1000-0",
        seq=7,
        key=STATE,
        args=b"1:v,2:\xff\n,",
        before=STATE,
        expires=60_000,
        image=b"\x00\xff",
    )
    streams.append(KEYS.audit(RUNNER), "1000-1", "of", "1000-0", "after", "d" * 40 + ":-1")
    streams.error(RUNNER, "1000-2", of="1000-0")

    lines = [line.split(maxsplit=1) for line in loaded.ok("audit", "show", "1000-0").splitlines()]
    (shown,) = loaded.lines("audit", "show", f"{RUNNER}/1000-0")

    assert lines == [
        ["event", "1000-0"],
        ["time", "1970-01-01T00:00:01.000Z"],
        ["identity", "agent-runner, number 7"],
        ["token", "t"],
        ["correlation", "c"],
        ["policy", "p"],
        ["cost", "1 request, 1 write"],
        ["operation", "SET"],
        ["key", STATE],
        ["argument", "v"],
        ["argument", r"\xff\n"],
        ["result", "ERR no"],
        ["before", f"{STATE}: 2 bytes in the format of DUMP, expires 1970-01-01T00:01:00.000Z"],
        ["after", f"{STATE}: SHA-1 {'d' * 40} of the value"],
    ]
    assert shown["args"] == ["v", {"base64": "/wo="}]
    assert shown["changes"] == [
        {
            "key": STATE,
            "before": {
                "exists": True,
                "bytes": 2,
                "expires_at": "1970-01-01T00:01:00.000Z",
                "image": {"base64": "AP8="},
            },
            "after": "d" * 40,
            "after_expires_at": None,
        }
    ]


def test_show_prints_before_images_of_every_type(
    loaded: Cli, streams: Streams, embedded: RealServer
) -> None:
    """Values are readable, not in the format of DUMP."""
    client = embedded.client()
    client.rpush("l", "x", b"\xff")
    dump = client.dump("l") or b""
    head = {"seq": "1", "token": "t", "DEL:2": b"1:s,1:l,"}
    words = [word for pair in head.items() for word in pair]
    images = ["before", "s", "expires", "60000", "value", b"a\n"]
    images += ["before", "l", "expires", "-1", "image", dump]
    streams.append(KEYS.audit(RUNNER), "1-0", *words, *images)

    shown = loaded.ok("audit", "show", "1-0")

    assert r's: string "a\n", expires 1970-01-01T00:01:00.000Z' in shown
    assert r"l: list [x, \xff]" in shown


def test_show_marks_changes_without_a_before_image(loaded: Cli, streams: Streams) -> None:
    """An absent key has a before-image; a value that was too large has none."""
    streams.batch(
        RUNNER,
        "1-0",
        "SET",
        "x",
        "DEL",
        "y",
        "before",
        "x",
        "expires",
        "absent",
        "value",
        "",
        "before",
        "y",
        "expires",
        "large",
        "image",
        70000,
    )

    text = loaded.ok("audit", "show", "1-0")
    first, second = loaded.lines("audit", "show", "1-0")

    assert "x: absent" in text
    assert "y: not reversible: too large, 70000 bytes" in text
    assert "2. DEL" in text
    assert first["changes"][0]["before"] == {"exists": False}
    assert (second["changes"][0]["before"], second["changes"][0]["large"]) == (None, 70000)


def test_show_of_denials_and_operator_actions_prints_them(loaded: Cli, streams: Streams) -> None:
    """Every entry with an id can be shown."""
    streams.denial(RUNNER, "1-0", reason="agents:jobs:*", code="KEY_DENIED")
    control = loaded.lines("audit", "log", "--control")[0]["id"]

    assert "KEY_DENIED" in loaded.ok("audit", "show", "1-0")
    assert "activate" in loaded.ok("audit", "show", f"control/{control}")
    assert loaded.lines("audit", "show", control)[0]["event"] == "activate"


def test_show_of_an_id_in_several_streams_fails_and_lists_them(
    loaded: Cli, streams: Streams
) -> None:
    """Ids are times, and two identities may have an event in the same millisecond."""
    streams.event(RUNNER, "1-0")
    streams.event("human-admin", "1-0")

    result = loaded.run("audit", "show", "1-0")

    assert result.exit_code == 1
    assert "`agent-runner/1-0`, `human-admin/1-0`" in result.stderr


def test_timeline_shows_all_entries_of_one_key(loaded: Cli, streams: Streams) -> None:
    """Of all identities, with denials and undos, and of no other key."""
    streams.event(RUNNER, "1-0", key=STATE)
    streams.event("human-admin", "2-0", op="SET:2", key=f"{len(STATE)}:{STATE},3:a:2,")
    streams.denial("agent-reader", "3-0", key=STATE)
    streams.event(OPERATORS, "4-0", key=STATE, actor="ops")
    streams.event(RUNNER, "5-0", key=f"{STATE}:1")

    lines = loaded.lines("audit", "timeline", STATE)

    assert [(line["kind"], line["id"]) for line in lines] == [
        ("event", "1-0"),
        ("event", "2-0"),
        ("denial", "3-0"),
        ("event", "4-0"),
    ]
    assert lines[3]["actor"] == "ops"
    assert f"{OPERATORS} (ops)" in loaded.ok("audit", "timeline", STATE)
    newest = loaded.run("--json", "audit", "timeline", STATE, "--limit", "2")
    assert newest.stdout.count("\n") == 2
    assert newest.stderr == "there is more: these are the newest 2\n"


def test_stats_count_events_and_denials(
    loaded: Cli, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables are cut by --top or to the screen; JSON has all rows."""
    for number in range(1, 4):
        streams.event(RUNNER, f"{number}-0", key=f"a:b{number}:c")
    streams.error(RUNNER, "3-1", of="3-0")
    streams.denial("human-admin", "4-0", key="z")

    result = loaded.run("audit", "stats", "--top", "2")
    rows = loaded.lines("audit", "stats")

    assert "agent-runner       3       1       0" in result.stdout
    assert "and more rows, 2 of prefix: `--all` shows each" in result.stderr
    assert [row["prefix"] for row in rows if row["kind"] == "prefix"] == [
        "",
        "a:b1:",
        "a:b2:",
        "a:b3:",
    ]
    monkeypatch.setenv("LINES", "18")
    assert loaded.run("audit", "stats").output.splitlines() == result.output.splitlines()
    assert len(result.output.splitlines()) == 17
    assert "a:b3:" in loaded.ok("audit", "stats", "--all")
    assert loaded.lines("audit", "stats", "human-admin")[-1] == {
        "kind": "code",
        "code": "KEY_NOT_GRANTED",
        "events": 0,
        "failed": 0,
        "denied": 1,
    }
