"""One tree of errors, with stable codes and exit codes, and the reply codes of the guard.

Everything keyleash raises derives from `KeyleashError`. What a guard answers
derives from `LeashError`, which is also a redis-py `ResponseError`, so that
code written against redis-py keeps catching it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

__all__ = [
    "ArgsTooManyError",
    "AuditFullError",
    "BudgetExhaustedError",
    "ChannelNotGrantedError",
    "ClassNotGrantedError",
    "CommandRefusedError",
    "CounterCorruptError",
    "GuardLostError",
    "KeyDeniedError",
    "KeyNotGrantedError",
    "KeyleashError",
    "KeysMismatchError",
    "LeashError",
    "NotActiveError",
    "NotReplicatedError",
    "OperationError",
    "PolicyStaleError",
    "RateLimitedError",
    "ReplyCode",
    "SuspendedError",
    "TokenExpiredError",
    "TokenRevokedError",
    "TokenUnknownError",
    "ValueTooLargeError",
    "WorkTooLargeError",
]
"""What `keyleash` re-exports: the denials, and the other errors that agents see."""


class ReplyCode(StrEnum):
    """The codes of a refusal, `LEASH <CODE> key=value …`; Lua and Python share this list."""

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
    """A place in a policy file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class KeyleashError(Exception):
    """Base of everything keyleash raises.

    Attributes:
        code: Stable, machine-readable name of the kind of error.
        exit_code: What the CLI exits with (sysexits.h where it has a number).
        help: What to do instead, or None.
        span: Where in the policy file, or None.
    """

    code: str = "error"
    exit_code: int = 1

    def __init__(self, message: str, *, help: str | None = None, span: Span | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.help = help
        self.span = span


class OperationError(KeyleashError):
    """An operation failed; `code` says how, for errors that need no class of their own."""

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

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message), self.__dict__


EXIT_CODES = {
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


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a policy file: where, what, and what to write instead."""

    code: str
    message: str
    span: Span
    help: str

    def __str__(self) -> str:
        return f"{self.span}: {self.message}\n  help: {self.help}"


class PolicyError(KeyleashError):
    """A policy file has problems; all of them are here, in file order."""

    code = "bad-policy"
    exit_code = 65

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the policy")
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class ClusterError(KeyleashError, ResponseError):
    """The server is a node of a Redis Cluster, which keyleash does not support.

    It is a `ResponseError`, as the reply is that it stands for: the connection stays good.
    """

    code = "cluster"
    exit_code = 69

    def __init__(self) -> None:
        super().__init__(
            "the server is a node of a Redis Cluster, which keyleash does not support",
            help="use one primary with its replicas, also behind Sentinels",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), ()


class RemovalError(KeyleashError):
    """A policy removes identities, and nobody consented to that; nothing was activated.

    Attributes:
        identities: Their names.
        widens: Whether the policy also widens access, which needs consent of its own.
    """

    code = "removes"

    def __init__(self, file: str, identities: Sequence[str], widens: bool = False) -> None:
        count = len(identities)
        more = f" and {count - 5} more" if count > 5 else ""
        flags = "`--allow-removal` and `--allow-widening`" if widens else "`--allow-removal`"
        # `<active policy>` and its like are no files that `plan` reads.
        review = (
            "leave out `--yes` to see the plan and be asked"
            if file.startswith("<")
            else f"run `keyleash plan {file}` to review"
        )
        super().__init__(
            f"`{file}` removes {count} {'identity' if count == 1 else 'identities'}:"
            f" {', '.join(identities[:5])}{more}",
            help=f"pass {flags} to confirm, or {review}",
        )
        self.file = file
        self.identities = tuple(identities)
        self.widens = widens

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.file, self.identities, self.widens)


class SecretInTextError(KeyleashError, ValueError):
    """A text that is stored and shown to others contains a token."""

    code = "secret-in-text"
    exit_code = 2


class EvictionError(KeyleashError):
    """The server may evict keyleash's own keys when its memory is full."""

    code = "eviction"


class UnvalidatedRestoreError(KeyleashError):
    """A payload could be made up by an agent, and the server does not validate payloads."""

    code = "unvalidated-restore"


class UnexpectedReplyError(KeyleashError):
    """A server answered a command in a form that no Redis and no Valkey gives it."""

    code = "unexpected-reply"
    exit_code = 76

    def __init__(self, command: str) -> None:
        super().__init__(
            f"the server's reply to {command} is not what keyleash expects",
            help="check what listens at the URL: it must be a Redis or Valkey server itself",
        )
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.command,)


class NothingToUndoError(KeyleashError):
    """What was chosen holds no event that changed a key."""

    code = "nothing-to-undo"


class UndoTooLargeError(KeyleashError):
    """An undo would hold up the server for too long."""

    code = "undo-too-large"


class ArchiveError(OperationError):
    """A directory is not an archive of audit streams, or the archive cannot be continued."""


class NotReplicatedError(KeyleashError):
    """A call was done, and fewer replicas than its identity wants have it yet.

    No `ResponseError`, after which nothing stands, and no `ConnectionError`, after which callers
    try again: the write stands on the primary, and would stand twice.

    Attributes:
        reply: What the call was answered; of a pipeline, what `execute` would have returned.
        replicas: How many have it; None if the connection or WAIT failed, and nobody knows.
        wanted: How many were to have it.
        timeout_ms: For how long they were waited for.
    """

    code = "not-replicated"

    def __init__(self, reply: Any, replicas: int | None, wanted: int, timeout_ms: int) -> None:
        has = "it is not known whether any replica has it"
        if replicas is not None:
            has = f"{replicas} of {wanted} replicas had it within {timeout_ms} ms"
        super().__init__(
            f"the call was done, but {has}",
            help="do not repeat it: it stands on the primary, and is lost if that fails too early",
        )
        self.reply = reply
        self.replicas = replicas
        self.wanted = wanted
        self.timeout_ms = timeout_ms

    def about(self, reply: Any) -> NotReplicatedError:
        """The same of another reply: what was made of it, or what it is a part of."""
        other = NotReplicatedError(reply, self.replicas, self.wanted, self.timeout_ms)
        other.__cause__ = self.__cause__
        return other

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reply, self.replicas, self.wanted, self.timeout_ms)


class GuardLostError(KeyleashError, NoScriptError):
    """The server has not the script of the identity's guard, and the caller may not load it."""

    code = "guard-lost"

    def __init__(self, identity: str) -> None:
        super().__init__(
            f"the server lost the guard of `{identity}`, and nobody loaded it again in time",
            help="run `keyleash watch`, which does so after a failover, or load the policy again",
        )
        self.identity = identity

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.identity,)


class RightMissingError(KeyleashError, NoPermissionError):
    """The server's ACL keeps the client's user from something that calls of a guard need.

    Nothing has run.

    Attributes:
        identity: The token's.
        right: The missing ACL rule; empty if the server does not name it.
        reason: The server's own sentence.
        keys: If a key was denied, of which the server names none: patterns of the control keys
            that the identity's guard uses. The denied key may also be one of the call.
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

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.identity, self.right, self.reason, self.keys)


class VaultConflictError(KeyleashError):
    """Some keys cannot be moved, since others have their names; these stay where they are.

    Attributes:
        keys: Their names, as agents have them.
    """

    code = "vault-conflict"

    def __init__(self, message: str, keys: Sequence[bytes], *, help: str | None = None) -> None:
        super().__init__(message, help=help)
        self.keys = tuple(keys)


class LeashError(KeyleashError, ResponseError):
    """A guard refused the call.

    Attributes:
        code: The reply code.
        details: The refusal's `key=value` pairs, unescaped; a key that is not UTF-8
            carries surrogate escapes.
    """

    code: ReplyCode

    def __init__(
        self, details: Mapping[str, str] | None = None, *, help: str | None = None
    ) -> None:
        self.details: dict[str, str] = dict(details or {})
        said = " ".join(f"{name}={value!r}" for name, value in self.details.items())
        super().__init__(f"{self.code} {said}".rstrip(), help=help)

    def __reduce__(self) -> tuple[object, ...]:
        # By default an exception is made again from its message, which is not what this one takes.
        return _refused_again, (type(self), self.details, self.help)


def _refused_again(cls: type[LeashError], details: dict[str, str], help: str | None) -> LeashError:
    return cls(details, help=help)


class SuspendedError(LeashError):
    """The identity is suspended: by an operator, by itself, or while prefixes are changed."""

    code = ReplyCode.SUSPENDED

    @property
    def reason(self) -> str:
        """Why; empty if nobody said."""
        return self.details.get("reason", "")

    @property
    def until_ms(self) -> int | None:
        """Server time, Unix milliseconds, at which it ends by itself; None if somebody ends it."""
        said = self.details.get("until_ms", "")
        return int(said) if said.isdecimal() else None


class PolicyStaleError(LeashError):
    """The guard that was called belongs to a policy that is no longer active."""

    code = ReplyCode.POLICY_STALE


class CallNotPermittedError(PolicyStaleError, NoPermissionError):
    """
    The server does not let the client's user call this guard.

    A user that is fenced may call the guard of its identity as it is now. So this is the reply
    in place of POLICY_STALE once another policy is active, and nothing has run. Clients read the
    guard record again; if the guard that it names may not be called either, a right is missing,
    and they raise `RightMissingError`.
    """


class TokenUnknownError(LeashError):
    """The identity has no such token."""

    code = ReplyCode.TOKEN_UNKNOWN


class TokenExpiredError(LeashError):
    """The token's life, or its idle time, is over."""

    code = ReplyCode.TOKEN_EXPIRED


class TokenRevokedError(LeashError):
    """The token was revoked."""

    code = ReplyCode.TOKEN_REVOKED


class CommandRefusedError(LeashError):
    """The command is unknown, keyless, or its keys cannot all be placed."""

    code = ReplyCode.COMMAND_REFUSED


class ClassNotGrantedError(LeashError):
    """No grant on the key, or none at all, gives the operation class (`details["class"]`)."""

    code = ReplyCode.CLASS_NOT_GRANTED


class KeyNotGrantedError(LeashError):
    """No grant matches the key (`details["key"]`)."""

    code = ReplyCode.KEY_NOT_GRANTED


class KeyDeniedError(LeashError):
    """A deny rule matches the key, or it is one of keyleash's own."""

    code = ReplyCode.KEY_DENIED


class ChannelNotGrantedError(LeashError):
    """No grant matches the channel (`details["channel"]`)."""

    code = ReplyCode.CHANNEL_NOT_GRANTED


class KeysMismatchError(LeashError):
    """The declared keys are not the keys of the command."""

    code = ReplyCode.KEYS_MISMATCH


class ArgsTooManyError(LeashError):
    """The call has more arguments than a guard can pass on."""

    code = ReplyCode.ARGS_TOO_MANY


class NotActiveError(LeashError):
    """The identity has no state: never loaded, removed, flushed or evicted."""

    code = ReplyCode.NOT_ACTIVE


class RateLimitedError(LeashError):
    """A rate is used up for now."""

    code = ReplyCode.RATE_LIMITED

    @property
    def retry_after_ms(self) -> int:
        """Milliseconds, at least 1, after which the same call fits the rate."""
        return int(self.details["retry_after_ms"])


class AuditFullError(LeashError):
    """So many events wait for their export that no further one may be made."""

    code = ReplyCode.AUDIT_FULL


class CounterCorruptError(LeashError):
    """What a limit has counted is nothing that a guard writes (`details["limit"]`).

    Somebody else wrote to the counter. `keyleash limits reset` starts it again.
    """

    code = ReplyCode.COUNTER_CORRUPT


class BudgetExhaustedError(LeashError):
    """A budget is spent until its window ends."""

    code = ReplyCode.BUDGET_EXHAUSTED

    @property
    def resets_at_ms(self) -> int:
        """Server time, Unix milliseconds, at which the budget's next window begins."""
        return int(self.details["resets_at_ms"])


class WorkTooLargeError(LeashError):
    """The call would keep the server busy for longer than the policy allows.

    Raised before the command runs; the limit is `limits: {work: …}` of the identity.
    """

    code = ReplyCode.WORK_TOO_LARGE

    @property
    def work(self) -> int:
        """The estimated work of the call or batch, in units of about 0.1 µs."""
        return int(self.details["work"])

    @property
    def limit(self) -> int:
        """The work that one call or batch may be."""
        return int(self.details["limit"])


class ValueTooLargeError(LeashError):
    """The call would make a string longer than a grant allows (`details["key"]`)."""

    code = ReplyCode.VALUE_TOO_LARGE

    @property
    def bytes(self) -> int:
        """The length that the string would have."""
        return int(self.details["bytes"])

    @property
    def limit(self) -> int:
        """The length that one call may give it."""
        return int(self.details["limit"])


DENIALS: dict[str, type[LeashError]] = {cls.code: cls for cls in LeashError.__subclasses__()}
"""The class of each reply code."""
assert set(DENIALS) == set(ReplyCode)  # noqa: S101 - each code has a class
