"""The codes of keyleash's errors, and how to expect one."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyleash.errors import KeyleashError, ReplyCode

OF_CLUSTERS = {ReplyCode.LEASE_NEEDED, ReplyCode.LEASE_REFUSED}
"""The codes that only guards of clusters reply with."""
OF_FEATURES = {
    ReplyCode.DELEGATION_REFUSED,
    ReplyCode.IDEMPOTENCY_CONFLICT,
    ReplyCode.INDEX_NOT_GRANTED,
    ReplyCode.RENEWAL_REFUSED,
    ReplyCode.REPLAYED,
}
"""The codes of what few identities may do."""


def golden_reports(file: Path) -> list[object]:
    """Return the document and the expected report of each case of a file, as parameters."""
    _, *texts = file.read_text(encoding="utf-8").split("=== ")
    found: list[object] = []
    for text in texts:
        title, _, rest = text.partition("\n")
        document, _, report = rest.partition(">>>\n")
        found.append(pytest.param(document, report.strip("\n"), id=title))
    return found


def raises_code(code: str, match: str | None = None) -> pytest.RaisesExc[KeyleashError]:
    """Return a `pytest.raises` that expects a `KeyleashError` with *code*."""
    return pytest.raises(KeyleashError, match=match, check=lambda error: error.code == code)
