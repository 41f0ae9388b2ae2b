"""A program that uses only public names of the client; `test_public_names` type-checks it."""

from __future__ import annotations

import asyncio
from datetime import datetime

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


def main() -> None:
    run(keyleash.Redis.from_env(wait=5))
    run(keyleash.Redis.from_url("redis://127.0.0.1", token=fetch_token))
    run(keyleash.Redis(token=keyleash.TokenFile("/run/secrets/token")))
    asyncio.run(run_async(keyleash_asyncio.Redis.from_env(coalesce=True)))
    asyncio.run(run_async(keyleash_asyncio.Redis(token=fetch_token_later)))


if __name__ == "__main__":
    main()
