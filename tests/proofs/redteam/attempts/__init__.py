"""All attempts, in the order of the page."""

from proofs.redteam.attempt import ATTEMPTS
from proofs.redteam.attempts import (  # noqa: F401 - each enters its own
    availability,
    code,
    control,
    data,
    events,
    gateway,
    guards,
    operators,
    retries,
    texts,
)

__all__ = ["ATTEMPTS"]
