"""Tokens and limits for operators."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from keyleash.api.inputs import names_of
from keyleash.audit.token_use import TokenUse, token_use, with_calls_before, with_denials
from keyleash.client.renewal import Renewal
from keyleash.operations import F, Noun, method
from keyleash.operator import tokens
from keyleash.operator.holder import TokenHolder, inspect_token
from keyleash.operator.tokens import IssuedToken, Revocation, Rotation, TokenInfo, TokenTree
from keyleash.policy.quantities import Duration, seconds_of


class TokenOperations(Noun[F]):
    """Tokens: `Operator.tokens`."""

    @method()
    def issue(
        self,
        identity: str,
        *,
        ttl: Duration | None = None,
        note: str = "",
        bind: Mapping[str, str | int | bytes] | None = None,
        allow: Collection[str] | None = None,
        keys: str | Collection[str] | None = None,
        budget: Mapping[str, str | int] | None = None,
        meta: Mapping[str, str] | None = None,
    ) -> IssuedToken:
        """Issue a token.

        *bind*, *allow*, *keys* and *budget* restrict it further than its identity. They need
        `token: {bound: true}` in the policy.

        Args:
            identity: A name in the active policy.
            ttl: The lifetime, as text (`2h`) or `timedelta`, capped by the policy's `max_ttl`; the
                policy's `ttl` if None.
            note: A note for `list`: up to 200 characters, without a token.
            bind: The values of captures, such as `{"job_id": "42"}`. Only patterns with all of
                these captures are granted, for these values.
            allow: The only operation classes that are allowed.
            keys: The only keys that are allowed: names, or prefixes with `*`.
            budget: The most calls or bytes by counter: `200` or `10mb` for the token's life, or
                `50/hour`, `/day`, …
                in UTC.
            meta: Up to 16 labels for `list`, the audit log and reports, without a token.

        Raises:
            OperationError (no-policy): no policy is active.
            OperationError (unknown-identity): the active policy has no such identity.
            OperationError (not-bound): the policy does not let tokens of the identity be bound.
            OperationError (bad-restriction): a restriction is malformed, or not within the grants
                of the identity.
            OperationError (bad-label): a label is malformed.
            OperationError (vault-changing): the key prefixes were changed meanwhile.
            SecretInTextError: *note*, *meta* or a restriction contains a token.
            TypeError, ValueError: an argument has a wrong type or value; nothing was issued.
        """
        seconds = seconds_of("ttl", ttl)
        scope = tokens.Scope(bind or {}, allow, names_of(keys), budget or {})
        return self._run.call(
            tokens.issue_token, identity, ttl_s=seconds, note=note, scope=scope, meta=meta
        )

    @method()
    def issue_many(
        self,
        identity: str,
        count: int,
        *,
        ttl: Duration | None = None,
        note: str = "",
        bind: Mapping[str, str | int | bytes] | None = None,
        allow: Collection[str] | None = None,
        keys: str | Collection[str] | None = None,
        budget: Mapping[str, str | int] | None = None,
        meta: Mapping[str, str] | None = None,
    ) -> list[IssuedToken]:
        """Issue *count* tokens, a hundred in each step; see `issue`.

        If the connection is lost, tokens of earlier steps are issued and their secrets are lost,
        so that no client can use them.

        Raises:
            ValueError: *count* is not positive; nothing was issued.
        """
        seconds = seconds_of("ttl", ttl)
        scope = tokens.Scope(bind or {}, allow, names_of(keys), budget or {})
        return self._run.call(
            tokens.issue_tokens, identity, count, ttl_s=seconds, note=note, scope=scope, meta=meta
        )

    @method()
    def list(
        self, identity: str | None = None, *, meta: Mapping[str, str] | None = None
    ) -> list[TokenInfo]:
        """Return the tokens of an identity, or of all, without their secrets, newest first.

        Args:
            identity: The name of an identity; all of them if None.
            meta: The labels that the tokens have; any if None.

        A token is listed until a week after it expired. Details of those that expired before are
        deleted, if the user may write.

        Raises:
            OperationError (no-policy): no policy was ever loaded.
            OperationError (unknown-identity): there never was such an identity.
        """
        return self._run.call(tokens.list_tokens, identity, meta)

    @method()
    def inspect(self, token: str) -> TokenHolder:
        """Return the identity, expiry, grants and remaining limits of a token.

        Nothing is changed or charged.

        Args:
            token: The token, not its id.

        Raises:
            TokenUnknownError, TokenRevokedError, TokenExpiredError: its guard would not accept it.
            NotActiveError: the active policy does not have its identity.
        """
        return self._run.call(inspect_token, token)

    @method()
    def show(self, token_id: str) -> TokenUse:
        """Return a token with the number of its calls in the audit log.

        Raises:
            OperationError (unknown-token-id): there is no such token.
            UsageError: *token_id* is a token.
        """
        return self._run.call(token_use, token_id)

    @method()
    def renew(self, token_id: str, *, ttl: Duration | None = None) -> Renewal:
        """Let a token live longer, at most until the policy's `max_ttl` after its issue.

        A renewal never shortens a life, and an idle timeout is not affected.

        Args:
            token_id: The id of the token.
            ttl: The lifetime from now on; that of its issue if None.

        Raises:
            OperationError (unknown-token-id): there is no such token.
            OperationError (token-not-live): the token is expired or revoked.
            OperationError (token-replaced): another token replaces it.
            OperationError (token-too-old): it lives as long as the policy's `max_ttl` allows.
            OperationError (token-delegated): another token made it.
            OperationError (no-policy, unknown-identity): no active policy has its identity.
            UsageError: *token_id* is a token.
            ValueError: *ttl* is not positive.
        """
        return self._run.call(tokens.renew_token, token_id, ttl_s=seconds_of("ttl", ttl))

    @method()
    def tree(self, token_id: str) -> TokenTree:
        """Return a token with all tokens that were delegated from it.

        Raises:
            OperationError (unknown-token-id): there is no such token.
            UsageError: *token_id* is a token.
        """
        return self._run.call(tokens.token_tree, token_id)

    @method()
    def rotate(
        self,
        which: str | None = None,
        *,
        identity: str | None = None,
        grace: Duration = "10m",
        ttl: Duration | None = None,
        note: str | None = None,
    ) -> Rotation:
        """Replace one token, or all live tokens of an identity, by a new one.

        Args:
            which: A token id, or the name of an identity of the active policy.
            identity: The name of an identity, in place of *which*.
            grace: How long the replaced tokens remain valid, at most, as text or `timedelta`;
                `timedelta(0)` for not at all.
            ttl: As for `issue`; if None, the longest life that a replaced token was issued with.
            note: As for `issue`; that of the replaced token if None.

        Raises:
            OperationError (unknown-token-id): there is no such token.
            OperationError (token-delegated): another token made it; nothing was issued.
            OperationError (token-not-live): the token is expired or revoked, or all live tokens of
                the identity are bound; nothing was issued.
            UsageError: *which* is a token.
            TypeError: both or neither of *which* and *identity* are given.
        """
        return self._run.call(
            tokens.rotate_token,
            which,
            identity=identity,
            grace_s=seconds_of("grace", grace, least=0) or 0,
            ttl_s=seconds_of("ttl", ttl),
            note=note,
        )

    @method()
    def revoke(
        self,
        token_id: str | None = None,
        *,
        identity: str | None = None,
        all: bool = False,
        meta: Mapping[str, str] | None = None,
    ) -> Revocation:
        """Revoke a token, a group of tokens, or all tokens, from the next call on.

        Children of revoked tokens are over too. They are not in the result unless they belong to
        the group themselves.

        Args:
            token_id: The id of one token.
            identity: The identity of the tokens.
            all: Whether to revoke every token.
            meta: The labels of the tokens, which are listed and then revoked: one that is issued
                meanwhile stays valid.

        Raises:
            OperationError (unknown-token-id): there is no such token.
            OperationError (unknown-identity): there never was such an identity.
            OperationError (no-policy): no policy was ever loaded.
            UsageError: *token_id* is a token.
            TypeError: not exactly one is given of *token_id*, *all*, and *identity* or *meta* or
                both.
        """
        return self._run.call(
            tokens.revoke, token_id=token_id, identity=identity, everything=all, meta=meta
        )

    @method()
    def with_calls_before(self, revocation: Revocation) -> Revocation:
        """Return a revocation with the calls of each token in the minute before.

        The newest 10,000 events of each identity are counted; `is_partial` is set if there are
        more. A count is None if the user may not read audit streams.
        """
        return self._run.call(with_calls_before, revocation)

    @method()
    def with_denials(self, revocation: Revocation) -> Revocation:
        """Return a revocation with the number of calls of each token that were denied since.

        A count is None if the user may not read audit streams.
        """
        return self._run.call(with_denials, revocation)
