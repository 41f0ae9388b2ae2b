"""The API of operators and orchestrators: `Operator` and `Policy`."""

from keyleash.api.policy import Policy
from keyleash.api.sync import Operator

__all__ = ["Operator", "Policy"]
