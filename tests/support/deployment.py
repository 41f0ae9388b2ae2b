"""The files of deploy/, and the check of the command lines in them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import yaml

from support.command_line import Cli

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"keyleash:{PROJECT['version']}"
NO_SERVER = "redis://127.0.0.1:1"


def documents(name: str) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def assert_accepted(words: list[str]) -> None:
    """The program knows the command and its options; `--help` ends it before it does anything."""
    done = Cli(NO_SERVER).run(*words, "--help")
    assert done.exit_code == 0, done.output


def assert_hardened(settings: dict[str, Any]) -> None:
    """A container of Kubernetes has no capability, gains no rights and writes no files."""
    assert settings == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
