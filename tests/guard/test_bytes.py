"""Bytes are work: names, arguments and replies are bounded before a call runs."""

from __future__ import annotations

from typing import Any

import pytest

import keyleash
from support.leash import Leash, grant
from support.servers import RealServer

KEYS: dict[str, Any] = {
    "grants": [
        grant("read", "write", "delete", "scan", keys="doc:*"),
        {"allow": ["publish", "subscribe"], "channels": ["doc:*"]},
    ]
}
NAME = "doc:" + "n" * 1020
"""The longest name by default."""

NAMED: tuple[tuple[str, ...], ...] = (
    ("GET", NAME), ("SET", NAME, "1"), ("DEL", "doc:a", NAME), ("EXISTS", NAME, NAME),
    ("MSET", "doc:a", "1", NAME, "1"), ("PUBLISH", NAME, "hello"),
)  # fmt: skip


@pytest.mark.parametrize("argv", NAMED, ids=lambda argv: argv[0])
def test_name_longer_than_key_bytes_is_denied(server: RealServer, argv: tuple[str, ...]) -> None:
    """Alone and in a batch; the entry of the denial has the beginning, and there is no event."""
    leash = Leash(server)
    leash.load(one=KEYS)
    agent: Any = leash.agent("one")
    longer = tuple(word + "n" if word == NAME else word for word in argv)

    agent.execute_command(*argv)
    events = len(leash.events("one"))
    for call in (agent.execute_command, lambda *words: alone(agent, words)):
        with pytest.raises(keyleash.KeyTooLongError) as denied:
            call(*longer)
        assert (denied.value.bytes, denied.value.limit) == (1025, 1024)
        assert denied.value.key == NAME[:128]

    assert len(leash.events("one")) == events
    (denial, *_) = leash.denials("one")
    assert len(denial["key"]) <= 256


def alone(agent: Any, words: tuple[str, ...]) -> Any:
    """Call a command as a batch of one."""
    pipeline = agent.pipeline(transaction=True)
    pipeline.execute_command(*words)
    return pipeline.execute()


def test_longer_names_are_allowed_by_the_policy(server: RealServer) -> None:
    """An identity may have another bound."""
    leash = Leash(server)
    leash.load(one={**KEYS, "limits": {"key_bytes": "2kb"}})

    assert leash.agent("one").set(NAME + "n", 1)
