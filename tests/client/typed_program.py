"""A program that uses only public names; `test_public_names` type-checks it."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import keyleash
import keyleash.asyncio as keyleash_asyncio


def trace_id() -> str | None:
    return "trace-1"


def fetch_token() -> str:
    return "kl_agent-runner_" + "A" * 32


async def fetch_token_later() -> str:
    return fetch_token()


def run(client: keyleash.Redis) -> datetime:
    with keyleash.correlation("req-42") as given:
        client.set("agents:jobs:42:state", given)
    with keyleash.correlation(trace_id):
        client.get("agents:jobs:42:state")
    with client.batch() as batch:
        batch.set("agents:jobs:42:state", "done")
    pipeline: keyleash.Pipeline = client.pipeline(transaction=False)
    pipeline.get("agents:jobs:42:state")
    results: list[object] = pipeline.execute()
    try:
        client.delete("agents:jobs:42:lock")
    except keyleash.RateLimitedError as limited:
        print(limited.retry_after_ms, results)
    except keyleash.LeashError as denial:
        print(denial.code, denial.key, denial.identity, denial.details)
    answer: keyleash.WhoAmI = client.whoami()
    for limit in answer.limits:
        print(limit.name, limit.left, limit.resets_at)
    return answer.expires_at


async def run_async(client: keyleash_asyncio.Redis) -> None:
    async with client.batch() as batch:
        batch.set("agents:jobs:42:state", "done")
    await client.set("agents:jobs:42:state", "running")
    answer = await client.whoami()
    print(answer.to_dict())


def operate(op: keyleash.Operator, policy: keyleash.Policy) -> None:
    for problem in policy.problems:
        print(problem.code, problem.message, problem.help)
    plan = op.plan(policy)
    if not plan.is_empty:
        loaded = op.load(policy, expect=plan, allow_widening=bool(plan.widened))
        print(loaded.generation, loaded.identities, loaded.to_dict())
    token = op.tokens.issue("agent-runner", ttl="2h", note="ci")
    tokens = op.tokens.issue_many("agent-runner", 1000, ttl=timedelta(hours=1))
    expiry: list[datetime] = [item.expires_at for item in (token, *tokens)]
    rotated = op.tokens.rotate(token.id, grace="10m")
    print(expiry, rotated.issued.id, [info.state for info in op.tokens.list()])
    revoked = op.tokens.revoke(identity="agent-runner")
    frozen = op.freeze("agent-runner", reason="incident 4107", duration="30m")
    print(revoked.to_dict(), frozen.to_dict(), op.thaw("agent-runner").identities)
    op.limits.reset("agent-runner", "rate.writes", reason="a test")
    for event in op.audit.events("agent-runner", since="1h", newest_first=True):
        print(event.token, event.op, event.keys, event.correlation)
    for denial in op.audit.denials(since=timedelta(hours=1)):
        print(denial.code, denial.repeats)
    undo = op.undo.plan(correlation="req-42")
    if not undo.blocked:
        print(op.undo.apply(undo).to_dict())
    allowed: bool = op.can_i("agent-runner", "GET", "agents:jobs:1:state")
    print(allowed, op.explain("agent-runner", "GET", "x").allowed, op.status().to_dict())
    page: str = op.metrics()
    print(page, op.doctor().to_dict(), [item.digest for item in op.policies.history()])


async def operate_async(op: keyleash_asyncio.Operator, policy: keyleash.Policy) -> None:
    await op.load(policy, expect=await op.plan(policy), allow_widening=True)
    tokens = await op.tokens.issue_many("agent-runner", 10)
    async for event in op.audit.events("agent-runner"):
        print(event.op, tokens[0].expires_at)
    snapshot = await op.status()
    print([identity.name for identity in snapshot.identities], await op.metrics())
    await op.close()


def main() -> None:
    policy = keyleash.Policy.from_file("agents.yaml")
    operate(keyleash.Operator.from_env(), policy)
    asyncio.run(operate_async(keyleash_asyncio.Operator.from_url(actor="deploy@ci"), policy))
    run(keyleash.Redis.from_env(wait=5, correlation=trace_id))
    run(keyleash.Redis.from_url("redis://127.0.0.1", token=fetch_token))
    run(keyleash.Redis(token=keyleash.TokenFile("/run/secrets/token")))
    asyncio.run(run_async(keyleash_asyncio.Redis.from_env(coalesce=True, correlation="c")))
    asyncio.run(run_async(keyleash_asyncio.Redis(token=fetch_token_later)))


if __name__ == "__main__":
    main()
