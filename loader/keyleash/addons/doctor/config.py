"""The findings that a configuration file accepts."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from keyleash.addons.doctor.findings import require_codes
from keyleash.errors import UsageError
from keyleash.policy.files import read_bytes
from keyleash.policy.problems import quote

VARIABLE = "KEYLEASH_CONFIG"
CONFIG_FILE = "keyleash.toml"


def accepted_findings() -> tuple[str, ...]:
    """Return the codes under `doctor.accept` of the configuration file.

    The file is the one that KEYLEASH_CONFIG names, or `keyleash.toml` in the working directory
    if there is one.
    """
    named = os.environ.get(VARIABLE)
    file = named or CONFIG_FILE
    if not named and not Path(file).exists():
        return ()
    try:
        document = tomllib.loads(read_bytes(file).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(file, f"is not TOML: {error}") from None
    doctor: Any = document.pop("doctor", {})
    codes = doctor.pop("accept", []) if isinstance(doctor, dict) else None
    if document or doctor or not isinstance(codes, list):
        raise _bad(file, "may have the list `accept` under `doctor`, and no other setting")
    if not all(isinstance(code, str) for code in codes):
        raise _bad(file, "has something else than strings in `accept`")
    require_codes(codes, file)
    return tuple(codes)


def _bad(file: str, problem: str) -> UsageError:
    return UsageError(
        f"the configuration file {quote(file)} {problem}",
        help='write `[doctor]`, and below it `accept = ["open-default-user"]`',
    )
