"""Bringing a policy to a server: prepare, load the scripts, activate, freeze."""

from keyleash.deploy.activate import LoadResult, activate_policy, load_policy
from keyleash.deploy.freeze import FreezeResult, Frozen, freeze, set_suspended, thaw
from keyleash.deploy.limit_reset import LimitReset, reset_limits
from keyleash.deploy.prepare import PreparedPolicy, prepare_policy
from keyleash.deploy.preview import Preview, preview_load, summary_of_plan
from keyleash.deploy.verify import verify_activation
from keyleash.protocol.transport import Transport

__all__ = [
    "FreezeResult",
    "Frozen",
    "LimitReset",
    "LoadResult",
    "PreparedPolicy",
    "Preview",
    "Transport",
    "activate_policy",
    "freeze",
    "load_policy",
    "prepare_policy",
    "preview_load",
    "reset_limits",
    "set_suspended",
    "summary_of_plan",
    "thaw",
    "verify_activation",
]
