"""From a guard's reply to what it decided, so that it can be compared with the model."""

from __future__ import annotations

from typing import Any

import redis

from keyleash.errors import LeashError, ReplyCode
from keyleash.evaluate.trace import Decision
from keyleash.store.wire import refusal


def decision_in(reply: Any) -> Decision:
    """Return the code of a denial, or that the call ran."""
    found = refusal(str(reply)) if isinstance(reply, redis.ResponseError) else None
    if found is None:
        return Decision()
    assert isinstance(found, LeashError)
    return Decision(ReplyCode(found.code), found.details)
