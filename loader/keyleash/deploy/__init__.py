"""Bringing a policy to a server: prepare, load the scripts, activate, suspend."""

from keyleash.deploy.activate import LoadResult, activate_policy, load_policy
from keyleash.deploy.prepare import PreparedPolicy, prepare_policy
from keyleash.deploy.suspend import set_suspended

__all__ = [
    "LoadResult",
    "PreparedPolicy",
    "activate_policy",
    "load_policy",
    "prepare_policy",
    "set_suspended",
]
