"""`keyleash audit follow`: runs until a signal."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest

from support.command_line import Cli
from support.replication import PATIENCE_S
from support.servers import RealServer
from support.streams import Streams

RUNNER = "agent-runner"


@pytest.fixture
def streams(loaded: Cli, embedded: RealServer) -> Streams:
    """Streams of identities of the example policy, written by the test."""
    return Streams(embedded.client())


def started(cli: Cli, *options: str) -> subprocess.Popen[str]:
    """Follow from 1970 on, so that the time of the start does not matter."""
    words = ["audit", "follow", "--since", "1970-01-01", *options]
    return cli.spawn([*(["--json"] if "--json" not in options else []), *words])


def line(following: subprocess.Popen[str]) -> dict[str, Any]:
    assert following.stdout is not None
    item: dict[str, Any] = json.loads(following.stdout.readline())
    return item


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_follow_prints_new_entries_until_a_signal(
    loaded: Cli, streams: Streams, number: signal.Signals
) -> None:
    """One object a line, at once; on a signal, exit code 0 without a message."""
    streams.event(RUNNER, "1000-0", seq=1)
    with started(loaded) as following:
        assert line(following)["id"] == "1000-0"
        streams.event("human-admin", "2000-0", seq=1)
        assert line(following)["identity"] == "human-admin"
        streams.event(RUNNER, "3000-0", seq=3)
        assert (line(following)["kind"], line(following)["id"]) == ("gap", "3000-0")
        following.send_signal(number)
        assert following.communicate(timeout=PATIENCE_S) == ("", "")

    assert following.returncode == 0


def test_identity_loaded_while_following_is_followed(
    loaded: Cli, streams: Streams, tmp_path: Any
) -> None:
    """The identities are read again at each poll."""
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


def test_follow_ends_when_its_output_is_closed(loaded: Cli, streams: Streams) -> None:
    """`| head -1` ends it without a traceback."""
    streams.event(RUNNER, "1000-0")
    with started(loaded) as following:
        line(following)
        assert following.stdout is not None
        following.stdout.close()
        streams.event(RUNNER, "2000-0")
        assert following.wait(timeout=PATIENCE_S) == 128 + signal.SIGPIPE
        assert following.stderr is not None
        assert following.stderr.read() == ""


def test_follow_of_denials_prints_lines(loaded: Cli, streams: Streams) -> None:
    """`audit log` and `audit follow` share their filters."""
    streams.denial(RUNNER, "1000-0", op="GET")
    streams.denial(RUNNER, "2000-0", op="DEL", key="a b")
    words = ["audit", "follow", "--denied", "--op", "DEL", "--since", "1970-01-01"]
    with loaded.spawn(words) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == (
            "1970-01-01T00:00:02.000Z  agent-runner  DEL a\\x20b  KEY_NOT_GRANTED: no grant of the"
            " token covers the key `a b`  (token t, correlation c, event 2000-0)\n"
        )
        following.send_signal(signal.SIGINT)
        following.wait(timeout=PATIENCE_S)
