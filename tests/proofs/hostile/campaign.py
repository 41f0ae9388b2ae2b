"""Make hostile calls for as long as is wanted: `make hostile SECONDS=600`.

Each call or batch has a seed; one that takes too much is printed with it and with what it took.

    python -m proofs.hostile.campaign --seconds 600 --server redis-8.0.2
    python -m proofs.hostile.campaign --modules        # on the server with those of Redis Stack
    python -m proofs.hostile.campaign --seed 1234      # one again, and what it costs
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence

import redis

from keyleash.store.wire import BatchMode
from proofs.hostile.calls import Call, Draws, hostile_batch, hostile_call
from proofs.hostile.ground import Ground, ground
from support.modules import stack_label
from support.servers import find_server_binaries

BATCHES = 3
"""One of this number of calls is a batch."""


def drawn(draws: Draws, names: Sequence[str]) -> tuple[list[Call], BatchMode | None]:
    """Return the call of an example, or its batch and how it is judged."""
    if not draws.chance(BATCHES):
        return [hostile_call(draws, draws.random.choice(names))], None
    return hostile_batch(draws, names), draws.random.choice((BatchMode.EACH, BatchMode.ALL))


def shown(calls: Sequence[Call], mode: BatchMode | None) -> str:
    """Return calls as one line: words cut, the same call and the same word counted."""
    parts: list[list[object]] = []
    for argv in calls:
        text = _words(argv)
        if parts and parts[-1][0] == text:
            parts[-1][1] = int(str(parts[-1][1])) + 1
        else:
            parts.append([text, 1])
    lines = [f"{text} ×{times}" if times != 1 else str(text) for text, times in parts]
    return f"{mode or 'call'}: {'; '.join(lines[:8])}"


def _words(argv: Call) -> str:
    words = [word[:40].decode("ascii", "backslashreplace") for word in argv[:12]]
    return " ".join(words) + (f" … {len(argv)} words" if len(argv) > 12 else "")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make hostile calls of a guard.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--server", help="one of those on PATH, such as redis-8.0.2")
    parser.add_argument("--modules", action="store_true", help="those of Redis Stack, too")
    parser.add_argument("--seed", type=int, help="make one call again")
    parser.add_argument("--memory", action="store_true", help="look at memory, not at time")
    parser.add_argument("--commands", help="only these, with commas between them")
    arguments = parser.parse_args()
    binaries = find_server_binaries()
    label = stack_label() if arguments.modules else arguments.server or next(iter(binaries))
    if label not in binaries:
        print(f"no server `{label}`; there are {', '.join(binaries)}", file=sys.stderr)
        return 2
    with ground(label, returning=arguments.memory, modules=arguments.modules) as field:
        names = arguments.commands.split(",") if arguments.commands else field.names
        if arguments.seed is not None:
            calls, mode = drawn(field.draws(arguments.seed), names)
            print(shown(calls, mode), field.fire(calls, mode), sep="\n")
            return 0
        return _run(field, names, arguments.seconds)


def _run(field: Ground, names: Sequence[str], seconds: int) -> int:
    until_s, found = time.monotonic() + seconds, 0
    first = random.randrange(10**9)
    while time.monotonic() < until_s:
        seed = first + field.calls
        calls, mode = drawn(field.draws(seed), names)
        try:
            cost = field.fire(calls, mode)
        except redis.ConnectionError as lost:
            _report(seed, calls, mode, lost)
            return 1
        if field.is_too_much(cost):
            found += 1
            _report(seed, calls, mode, cost)
        if field.calls % 1000 == 0:
            print(f"{field.calls} calls, {field.denied} denied, {found} too much", flush=True)
    print(f"{field.calls} calls, {field.denied} denied, {found} too much")
    return 1 if found else 0


def _report(seed: int, calls: Sequence[Call], mode: BatchMode | None, what: object) -> None:
    print(f"seed {seed}: {what}\n    {shown(calls, mode)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
