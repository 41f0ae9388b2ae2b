"""The number of examples of property tests: few and fixed, or more on demand.

The same goes for crashes, and for the servers on which something slow is tried.

KEYLEASH_THOROUGH=20 pytest tests/proofs/property   # twenty times as many, new ones each run
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("KEYLEASH_THOROUGH", "1"))
IS_QUICK = "KEYLEASH_THOROUGH" not in os.environ


def thorough(examples: int) -> settings:
    """The settings of a property that tries *examples*, by default a third, but at least 40."""
    return settings(
        max_examples=max(min(examples, 40), examples // 3) if IS_QUICK else examples * FACTOR,
        derandomize=FACTOR == 1,
        database=None,
        # Servers are shared by the examples of a test on purpose; each begins with a flush.
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )
