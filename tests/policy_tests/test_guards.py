"""Real guards under a simulated clock."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from keyleash.addons.policy_tests.guards import Guards
from keyleash.addons.policy_tests.model import BoundToken, Case, Expected, TestStep
from keyleash.addons.policy_tests.run import Verdict, judged, model_decisions
from keyleash.commands import load_table
from keyleash.errors import ReplyCode
from keyleash.operator.tokens.restrict import Scope
from keyleash.policy import parse_policy
from keyleash.store.store import Store
from support.clockwork import (
    FORWARD,
    STARTS,
    SUBJECTS,
    Command,
    Move,
    document,
    limits,
    moved,
    script_of,
)
from support.errors import raises_code
from support.loading import load_policy
from support.servers import RealServer
from support.thorough import thorough

TABLE = load_table()
SOMEWHERE = parse_policy(document({}), file="policy.json", commands=TABLE).identities[0].span
ALLOWED = Expected(None)


def case_of(start_us: int, text: str, script: list[tuple[Move, Command, str]]) -> Case:
    """Return a case with the calls of a script at their times."""
    identity = parse_policy(text, file="policy.json", commands=TABLE).identities[0]
    assert SOMEWHERE is not None
    now_us, steps = start_us, []
    for move, command, token in script:
        now_us = max(now_us, moved(now_us, move, identity, None))
        argv = tuple(word.encode() for word in command)
        steps.append(TestStep(now_us, token, argv, 1, ALLOWED, SOMEWHERE))
    return Case("", "a", tuple(steps), SOMEWHERE, SOMEWHERE)


@pytest.fixture
def guards(server: RealServer) -> Guards:
    """Guards on an empty server of each kind."""
    return Guards(server.client())


def test_call_that_was_interrupted_leaves_nothing_behind(server: RealServer) -> None:
    """Here its end reaches the server after the tests have cleared the database."""
    client = server.client()
    guards = Guards(client)
    connection = client.connection_pool.get_connection()
    connection.send_packed_command(connection.pack_commands([("MULTI",), ("SET", "k:1", "v")]))
    connection.read_response()

    guards.release()

    with contextlib.suppress(redis.ConnectionError):
        connection.send_command("EXEC")
        connection.read_response()
    assert server.client().dbsize() == 0


def test_real_guards_use_the_clock_of_the_test(guards: Guards) -> None:
    """Over months and DST changes, guard and model agree in code and details."""
    codes: set[ReplyCode | None] = set()

    @thorough(25)
    @given(STARTS, limits(SUBJECTS), script_of(FORWARD))
    def compare(
        start_us: int, limits_of: dict[str, Any], script: list[tuple[Move, Command, str]]
    ) -> None:
        text = document(limits_of)
        identity = parse_policy(text, file="policy.json", commands=TABLE).identities[0]
        case = case_of(start_us, text, script)
        guards.load(text, "policy.json", start_us)
        expected = list(model_decisions(case, identity, guards.table))
        assert guards.decisions(case, identity) == expected
        # A second run starts from the same state.
        assert guards.decisions(case, identity) == expected
        codes.update(item.code for item in expected)

    compare()

    assert {None, ReplyCode.RATE_LIMITED, ReplyCode.BUDGET_EXHAUSTED} <= codes


CAPS = st.dictionaries(
    st.sampled_from(["requests", "reads", "writes"]),
    st.builds(
        "{}{}".format,
        st.integers(1, 9),
        st.sampled_from(["", "/minute", "/hour", "/day", "/month"]),
    ),
    max_size=3,
)
ALLOWED_CLASSES = st.sampled_from([None, ["read"], ["read", "write"]])
SCOPES = st.builds(Scope, allow=ALLOWED_CLASSES, budget=CAPS)


def test_real_guards_count_caps_as_the_model_does(guards: Guards) -> None:
    """Of two bound tokens over a clock that moves; a token's record keeps what its caps counted."""
    limits: set[str] = set()

    @thorough(15)
    @given(STARTS, SCOPES, SCOPES, script_of(FORWARD))
    def compare(
        start_us: int, first: Scope, second: Scope, script: list[tuple[Move, Command, str]]
    ) -> None:
        text = document({"token": {"bound": True}})
        identity = parse_policy(text, file="policy.json", commands=TABLE).identities[0]
        assert SOMEWHERE is not None
        bound = {
            name: BoundToken(scope, SOMEWHERE)
            for name, scope in {"kl_one": first, "kl_two": second}.items()
        }
        case = replace(case_of(start_us, text, script), bound=bound)
        guards.load(text, "policy.json", start_us)
        expected = list(model_decisions(case, identity, guards.table))
        assert guards.decisions(case, identity) == expected
        assert guards.decisions(case, identity) == expected
        limits.update(str(item.details.get("limit")) for item in expected)

    compare()

    assert limits & {f"token.{name}" for name in ("requests", "reads", "writes")}


def test_released_database_is_empty(guards: Guards, server: RealServer) -> None:
    """Control keys and keys written by the calls are deleted."""
    text = document({"rate": {"requests": {"limit": "9/minute", "per": "token"}}})
    identity = parse_policy(text, file="policy.json", commands=TABLE).identities[0]
    guards.load(text, "policy.json", 0)
    case = case_of(0, text, [(("by", 1), ("SET", "k:a:1", "v"), "kl_one")])
    assert [decision.allowed for decision in guards.decisions(case, identity)] == [True]
    assert server.client().exists("k:a:1")

    guards.release()

    assert server.client().dbsize() == 0


def test_database_with_keys_is_rejected(embedded: RealServer) -> None:
    """Tests load policies, so they need an empty database."""
    embedded.client().set("other:s", "data")

    with raises_code("not-empty"):
        Guards(embedded.client())

    assert embedded.client().keys() == [b"other:s"]


def test_missing_guard_is_an_error(embedded: RealServer) -> None:
    """NOSCRIPT is not an error of the guarded command."""
    guards = Guards(embedded.client())
    text = document({})
    identity = parse_policy(text, file="policy.json", commands=TABLE).identities[0]
    guards.load(text, "policy.json", 0)
    embedded.client().script_flush()

    with raises_code("guard-broke"):
        guards.decisions(case_of(0, text, [(("by", 1), ("PING",), "kl_one")]), identity)


def test_full_audit_stream_does_not_deny_calls_of_a_test(embedded: RealServer) -> None:
    """Its free space depends on an archiver, not on the policy."""
    audit = {"retain": {"until": "exported", "hard_max": 3}}
    text = document({"audit": audit})
    identity = parse_policy(text, file="policy.json", commands=TABLE).identities[0]
    guards = Guards(embedded.client())
    guards.load(text, "policy.json", 0)
    case = case_of(0, text, [(("by", 1), ("SET", "k:a:1", "v"), "kl_one")] * 9)

    decisions = guards.decisions(case, identity)

    assert [decision.allowed for decision in decisions] == [True] * 9


def test_difference_of_model_and_guard_is_a_disagreement(embedded: RealServer) -> None:
    """This holds even if one of them decides as expected."""
    text = document({"rate": {"requests": "1/minute"}})
    identity = parse_policy(text, file="policy.json", commands=TABLE).identities[0]
    guards = Guards(embedded.client())
    guards.load(text, "policy.json", 0)
    case = case_of(0, text, [(("by", 1), ("PING",), "kl_one")] * 2)
    real = guards.decisions(case, identity)
    model = list(model_decisions(case, identity, TABLE))

    assert judged(case, [model[0], model[0]], real).verdict is Verdict.DISAGREED
    assert judged(case, model, [real[0], real[0]]).verdict is Verdict.DISAGREED
    assert judged(case, model, real).verdict is Verdict.FAILED
    assert judged(case, [model[0], model[0]], None).verdict is Verdict.PASSED


def test_interrupted_claim_leaves_the_database_empty(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has run it, and its reply was not read."""
    execute = redis.client.Pipeline.execute

    def interrupted(pipe: Any, *args: Any, **options: Any) -> None:
        execute(pipe, *args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(redis.client.Pipeline, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Guards(server.client())

    assert server.client().dbsize() == 0


def test_database_used_by_other_tests_is_rejected(server: RealServer) -> None:
    """Each run would delete keys of the other; afterwards the database is empty."""
    first = Guards(server.client())

    with raises_code("not-empty", match="other tests"):
        Guards(server.client())
    first.load(document({}), "policy.json", 0)
    first.release()

    assert server.client().dbsize() == 0
    Guards(server.client()).release()


def test_policy_loaded_during_the_tests_is_not_removed(server: RealServer) -> None:
    """It belongs to an operator, with its tokens and audit stream."""
    admin = server.client()
    guards = Guards(admin)
    guards.load(document({}), "policy.json", 0)
    load_policy(
        Store(admin, actor="operator"), document({}).replace('"a"', '"b"'), allow_removal=True
    )
    held = set(admin.keys())

    for leave in (guards.clear, guards.release):
        with raises_code("not-empty", match="nothing was removed"):
            leave()

    assert set(admin.keys()) == held
