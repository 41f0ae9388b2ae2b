"""`keyleash audit follow`: a process that ends only when it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest

from support.command_line import Cli
from support.servers import RealServer
from support.streams import Streams

RUNNER = "agent-runner"


@pytest.fixture
def streams(loaded: Cli, embedded: RealServer) -> Streams:
    """Streams of identities of the example policy, written by hand."""
    return Streams(embedded.client())


def started(cli: Cli, *options: str) -> subprocess.Popen[str]:
    """Begin at 1970, so that nothing depends on when it begins to wait."""
    words = ["audit", "follow", "--since", "1970-01-01", *options]
    return cli.spawn([*(["--json"] if "--json" not in options else []), *words])


def line(following: subprocess.Popen[str]) -> dict[str, Any]:
    assert following.stdout is not None
    said: dict[str, Any] = json.loads(following.stdout.readline())
    return said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_follow_tells_what_comes_until_a_signal(
    loaded: Cli, streams: Streams, number: signal.Signals
) -> None:
    """One object a line, at once; then exit code 0 and not a word."""
    streams.event(RUNNER, "1000-0", seq=1)
    with started(loaded) as following:
        assert line(following)["id"] == "1000-0"
        streams.event("human-admin", "2000-0", seq=1)
        assert line(following)["identity"] == "human-admin"
        streams.event(RUNNER, "3000-0", seq=3)
        assert (line(following)["kind"], line(following)["id"]) == ("gap", "3000-0")
        following.send_signal(number)
        assert following.communicate(timeout=30) == ("", "")

    assert following.returncode == 0


def test_follow_sees_identities_that_are_loaded_meanwhile(
    loaded: Cli, streams: Streams, tmp_path: Any
) -> None:
    """A policy may change while somebody watches."""
    streams.event(RUNNER, "1000-0")
    with started(loaded) as following:
        line(following)
        document = {
            "version": 1,
            "identities": {
                "newcomer": {"kind": "machine", "grants": [{"allow": ["read"], "keys": ["x"]}]}
            },
        }
        policy = tmp_path / "policy.json"
        policy.write_text(json.dumps(document))
        loaded.ok("load", policy, "--yes", "--allow-widening", "--allow-removal")
        streams.event("newcomer", "2000-0")
        assert line(following)["identity"] == "newcomer"
        following.terminate()


def test_follow_ends_when_nobody_reads(loaded: Cli, streams: Streams) -> None:
    """`| head -1` is how people stop it, and no traceback follows."""
    streams.event(RUNNER, "1000-0")
    with started(loaded) as following:
        line(following)
        assert following.stdout is not None
        following.stdout.close()
        streams.event(RUNNER, "2000-0")
        assert following.wait(timeout=30) == 128 + signal.SIGPIPE
        assert following.stderr is not None
        assert following.stderr.read() == ""


def test_follow_of_refusals_as_text(loaded: Cli, streams: Streams) -> None:
    """The same filters as the log's, and a line for people."""
    streams.denial(RUNNER, "1000-0", op="GET")
    streams.denial(RUNNER, "2000-0", op="DEL", key="a b")
    words = ["audit", "follow", "--denied", "--op", "DEL", "--since", "1970-01-01"]
    with loaded.spawn(words) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == (
            "1970-01-01T00:00:02.000Z  agent-runner  DEL a\\x20b  KEY_NOT_GRANTED"
            "  (token t, correlation c, event 2000-0)\n"
        )
        following.send_signal(signal.SIGINT)
        following.wait(timeout=30)
