"""`Operator.fence` on an embedded server."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator

import pytest
import redis

import keyleash
from keyleash.errors import NotFencedError, PlanOutdatedError, RotationUnfinishedError, UsageError
from keyleash.fence.acl_steps import AclStepKind
from keyleash.store.fences import GeneratedPassword
from support.command_line import Cli
from support.errors import raises_code
from support.leash import grant, policy
from support.servers import RealServer

RULES = {"grants": [grant("read", "write", keys="a:*")]}
TWO = keyleash.Policy(policy(one=RULES, two=RULES))


@pytest.fixture
def op(embedded: RealServer) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(embedded.url, actor="deploy@ci") as operator:
        operator.load(TWO)
        yield operator


def can_log_in(embedded: RealServer, user: str, password: str) -> bool:
    try:
        return bool(embedded.client(username=user, password=password).ping())
    except redis.AuthenticationError:
        return False


def test_fences_are_planned_applied_and_removed(
    embedded: RealServer, op: keyleash.Operator
) -> None:
    """A plan has the passwords before a server has them, so that no failure loses them."""
    plan = op.fence.plan(generate=True)
    assert plan.changes
    assert not can_log_in(embedded, "one", plan.passwords[0].password)

    outcome = op.fence.apply(plan)

    assert outcome.changed
    assert outcome.passwords == plan.passwords
    assert all(can_log_in(embedded, item.identity, item.password) for item in plan.passwords)
    assert not op.fence.plan().changes
    assert op.fence.identities() == ("one", "two")
    removed = op.fence.remove("one")
    assert [(item.server, item.identity) for item in removed] == [(embedded.url, "one")]
    with pytest.raises(NotFencedError):
        op.fence.identities("one")
    assert [item.identity for item in op.fence.remove()] == ["two"]
    assert op.fence.remove() == ()


def test_password_rotation_announces_passwords_before_it_sets_them(
    embedded: RealServer, op: keyleash.Operator
) -> None:
    """Both passwords are valid until the rotation is finished."""
    first = {item.identity: item.password for item in op.fence.plan(generate=True).passwords}
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in first.items()}
    op.fence.apply(op.fence.plan(hashes=hashes))
    announced: list[GeneratedPassword] = []

    done = op.fence.rotate("one", announce=announced.extend)

    (second,) = done.passwords
    assert announced == [second]
    assert can_log_in(embedded, "one", first["one"])
    assert can_log_in(embedded, "one", second.password)
    with pytest.raises(RotationUnfinishedError):
        op.fence.rotate()
    assert op.fence.finish_rotation() == ("one",)
    assert not can_log_in(embedded, "one", first["one"])


def test_fence_plan_for_another_policy_changes_nothing(op: keyleash.Operator) -> None:
    """The users would have the rights of a policy that is not active."""
    plan = op.fence.plan()
    op.load(keyleash.Policy(policy(one=RULES)), allow_removal=True)

    with pytest.raises(PlanOutdatedError):
        op.fence.apply(plan)
    with raises_code("not-active-policy"):
        op.fence.plan(policy=TWO)
    assert op.fence.identities() == ()


def test_wrong_options_of_fences_are_errors(op: keyleash.Operator) -> None:
    """Nothing is changed, and no line of hashes is repeated, which may hold a password."""
    with pytest.raises(UsageError, match="line 1 of the hashes is malformed") as raised:
        op.fence.plan(hashes={"one": "hunter2"})
    assert "hunter2" not in str(raised.value)
    with raises_code("unknown-identity"):
        op.fence.plan(wide=["three"])
    with pytest.raises(NotFencedError):
        op.fence.rotate()


def test_fence_results_are_what_the_command_prints(
    embedded: RealServer, op: keyleash.Operator
) -> None:
    """`to_dict` and `--json` are one encoding."""
    printed = Cli(embedded.url).run("fence", "plan", "--json").stdout
    assert json.loads(printed) == op.fence.plan().to_dict()
    outcome = op.fence.apply(op.fence.plan(generate=True)).to_dict()
    assert {step["what"] for step in outcome["users"]} == {AclStepKind.CREATED}
    assert [set(item) for item in outcome["passwords"]] == [{"identity", "password"}] * 2


def test_asyncio_operator_fences(embedded: RealServer, op: keyleash.Operator) -> None:
    """The same operations with `await`."""

    async def work() -> None:
        async with keyleash.asyncio.Operator.from_url(embedded.url, actor="deploy@ci") as other:
            outcome = await other.fence.apply(await other.fence.plan(generate=True))
            assert len(outcome.passwords) == 2
            assert (await other.fence.rotate("two")).identities == ("two",)
            assert len(await other.fence.remove()) == 2

    asyncio.run(work())
    assert op.fence.identities() == ()


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
