"""Plan and load a policy of many identities: duration, CPU of both sides, and memory.

    python -m benchmarks.loading [--identities 1000] [--server NAME] [--own-keys]

The identities have equal rules; with `--own-keys` each has key patterns of its own, which takes
the compiler longer. The last plan changes nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import redis
from benchmarks.support.policy import document, operator_of, runner
from benchmarks.support.servers import EMBEDDED, choose_servers, running, version_of

import keyleash


def main(argv: list[str] | None = None) -> int:
    """Print a line for each step."""
    parser = argparse.ArgumentParser(prog="loading", description=__doc__)
    parser.add_argument("--identities", type=int, default=1_000, help="default: %(default)s")
    parser.add_argument("--server", default=EMBEDDED, help="default: %(default)s")
    parser.add_argument("--own-keys", action="store_true")
    options = parser.parse_args(argv)
    (choice,) = choose_servers([options.server])
    with running(choice, None) as server, redis.Redis.from_url(server.url) as admin:
        print(version_of(admin))
        operator = operator_of(admin)
        # Templates are read once per process.
        operator.load(policy_of("first", 1, options.own_keys))
        policy = policy_of("agent", options.identities, options.own_keys)
        before = memory_of(admin)
        plan = timed("plan of a new policy", admin, lambda: operator.plan(policy))
        timed("load of this plan", admin, lambda: operator.load(policy, expect=plan, **CONSENT))
        kib = (memory_of(admin) - before) / 1024 / options.identities
        timed("plan of the same policy", admin, lambda: operator.plan(policy))
        print(f"{kib:.0f} KiB of the server's memory per identity")
    return 0


CONSENT: dict[str, Any] = {"allow_widening": True, "allow_removal": True}


def policy_of(prefix: str, identities: int, own_keys: bool) -> keyleash.Policy:
    """Return a policy of identities whose names begin with *prefix*."""
    names = [f"{prefix}-{number:04}" for number in range(identities)]
    rules = (
        (runner(name).replace("agents:", f"{name}:") if own_keys else runner(name))
        for name in names
    )
    return keyleash.Policy(document(rules))


def timed(step: str, admin: redis.Redis, action: Callable[[], Any]) -> Any:
    """Print the duration of a step and the CPU that client and server need for it."""
    server_s, wall_s, client_s = cpu_of(admin), time.perf_counter(), time.process_time()
    result = action()
    wall_s, client_s = time.perf_counter() - wall_s, time.process_time() - client_s
    server_s = cpu_of(admin) - server_s
    print(f"{step:>24}: {wall_s:6.2f} s; CPU: client {client_s:5.2f} s, server {server_s:5.2f} s")
    return result


def cpu_of(admin: redis.Redis) -> float:
    """Return the CPU that the server has used, in seconds."""
    used = admin.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def memory_of(admin: redis.Redis) -> int:
    """Return the bytes that the server has in use after a collection, with compiled scripts."""
    admin.eval("collectgarbage() collectgarbage() return 1", 0)
    used = admin.info("memory")
    # Redis 8.0 counts compiled scripts as used memory, Valkey does not.
    compiled = used["used_memory_vm_eval"] if version_of(admin).startswith("valkey") else 0
    return int(used["used_memory"]) + int(compiled)


if __name__ == "__main__":
    sys.exit(main())
