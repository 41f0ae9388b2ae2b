"""Differences between the versions of redis-py that keyleash supports."""

from __future__ import annotations

import pytest
import redis

MAJOR = int(redis.__version__.partition(".")[0])
needs_redis_py_8 = pytest.mark.skipif(MAJOR < 8, reason="not in redis-py 7")
