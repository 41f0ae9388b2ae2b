"""The errors of keyleash, with stable codes and exit codes, and the reply codes of guards.

All errors derive from `KeyleashError`. Most are an `OperationError`, distinguished by `code`. The
denials of a guard derive from `LeashError`, which is also a redis-py `ResponseError`, so that
code written for redis-py catches them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Self

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from keyleash.text import counted, json_object, without_tokens

__all__ = [
    "ArchiveError",
    "ArgsTooManyError",
    "AuditFullError",
    "BudgetExhaustedError",
    "CallNotPermittedError",
    "ChannelNotGrantedError",
    "ClassNotGrantedError",
    "ClusterError",
    "CommandRefusedError",
    "CounterCorruptError",
    "EvictionError",
    "GuardLostError",
    "KeyDeniedError",
    "KeyNotGrantedError",
    "KeyleashError",
    "KeysMismatchError",
    "LeashError",
    "NotActiveError",
    "NotReplicatedError",
    "NothingToUndoError",
    "OperationError",
    "PlanOutdatedError",
    "PolicyError",
    "PolicyStaleError",
    "RateLimitedError",
    "RemovalError",
    "ReplyCode",
    "RightMissingError",
    "SecretInTextError",
    "SuspendedError",
    "TokenExpiredError",
    "TokenRevokedError",
    "TokenUnknownError",
    "UndoTooLargeError",
    "UnexpectedReplyError",
    "UnvalidatedRestoreError",
    "UsageError",
    "ValueTooLargeError",
    "VaultConflictError",
    "WarningsError",
    "WorkTooLargeError",
]
"""What `keyleash` re-exports: all errors."""


class ReplyCode(StrEnum):
    """The codes of denials, `LEASH <CODE> key=value …`, shared by Lua and Python."""

    SUSPENDED = "SUSPENDED"
    POLICY_STALE = "POLICY_STALE"
    TOKEN_UNKNOWN = "TOKEN_UNKNOWN"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    TOKEN_REVOKED = "TOKEN_REVOKED"
    COMMAND_REFUSED = "COMMAND_REFUSED"
    CLASS_NOT_GRANTED = "CLASS_NOT_GRANTED"
    KEY_NOT_GRANTED = "KEY_NOT_GRANTED"
    KEY_DENIED = "KEY_DENIED"
    CHANNEL_NOT_GRANTED = "CHANNEL_NOT_GRANTED"
    KEYS_MISMATCH = "KEYS_MISMATCH"
    ARGS_TOO_MANY = "ARGS_TOO_MANY"
    NOT_ACTIVE = "NOT_ACTIVE"
    RATE_LIMITED = "RATE_LIMITED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    AUDIT_FULL = "AUDIT_FULL"
    COUNTER_CORRUPT = "COUNTER_CORRUPT"
    WORK_TOO_LARGE = "WORK_TOO_LARGE"
    VALUE_TOO_LARGE = "VALUE_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Span:
    """A location in a policy file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class KeyleashError(Exception):
    """The base of all errors of keyleash.

    Attributes:
        code: Stable, machine-readable kind of error.
        exit_code: Exit code of the CLI (of sysexits.h where it has one).
        help: What to do, or None.
        span: Location in the policy file, or None.
    """

    code: str = "error"
    exit_code: int = 1
    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        error = super().__new__(cls, *args)
        error._arguments = (args, options)
        return error

    def __init__(self, message: str, *, help: str | None = None, span: Span | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.help = help
        self.span = span

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, {_shown(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is copied and unpickled from its message.
        args, options = self._arguments
        return partial(type(self), *args, **options), (), self.__dict__


def _shown(error: Any) -> str:
    """Return the code of an error and, if it has them, its key and identity."""
    values = {name: getattr(error, name, None) for name in ("code", "key", "identity")}
    return ", ".join(f"{name}={str(value)!r}" for name, value in values.items() if value)


class OperationError(KeyleashError):
    """An operation failed; `code` names the kind of error."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        help: str | None = None,
        span: Span | None = None,
        exit_code: int | None = None,
    ) -> None:
        super().__init__(message, help=help, span=span)
        self.code = code
        self.exit_code = EXIT_CODES.get(code, 1) if exit_code is None else exit_code


def no_policy(message: str = "no policy is active") -> OperationError:
    """Return the error for an operation that needs an active or stored policy."""
    return OperationError("no-policy", message, help="load one with `keyleash load FILE`")


EXIT_CODES = {
    "bad-environment": 2,
    "bad-url": 2,
    "file": 66,
    "guard-broke": 70,
    "server-unreachable": 69,
    "unanswered": 69,
    "undo-unanswered": 69,
    "unknown-code": 2,
    "unknown-policy": 2,
    "unsayable-pattern": 65,
    "unsupported-server": 69,
}
"""Exit codes of `OperationError` by code, where it is not 1."""


class UsageError(KeyleashError):
    """A command was called with wrong options or arguments."""

    code = "usage"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in a policy file, with its location and help."""

    code: str
    message: str
    span: Span
    help: str

    def __str__(self) -> str:
        return f"{self.span}: {self.message}\n  help: {self.help}"

    def to_dict(self) -> dict[str, Any]:
        """Return the problem with its place as `--json` prints it, without tokens."""
        texts = {"code": self.code, "message": self.message, "help": self.help}
        return {
            **{name: without_tokens(text) for name, text in texts.items()},
            **json_object(self.span),
        }


class PolicyError(KeyleashError):
    """A policy file has problems, listed in file order."""

    code = "bad-policy"
    exit_code = 65

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(f"{counted(len(problems), 'problem')} in the policy")
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class WarningsError(KeyleashError):
    """A policy is valid, but `--strict` allows no warnings."""

    code = "warnings"
    exit_code = PolicyError.exit_code

    def __init__(self, warnings: Sequence[Problem]) -> None:
        super().__init__(
            f"{counted(len(warnings), 'warning')}, and `--strict` allows none",
            help='fix the policy, or accept a finding: `accept: {CODE: "reason"}` in the identity',
        )
        self.warnings = tuple(warnings)


class ClusterError(KeyleashError, ResponseError):
    """The server is a node of a Redis Cluster, which keyleash does not support.

    It is a `ResponseError`, like the reply that it replaces: the connection stays usable.
    """

    code = "cluster"
    exit_code = 69

    def __init__(self) -> None:
        super().__init__(
            "the server is a node of a Redis Cluster, which keyleash does not support",
            help="use one primary with its replicas, also behind Sentinels",
        )


class PlanOutdatedError(OperationError):
    """Another policy was activated since a plan was made; nothing was activated."""


class RemovalError(KeyleashError):
    """A policy removes identities without consent; nothing was activated.

    Attributes:
        identities: Their names.
        widens: Whether the policy also widens access, which needs its own consent.
    """

    code = "removes"

    def __init__(self, file: str, identities: Sequence[str], widens: bool = False) -> None:
        count = len(identities)
        more = f" and {count - 5} more" if count > 5 else ""
        flags = "`--allow-removal` and `--allow-widening`" if widens else "`--allow-removal`"
        # `plan` reads only files, not `<active policy>`.
        review = (
            "leave out `--yes` to see the plan and be asked"
            if file.startswith("<")
            else f"run `keyleash plan {file}` to review"
        )
        super().__init__(
            f"`{file}` removes {counted(count, 'identity')}: {', '.join(identities[:5])}{more}",
            help=f"pass {flags} to confirm, or {review}",
        )
        self.file = file
        self.identities = tuple(identities)
        self.widens = widens


class SecretInTextError(KeyleashError, ValueError):
    """A text that would be stored and shown contains a token."""

    code = "secret-in-text"
    exit_code = 2


class EvictionError(KeyleashError):
    """The server may evict keyleash's own keys when its memory is full."""

    code = "eviction"


class UnvalidatedRestoreError(KeyleashError):
    """An agent may restore payloads, and the server does not validate them."""

    code = "unvalidated-restore"


class UnexpectedReplyError(KeyleashError):
    """A reply does not have the form that Redis and Valkey give it."""

    code = "unexpected-reply"
    exit_code = 76

    def __init__(self, command: str) -> None:
        super().__init__(
            f"the server's reply to {command} is not what keyleash expects",
            help="check what listens at the URL: it must be a Redis or Valkey server itself",
        )
        self.command = command


class NothingToUndoError(KeyleashError):
    """The selection has no event that changed a key."""

    code = "nothing-to-undo"


class UndoTooLargeError(KeyleashError):
    """An undo would block the server for too long."""

    code = "undo-too-large"


class ArchiveError(OperationError):
    """A directory is not an archive of audit streams, or the archive cannot be continued."""


class NotReplicatedError(KeyleashError):
    """A call ran, but too few replicas have its writes.

    Not a `ResponseError`, which means that nothing ran, nor a `ConnectionError`, after which
    callers retry: the primary has the write, and would have it twice.

    Attributes:
        reply: The reply to the call; of a pipeline, the results of `execute`.
        replicas: Number of replicas that have it; None if the connection or WAIT failed.
        wanted: Number of replicas that the policy requires.
        timeout_ms: The longest wait for them.
    """

    code = "not-replicated"

    def __init__(self, reply: Any, replicas: int | None, wanted: int, timeout_ms: int) -> None:
        has = "it is not known whether any replica has it"
        if replicas is not None:
            has = f"{replicas} of {wanted} replicas had it within {timeout_ms} ms"
        super().__init__(
            f"the call was done, but {has}",
            help="do not repeat it: the primary has it, but may lose it if it fails soon",
        )
        self.reply = reply
        self.replicas = replicas
        self.wanted = wanted
        self.timeout_ms = timeout_ms

    def about(self, reply: Any) -> NotReplicatedError:
        """Return the same error with another reply: the parsed one, or that of the pipeline."""
        other = NotReplicatedError(reply, self.replicas, self.wanted, self.timeout_ms)
        other.__cause__ = self.__cause__
        return other


class GuardLostError(KeyleashError, NoScriptError):
    """The server lost the script of the guard, and the caller may not load it."""

    code = "guard-lost"

    def __init__(self, identity: str) -> None:
        super().__init__(
            f"the server lost the guard of `{identity}`, and no client loaded it again in time",
            help="run `keyleash watch`, which does so after a failover, or load the policy again",
        )
        self.identity = identity


class RightMissingError(KeyleashError, NoPermissionError):
    """The server's ACL denies the client's user a right that calls of a guard need.

    Nothing ran.

    Attributes:
        identity: The token's.
        right: The missing ACL rule; empty if the server does not name it.
        reason: The server's message.
        keys: If the server denied a key, which it does not name: patterns of the control keys
            of the identity's guard. The key may also be one of the call.
    """

    code = "right-missing"
    exit_code = 77

    def __init__(self, identity: str, right: str, reason: str, keys: Sequence[str] = ()) -> None:
        what = f"the right `{right}`" if right else "a right"
        if keys:
            what += f" to a key of the call or to a control key of `{identity}`"
        shown = ", ".join(f"`{key}`" for key in keys)
        given = f", which allows it {shown}, on a sealed server under its prefix" if keys else ""
        super().__init__(
            f"the server's user lacks {what}, without which it cannot act as `{identity}`:"
            f" {reason}",
            help=f"log in as the user `{identity}`; if that is the user, an operator has to run"
            f" `keyleash fence apply`{given}",
        )
        self.identity = identity
        self.right = right
        self.reason = reason
        self.keys = tuple(keys)


class VaultConflictError(KeyleashError):
    """Keys cannot be moved, since their new names are taken; they stay in place.

    Attributes:
        keys: Their names, as agents use them.
    """

    code = "vault-conflict"

    def __init__(self, message: str, keys: Sequence[bytes], *, help: str | None = None) -> None:
        super().__init__(message, help=help)
        self.keys = tuple(keys)


class LeashError(KeyleashError, ResponseError):
    """A guard denied the call.

    Attributes:
        code: The reply code.
        details: The `key=value` pairs of the denial, unescaped; bytes that are not UTF-8 are
            surrogate escapes.
        identity: The identity that made the call; None if it is not known.
    """

    code: ReplyCode

    def __init__(
        self, details: Mapping[str, str] | None = None, *, help: str | None = None
    ) -> None:
        self.details: dict[str, str] = dict(details or {})
        self.identity = self.details.get("identity")
        pairs = " ".join(f"{name}={value!r}" for name, value in self.details.items())
        super().__init__(f"{self.code} {pairs}".rstrip(), help=help)

    @property
    def key(self) -> str | None:
        """The key that the denial names."""
        return self.details.get("key")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_shown(self)})"


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


class CallNotPermittedError(PolicyStaleError, NoPermissionError):
    """The server denies the client's user the call of this guard.

    A fenced user may call only the active guard of its identity. So this reply takes the place
    of POLICY_STALE once another policy is active; nothing ran. Clients read the guard record
    again, and raise `RightMissingError` if the user may not call that guard either.
    """


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
    """The command is unknown, has no keys, or has keys that cannot be determined."""

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


class KeysMismatchError(LeashError):
    """The declared keys are not the keys of the command."""

    code = ReplyCode.KEYS_MISMATCH


class ArgsTooManyError(LeashError):
    """The call has more arguments than Lua can pass on."""

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


class BudgetExhaustedError(LeashError):
    """A budget is exhausted until its window ends."""

    code = ReplyCode.BUDGET_EXHAUSTED

    @property
    def resets_at_ms(self) -> int:
        """Server time, Unix milliseconds, at which the budget's next window begins."""
        return int(self.details["resets_at_ms"])


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


class ValueTooLargeError(LeashError):
    """The call would make a string longer than a grant allows (`details["key"]`)."""

    code = ReplyCode.VALUE_TOO_LARGE

    @property
    def bytes(self) -> int:
        """The length of the resulting string."""
        return int(self.details["bytes"])

    @property
    def limit(self) -> int:
        """The permitted length."""
        return int(self.details["limit"])


DENIALS: dict[str, type[LeashError]] = {cls.code: cls for cls in LeashError.__subclasses__()}
"""The class of each reply code."""
assert set(DENIALS) == set(ReplyCode)  # noqa: S101 - each code has a class
