"""The sync modules that are generated from asyncio sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_generated_modules_are_current() -> None:
    """An edit of one half alone would let the two drift apart."""
    result = subprocess.run(
        [sys.executable, "-m", "tools.async_to_sync", "--check"],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip

    assert result.returncode == 0, result.stdout + result.stderr
