"""Issuing, listing and revoking tokens."""

from keyleash.tokens.issue import IssuedToken, issue_token
from keyleash.tokens.registry import TokenInfo, TokenState, list_tokens
from keyleash.tokens.revoke import revoke_tokens

__all__ = ["IssuedToken", "TokenInfo", "TokenState", "issue_token", "list_tokens", "revoke_tokens"]
