"""The scripts of redis-py's `Lock`, by their SHA-1; they are the same from redis-py 5 to 8."""

from __future__ import annotations

RELEASE = "c3f8721cbb97f72bc19e972846bd7aaf91901658"
EXTEND = "a4e8783852e6b949f9ef3a97212805108459a890"
REACQUIRE = "1cac51482acf5858da00f6d685d68f886cd6b6b2"

LOCK_SCRIPTS = frozenset({RELEASE, EXTEND, REACQUIRE})

DENIED_MS = 10_000
"""The expiry of a lock without one whose release is denied."""
