"""The methods of clients about their own token."""
# Generated from client/aio_holder.py by `make sync`: edit that file.

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, Self

from keyleash.client.actions import Words
from keyleash.client.calls import Call
from keyleash.client.delegation import DelegatedToken, Delegation
from keyleash.client.permission import Permission
from keyleash.client.renewal import RENEW, Renewal, life_word
from keyleash.client.session import Session
from keyleash.client.tokens import token_from_env, url_from_env
from keyleash.client.unsupported import monitoring
from keyleash.client.whoami import WhoAmI
from keyleash.errors import LeashError, NotReplicatedError
from keyleash.store.wire import BatchMode


class TokenHolder:
    """Mixed in before a client of redis-py, of one server or of a cluster."""

    from_url: Any
    _connected: Any
    """Checks out a connection; to the home of a cluster."""

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """Return a client of the server in `KEYLEASH_URL`, or of the cluster that it belongs to.

        Its token is in `KEYLEASH_TOKEN`, or in the file that `KEYLEASH_TOKEN_FILE` names, which is
        read again when the token has ended, see `TokenFile`.

        Args:
            options: Those of `from_url`, without the token.

        Raises:
            OperationError (bad-environment): A variable is missing, or both have a token.
            OperationError (bad-url): The URL does not name a server.
        """
        client: Self = cls.from_url(url_from_env(), token=token_from_env(), **options)
        return client

    def monitor(self, *_: Any, **__: Any) -> Any:
        """Raise CommandRefusedError: MONITOR shows the commands of all clients."""
        raise monitoring()

    def whoami(self) -> WhoAmI:
        """Return the identity, the expiry and what is left of each limit, as its guard reports it.

        Nothing is charged, recorded or written. What nodes of a cluster have on lease counts as
        used.

        Raises:
            LeashError: As for every call: the token has ended, or the identity is suspended.
        """
        description: WhoAmI = self._about_token(Call([], BatchMode.WHOAMI), Session.whoami)
        return description

    def can_i(self, *command: Any) -> Permission:
        """Ask the guard whether it would allow a command now, with these arguments.

        The guard checks all it checks of a call, also limits. The command does not run, and nothing
        is charged or written. A denial by a rule for values or by its work is recorded like that of
        a call, as it depends on what keys hold; nothing else is. On a cluster, units of limits may
        move to the node, as for a call. `if await client.can_i("SET", key, value): …`

        Raises:
            RedisError: The server cannot be asked. Denials are not raised but returned, also those
                of a token that has ended.
        """
        try:
            self._ask_permission(command)
        except LeashError as denial:
            return Permission(denial)
        return Permission()

    def _ask_permission(self, words: Words) -> None:
        with self._connected() as connection:
            connection.can_i(words)

    def _about_token(self, call: Call, read: Callable[[Session, Any], Any]) -> Any:
        """Make a call about the token; return what *read* makes of its reply."""
        with self._connected() as connection:
            try:
                return read(connection.session, connection.call(call))
            except NotReplicatedError as short:
                raise short.about(read(connection.session, short.reply)) from short.__cause__

    def delegate(
        self,
        *,
        bind: Mapping[str, str | int | bytes] | None = None,
        allow: Collection[str] | None = None,
        keys: str | Collection[str] | None = None,
        budget: Mapping[str, str | int] | None = None,
        ttl: str | timedelta | None = None,
        meta: Mapping[str, str] | None = None,
    ) -> DelegatedToken:
        """Make a child token, which may do no more than this client's token; return it.

        A delegation counts as a write. The child ends when one of its ancestors is revoked,
        rotated or expired, and caps of ancestors count its calls too. This call sends only
        the SHA-1 of the child's secret.

        Args:
            bind: The values of captures.
            allow: The operation classes; by default those of the token.
            keys: Keys, or prefixes with `*`; by default those of the token.
            budget: The most calls or bytes by counter: `200` or `10mb` for the child's life, or
                `50/hour`.
            ttl: The life, as text (`10m`) or `timedelta`; by default as long as the policy and
                the token allow.
            meta: Labels; unlike those of an operator, ASCII only.

        Raises:
            DelegationRefusedError: The child would have more than the token, or the policy does
                not allow it; the reason names which.
            CommandRefusedError: The policy does not let tokens delegate.
            TypeError, ValueError: An argument has a wrong type or value; nothing was sent.
            SecretInTextError: A text contains a token; nothing was sent.
            NotReplicatedError: Too few replicas have the child, which is the error's `reply`.
            LeashError: As of every call.
        """
        call = Call([], BatchMode.DELEGATE)
        call.delegation = child = Delegation(
            bind=bind, allow=allow, keys=keys, budget=budget, ttl=ttl, meta=meta
        )
        made: DelegatedToken = self._about_token(call, lambda _, reply: child.made(reply))
        return made

    def renew(self, ttl: str | timedelta | None = None) -> Renewal:
        """Renew the token, if the policy has `token: {renew: true}`: it then expires later.

        It is charged and recorded as a write. A token whose source is a callable is renewed by
        itself, by the calls that are made anyway. The nodes of a cluster learn of the new expiry
        with their next lease of the token.

        Args:
            ttl: The life from now on, as text (`10m`) or `timedelta`; by default the life that the
                token was issued with. It never becomes shorter, and ends at the latest `max_ttl`
                after the issue.

        Raises:
            RenewalRefusedError: the token is as old as `max_ttl` allows, or was rotated.
            CommandRefusedError: the policy does not allow it.
            NotReplicatedError: too few replicas know of it; the renewal is the error's `reply`.
            LeashError: As of every call.
            TypeError, ValueError: *ttl* is no duration.
        """
        call = Call([(RENEW, life_word(ttl))], BatchMode.RENEW)
        renewal: Renewal = self._about_token(call, Session.renewal)
        return renewal
