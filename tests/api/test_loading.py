"""Loads, status and diagnosis through `keyleash.Operator`, and checks through `keyleash.Policy`."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

import keyleash
from keyleash.errors import PlanOutdatedError
from keyleash.policy import parse
from support.command_line import Cli
from support.errors import raises_code
from support.leash import grant, policy
from support.replication import PATIENCE_S
from support.servers import RealServer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "agents.yaml"
RULES = {"grants": [grant("read", keys="a:*")]}
ONE = keyleash.Policy(policy(one=RULES))
TWO = keyleash.Policy(policy(one=RULES, two=RULES))
NOWHERE = "redis://127.0.0.1:1"


def test_rollback_is_planned_and_applied(loaded: keyleash.Operator) -> None:
    """The reviewed plan is activated."""
    loaded.load(TWO, allow_widening=True)
    plan = loaded.plan_rollback()

    assert plan.removed == ("two",)
    assert plan.source == "of generation 1"
    assert "- two (machine)" in plan.describe()
    assert loaded.apply(plan, allow_removal=True).removed == ("two",)
    with pytest.raises(PlanOutdatedError):
        loaded.apply(plan, allow_removal=True)


def test_load_warns_of_the_fences_of_an_earlier_version_until_they_are_removed(
    op: keyleash.Operator, embedded: RealServer
) -> None:
    """With the command that removes their users, and what takes their place."""
    admin = embedded.client()
    admin.hset("keyleash:fence", mapping={"two": "{}", "one": "{}"})
    [warning] = op.load(TWO).warnings

    assert warning.code == "fences-gone"
    assert "`keyleash gateway`" in str(warning.help)
    command = "`redis-cli ACL DELUSER one two && redis-cli DEL keyleash:fence`"
    assert command in str(warning.help)
    admin.delete("keyleash:fence")
    assert op.load(TWO).warnings == ()


def test_plan_of_the_active_text_reads_it_once(
    op: keyleash.Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading YAML takes most of the time of a plan that changes nothing."""
    parsed: list[str] = []
    monkeypatch.setattr(parse, "parse_policy", lambda text, **_: parsed.append(text))
    # A text that no other test had parsed.
    first = keyleash.Policy(policy(once={"grants": [grant("read", keys="once:*")]}))
    op.load(first)
    assert op.plan(first).is_empty
    assert not parsed

    op.plan(TWO)
    assert parsed == [first.document]


def test_progress_of_plan_and_load_is_reported(op: keyleash.Operator) -> None:
    """With the number of guards, and their total."""
    calls: list[tuple[int, int | None]] = []
    plan = op.plan(TWO, progress=lambda *numbers: calls.append(numbers))
    assert calls == [(1, 2), (2, 2)]
    calls.clear()
    op.apply(plan, progress=lambda *numbers: calls.append(numbers))

    assert calls[-1] == (2, 2)


def test_stored_policy_is_found_by_the_digits_of_its_digest(loaded: keyleash.Operator) -> None:
    """Or the active one; its time is a `datetime`."""
    loaded.load(TWO, allow_widening=True)

    assert loaded.policies.get(ONE.digest[:8]).document == ONE.document
    assert loaded.policies.get().document == TWO.document
    assert loaded.policies.get().activated_at.tzinfo is UTC
    with raises_code("unknown-policy"):
        loaded.policies.get("0" * 12)


def test_results_are_what_the_commands_print(embedded: RealServer, op: keyleash.Operator) -> None:
    """`to_dict` and `--json` are one encoding; the command adds the server."""
    cli = Cli(embedded.url)
    result = op.load(keyleash.Policy.from_file(EXAMPLE)).to_dict()
    printed = cli.json("load", str(EXAMPLE), "--yes")
    assert printed.keys() == {"server", *result}
    server, status = {"server": embedded.url}, op.status()

    assert status.now <= datetime.now(UTC)
    assert {**cli.json("status"), "at": None} == {**server, **status.to_dict(), "at": None}
    assert cli.json("policy", "show").items() > op.policies.get().to_dict().items()
    shown = json.loads(cli.run("doctor", "--json").stdout)
    assert shown == op.doctor(nodes=[embedded.url]).to_dict()


def test_checks_of_a_file_are_what_the_commands_print() -> None:
    """They need no server."""
    offline = Cli(NOWHERE)
    checked = keyleash.Policy.from_file(EXAMPLE)
    tested = keyleash.Policy.run_tests(EXAMPLE.with_name("agents.test.yaml"), server=None)
    tests = str(EXAMPLE.with_name("agents.test.yaml"))

    assert offline.json("check", str(EXAMPLE)) == checked.check().to_dict()
    guards = [{**guard.to_dict(), "file": None} for guard in checked.compile()]
    assert offline.json("compile", str(EXAMPLE)) == {"guards": guards}
    assert offline.json("test", "--no-server", tests) == tested.to_dict()
    with raises_code("unknown-identity"):
        checked.compile("agent-runer")


def test_server_is_summarized(loaded: keyleash.Operator) -> None:
    """The facts that distinguish it from others."""
    summary = loaded.server()

    assert (summary.generation, summary.is_from_serve) == (1, False)
    assert summary.to_dict()["product"] == summary.product


def test_metrics_of_a_server_that_is_down_say_so() -> None:
    """An alert needs a number, not an exception."""
    failures: list[Exception | None] = []
    op = keyleash.Operator.from_url(NOWHERE)
    collector = op.collector(failures.append)

    assert "keyleash_up 0.0" in op.metrics()
    assert "keyleash_up 0.0" in collector.text()
    assert isinstance(collector.failure, redis.ConnectionError)
    assert failures == [collector.failure]


def test_metrics_are_served_while_the_block_runs(loaded: keyleash.Operator) -> None:
    """On a free port."""
    with (
        loaded.collector().serve() as url,
        urllib.request.urlopen(url, timeout=PATIENCE_S) as answer,  # noqa: S310 - it is our own URL
    ):
        text = answer.read().decode()

    assert 'keyleash_identity_active{identity="one"} 1.0' in text


def test_asyncio_operator_rolls_back_and_reads_metrics(embedded: RealServer) -> None:
    """As the sync one does."""

    async def work() -> None:
        async with keyleash.asyncio.Operator.from_url(embedded.url, actor="x") as op:
            await op.load(ONE)
            await op.load(TWO, allow_widening=True)
            plan = await op.plan_rollback()
            assert (await op.apply(plan, allow_removal=True)).generation == 3
            assert (await op.server()).generation == 3
            assert "keyleash_up 1.0" in await op.metrics()

    asyncio.run(work())


def test_timeout_of_the_environment_may_have_a_unit(
    embedded: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of the command."""
    monkeypatch.setenv("KEYLEASH_URL", embedded.url)
    monkeypatch.setenv("KEYLEASH_TIMEOUT", "1m")
    assert keyleash.Operator.from_env().policies.active() is None
    monkeypatch.setenv("KEYLEASH_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="`soon` is not a time"):
        keyleash.Operator.from_env()


def test_empty_url_of_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that CI lacks must not select the server on this machine."""
    monkeypatch.setenv("KEYLEASH_URL", "")
    with pytest.raises(keyleash.OperationError, match="set, but empty"):
        keyleash.Operator.from_env()
