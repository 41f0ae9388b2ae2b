"""The denials of guards: their reply codes and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self
from urllib.parse import quote

from redis.exceptions import ResponseError

from keyleash.errors.base import KeyleashError, shown
from keyleash.errors.sentences import Door as _Door
from keyleash.errors.sentences import ReplyCode, advice
from keyleash.text import without_tokens


class LeashError(KeyleashError, ResponseError):
    """A guard denied the call.

    Attributes:
        code: The reply code.
        details: The `key=value` pairs of the denial, unescaped; bytes that are not UTF-8 are
            surrogate escapes, and secret parts of tokens are left out.
        pattern_of: `SORT` or `SCAN` if `key` is a pattern of such a command; empty for a key.
        deletes: Whether the command is known to delete.
        own_help: The help that the error has of its own, or None.
        identity: The identity that made the call; None if it is not known.
    """

    code: ReplyCode
    pattern_of = ""
    deletes = False

    def __init__(
        self, details: Mapping[str, str] | None = None, *, help: str | None = None
    ) -> None:
        # A key or a command may contain a token, if a caller confused its arguments.
        self.details = {name: without_tokens(str(value)) for name, value in (details or {}).items()}
        self.identity = self.details.get("identity")
        pairs = " ".join(f"{name}={value!r}" for name, value in self.details.items())
        super().__init__(f"{self.code} {pairs}".rstrip(), help=help)

    @property
    def help(self) -> str | None:
        """The help for the agent: that of the reason, unless the error has its own."""
        return advice(self)

    @help.setter
    def help(self, help: str | None) -> None:
        self.own_help = help

    @property
    def is_to_stop(self) -> bool:
        """True if another key or command in place of the denied one would do harm."""
        is_ungranted = "NOT_GRANTED" in self.code or "no grant" in self.details.get("reason", "")
        deletes = self.deletes or self.details.get("class") == "delete"
        is_flush = self.details.get("command", "").startswith("FLUSH")
        return self.code == ReplyCode.KEY_DENIED or is_flush or (deletes and is_ungranted)

    @property
    def line(self) -> str:
        """The denial as the line of an error of the gateway, with the reason and the advice."""
        words = [
            f"{name}={quote(value, safe='/:@+', errors='surrogateescape')}"
            for name, value in self.details.items()
            if name != "reason"
        ]
        why = "; ".join(filter(None, (self.details.get("reason"), advice(self, _Door.GATEWAY))))
        return " ".join(["LEASH", self.code, *words, *(f"({why})".split() if why else ())])

    def with_details(self, details: Mapping[str, str]) -> Self:
        """Return the same denial with other details."""
        denial = type(self)(details, help=self.own_help)
        denial.identity, denial.deletes = self.identity, self.deletes
        denial.pattern_of = self.pattern_of
        return denial

    @property
    def key(self) -> str | None:
        """The key that the denial names."""
        return self.details.get("key")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown(self)})"


class SuspendedError(LeashError):
    """The identity is suspended: by an operator, its circuit breaker, or a prefix change."""

    code = ReplyCode.SUSPENDED

    @property
    def reason(self) -> str:
        """The reason; may be empty."""
        return self.details.get("reason", "")

    @property
    def until_ms(self) -> int | None:
        """The end in server time, Unix milliseconds; None if an operator must end it."""
        until = self.details.get("until_ms", "")
        return int(until) if until.isdecimal() else None


class PolicyStaleError(LeashError):
    """The guard belongs to a policy that is no longer active."""

    code = ReplyCode.POLICY_STALE


class TokenUnknownError(LeashError):
    """The identity has no such token."""

    code = ReplyCode.TOKEN_UNKNOWN


class TokenExpiredError(LeashError):
    """The token's lifetime or idle timeout is over."""

    code = ReplyCode.TOKEN_EXPIRED


class TokenRevokedError(LeashError):
    """The token was revoked."""

    code = ReplyCode.TOKEN_REVOKED


class CommandRefusedError(LeashError):
    """The command is not allowed: `details["reason"]` says why."""

    code = ReplyCode.COMMAND_REFUSED


class ClassNotGrantedError(LeashError):
    """No grant on the key, or none at all, gives the operation class (`details["class"]`)."""

    code = ReplyCode.CLASS_NOT_GRANTED


class KeyNotGrantedError(LeashError):
    """No grant matches the key (`details["key"]`)."""

    code = ReplyCode.KEY_NOT_GRANTED


class KeyDeniedError(LeashError):
    """A deny rule matches the key, or it is a control key."""

    code = ReplyCode.KEY_DENIED


class ChannelNotGrantedError(LeashError):
    """No grant matches the channel (`details["channel"]`)."""

    code = ReplyCode.CHANNEL_NOT_GRANTED


class IndexNotGrantedError(LeashError):
    """No grant matches the search index (`details["index"]`)."""

    code = ReplyCode.INDEX_NOT_GRANTED


class KeysMismatchError(LeashError):
    """The declared keys are not the keys of the command."""

    code = ReplyCode.KEYS_MISMATCH


class ArgsTooManyError(LeashError):
    """The call has more arguments, commands or changed keys than a guard can handle."""

    code = ReplyCode.ARGS_TOO_MANY


class NotActiveError(LeashError):
    """The identity has no state: never loaded, removed, flushed or evicted."""

    code = ReplyCode.NOT_ACTIVE


class RateLimitedError(LeashError):
    """A rate limit is used up."""

    code = ReplyCode.RATE_LIMITED

    @property
    def retry_after_ms(self) -> int:
        """Milliseconds, at least 1, after which the same call is allowed."""
        return int(self.details["retry_after_ms"])


class AuditFullError(LeashError):
    """Too many events await their export, so no further event is allowed."""

    code = ReplyCode.AUDIT_FULL


class CounterCorruptError(LeashError):
    """The counter of a limit is corrupt (`details["limit"]`).

    Another client wrote to it. `keyleash limits reset` resets it.
    """

    code = ReplyCode.COUNTER_CORRUPT


class IdempotencyConflictError(LeashError):
    """The idempotency id was used for a call with another command (`details["once"]`)."""

    code = ReplyCode.IDEMPOTENCY_CONFLICT


class ReplayedError(LeashError):
    """The call with this idempotency id was done before, and its reply is not stored.

    Nothing ran now. The reply was longer than `idempotency: {max_reply: …}` allows.
    """

    code = ReplyCode.REPLAYED


class LeaseNeededError(LeashError):
    """A node of a cluster needs a lease before it runs calls; clients fetch it."""

    code = ReplyCode.LEASE_NEEDED

    @property
    def request(self) -> str:
        """The request for the home of the cluster, signed."""
        return self.details["request"]


class LeaseRefusedError(LeashError):
    """A request or a voucher of a cluster is not what keyleash made (`details["reason"]`)."""

    code = ReplyCode.LEASE_REFUSED


class BudgetExhaustedError(LeashError):
    """A budget is exhausted until its window ends."""

    code = ReplyCode.BUDGET_EXHAUSTED

    @property
    def resets_at_ms(self) -> int:
        """Server time, Unix milliseconds, at which the budget's next window begins."""
        return int(self.details["resets_at_ms"])


class DelegationRefusedError(LeashError):
    """The token may not make such a child token; nothing was stored."""

    code = ReplyCode.DELEGATION_REFUSED

    @property
    def reason(self) -> str:
        """The reason: `bind`, `allow`, `keys`, `budget`, `meta`, `ttl`, `outlives`, `depth`,
        `children`, `rotated`, `size`, `digest` or `word`.
        """
        return self.details.get("reason", "")

    @property
    def restriction(self) -> str:
        """The word of the delegation that was refused: of a `ttl` its seconds, of a label its
        name; may be empty.
        """
        return self.details.get("restriction", "")


class WorkTooLargeError(LeashError):
    """The call would block the server for longer than the policy allows.

    Nothing ran; the limit is `limits: {work: …}` of the identity.
    """

    code = ReplyCode.WORK_TOO_LARGE

    @property
    def work(self) -> int:
        """The estimated work of the call or batch, in units of about 0.1 µs."""
        return int(self.details["work"])

    @property
    def limit(self) -> int:
        """The permitted work of one call or batch."""
        return int(self.details["limit"])


class _TooLong:
    details: dict[str, str]

    @property
    def bytes(self) -> int:
        """The length of the name, or of the resulting string."""
        return int(self.details["bytes"])

    @property
    def limit(self) -> int:
        """The permitted length."""
        return int(self.details["limit"])


class KeyTooLongError(_TooLong, LeashError):
    """The name of a key, channel or index is too long (`details["key"]` has its beginning)."""

    code = ReplyCode.KEY_TOO_LONG


class ValueTooLargeError(_TooLong, LeashError):
    """The call would make a string longer than a grant allows (`details["key"]`)."""

    code = ReplyCode.VALUE_TOO_LARGE


class ValueRefusedError(LeashError):
    """The call would leave a value that a grant does not allow (`details["key"]`)."""

    code = ReplyCode.VALUE_REFUSED

    @property
    def rule(self) -> str:
        """The rule: `max_elements`, `ttl` or `only`."""
        return self.details["rule"]

    @property
    def limit(self) -> str:
        """The permitted number of elements, the expiry in milliseconds, or `absent`."""
        return self.details["limit"]

    @property
    def was(self) -> str:
        """The number or expiry that the call would leave: `none`, `present` or `unknown`."""
        return self.details["was"]


class RenewalRefusedError(LeashError):
    """The token is not renewed: it is as old as `max_ttl` allows, was replaced, or delegated."""

    code = ReplyCode.RENEWAL_REFUSED

    @property
    def reason(self) -> str:
        """The reason: `max_ttl`, `replaced`, `delegated`, or `unknown` if it is not listed."""
        return self.details.get("reason", "")


DENIALS: dict[str, type[LeashError]] = {cls.code: cls for cls in LeashError.__subclasses__()}
"""The class of each reply code."""
