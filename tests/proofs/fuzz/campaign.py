"""Fuzz guards for as long as is wanted: `make fuzz SECONDS=600`, needs the extra `fuzz`.

atheris looks for new paths through the Python that judges each call (the model, the readers of
commands and replies), and the server is looked at after every call. Inputs that were worth keeping
stay in `.fuzz/`, for the next run; one that breaks something is written there and named.

    python -m proofs.fuzz.campaign --seconds 600          # a server of its own
    python -m proofs.fuzz.campaign --replay FILE          # one input again
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(".fuzz")
MAX_BYTES = 400
REPORT_EVERY = 20_000


def main() -> int:
    """Start a server and fuzz it in a process of its own, since libFuzzer ends its process."""
    arguments = _arguments()
    if arguments.url is not None:
        _fuzz(arguments)
        return 0
    # Where atheris instruments what it imports, nothing may have been imported before.
    from keyleash.addons.servers import EmbeddedServer
    from support.servers import find_server_binaries

    binaries = find_server_binaries()
    label = arguments.server or next(iter(binaries))
    if label not in binaries:
        print(f"no server `{label}`; there are {', '.join(binaries)}", file=sys.stderr)
        return 2
    with EmbeddedServer(binary=binaries[label]) as server:
        print(f"{label}, policy {arguments.policy}", flush=True)
        command = [sys.executable, "-m", "proofs.fuzz.campaign", "--url", server.url, *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz guards with raw calls.")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--policy", choices=("everything", "example"), default="everything")
    parser.add_argument("--server", help="one of those on PATH, such as redis-8.0.2")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="fire one input and end")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    return parser.parse_args()


def _fuzz(arguments: argparse.Namespace) -> None:
    import atheris

    with atheris.instrument_imports(
        include=["keyleash.commands", "keyleash.store", "keyleash.evaluate", "proofs.fuzz.calls"]
    ):
        import redis

        from proofs.fuzz.arena import Arena, documents
        from proofs.fuzz.calls import raw_call

    client = redis.Redis.from_url(arguments.url)
    arena = Arena(client, documents()[arguments.policy])
    if arguments.replay is not None:
        call = raw_call(arguments.replay.read_bytes(), arena.supply)
        print(call)
        print(repr(arena.fire(call)))
        return
    corpus = FOLDER / arguments.policy
    corpus.mkdir(parents=True, exist_ok=True)

    def one_input(data: bytes) -> None:
        arena.fire(raw_call(data, arena.supply))
        if arena.calls % REPORT_EVERY == 0:
            print(f"{arena.calls} calls, {arena.allowed} allowed, {arena.ran} ran", flush=True)

    options = [
        f"-max_total_time={arguments.seconds}",
        f"-max_len={MAX_BYTES}",
        f"-artifact_prefix={FOLDER}{os.sep}",
        "-len_control=0",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
