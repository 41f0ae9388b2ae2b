"""Expect a keyleash error by its code."""

from __future__ import annotations

import pytest

from keyleash.errors import KeyleashError


def raises_code(code: str, match: str | None = None) -> pytest.RaisesExc[KeyleashError]:
    """Return a `pytest.raises` that expects a `KeyleashError` with *code*."""
    return pytest.raises(KeyleashError, match=match, check=lambda error: error.code == code)
