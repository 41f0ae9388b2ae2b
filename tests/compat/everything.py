"""The policy of compatibility tests: one identity that has everything granted."""

from __future__ import annotations

import json
from collections.abc import Sequence

from support.leash import grant, with_files


def everything(scripts: Sequence[str] = (), bundles: Sequence[str] = ()) -> str:
    """Return the policy, which approves scripts by their texts, and bundles of scripts."""
    files = {f"script-{number}": text for number, text in enumerate(scripts, start=1)}
    grants = [
        {**grant("read", "write", "delete", "scan", keys="*"), "scripts": [*bundles, *files]},
        grant("write", keys="*", only=["RESTORE"]),
        {"allow": ["publish", "subscribe"], "channels": ["*"]},
    ]
    document = {
        "version": 1,
        "scripts": {name: {"file": name} for name in files},
        "identities": {"everything": {"kind": "machine", "grants": grants}},
    }
    if not scripts:
        del document["scripts"]
    if not grants[0]["scripts"]:
        del grants[0]["scripts"]
    return with_files(json.dumps(document), files)
