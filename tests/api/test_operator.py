"""`keyleash.Operator` and `keyleash.asyncio.Operator` on an embedded server."""

from __future__ import annotations

import asyncio
import json
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

import keyleash
from keyleash.errors import PlanOutdatedError, RemovalError, UsageError
from support.command_line import Cli
from support.errors import raises_code
from support.leash import grant, policy
from support.servers import RealServer

ROOT = Path(__file__).resolve().parents[2]
RULES = {
    "grants": [grant("read", "write", keys="a:*")],
    "audit": {"before_images": {"max_bytes": "1kb"}},
}
ONE = keyleash.Policy(policy(one=RULES))
TWO = keyleash.Policy(policy(one=RULES, two=RULES))


def agent(embedded: RealServer, op: keyleash.Operator) -> keyleash.Redis:
    return keyleash.Redis.from_url(embedded.url, token=op.tokens.issue("one").token)


def test_load_with_an_outdated_plan_changes_nothing(op: keyleash.Operator) -> None:
    """Another operator activated a policy in between."""
    plan = op.plan(ONE)
    op.load(TWO)

    with pytest.raises(PlanOutdatedError, match="make a new plan"):
        op.load(ONE, expect=plan, allow_removal=True)

    assert [item.generation for item in op.policies.history()] == [1]


@pytest.mark.parametrize("text", ["{}", "Bearer {}", " {}", "redis://agent:{}@server"])
def test_token_in_place_of_an_id_or_a_url_is_not_repeated(
    loaded: keyleash.Operator, text: str
) -> None:
    """It may stand within a longer text, such as a header."""
    token = loaded.tokens.issue("one").token
    word = text.format(token)
    tokens = loaded.tokens

    for call in (tokens.revoke, tokens.renew, tokens.show, tokens.tree, tokens.rotate):
        with pytest.raises(keyleash.UsageError) as failure:
            call(word)
        assert token not in str(failure.value)
    if "://" not in word:
        with raises_code("bad-url") as refusal:
            keyleash.Operator.from_url(word)
        assert token not in str(refusal.value)


def test_load_with_the_plan_of_another_policy_is_an_error(op: keyleash.Operator) -> None:
    """The plan that was reviewed must be that of what is loaded."""
    with pytest.raises(ValueError, match="plan of another policy"):
        op.load(TWO, expect=op.plan(ONE))

    assert op.policies.active() is None


def test_load_that_widens_or_removes_needs_consent_for_each(loaded: keyleash.Operator) -> None:
    """As with the command, nothing is activated without it."""
    with raises_code("widens"):
        loaded.load(TWO)
    loaded.load(TWO, allow_widening=True)
    with pytest.raises(RemovalError):
        loaded.load(ONE)

    assert loaded.load(ONE, allow_removal=True).removed == ("two",)
    assert loaded.rollback(allow_widening=True).generation == 4


def test_policy_with_problems_lists_them_and_is_not_loaded(op: keyleash.Operator) -> None:
    """A program can show all of them."""
    wrong = keyleash.Policy("version: 1\nidentities:\n  one: {kind: robot}\n", file="a.yaml")

    assert wrong.problems
    assert {problem.span.file for problem in wrong.problems} == {"a.yaml"}
    with pytest.raises(keyleash.errors.PolicyError):
        op.load(wrong)
    assert op.policies.active() is None


def test_policy_file_that_is_missing_is_an_error_of_keyleash(tmp_path: Path) -> None:
    """One tree of errors covers all operations."""
    with raises_code("file", match="no such file"):
        keyleash.Policy.from_file(tmp_path / "agents.yaml")


def test_tokens_are_issued_rotated_listed_and_revoked(
    embedded: RealServer, loaded: keyleash.Operator
) -> None:
    """The life of a token, with durations as text and as timedelta."""
    token = loaded.tokens.issue("one", ttl="2h", note="ci")
    many = loaded.tokens.issue_many("one", 250, ttl=timedelta(hours=1))
    rotation = loaded.tokens.rotate(token.id, grace="10m")

    assert len({item.token for item in many}) == 250
    assert [item.id for item in rotation.replaced] == [token.id]
    assert {item.by for item in loaded.tokens.list("one")} == {"deploy@ci"}
    assert len(loaded.tokens.revoke(identity="one").tokens) == 252
    with pytest.raises(keyleash.TokenRevokedError):
        keyleash.Redis.from_url(embedded.url, token=rotation.issued.token).get("a:1")


def test_token_is_shown_with_its_calls_and_rotated_by_either_name(
    embedded: RealServer, loaded: keyleash.Operator
) -> None:
    """A program knows the id, or only the identity."""
    token = loaded.tokens.issue("one", ttl="2h")
    keyleash.Redis.from_url(embedded.url, token=token.token).set("a:1", "x")

    shown = loaded.tokens.show(token.id)
    assert (shown.recorded_uses, shown.denied_as_revoked) == (1, 0)
    assert shown.token.expires_at == token.expires_at
    assert not shown.token.is_stale
    by_id = loaded.tokens.rotate(token.id, grace=timedelta(0))
    assert loaded.tokens.rotate("one").replaced[0].id == by_id.issued.id
    with raises_code("unknown-token-id"):
        loaded.tokens.rotate("two")
    with pytest.raises(TypeError, match="either a token id or an identity"):
        loaded.tokens.rotate()


def test_revocation_counts_calls_before_and_denials_since(
    embedded: RealServer, loaded: keyleash.Operator
) -> None:
    """An operator sees what the agent did, and that it does no more."""
    token = loaded.tokens.issue("one")
    client = keyleash.Redis.from_url(embedded.url, token=token.token)
    client.set("a:1", "x")

    done = loaded.tokens.with_calls_before(loaded.tokens.revoke(all=True))
    with pytest.raises(keyleash.TokenRevokedError):
        client.get("a:1")

    assert done.effective_at.tzinfo is UTC
    assert loaded.tokens.show(token.id).denied_as_revoked == 1
    assert done.to_dict()["revoked"] == [
        {"id": token.id, "identity": "one", "recorded_in_the_minute_before": 1}
    ]


def test_token_in_place_of_its_id_is_an_error_that_does_not_show_it(
    loaded: keyleash.Operator,
) -> None:
    """Errors are logged."""
    token = loaded.tokens.issue("one").token

    for call in (loaded.tokens.show, loaded.tokens.revoke, loaded.tokens.rotate):
        with pytest.raises(keyleash.UsageError, match="not a token id") as raised:
            call(token)
        assert token not in str(raised.value)
    assert [item.state for item in loaded.tokens.list()] == ["live"]


def test_tokens_of_an_unknown_identity_are_an_error(op: keyleash.Operator) -> None:
    """A wrong name must not look like an identity without tokens."""
    with raises_code("no-policy"):
        op.tokens.list()
    op.load(ONE)
    with raises_code("unknown-identity"):
        op.tokens.list("two")
    with raises_code("unknown-identity"):
        op.tokens.revoke(identity="two")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"ttl": "-1h"}, ValueError),
        ({"ttl": timedelta(0)}, ValueError),
        ({"ttl": "soon"}, ValueError),
        ({"ttl": 3600}, TypeError),
        ({"note": b"x"}, TypeError),
        ({"note": f"kl_one_{'A' * 32}"}, keyleash.errors.SecretInTextError),
    ],
)
def test_wrong_argument_of_issue_is_named_and_issues_nothing(
    loaded: keyleash.Operator, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """The name of the parameter leads to the mistake."""
    (name,) = arguments
    with pytest.raises(error, match=f"`{name}`"):
        loaded.tokens.issue("one", **arguments)

    assert loaded.tokens.list() == []


def test_issuing_none_or_for_an_unknown_identity_is_an_error(loaded: keyleash.Operator) -> None:
    """Nothing is issued."""
    with pytest.raises(ValueError, match="`count`"):
        loaded.tokens.issue_many("one", 0)
    with raises_code("unknown-identity"):
        loaded.tokens.issue_many("two", 3)
    with pytest.raises(TypeError, match="exactly one"):
        loaded.tokens.revoke()

    assert loaded.tokens.list() == []


def test_run_of_an_agent_is_audited_explained_and_undone(
    embedded: RealServer, loaded: keyleash.Operator
) -> None:
    """From the correlation id of one run to the restored keys."""
    client = agent(embedded, loaded)
    with keyleash.correlation("req-42"):
        client.set("a:1", "new")
    with pytest.raises(keyleash.KeyNotGrantedError):
        client.get("b:1")

    assert [event.op for event in loaded.audit.events("one", since="1h")] == ["SET"]
    assert [denial.code for denial in loaded.audit.denials("one")] == ["KEY_NOT_GRANTED"]
    assert len(loaded.audit.timeline("a:1").entries) == 1
    assert loaded.can_i("one", "GET", "a:1")
    assert loaded.explain("one", "GET", "b:1").decision.code == "KEY_NOT_GRANTED"
    plan = loaded.undo.plan(correlation="req-42")
    assert loaded.undo.apply(plan).removed == (b"a:1",)
    assert {action.event for action in loaded.audit.control()} >= {"activate", "issue", "undo"}


def test_frozen_identity_is_denied_until_it_is_thawed(
    embedded: RealServer, loaded: keyleash.Operator
) -> None:
    """It takes effect on the next call."""
    client = agent(embedded, loaded)
    frozen = loaded.freeze("one", reason="incident 4107", duration="30m")

    assert frozen.identities[0].changed
    assert frozen.identities[0].until is not None
    assert frozen.identities[0].until > frozen.effective_at
    with pytest.raises(keyleash.SuspendedError):
        client.get("a:1")
    loaded.thaw("one")
    assert client.get("a:1") is None


def test_naive_time_is_an_error_that_names_the_parameter(loaded: keyleash.Operator) -> None:
    """Its zone would be a guess."""
    with pytest.raises(ValueError, match="`since` must be an aware datetime"):
        list(loaded.audit.events(since=datetime(2026, 1, 1)))
    assert list(loaded.audit.events(since=datetime(2026, 1, 1, tzinfo=UTC))) == []


def test_results_are_what_the_command_prints(embedded: RealServer, op: keyleash.Operator) -> None:
    """`to_dict` and `--json` are one encoding."""
    cli = Cli(embedded.url)
    example = ROOT / "examples" / "agents.yaml"
    printed = json.loads(cli.run("plan", str(example), "--json").stdout)
    plan = op.plan(keyleash.Policy.from_file(example)).to_dict()
    assert printed.items() >= plan.items()
    op.load(keyleash.Policy.from_file(example))
    call = ("SET", "agents:jobs:7:state", "x")
    explanation = cli.json("explain", "agent-runner", "--", *call)

    again = op.explain("agent-runner", *call).to_dict()
    assert {**again, "at": None} == {**explanation, "at": None}


def test_operator_is_pickled_with_its_connection_options(loaded: keyleash.Operator) -> None:
    """A pool of worker processes receives it."""
    copy = pickle.loads(pickle.dumps(loaded))  # noqa: S301 - of its own

    assert copy.tokens.issue("one").identity == "one"
    assert {item.by for item in copy.tokens.list()} == {"deploy@ci"}


def nouns(op: keyleash.Operator) -> list[Any]:
    return [op, op.policies, op.tokens, op.limits, op.audit, op.undo]


def test_methods_are_pickled_by_their_names(loaded: keyleash.Operator) -> None:
    """A pool of worker processes receives calls of them."""
    for noun in nouns(loaded):
        for name in (name for name in dir(type(noun)) if not name.startswith("_")):
            copy = pickle.loads(pickle.dumps(getattr(noun, name)))  # noqa: S301 - of its own
            assert copy.__name__ == name
    copy = pickle.loads(pickle.dumps(loaded.tokens.issue))  # noqa: S301 - of its own
    assert copy("one").identity == "one"


def test_method_of_a_class_is_that_of_its_objects(loaded: keyleash.Operator) -> None:
    """Also its arguments are checked."""
    tokens = loaded.tokens

    assert keyleash.Operator.now(loaded).tzinfo is not None
    assert type(tokens).issue(tokens, "one").identity == "one"
    assert list(type(loaded.audit).control(loaded.audit))
    with pytest.raises(TypeError, match="`identity` must be str"):
        type(tokens).issue(tokens, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda op: op.tokens.issue("one", ttl="soon"),
        lambda op: op.tokens.issue_many("one", 0),
        lambda op: op.tokens.rotate("one", grace="soon"),
        lambda op: op.tokens.renew("abc", ttl=timedelta(0)),
        lambda op: op.freeze("one", reason=" "),
        lambda op: op.status(limit=0),
        lambda op: op.audit.timeline("a:1", limit=0),
        lambda op: op.audit.stats(segments=-1),
    ],
)
def test_bad_value_is_an_error_before_the_server_is_asked(call: Any) -> None:
    """Here none answers."""
    with keyleash.Operator.from_url("redis://127.0.0.1:1") as op, pytest.raises(ValueError):  # noqa: PT011
        call(op)


def test_client_that_decodes_or_is_asynchronous_is_accepted(embedded: RealServer) -> None:
    """Programs have a client already."""
    decoding = redis.Redis.from_url(embedded.url, decode_responses=True)
    other = redis.asyncio.Redis.from_url(embedded.url)

    assert keyleash.Operator(decoding, actor="x").load(ONE).changed
    assert keyleash.Operator(other, actor="x").status().active is not None
    with pytest.raises(TypeError, match="`client` must be redis"):
        keyleash.Operator(object())  # type: ignore[arg-type]


def test_token_id_in_place_of_a_token_is_explained(loaded: keyleash.Operator) -> None:
    """The denial alone does not show the mistake."""
    issued = loaded.tokens.issue("one")

    with pytest.raises(keyleash.TokenUnknownError, match="this is a token id"):
        keyleash.Redis(token=issued.id)


def test_actor_that_contains_a_token_is_rejected(embedded: RealServer) -> None:
    """It would be stored in the control stream."""
    with pytest.raises(keyleash.errors.SecretInTextError):
        keyleash.Operator.from_url(embedded.url, actor=f"kl_one_{'A' * 32}")


def test_asyncio_operator_does_the_same_beside_other_tasks(embedded: RealServer) -> None:
    """Its calls run in worker threads, so tasks can share it."""

    async def work() -> None:
        url = embedded.url
        async with keyleash.asyncio.Operator.from_url(url, actor="deploy@ci") as op:
            await op.load(ONE, expect=await op.plan(ONE))
            issued = await asyncio.gather(*(op.tokens.issue("one") for _ in range(20)))
            assert len({token.id for token in issued}) == 20
            assert (await op.tokens.show(issued[0].id)).recorded_uses == 0
            async with keyleash.asyncio.Redis.from_url(url, token=issued[0].token) as client:
                await client.set("a:1", "x")
            assert [event.op async for event in op.audit.events("one")] == ["SET"]
            following = op.audit.follow("one", since="1h")
            assert (await anext(following)).op == "SET"

    asyncio.run(work())


def test_missing_right_is_noted_on_the_error(
    embedded: RealServer, loaded: keyleash.Operator
) -> None:
    """The traceback of a program names what its user lacks."""
    embedded.client().acl_setuser(
        "reader", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-eval"]
    )
    reader = keyleash.Operator(embedded.client(username="reader", password="any"))

    with pytest.raises(redis.exceptions.NoPermissionError) as caught:
        reader.freeze("one", reason="test")

    notes = " ".join(caught.value.__notes__)
    assert "which lacks the command `eval`" in notes
    assert "help: use a user with that right" in notes


def test_error_of_an_operation_shows_its_help_as_text(loaded: keyleash.Operator) -> None:
    """A traceback and a log line have the remedy, and `message` is without it."""
    with raises_code("unknown-identity") as caught:
        loaded.tokens.issue("on")

    assert str(caught.value) == f"{caught.value.message}\nhelp: {caught.value.help}"
    assert "\n" not in caught.value.message


def test_clock_and_identities_are_those_of_the_server(loaded: keyleash.Operator) -> None:
    """A program compares times of results with the clock that decides about them."""
    before = loaded.now()
    token = loaded.tokens.issue("one", ttl="1h")

    assert before <= token.expires_at - timedelta(hours=1) <= loaded.now()
    assert loaded.identities() == ("one",)


def test_identities_without_any_policy_is_an_error(op: keyleash.Operator) -> None:
    """As for every operation that needs one."""
    with raises_code("no-policy"):
        op.identities()


def test_follower_whose_wait_was_cancelled_goes_on(embedded: RealServer) -> None:
    """A timeout of one wait neither ends it nor loses an event."""

    async def follow() -> list[str]:
        async with keyleash.asyncio.Operator.from_url(embedded.url) as op:
            await op.load(ONE)
            token = (await op.tokens.issue("one")).token
            agent = keyleash.asyncio.Redis.from_url(embedded.url, token=token)
            events: Any = op.audit.follow("one", since=timedelta(minutes=1))
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(events), 0.05)
            await agent.set("a:a", "x")
            await agent.set("a:b", "x")
            found = [(await anext(events)).op, (await anext(events)).op]
            await events.aclose()
            assert [item async for item in events] == []
            await agent.aclose()
            return found

    assert asyncio.run(follow()) == ["SET", "SET"]


@pytest.mark.parametrize(
    "make",
    [
        redis.Redis.from_url,
        lambda url: redis.Redis.from_url(url, decode_responses=True, protocol=3),
        lambda url: redis.Redis(connection_pool=redis.BlockingConnectionPool.from_url(url)),
        redis.asyncio.Redis.from_url,
        lambda url: keyleash.Operator.from_url(url)._runner.client,
    ],
)
def test_operator_of_any_client_can_be_pickled(embedded: RealServer, make: Any) -> None:
    """Its copy is one of the same server."""
    op = keyleash.Operator(make(embedded.url), actor="deploy")
    op.load(ONE)

    copy = pickle.loads(pickle.dumps(op))  # noqa: S301

    assert copy.status().active == op.status().active
    assert copy.server() == op.server()


@pytest.mark.parametrize(
    "make",
    [
        lambda url, token: keyleash.Redis.from_url(url, token=token),
        lambda url, token: keyleash.asyncio.Redis.from_url(url, token=token),
        lambda url, _: redis.Redis.from_url(url).pipeline(),
    ],
)
def test_client_of_an_agent_or_a_pipeline_is_no_client_of_an_operator(
    embedded: RealServer, make: Any
) -> None:
    """Its calls would be denied, or never be sent."""
    op = keyleash.Operator.from_url(embedded.url)
    op.load(ONE)

    with pytest.raises(TypeError, match="`client` must be"):
        keyleash.Operator(make(embedded.url, op.tokens.issue("one").token))


def test_acl_user_of_a_role_is_what_the_command_prints(
    embedded: RealServer, op: keyleash.Operator
) -> None:
    """An orchestrator creates users for its parts."""
    user = op.acl("issuer")

    assert user.command.startswith("ACL SETUSER keyleash-issuer on ")
    assert Cli(embedded.url).json("acl", "issuer") == user.to_dict()
    with raises_code("unknown-role"):
        op.acl("king")
    with pytest.raises(UsageError, match="cannot be the name"):
        op.acl("issuer", user="two words")
