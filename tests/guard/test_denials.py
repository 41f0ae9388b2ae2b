"""The stream of denials keeps what matters: noise is counted, and not written down one by one."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from keyleash.audit.entries import Denial
from keyleash.audit.read import read_denials, read_unlisted
from keyleash.commands import load_table
from keyleash.compiler.emit import DENIED_RETAIN, MAX_KINDS, TOKEN_KINDS
from keyleash.errors import ReplyCode
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.state import MAX_REASON_BYTES
from support.clustered import NODES
from support.leash import NAMES, Leash, grant
from support.servers import RealServer

STORM = 600 if NODES else 12_000
ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*")]}
PATTERNS = 100
DENYING: dict[str, Any] = {
    "grants": [grant("read", keys="doc:*")],
    "deny": [{"keys": [f"doc:{number}:*"]} for number in range(PATTERNS)],
    "rate": {"reads": "1/day"},
}
WORST_MINUTE = TOKEN_KINDS + len(ReplyCode) + 1
"""Entries: the token's kinds, one for each code, and one that counts those of the minute before."""


def suspended(leash: Leash, token: str) -> str:
    freeze(leash.store, "one", reason="look")
    return token


def revoked(leash: Leash, token: str) -> str:
    revoke(leash.store, identity="one")
    return token


CALLERS: dict[str, tuple[ReplyCode, Callable[[Leash, str], str]]] = {
    "valid": (ReplyCode.COMMAND_REFUSED, lambda _, token: token),
    "invalid": (ReplyCode.TOKEN_UNKNOWN, lambda _, token: f"{token}x"),
    "revoked": (ReplyCode.TOKEN_REVOKED, revoked),
    "suspended": (ReplyCode.SUSPENDED, suspended),
}


def storm(leash: Leash, calls: Iterable[tuple[str, str]]) -> None:
    """Call commands with tokens, all of them denied."""
    digest = leash.digest("one")
    numbered = enumerate(calls)
    words = (("EVALSHA", digest, 0, token, f"c{n}", command) for n, (token, command) in numbered)
    leash.server.call_denied("one", words)


def batches(leash: Leash, token: str, commands: list[tuple[str, ...]]) -> None:
    """Call commands in batches of 500, all of them denied."""
    for at in range(0, len(commands), 500):
        leash.batch("one", token, "each", *commands[at : at + 500])


def denials(leash: Leash) -> list[Denial]:
    return list(read_denials(leash.store, ["one"]))


def folded(leash: Leash) -> int:
    return read_unlisted(leash.store, ["one"])["one"].folded


def begin_minute(leash: Leash) -> None:
    """Wait for the next minute if this one is nearly over: few calls then fall into one."""
    left_s = 60 - int(leash.admin.time()[0]) % 60
    if left_s < 10:
        time.sleep(left_s)


def end_minute(leash: Leash) -> None:
    """Date what this minute has counted a minute back."""
    name = leash.names_at("{kl}").repeats("one")
    held = leash.admin.hgetall(name)
    (minute,) = (field for field in held if len(field) == 4)
    before = struct.pack("<I", struct.unpack("<I", minute)[0] - 1)
    leash.admin.delete(name)
    leash.admin.hset(
        name, mapping={field.replace(minute, before): value for field, value in held.items()}
    )


@pytest.mark.parametrize("caller", CALLERS)
def test_storm_of_made_up_commands_leaves_earlier_denials(server: RealServer, caller: str) -> None:
    """A caller chooses command and correlation id, and still cannot evict an entry."""
    leash = Leash(server)
    leash.load(one=ALL)
    token = leash.issue("one").token
    assert leash.call("one", token, "GET", "other") == "LEASH KEY_NOT_GRANTED key=other"
    code, become = CALLERS[caller]
    storming = become(leash, token)

    storm(leash, ((storming, f"NOSUCH{number}") for number in range(STORM)))

    first, *others = denials(leash)
    assert (first.code, first.keys, first.repeats) == ("KEY_NOT_GRANTED", (b"other",), 1)
    assert {(other.code, other.op[:6]) for other in others} == {(code, "NOSUCH")}
    assert sum(other.repeats for other in others) == STORM
    # It may have gone over the end of a minute or two.
    assert len(others) <= 3
    assert folded(leash) == STORM - len(others)


def test_made_up_tokens_share_one_entry(leash: Leash) -> None:
    """Unknown tokens are one kind of denial, like unknown commands."""
    leash.load(one=ALL)

    storm(leash, ((f"kl_one_{number}", f"NOSUCH{number}") for number in range(1000)))

    assert {(denial.token, denial.code) for denial in denials(leash)} == {("-", "TOKEN_UNKNOWN")}
    assert len(denials(leash)) <= 2
    assert folded(leash) == 1000 - len(denials(leash))


def every_denial(number: int) -> Iterator[tuple[str, ...]]:
    """Of every command a denial for its class, its key, and each pattern."""
    for name, spec in load_table().commands.items():
        if spec.keys and " " not in name:
            rest = ("{d}x",) * max(0, abs(spec.arity) - 2)
            yield (name, f"{{d}}other:{number}", *rest)
            yield (name, f"doc:{number % PATTERNS}:{{d}}x", *rest)
            yield (name, "doc:{d}x", *rest)
    for pattern in range(PATTERNS):
        yield "GET", f"doc:{pattern}:{{d}}{number}"
    for made_up in range(200):
        yield (f"NOSUCH{made_up}",)
        yield (f"EVAL:{made_up:040}",)


def test_token_makes_a_bounded_number_of_entries_a_minute(leash: Leash) -> None:
    """With whatever it is denied: it would need hours to push an entry out of the stream."""
    leash.load(one=DENYING)
    token = leash.issue("one").token
    begin_minute(leash)

    batches(leash, token, list(every_denial(1)))
    batches(leash, token, list(every_denial(2)))

    found = denials(leash)
    minutes = Counter(item.time_ms // 60_000 for item in found)
    assert all(count < WORST_MINUTE for count in minutes.values())
    assert sum(item.repeats for item in found) == len(found) + folded(leash) > 1500
    assert {item.folded for item in found} == {"", "commands", "tokens"}
    assert leash.admin.hlen(leash.names_at("{d}").repeats("one")) <= 4 * MAX_KINDS
    assert DENIED_RETAIN // WORST_MINUTE > 180


def test_noise_of_one_token_hides_no_denial_of_another(leash: Leash) -> None:
    """Each token has entries of its own, also in a minute in which one of them is loud."""
    leash.load(one=DENYING)
    begin_minute(leash)
    loud, other = leash.issue("one").token, leash.issue("one")

    batches(leash, loud, list(every_denial(1)))
    leash.call("one", other.token, "GET", "doc:7:{d}secret")
    leash.call("one", other.token, "GET", "{d}elsewhere")

    (denied, outside) = (denial for denial in denials(leash) if denial.token == other.id)
    assert (denied.code, denied.reason) == ("KEY_DENIED", "doc:7:*")
    assert denied.keys == (b"doc:7:{d}secret",)
    assert (outside.code, outside.keys) == ("KEY_NOT_GRANTED", (b"{d}elsewhere",))


def test_tokens_together_make_a_bounded_number_of_entries_a_minute(leash: Leash) -> None:
    """However many of them are denied; what has no entry is counted by its code."""
    leash.load(one=ALL)
    tokens = [leash.issue("one").token for _ in range(2 * MAX_KINDS)]
    revoke(leash.store, identity="one")

    for _ in range(2):
        storm(leash, ((token, "GET") for token in tokens))

    found = denials(leash)
    minutes = Counter(item.time_ms // 60_000 for item in found)
    assert max(minutes.values()) <= MAX_KINDS + len(ReplyCode)
    assert "tokens" in {item.folded for item in found}
    assert sum(item.repeats for item in found) == len(found) + folded(leash) == 4 * MAX_KINDS


def test_commands_are_told_apart_where_the_key_or_the_class_is_denied(leash: Leash) -> None:
    """A few of them, with the key of each."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    begin_minute(leash)
    for command in ("GET", "SET", "GET", "DEL"):
        leash.call("one", token, command, f"other:{command}", *["x"] * (command == "SET"))

    found = [(denial.op, denial.keys, denial.repeats) for denial in denials(leash)]
    assert found[0] == ("GET", (b"other:GET",), 2)
    assert [op for op, _, _ in found] == ["GET", "SET", "DEL"]


@pytest.mark.parametrize("masks", [[], ["payroll:*"]], ids=["plain", "masked"])
def test_beginnings_of_denied_keys_are_told_apart(leash: Leash, masks: list[str]) -> None:
    """The log shows where a program looks around, and a flood of beginnings is folded."""
    leash.load(one={**ALL, "audit": {"mask_keys": masks}} if masks else ALL)
    token = leash.issue("one").token
    begin_minute(leash)
    tried = ["a-typo:{d}", *(f"payroll:{number}:{{d}}" for number in range(50)), "b:{d}secret"]
    for key in [*tried, *(f"made{number}:{{d}}" for number in range(20))]:
        assert leash.call("one", token, "GET", key).startswith("LEASH KEY_NOT_GRANTED")

    found = denials(leash)
    beginnings = [(denial.keys[0].partition(b":")[0], denial.repeats) for denial in found]
    assert beginnings[:4] == [(b"a-typo", 1), (b"payroll", 50), (b"b", 1), (b"made0", 1)]
    assert (len(found), found[-1].folded, found[-1].repeats) == (9, "commands", 15)
    assert sum(denial.repeats for denial in found) == 72


@pytest.mark.parametrize("mode", ["", "each", "all"])
def test_key_of_a_command_without_its_class_is_in_the_log(leash: Leash, mode: str) -> None:
    """The reply does not repeat it, and keys with different beginnings have their own entries."""
    leash.load(one={"grants": [grant("read", keys="doc:*")]})
    token = leash.issue("one").token
    begin_minute(leash)
    for key in ("doc:{d}", "payroll:1:{d}", "payroll:2:{d}", ""):
        words = ("SET", key, "x") if key else ("FLUSHALL",)
        if mode:
            called = leash.batch("one", token, mode, ("GET", "doc:{d}"), words)
        else:
            called = leash.call("one", token, *words)
        line = called[1] if mode == "each" else called
        assert line.startswith("LEASH CLASS_NOT_GRANTED" if key else "LEASH ")
        assert "key=" not in line

    found = [(denial.keys, denial.reason, denial.repeats) for denial in denials(leash)]
    assert found[:2] == [((b"doc:{d}",), "write", 1), ((b"payroll:1:{d}",), "write", 2)]


def test_commands_are_told_apart_where_the_call_is_too_large(leash: Leash) -> None:
    """The name is one of the guard's own, as the call was weighed."""
    leash.load(one={**ALL, "limits": {"work": 1000}})
    token = leash.issue("one").token
    leash.admin.rpush("doc:list", *range(2000))
    leash.admin.hset("doc:hash", mapping={f"f{number}": number for number in range(2000)})
    begin_minute(leash)
    for command in ("HGETALL doc:hash", "LRANGE doc:list 0 -1", "HGETALL doc:hash"):
        leash.call("one", token, *command.split())

    found = [(denial.code, denial.op, denial.repeats) for denial in denials(leash)]
    assert found == [("WORK_TOO_LARGE", "HGETALL", 2), ("WORK_TOO_LARGE", "LRANGE", 1)]


def test_numbers_of_repeats_are_written_down_when_their_minute_is_over(leash: Leash) -> None:
    """In one entry for all kinds; the counts are not lost with the hash that they stood in."""
    leash.load(one=ALL)
    issued = leash.issue("one")
    begin_minute(leash)
    storm(leash, [(issued.token, "NOSUCH")] * 7 + [("x", "NOSUCH")] * 3)
    leash.call("one", issued.token, "GET", "{kl}other")
    ids = [entry_id for entry_id, _ in leash.admin.xrange(leash.names_at("{kl}").denied("one"))]
    end_minute(leash)
    storm(leash, [(issued.token, "NOSUCH")])

    counts = [words for _, words in raw_entries(leash) if words[0] == b"of"]
    assert counts == [[b"of", ids[0], b"repeats", b"7", b"of", ids[1], b"repeats", b"3"]]
    assert [denial.repeats for denial in denials(leash)] == [7, 3, 1, 1]
    assert [denial.seq for denial in denials(leash)] == [1, 2, 3, 4]
    assert folded(leash) == 8


def test_hash_that_no_guard_made_is_not_read(leash: Leash) -> None:
    """The guard would read all of it in one step."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    begin_minute(leash)
    storm(leash, [(token, "NOSUCH")] * 2)
    end_minute(leash)
    forged = {f"id:{number}": "9-9" for number in range(5000)}
    counts = {str(number): 2 for number in range(5000)}
    name = leash.names_at("{kl}").repeats("one")
    leash.admin.hset(name, mapping=forged | counts)

    assert leash.call("one", token, "NOSUCH") == "LEASH COMMAND_REFUSED command=NOSUCH"

    assert [denial.repeats for denial in denials(leash)] == [1, 1]
    assert leash.admin.hlen(name) < 10


def raw_entries(leash: Leash) -> list[tuple[bytes, list[bytes]]]:
    entries: list[tuple[bytes, list[bytes]]] = leash.node.execute_command(
        b"XRANGE", leash.names_at("{kl}").denied("one"), "-", "+"
    )
    return entries


def test_long_reason_of_a_suspension_is_cut(leash: Leash) -> None:
    """It may be damaged: it is not to fill the server with it."""
    leash.load(one=ALL)
    token = suspended(leash, leash.issue("one").token)
    leash.admin.hset(NAMES.suspension("one"), "reason", "r" * 100_000)

    assert leash.call("one", token, "GET", "doc:1").startswith("LEASH SUSPENDED reason=rrr")

    assert [denial.reason for denial in denials(leash)] == ["r" * MAX_REASON_BYTES]
    assert all(len(field) < 400 for field in leash.admin.hkeys(NAMES.repeats("one")))
