"""The scripts that guards denied, for review."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Unpack

from keyleash.audit.read import read_denials
from keyleash.audit.selection import ReadTimes, query_of, reachable
from keyleash.audit.streams import stream_names
from keyleash.commands.facts import SCRIPT_CALLS
from keyleash.errors import ReplyCode
from keyleash.operations import operation
from keyleash.operations.types import IdentityName
from keyleash.policy.bundles import bundle_of
from keyleash.results import Instant, Result
from keyleash.store.identities import active_records
from keyleash.store.store import Store

_DIGEST = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class RefusedScript(Result):
    """A script that an identity called and no grant approves.

    Attributes:
        digest: Its SHA-1.
        calls: The denied calls.
        first_ms, last_ms: The first and the last denial, to the minute: server time, Unix
            milliseconds.
        token, correlation: The calling token and the correlation id of the last one.
        bundle: The bundle that has the script; empty if none has it.
    """

    digest: str
    identity: str
    calls: int
    first_ms: int
    last_ms: int
    token: str
    correlation: str
    bundle: str

    first = Instant[datetime]("first_ms")
    last = Instant[datetime]("last_ms")


@dataclass(frozen=True, slots=True)
class RefusedScripts(Result):
    """The scripts that no grant approves, by identity, those called last at the end.

    Attributes:
        scripts: One for each identity and digest.
        unnamed: Further denied calls that may be of other scripts: the client did not name the
            digest, or a minute had too many kinds of denials.
    """

    scripts: tuple[RefusedScript, ...]
    unnamed: int


@operation("scripts pending")
def refused_scripts(
    store: Store, *identities: IdentityName, **times: Unpack[ReadTimes]
) -> RefusedScripts:
    """Return the scripts of denied calls that the active policy still does not approve.

    Arguments as of `events`.
    """
    names = stream_names(store, identities, operators=False)
    query = replace(query_of(store, times), code=ReplyCode.COMMAND_REFUSED)
    guards = active_records(store, names)
    found: dict[tuple[str, str], RefusedScript] = {}
    unnamed = 0
    for denial in read_denials(reachable(store, times), names, query):
        digest, identity, calls = denial.script, denial.identity, denial.repeats
        if denial.folded or not _DIGEST.fullmatch(digest):
            # Of too many kinds in a minute, only the first call is known.
            named = int(bool(_DIGEST.fullmatch(digest)))
            unnamed += calls - named if denial.folded or denial.op in SCRIPT_CALLS else 0
            calls = named
        guard = guards.get(identity)
        if not calls or guard is None or guard.may_run(digest):
            continue
        before = found.pop((identity, digest), None)
        found[identity, digest] = RefusedScript(
            digest,
            identity,
            calls + (before.calls if before else 0),
            before.first_ms if before else denial.time_ms,
            denial.time_ms,
            denial.token,
            denial.correlation,
            bundle_of(digest),
        )
    return RefusedScripts(tuple(found.values()), unnamed)
