"""The libraries of Node.js that tests use: `make node` installs them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

INSTALLED = Path(__file__).resolve().parents[2] / ".venv" / "node" / "node_modules"
NODE_MODULES = Path(os.environ.get("KEYLEASH_NODE_MODULES", INSTALLED)).absolute()


def require_node(library: str) -> Path:
    """Return the folder `node_modules` that has a library; skip the test if there is none."""
    if shutil.which("node") is None:
        pytest.skip("there is no node on PATH")
    if not (NODE_MODULES / library).is_dir():
        pytest.skip(f"there is no {library} in {NODE_MODULES}; run `make node`")
    return NODE_MODULES
