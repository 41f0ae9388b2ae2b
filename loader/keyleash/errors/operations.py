"""All errors but denials: those of operations, of policies and of servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ClusterCrossSlotError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from keyleash.errors.base import KeyleashError, Span
from keyleash.text import counted, json_object, without_tokens


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


FAILED, UNREACHABLE, NOT_PERMITTED = 1, 69, 77
"""Exit codes of the CLI; the latter two are of sysexits.h."""
EXIT_CODES = {
    "bad-environment": 2,
    "bad-url": 2,
    "file": 66,
    "guard-broke": 70,
    "server-unreachable": 69,
    "unanswered": 69,
    "undo-unanswered": 69,
    "unknown-code": 2,
    "unknown-identity": 2,
    "unknown-policy": 2,
    "unknown-role": 2,
    "unsayable-pattern": 65,
    "unsupported-server": 69,
}
"""Exit codes of `OperationError` by code, where it is not 1."""


class UsageError(KeyleashError):
    """A command was called with wrong options or arguments."""

    code = "usage"
    exit_code = 2


class ArgumentError(UsageError, TypeError, ValueError):
    """An argument that its parameter, or another argument, does not allow."""


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
    """The server is a node of a Redis Cluster, and the client or command is for one server.

    It is a `ResponseError`, like the reply that it replaces: the connection stays usable.
    """

    code = "cluster"
    exit_code = 69

    def __init__(self) -> None:
        super().__init__(
            "the server is a node of a Redis Cluster, and this client or command is for one server",
            help="use `keyleash.RedisCluster`",
        )


class CrossSlotError(KeyleashError, ClusterCrossSlotError):
    """A call, transaction, batch or watch has keys in several slots of a cluster; nothing ran."""

    code = "cross-slot"

    def __init__(self) -> None:
        super().__init__(
            "the keys are in several slots of the cluster",
            help="give them one hash tag, as in `{job:7}:state`, or make a call for each slot",
        )


class SlotNotServedError(KeyleashError, RedisConnectionError):
    """No node of a cluster served a slot in time; nothing ran.

    Attributes:
        reason: The last answer or error of a node.
    """

    code = "slot-not-served"
    exit_code = 69

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(
            f"no node of the cluster served {what} in time: {reason}",
            help="nothing ran, so make the call again; if it persists, run `keyleash doctor`, which"
            " shows nodes that cannot be reached and slots that move",
        )
        self.reason = reason


class MissingExtraError(OperationError, AttributeError):
    """An extra is not installed. Code that only looks whether a name exists finds none."""


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
        flags = "`allow_removal=True`"
        if widens:
            flags += " and `allow_widening=True`"
        # `plan` reads only files, not `<active policy>`.
        is_file = not file.startswith("<")
        review = f"see `keyleash plan {file}` first, then " if is_file else ""
        super().__init__(
            f"`{file}` removes {counted(count, 'identity')}: {', '.join(identities[:5])}{more}"
            f"{'; it also widens access' if widens else ''}",
            help=f"{review}pass {flags}",
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


class UnknownDenialError(KeyleashError, ResponseError):
    """A guard denied the call with a code that this version does not know."""

    code = "unknown-denial"

    def __init__(self, code: str) -> None:
        super().__init__(
            f"the guard denied the call with the unknown code `{code}`",
            help="update keyleash on this side",
        )


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
        given = f", which allows it {shown}" if keys else ""
        super().__init__(
            f"the server's user lacks {what}, without which it cannot act as `{identity}`:"
            f" {reason}",
            help=f"an operator has to give the user the right{given}",
        )
        self.identity = identity
        self.right = right
        self.reason = reason
        self.keys = tuple(keys)


class UnreadableCommandsError(KeyleashError):
    """A server does not report the keys of its commands."""

    code = "unreadable-commands"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"cannot read the server's commands: {reason}",
            help="use a user who may run COMMAND, on Redis 7 or later",
        )


class UnplacedKeysError(KeyleashError):
    """Not all keys of a command or of a call can be found, so guards refuse it."""

    code = "unplaced-keys"
    exit_code = 65

    def __init__(self, command: str, reason: str, span: Span | None = None) -> None:
        super().__init__(
            f"cannot place every key of `{command}`: {reason}",
            help="grant a command whose keys can be placed instead",
            span=span,
        )
        self.command = command
        self.reason = reason


class RegionsTooComplexError(KeyleashError):
    """The patterns overlap in too many ways to be compared."""

    code = "regions-too-complex"


class BadCasesError(PolicyError):
    """Test files have problems, listed by file."""

    code = "bad-tests"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.message = f"{counted(len(problems), 'problem')} in the tests"


class PortTakenError(OperationError):
    """A port on which an embedded server was to listen is in use.

    Attributes:
        url: The URL of what listens there, if it is a server.
    """

    def __init__(self, host: str, port: int) -> None:
        self.url = f"redis://{host}:{port}"
        super().__init__(
            "server-start",
            f"port {port} on {host} is already in use",
            help="stop what listens there, choose another port, or give none to get a free one",
        )
