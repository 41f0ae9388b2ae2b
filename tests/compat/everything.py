"""The policy of redis-py's own tests: one identity that has everything granted."""

from __future__ import annotations

import json
from collections.abc import Sequence

from support.leash import grant, with_files


def everything(scripts: Sequence[str]) -> str:
    """Return the policy, which approves scripts by their texts."""
    files = {f"script-{number}": text for number, text in enumerate(scripts, start=1)}
    grants = [
        {**grant("read", "write", "delete", "scan", keys="*"), "scripts": [*files]},
        grant("write", keys="*", only=["RESTORE"]),
        {"allow": ["publish", "subscribe"], "channels": ["*"]},
    ]
    document = {
        "version": 1,
        "scripts": {name: {"file": name} for name in files},
        "identities": {"everything": {"kind": "machine", "grants": grants}},
    }
    return with_files(json.dumps(document), files)
