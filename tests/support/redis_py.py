"""Differences between the versions of redis-py that keyleash supports."""

from __future__ import annotations

from typing import Any

import pytest
import redis

MAJOR = int(redis.__version__.partition(".")[0])
needs_redis_py_8 = pytest.mark.skipif(MAJOR < 8, reason="not in redis-py 7")


def response_options(*, legacy: bool) -> dict[str, Any]:
    """Return the options of a client for replies as RESP2 or RESP3 gives them."""
    return {"legacy_responses": legacy} if MAJOR >= 8 else {}
