"""redis-cli and valkey-cli, by `-u URL`."""

from __future__ import annotations

import os
import subprocess

from steps import URL, denied, key, step

PROGRAM = [os.environ["PROGRAM"], *(["-3"] if os.environ.get("PROTOCOL") == "3" else [])]
COMMAND = [*PROGRAM, "--no-auth-warning", "-u", URL]


def typed(*lines: str) -> list[str]:
    """Return what it prints for commands on its standard input."""
    text = "\n".join([*lines, ""])
    return _printed(text).splitlines()


def run(*words: str, stdin: str | None = None) -> str:
    """Return what it prints for a command on its command line."""
    return _printed(stdin, *words).strip()


def _printed(stdin: str | None, *words: str) -> str:
    command = [*COMMAND, *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout


def denial(*words: str) -> str:
    raise RuntimeError(run(*words))


def subscribed() -> list[str]:
    command = [*COMMAND, "SUBSCRIBE", "agents:news:1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as subscriber:
        assert subscriber.stdout is not None
        lines = [subscriber.stdout.readline().strip() for _ in range(3)]
        run("PUBLISH", "agents:news:1", "hi")
        lines += [subscriber.stdout.readline().strip() for _ in range(3)]
        subscriber.terminate()
    return lines


def inserted() -> list[str]:
    words = [["SET", key(f"mass:{number}"), "x"] for number in range(1000)]
    commands = "".join(
        f"*{len(command)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in command)
        for command in words
    )
    printed = run("--pipe", stdin=commands)
    return [printed.splitlines()[-1], str(len(run("--scan", "--pattern", key("mass:*")).split()))]


step(
    "Strings, hashes, sorted sets, streams",
    lambda: typed(
        f"SET {key('state')} running EX 100", f"GET {key('state')}", f"HSET {key('h')} a 1",
        f"HGETALL {key('h')}", f"ZADD {key('z')} 1.5 m", f"ZRANGE {key('z')} 0 -1 WITHSCORES",
        f"XADD {key('x')} 1-1 f v", f"XLEN {key('x')}",
    ),
    ["OK", "running", "1", "a", "1", "1", "m", "1.5", "1-1", "1"]
    if os.environ.get("PROTOCOL") != "3"
    else ["OK", "running", "1", "a 1", "1", "m", "1.5", "1-1", "1"],
)  # fmt: skip
denied(
    "Denials, as errors",
    {
        "KEY_NOT_GRANTED": lambda: denial("GET", "agents:context:1"),
        "COMMAND_REFUSED": lambda: denial("FLUSHALL"),
        "CHANNEL_NOT_GRANTED": lambda: denial("PUBLISH", "news", "hi"),
    },
)
step(
    "Transactions and WATCH",
    lambda: typed(
        f"SET {key('n')} 1", f"WATCH {key('n')}", "MULTI", f"INCR {key('n')}", "EXEC",
        f"WATCH {key('n')}", f"SET {key('n')} 5", "MULTI", f"INCR {key('n')}", "EXEC",
        f"GET {key('n')}",
    ),
    ["OK", "OK", "OK", "QUEUED", "2", "OK", "OK", "OK", "QUEUED", "", "5"],
)  # fmt: skip
step(
    "Blocking commands",
    lambda: typed(f"RPUSH {key('q')} x", f"BLPOP {key('q')} 5", f"BLPOP {key('q')} 0.1"),
    ["1", key("q"), "x", ""],
)
step(
    "Subscriptions",
    subscribed,
    ["subscribe", "agents:news:1", "1", "message", "agents:news:1", "hi"],
)
step("`--pipe` and `--scan`", inserted, ["errors: 0, replies: 1000", "1000"])
step(
    "Approved scripts, by EVAL",
    lambda: [
        run("SET", key("lock"), "a"),
        *(run("EVAL", os.environ["RELEASE_LUA"], "1", key("lock"), value) for value in "ba"),
    ],
    ["OK", "0", "1"],
)
step("`--json`", lambda: run("--json", "HGETALL", key("h")), '{"a":"1"}')
