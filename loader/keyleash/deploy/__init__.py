"""Bringing a policy to a server: plan, load the scripts, activate, suspend."""

from keyleash.deploy.activate import LoadResult, load_policy
from keyleash.deploy.suspend import set_suspended

__all__ = ["LoadResult", "load_policy", "set_suspended"]
