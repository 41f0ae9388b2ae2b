"""Issue, list, renew, rotate and revoke tokens.

Each token has a *record*, which guards read (`TokenRecord`, at the digest of the token), and an
*entry* for operators: a JSON object in the hash `Keyspace.tokens`, by token id. The record expires
a week after the token; the entry remains until the tokens are listed.
"""
