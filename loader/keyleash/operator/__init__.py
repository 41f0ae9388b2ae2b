"""Operations of operators: load policies, issue and revoke tokens, suspend, reset limits."""
