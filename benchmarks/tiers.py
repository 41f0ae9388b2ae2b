"""What a fence and a vault add to a guarded SET: the same guard called as a user of each tier.

Three servers with the same policy, on one core; they take turns.
"""

from __future__ import annotations

NAME = "tiers"
COOPERATIVE, FENCED, SEALED = "cooperative", "fenced", "sealed"
BARS = {FENCED: (1.08, None), SEALED: (1.15, None)}
