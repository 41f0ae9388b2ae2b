"""The operator API: load policies, issue and revoke tokens, freeze identities, reset limits."""

from keyleash.operator.limit_reset import LimitReset, reset_limits
from keyleash.operator.load.activate import (
    LoadResult,
    activate_policy,
    load_policy,
    verify_activation,
)
from keyleash.operator.load.compile import PreparedPolicy, prepare_policy
from keyleash.operator.load.plan import Preview, preview_load, summary_of_plan
from keyleash.operator.server import ServerSummary, summarize_server
from keyleash.operator.suspension import FreezeResult, Frozen, freeze, thaw
from keyleash.operator.tokens import (
    IssuedToken,
    Revocation,
    Rotation,
    TokenInfo,
    TokenState,
    issue_token,
    issue_tokens,
    list_tokens,
    require_token,
    revoke,
    rotate_token,
)

__all__ = [
    "FreezeResult",
    "Frozen",
    "IssuedToken",
    "LimitReset",
    "LoadResult",
    "PreparedPolicy",
    "Preview",
    "Revocation",
    "Rotation",
    "ServerSummary",
    "TokenInfo",
    "TokenState",
    "activate_policy",
    "freeze",
    "issue_token",
    "issue_tokens",
    "list_tokens",
    "load_policy",
    "prepare_policy",
    "preview_load",
    "require_token",
    "reset_limits",
    "revoke",
    "rotate_token",
    "summarize_server",
    "summary_of_plan",
    "thaw",
    "verify_activation",
]
