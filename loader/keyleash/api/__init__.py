"""The API of operators and orchestrators: `Operator` and `Policy`."""

from keyleash.api.policy import Policy
from keyleash.api.sync import Operator

__all__ = ["Operator", "Policy"]

for _public in (Operator, Policy):
    # Tracebacks and documentation name the place from which programs import it.
    _public.__module__ = "keyleash"
