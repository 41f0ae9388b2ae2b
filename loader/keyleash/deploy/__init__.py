"""Bringing a policy to a server: prepare, load the scripts, activate, suspend."""

from keyleash.deploy.activate import LoadResult, activate_policy, load_policy
from keyleash.deploy.prepare import PreparedPolicy, prepare_policy
from keyleash.deploy.suspend import set_suspended
from keyleash.protocol.transport import Transport

__all__ = [
    "LoadResult",
    "PreparedPolicy",
    "Transport",
    "activate_policy",
    "load_policy",
    "prepare_policy",
    "set_suspended",
]
