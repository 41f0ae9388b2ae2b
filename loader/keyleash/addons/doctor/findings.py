"""The results of checks, and the table of all findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from keyleash.errors import OperationError
from keyleash.operator.load.checks import EVICTION_ADVICE, RESTORE_CODE
from keyleash.policy.problems import listing, quote
from keyleash.results import Result
from keyleash.store.server_check import PAYLOAD_ADVICE


class Severity(StrEnum):
    """The severity of a finding."""

    ERROR = "error"
    """Agents are denied or not limited, or records can be lost."""
    WARNING = "warning"
    """It becomes an error when something else happens."""
    ADVICE = "advice"
    """A setting or a release could be safer; nothing is known to be wrong."""


@dataclass(frozen=True, slots=True)
class DoctorFinding(Result):
    """A problem of a deployment.

    Attributes:
        code: A stable code; docs/reference/doctor.md has a section for each.
        message: The problem, in a sentence.
        help: The remedy.
        node: The server; None if all are affected.
    """

    code: str
    severity: Severity
    message: str
    help: str
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped(Result):
    """A check that could not be made, and is neither passed nor failed.

    Attributes:
        check: The name of the check.
        reason: Why it was skipped.
    """

    check: str
    reason: str
    node: str | None = None


CheckResult = DoctorFinding | Skipped


class FindingKind(NamedTuple):
    """The usual severity of a finding, and templates of its message and help."""

    severity: Severity
    message: str
    help: str


_ERROR, _WARNING, _ADVICE = Severity
_LOAD = "`keyleash load` the active policy again"
_APPEND = "set `appendonly yes` and `appendfsync everysec`, in the server's configuration file too"

FINDINGS = {
    "unreachable": FindingKind(
        _ERROR,
        "the server does not answer, so it was not checked",
        "start it or remove it; check that its address is reachable from here, and that user and"
        " password are valid there",
    ),
    RESTORE_CODE: FindingKind(_ERROR, "{risk}", PAYLOAD_ADVICE),
    "eviction": FindingKind(_ERROR, "{risk}", EVICTION_ADVICE),
    "memory-full": FindingKind(
        _ERROR,
        "{percent} % of `maxmemory` is used: {when}every write is denied",
        "raise `maxmemory`, delete data, or shorten audit streams",
    ),
    "unbounded-output-buffers": FindingKind(
        _ADVICE,
        "`client-output-buffer-limit` is unlimited for normal clients: replies that an agent does"
        " not read stay in memory",
        "set `client-output-buffer-limit normal 256mb 64mb 60` in redis.conf, or by `CONFIG SET"
        ' client-output-buffer-limit "normal 256mb 64mb 60"`; the first size must exceed the'
        " largest reply",
    ),
    "unbounded-client-memory": FindingKind(
        _ADVICE,
        "with `maxmemory-clients {limit}`{without} the buffers of all connections together are"
        " unlimited",
        "set `maxmemory-clients` to a size such as `512mb`, or to a percentage of `maxmemory`;"
        " above it, the server closes the connections that use most",
    ),
    "large-bulk-length": FindingKind(
        _ADVICE,
        "`proto-max-bulk-len` allows arguments of {mib} MiB, and guards allow strings of"
        " {needed_mib} MiB",
        "set `proto-max-bulk-len {needed_mib}mb`, or what the values of other clients need",
    ),
    "deletes-at-once": FindingKind(
        _ADVICE,
        "{names} are `no`: deleting, replacing or expiring a large key stops the server meanwhile",
        "`CONFIG SET {set} yes`, and set the same in redis.conf",
    ),
    "slots-not-served": FindingKind(
        _ERROR,
        "{count} slots of the cluster have no working node: calls on their keys fail",
        "see `CLUSTER NODES`; start the node, or assign the slots to another",
    ),
    "undeclared-keys": FindingKind(
        _ERROR,
        "the node denies keys that a script does not declare: {reason}; guards cannot run",
        "use a server that does not check the keys of scripts: managed services may do",
    ),
    "no-persistence": FindingKind(
        _ERROR,
        "nothing is persisted: a restart loses policy, tokens, counters and audit streams",
        _APPEND,
    ),
    "snapshots-only": FindingKind(
        _WARNING,
        "there are snapshots and no append-only file: a crash loses counts, events and revocations"
        " since the last snapshot",
        _APPEND,
    ),
    "no-fsync": FindingKind(
        _WARNING,
        "with `appendfsync no` a crash of the machine loses what its operating system had not yet"
        " written, including revocations",
        "set `appendfsync everysec`, or `always`",
    ),
    "persistence-failing": FindingKind(
        _ERROR,
        "{failed} failed: the server may deny every write",
        "free space on its disk; its log names the failure",
    ),
    "open-default-user": FindingKind(
        _WARNING,
        "the user `default` needs no password and may do everything: every connection can bypass"
        " the guards",
        "create a user for operators, set it in KEYLEASH_URL, then `ACL SETUSER default off`; or"
        " set `requirepass`, which is the password of `default`",
    ),
    "no-policy": FindingKind(
        _ERROR,
        "no policy is active: every call of every agent is denied",
        "load one with `keyleash load FILE`; after a flush, consider restoring a backup",
    ),
    "command-denied": FindingKind(
        _WARNING,
        "the user of the URL may not run {name}, or the server lacks it: {reason}",
        "grant SCRIPT to operators, since loads need it, and MEMORY to agents, since guards do",
    ),
    "no-guard": FindingKind(
        _ERROR, "there is no guard record of {names}: clients find no guard", _LOAD
    ),
    "guard-differs": FindingKind(
        _WARNING,
        "a load would compile other guards: those of {names} were compiled by another version of"
        " keyleash, for another year or for other server commands, or were changed",
        _LOAD,
    ),
    "no-layout": FindingKind(
        _ERROR,
        "there is no layout of {names} in `{key}`: `freeze` and `revoke` of all identities omit"
        " them",
        _LOAD,
    ),
    "no-state": FindingKind(
        _ERROR,
        "the state of {names} is missing or truncated: every call is denied",
        f"look for evictions and deletions, then {_LOAD}; if calls are still denied, `keyleash"
        " thaw` and `keyleash limits reset` the identity: suspension and counts are lost",
    ),
    "stale-state": FindingKind(
        _ERROR,
        "the state of {names} belongs to another guard: every call is denied as POLICY_STALE",
        f"{_LOAD}; it migrates the limit counts",
    ),
    "script-not-loaded": FindingKind(
        _ERROR,
        "guards are not loaded: {names}; agents without the right to run SCRIPT LOAD are denied",
        "load the active policy again by `keyleash load`, unless all clients may load scripts",
    ),
    "script-without-text": FindingKind(
        _ERROR,
        "the script {digest} of `{identity}` is not stored, so it cannot be loaded again",
        _LOAD,
    ),
    "fences-gone": FindingKind(
        _WARNING, "fences are gone, but {names} still have users of the server", "{advice}"
    ),
    "clock-differs": FindingKind(
        _WARNING,
        "the server's clock is {seconds:.0f} s {direction} this machine's; expiries and windows use"
        " the server's",
        "synchronize both by NTP; if a clock is set back, agents wait as long as it was ahead",
    ),
    "several-primaries": FindingKind(
        _ERROR,
        "more than one server accepts writes: {names}",
        "connect agents to one only, and make the others its replicas",
    ),
    "replica-unlinked": FindingKind(
        _ERROR,
        "it has no link to its primary {primary}",
        "check its log; `masterauth` and `masteruser` must be valid at the primary",
    ),
    "replica-lagging": FindingKind(
        _WARNING,
        "its replica {replica} last answered {lag_s} s ago: a failover to it loses later writes",
        "check that server and the network between them",
    ),
    "too-few-replicas": FindingKind(
        _ERROR,
        "{names} wait for up to {most} replicas, and the primary has {online}: every write fails as"
        " not replicated",
        "restore replicas, or lower `durability: {{wait_replicas: …}}`",
    ),
    "policy-behind": FindingKind(
        _ERROR,
        "it has {present}, {main} has generation {expected}",
        "make it a replica of that server; retry if a policy was just loaded",
    ),
    "unreadable": FindingKind(
        _ERROR,
        "its records are corrupt: {reason}",
        "find out what wrote to the control keys, then load the policy from its file",
    ),
}
"""All findings by code, in the order of an examination."""
CODES = tuple(FINDINGS)

SHOWN = 5


def finding(
    code: str,
    node: str | None = None,
    severity: Severity | None = None,
    *,
    names: Iterable[str] = (),
    **values: object,
) -> DoctorFinding:
    """Return a finding with its message and help filled in by *names* and the other *values*."""
    kind = FINDINGS[code]
    values["names"] = listing(names, SHOWN)
    return DoctorFinding(
        code,
        severity or kind.severity,
        kind.message.format(**values),
        kind.help.format(**values),
        node,
    )


def require_codes(names: Iterable[str], file: str | None = None) -> None:
    """Check that every name is a code; *file* is the configuration file with the names, if any."""
    for name in names:
        if name not in FINDINGS:
            where = f"in the configuration file {quote(file)}: " if file else ""
            raise OperationError(
                "unknown-code",
                f"{where}no doctor finding has the code {quote(name)}",
                help=f"the codes are {listing(CODES)}",
            )
