"""The commands of the page on incidents, run as written after an agent deleted keys at night."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import keyleash
from keyleash.commands.spec import OperationClass
from support.how_to import HowTo

PAGE = "respond-to-an-incident"
POLICY = {
    "version": 1,
    "defaults": {"audit": {"before_images": {"max_bytes": "64kb"}}},
    "identities": {
        name: {
            "kind": "machine",
            "grants": [{"allow": [*map(str, OperationClass)][:3], "keys": ["shop:*"]}],
        }
        for name in ("agent-runner", "shop")
    },
}
KEYS = 10_000
PIECE = 500
"""Keys of an event at most that have before-images."""


@pytest.mark.slow
def test_incident_with_5000_conflicts_takes_eight_commands(
    how_to: HowTo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the deleted keys were written again by others, and stay as they are."""
    cli = how_to.cli
    policy = tmp_path / "agents.yaml"
    policy.write_text(json.dumps(POLICY))
    cli.ok("load", policy, "--yes")
    keys = [f"shop:orders:{number}" for number in range(KEYS)]
    pieces = [keys[at : at + PIECE] for at in range(0, KEYS, PIECE)]
    tokens = {name: cli.token(name) for name in ("agent-runner", "shop")}
    with (
        keyleash.Redis.from_url(cli.url, token=tokens["agent-runner"]) as agent,
        keyleash.Redis.from_url(cli.url, token=tokens["shop"], decode_responses=True) as shop,
    ):
        for piece in pieces:
            shop.mset(dict.fromkeys(piece, "paid"))
            with keyleash.correlation("req-42"):
                agent.delete(*piece)
        for piece in pieces[: len(pieces) // 2]:
            shop.mset(dict.fromkeys(piece, "new"))
        monkeypatch.chdir(tmp_path)
        box = re.search(r"(?:^    keyleash .*\n)+", how_to.text, re.M)
        assert box is not None
        commands = [shlex.split(line, comments=True)[1:] for line in box[0].splitlines()]

        shown = {
            " ".join(words[:2]): cli.run(*words, *["--yes"] * (words[0] == "undo")).output
            for words in commands
        }

        assert len(commands) <= 8
        assert re.search(r"^DEL +20 ", shown["audit stats"], re.M)
        assert "req-42" in shown["audit log"]
        assert re.search(r"and 4999 more +agent-runner +restore\n", shown["undo --correlation"])
        assert re.search(r"and 4999 more +agent-runner +skip\n", shown["undo --correlation"])
        assert "5000 keys restored" in shown["undo --correlation"]
        assert "the archive is valid" in shown["audit verify"]
        assert (tmp_path / "incident.html").exists()
        found = [value for piece in pieces for value in shop.mget(piece)]
        assert found == ["new"] * (KEYS // 2) + ["paid"] * (KEYS // 2)
        with pytest.raises(keyleash.errors.SuspendedError):
            agent.delete(keys[0])
