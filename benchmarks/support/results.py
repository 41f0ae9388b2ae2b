"""The results of a run as JSON: the machine, the code, and all figures."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.support.section import Section

ROOT = Path(__file__).resolve().parents[2]


def machine(*, quick: bool) -> dict[str, object]:
    """What was measured on what: time, commit, processor, kernel, versions, load average."""
    return {
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("redis", "hiredis")},
    }


def write_results(about: dict[str, object], sections: Sequence[Section], folder: Path) -> Path:
    """Write `<date>.json`; another run of that day takes its place.

    Args:
        about: See `machine`.

    Returns:
        The file, for `read_sections`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{datetime.datetime.now(datetime.UTC).date()}.json"
    servers = dict.fromkeys(figure.server for section in sections for figure in section.figures)
    plain = {
        **about,
        "servers": list(servers),
        "sections": [section.plain() for section in sections],
    }
    file.write_text(_dumped(_rounded(plain)), encoding="utf-8")
    return file


def read_sections(file: Path) -> list[Section]:
    """The sections of a file that `write_results` wrote."""
    plain = json.loads(file.read_text(encoding="utf-8"))
    return [Section.from_plain(item) for item in plain["sections"]]


def _dumped(plain: object, depth: int = 0, deepest: int = 5) -> str:
    """JSON with a line for each figure, not for each number of it."""
    if depth == deepest or not isinstance(plain, dict | list | tuple) or not plain:
        return json.dumps(plain, ensure_ascii=False)
    if isinstance(plain, dict):
        items = [f"{json.dumps(key)}: {_dumped(value, depth + 1)}" for key, value in plain.items()]
    else:
        items = [_dumped(value, depth + 1) for value in plain]
    inside = ",\n".join("  " * (depth + 1) + item for item in items)
    begin, end = "{}" if isinstance(plain, dict) else "[]"
    return f"{begin}\n{inside}\n{'  ' * depth}{end}" + ("" if depth else "\n")


def _rounded(plain: Any) -> Any:
    """The same without digits that are noise."""
    if isinstance(plain, float):
        return float(f"{plain:.6g}")
    if isinstance(plain, dict):
        return {key: _rounded(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_rounded(value) for value in plain]
    return plain


def _commit() -> str:
    """The commit of the working tree, with `-dirty` if it differs."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "unknown"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
