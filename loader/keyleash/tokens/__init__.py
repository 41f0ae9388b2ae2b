"""Issuing, rotating, listing and revoking tokens."""

from keyleash.tokens.issue import IssuedToken, issue_token, issue_tokens
from keyleash.tokens.registry import TokenInfo, TokenState, list_tokens, require_token
from keyleash.tokens.revoke import Revocation, revoke, revoke_tokens
from keyleash.tokens.rotate import Rotation, rotate_token

__all__ = [
    "IssuedToken",
    "Revocation",
    "Rotation",
    "TokenInfo",
    "TokenState",
    "issue_token",
    "issue_tokens",
    "list_tokens",
    "require_token",
    "revoke",
    "revoke_tokens",
    "rotate_token",
]
