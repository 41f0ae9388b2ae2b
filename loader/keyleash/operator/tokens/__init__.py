"""Issue, list, renew, rotate and revoke tokens.

Each token has a *record*, which guards read (`TokenRecord`, at the digest of the token), and an
*entry* for operators: a JSON object in the hash `Keyspace.tokens`, by token id. The record expires
a week after the token; the entry remains until the tokens are listed.
"""

from keyleash.operator.tokens.issue import (
    IssuedToken,
    active_identity,
    issue_token,
    issue_tokens,
)
from keyleash.operator.tokens.list import (
    TokenInfo,
    TokenState,
    TokenTree,
    list_tokens,
    read_tokens,
    require_token,
    require_token_id,
    token_tree,
)
from keyleash.operator.tokens.renew import renew_token
from keyleash.operator.tokens.restrict import Scope
from keyleash.operator.tokens.revoke import Revocation, RevokedToken, revoke
from keyleash.operator.tokens.rotate import ReplacedToken, Rotation, rotate_token

__all__ = [
    "IssuedToken",
    "ReplacedToken",
    "Revocation",
    "RevokedToken",
    "Rotation",
    "Scope",
    "TokenInfo",
    "TokenState",
    "TokenTree",
    "active_identity",
    "issue_token",
    "issue_tokens",
    "list_tokens",
    "read_tokens",
    "renew_token",
    "require_token",
    "require_token_id",
    "revoke",
    "rotate_token",
    "token_tree",
]
