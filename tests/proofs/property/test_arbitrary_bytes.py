"""Any bytes anywhere in a guard call: they arrive as they are, and never break the script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from keyleash.commands import load_table
from keyleash.errors import LeashError, ReplyCode
from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.trace import Decision
from keyleash.policy import parse_policy
from keyleash.store.records import read_active
from keyleash.store.store import Store
from keyleash.store.wire import refusal
from keyleash.text import without_tokens
from proofs.oracle.data import model_state
from support.leash import NAMES, Leash, grant
from support.servers import RealServer
from support.streams import command_of
from support.thorough import thorough

TABLE = load_table()
HALF_A_MEGABYTE = b"\0\r\n]]" * (512 * 1024 // 5)
AWKWARD = [
    b"", b"\0", b"\n", b"\r\n", b"'", b'"', b"]]", b"--[[", b"%", b"%s", b"\\", b"\xff\xfe", b" ",
    b"\xe2\x82", b"a=b", b"LEASH ALLOWED", b"*1\r\n$4\r\nPING\r\n",
]  # fmt: skip
BYTES = st.sampled_from(AWKWARD) | st.binary(max_size=40) | st.binary(min_size=100, max_size=400)


class RawAgent:
    """An identity `one` that may do everything under `k:`, called without any wrapper."""

    def __init__(self, server: RealServer) -> None:
        self.leash = Leash(server)
        self.leash.load(
            one={
                "grants": [grant("read", "write", "delete", keys="k:*")],
                "rate": {"requests": {"limit": "100000/second", "burst": 100_000}},
                "budget": {"requests": "1000000000/month"},
                "limits": {"key_bytes": "1mb"},
            }
        )
        self.token = self.leash.issue("one").token.encode()
        self.digest = self.leash.digest("one")

    def evalsha(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Any:
        """The reply, or the text of an error; never that of a broken script."""
        reply = self.leash.raw("one", list(keys), *arguments, digest=self.digest)
        assert not (isinstance(reply, str) and "user_script" in reply)
        return reply

    def call(self, key: bytes, *argv: bytes, correlation: bytes = b"c") -> Any:
        return self.evalsha([key], [self.token, correlation, *argv])

    def state(self) -> bytes:
        return self.leash.state("one")


@pytest.fixture
def agent(server: RealServer) -> RawAgent:
    return RawAgent(server)


def refused(reply: Any) -> Decision:
    assert isinstance(reply, str), reply
    error = refusal(reply)
    assert isinstance(error, LeashError), reply
    return Decision(ReplyCode(error.code), error.details)


def test_bytes_of_keys_values_and_correlations_arrive_as_they_are(agent: RawAgent) -> None:
    """GET returns the bytes of SET, and the event has the same key and correlation id."""

    @thorough(50)
    @given(BYTES, BYTES, BYTES)
    @example(b"k", HALF_A_MEGABYTE, b"c")
    @example(HALF_A_MEGABYTE, b"v", b"c")
    @example(b"k", b"v", HALF_A_MEGABYTE)
    def compare(name: bytes, value: bytes, correlation: bytes) -> None:
        key = b"k:" + name
        agent.leash.admin.delete(NAMES.audit("one"))

        assert agent.call(key, b"SET", key, value, correlation=correlation) == b"OK"
        assert agent.call(key, b"GET", key, correlation=correlation) == value
        assert agent.leash.admin.get(key) == value
        [(_, event)] = agent.leash.admin.xrange(NAMES.audit("one"))
        assert command_of(event) == (b"SET", key)
        assert event[b"correlation"] == correlation[:256]

    compare()


def test_source_and_correlation_of_any_bytes_are_recorded_apart(agent: RawAgent) -> None:
    """The first line break separates them, and each is cut."""
    leash = agent.leash
    leash.load(two={"grants": [grant("write", keys="k:*")], "audit": {"source": True}})
    token, digest = leash.issue("two").token, leash.digest("two")

    @thorough(50)
    @given(BYTES, BYTES)
    @example(HALF_A_MEGABYTE, b"c")
    @example(b"s", HALF_A_MEGABYTE)
    @example(HALF_A_MEGABYTE.replace(b"\n", b""), HALF_A_MEGABYTE)
    def compare(source: bytes, correlation: bytes) -> None:
        leash.admin.delete(NAMES.audit("two"))
        argument = source + b"\n" + correlation
        assert leash.raw("two", ["k:a"], token, argument, "SET", "k:a", "x", digest=digest) == b"OK"

        [(_, event)] = leash.admin.xrange(NAMES.audit("two"))
        source, _, correlation = argument.partition(b"\n")
        assert event[b"source"] == source[:256]
        assert event[b"correlation"] == correlation[:256]

    compare()


def test_key_outside_the_grant_is_named_in_the_refusal_as_it_is(agent: RawAgent) -> None:
    """A refusal is one line, whatever the key, and unescapes to the key's first 128 bytes."""

    @thorough(50)
    @given(BYTES.filter(lambda key: not key.startswith(b"k:")))
    @example(HALF_A_MEGABYTE)
    def compare(key: bytes) -> None:
        reply = agent.call(key, b"GET", key)

        assert "\n" not in reply
        decision = refused(reply)
        assert decision.code is ReplyCode.KEY_NOT_GRANTED
        assert decision.details["key"].encode("utf-8", "surrogateescape") == key[:128]

    compare()


def test_only_the_very_token_is_known(agent: RawAgent) -> None:
    """No other bytes pass for a token, also none that begin or end like it."""

    @thorough(50)
    @given(BYTES)
    @example(HALF_A_MEGABYTE)
    def compare(junk: bytes) -> None:
        for token in (junk, agent.token + junk, junk + agent.token, agent.token[:-1] + junk[:1]):
            if token != agent.token:
                reply = agent.evalsha([b"k:a"], [token, b"c", b"GET", b"k:a"])
                assert refused(reply).code is ReplyCode.TOKEN_UNKNOWN

    compare()


def test_command_of_any_bytes_is_refused(agent: RawAgent) -> None:
    """Only exact upper-case names of scopable commands are commands."""

    @thorough(50)
    @given(BYTES)
    @example(HALF_A_MEGABYTE)
    @example(b"get")
    @example(b"GET\0")
    @example(b"GET ")
    def compare(name: bytes) -> None:
        # Hypothesis tries the literals of this project too.
        assume(name.decode("latin-1") not in load_table().commands)
        decision = refused(agent.call(b"k:a", name, b"k:a"))

        assert decision.code is ReplyCode.COMMAND_REFUSED
        assert decision.details["command"].encode("utf-8", "surrogateescape") == name[:128]

    compare()


def test_malformed_call_gets_a_refusal_and_counts_nothing(agent: RawAgent) -> None:
    """Any number of keys and of arguments, none at all included, in any order."""
    active = read_active(Store(agent.leash.admin, NAMES))
    assert active is not None
    identity = parse_policy(active.document, file="policy.json", commands=TABLE).identities[0]
    words = st.sampled_from(
        [agent.token, agent.token, b"", b"2", b"3", b"c", b"GET", b"SET", b"PING", b"MGET", b"k:a",
         b"k:b", b"x", b"\0"]
    )  # fmt: skip

    @thorough(150)
    @given(st.lists(words, max_size=8), st.integers(0, 8))
    @example([], 0)
    @example([agent.token], 1)
    @example([agent.token], 0)
    @example([agent.token, b"c"], 0)
    def compare(sent: list[bytes], keys: int) -> None:
        declared, arguments = sent[:keys], sent[keys:]
        before = agent.state()
        reply = agent.evalsha(declared, arguments)
        if arguments[:1] != [agent.token]:
            assert refused(reply).code is ReplyCode.TOKEN_UNKNOWN
            assert agent.state() == before
            return
        expected = decide(identity, TABLE, arguments[2:], declared, model_state(), 0)
        if expected.allowed:
            assert not str(reply).startswith("LEASH")
        else:
            # The error of a client leaves out tokens, here that of a command of this name.
            shown = {name: without_tokens(text) for name, text in expected.details.items()}
            assert refused(reply) == replace(expected, details=shown)
            assert agent.state() == before

    compare()


@pytest.mark.parametrize("count", [6_998, 6_999, 7_000, 7_001, 7_999, 8_000, 100_000])
def test_long_call_runs_whole_or_is_refused(agent: RawAgent, count: int) -> None:
    """Lua's unpack ends at 7,999 values, so longer calls are refused before anything is taken."""
    keys = [b"k:%d" % number for number in range(count)]
    agent.leash.admin.mset(dict.fromkeys(keys, b"v"))
    before = agent.state()

    reply = agent.evalsha(keys, [agent.token, b"c", b"UNLINK", *keys])

    if count + 1 <= 7_000:
        assert reply == count
    else:
        assert refused(reply).code is ReplyCode.ARGS_TOO_MANY
        assert agent.state() == before
        assert agent.leash.admin.exists(*keys[:10]) == 10
