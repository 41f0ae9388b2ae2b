"""The reasons of denials: code, sentence, and the help for each reader, declared once.

Clients, `keyleash explain`, the audit log and the pages of the documentation all read this table.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from keyleash.text import clock_time, printable, size, span, with_links


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
    INDEX_NOT_GRANTED = "INDEX_NOT_GRANTED"
    KEYS_MISMATCH = "KEYS_MISMATCH"
    ARGS_TOO_MANY = "ARGS_TOO_MANY"
    NOT_ACTIVE = "NOT_ACTIVE"
    RATE_LIMITED = "RATE_LIMITED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    AUDIT_FULL = "AUDIT_FULL"
    COUNTER_CORRUPT = "COUNTER_CORRUPT"
    WORK_TOO_LARGE = "WORK_TOO_LARGE"
    KEY_TOO_LONG = "KEY_TOO_LONG"
    VALUE_TOO_LARGE = "VALUE_TOO_LARGE"
    VALUE_REFUSED = "VALUE_REFUSED"
    DELEGATION_REFUSED = "DELEGATION_REFUSED"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    REPLAYED = "REPLAYED"
    LEASE_NEEDED = "LEASE_NEEDED"
    LEASE_REFUSED = "LEASE_REFUSED"
    RENEWAL_REFUSED = "RENEWAL_REFUSED"


NO_SERVER_HAS = "no server that keyleash knows has"
NOT_NAMED = "no grant names it in `only`"
NOT_CHECKED = "keyleash does not check commands of this module"
UNAPPROVED = "no grant approves the script"
IN_A_BATCH = "it is not possible in a batch or transaction"
MALFORMED = "the call of the script is malformed"
NO_IDS = "the policy lets no call have an idempotency id"
"""The reasons of COMMAND_REFUSED that have a help of their own."""
LEFT_OUT = "no grant allows it, or the server lacks it"
NO_SUB_COMMAND = "no grant allows its sub-commands, or none is named"
NO_CHANNELS = "no grant with channels allows it"
NO_INDEXES = (
    "no grant with `indexes` allows it; without the module Search, on clusters and beyond"
    " database 0 none can"
)
"""Those with the help of `no grant`, with which all four begin."""

_PHRASES = {
    "NO_SERVER_HAS": NO_SERVER_HAS,
    "NOT_NAMED": NOT_NAMED,
    "NOT_CHECKED": NOT_CHECKED,
    "UNAPPROVED": UNAPPROVED,
    "IN_A_BATCH": IN_A_BATCH,
    "MALFORMED": MALFORMED,
    "NO_IDS": NO_IDS,
    "ASK": "ask the operator for another token",
    "CLIENT": "use keyleash's client, of the same version",
    "KNOWN": "use keys whose names you know, or report that you cannot list them",
    "ISSUE": "issue another with `keyleash token issue {identity}`",
    "OF_TOKEN": "if by=token\n  operator: the identity may, its token may not: issue a token with"
    " other restrictions",
    "OWN": "if the identity should have it",
    "NO_RULE": "no rule of the policy decided",
    "REPORT": "stop, and report it to the operator",
    "RESET": "raise it in the policy, or reset it with `keyleash limits reset {identity}`",
    "SEE": "{door} lists what the token allows",
    "UNITS": "the call is {work} units, and the limit is {limit}",
    "STOP": "stop, and report that you cannot do this: do not try to replace it",
}
"""What stands for `$NAME` in the catalog."""

_CATALOG = """\
SUSPENDED: the identity is suspended: {reason}
  agent: $REPORT
  operator: resume it with `keyleash thaw {identity}`
  if until_ms
  agent: retry after {until}
  operator: it resumes at {until}, or earlier with `keyleash thaw {identity}`

POLICY_STALE: the guard belongs to a policy that is no longer active
  agent: retry once; if it persists, report it to the operator
  operator: the guard record is older than the active policy: load the policy again

TOKEN_UNKNOWN: the server does not know the token
  agent: use the token as it was issued, or $ASK
  operator: it was never issued, or its record was deleted: $ISSUE

TOKEN_EXPIRED: the token has expired
  agent: use the token that replaced it, or $ASK
  operator: its lifetime or its idle timeout is over: $ISSUE

TOKEN_REVOKED: the token was revoked
  agent: $ASK
  operator: `keyleash audit log --control` lists who revoked it; $ISSUE
  if bound
  agent: use a token without restrictions, or ask the operator for one
  operator: the active policy does not allow bound tokens: add `token: {{bound: true}}` to the
      identity
  if depth
  operator: the policy no longer allows a token after {depth} delegations: see `delegate: {{depth:
      …}}`
  if ancestor
  operator: the token `{ancestor}`, from which it was delegated, {over}: $ISSUE

COMMAND_REFUSED: the command `{command}` is not allowed: {reason}
  agent: do without it, or report that you cannot: no token may call it, see
      docs/reference/commands.md
  operator: no policy can allow it; docs/reference/commands.md lists the denied commands
  if option=BRACKETS|FIELDS|KNN|PATHS|PREFIX|QUERY|STEPS|TERMS
  agent: use a shorter or simpler call, within the bounds of docs/reference/policy.md#{bounds}
  operator: no policy can allow it; the bounds are in docs/reference/policy.md#{bounds}
  if option
  agent: leave `{option}` out, or use it within the bounds of docs/reference/policy.md#{bounds}
  operator: no policy can allow it; the bounds are in docs/reference/policy.md#{bounds}
  if mode=renew
  agent: use the token until it expires, or ask the operator to renew it
  operator: add `token: {{renew: true}}` to the identity, or renew it with `keyleash token renew
      ID`, which renews no child token
  if mode=delegate
  agent: use the token itself, or ask the operator for a second one
  operator: add `delegate: {{depth: 1}}` to the identity, and `token: {{bound: true}}`
  if once=key
  agent: make the call outside of the block, without an id
  operator: $NO_RULE
  if reason=$NO_IDS
  agent: make the call without an id
  operator: add `idempotency: {{keep: 24h}}` to `{identity}` in the policy
  if reason=$NO_SERVER_HAS
  agent: check the name of the command and of its sub-command, and use one that servers have
  operator: $NO_RULE: check the name
  if reason=$UNAPPROVED
  sentence: the script is not allowed: {reason}
  agent: use the text of an approved script, byte by byte, or plain commands; ask the operator
      which are approved
  operator: {reason}: add its text to `scripts` of the policy, and its name to `scripts` of a grant;
      every byte counts, also a last newline, and a changed text needs `keyleash load`
  if reason=$NOT_NAMED
  agent: use another command; $SEE
  operator: name it in `only` of a grant, $OWN
  if reason=$NOT_CHECKED
  agent: use another command; $SEE
  operator: name it in `only` of a grant, $OWN and the command touches only the keys that its module
      declares
  if reason=no grant, command=SCAN|KEYS|DBSIZE
  agent: $KNOWN; $SEE
  operator: see `scan`, `only` and `except` of the grants, $OWN
  if reason=no grant
  agent: stop, and ask the operator for `{command}`; $SEE
  operator: see `only`, `except`, `channels` and `indexes` of the grants, $OWN
  if reason=$IN_A_BATCH
  agent: make the call before the transaction, or use SCAN in place of KEYS
  operator: $NO_RULE
  if reason=$MALFORMED
  agent: use this order: the script, the number of keys, the keys, the arguments
  operator: $NO_RULE
  if command=DBSIZE
  agent: use SCAN with a pattern of a grant with `scan`, or keys whose names you know; $SEE
  operator: add `scan` to `allow` of a grant, $OWN; it is denied if 100 calls of SCAN do not end

CLASS_NOT_GRANTED: no grant of the token gives `{class}` to `{command}`{on_key}
  agent: do without it, or report that you cannot do this; $SEE
  operator: add `{class}` to `allow` of a grant, $OWN
  if by=command
  agent: stop, and ask the operator for `{command}` on this key; $SEE
  operator: `only` or `except` of the grants on the key leaves it out: change them, $OWN
  if class=scan
  agent: $KNOWN; $SEE
  $OF_TOKEN
  if key
  agent: use another command on this key, or another key; $SEE

KEY_NOT_GRANTED: no grant of the token covers the key `{key}`
  agent: use another key; $SEE
  operator: add a pattern to `keys` of a grant, $OWN
  if pattern_of=SCAN
  sentence: no grant of the token covers all keys of the pattern `{key}`
  agent: use a pattern of a grant with `scan`, as in `SCAN 0 MATCH PREFIX*` or `KEYS PREFIX*`; $SEE
  operator: add a pattern that covers it to `keys` of a grant with `scan`, $OWN
  if pattern_of=FT
  sentence: no grant of the token covers all keys `{key}` of the search index
  agent: use an index whose prefixes are within your keys, as `memory:` is within `memory:*`; $SEE
  operator: add `{key}` to `keys` of a read grant, and for DD of a delete grant, or make the index
      without that prefix
  if pattern_of=SORT
  sentence: no grant of the token covers all keys of the SORT pattern `{key}`
  agent: use a pattern that a read grant covers, and that ends in `*`; $SEE
  operator: add a pattern that covers it, and ends in `*`, to a read grant, $OWN
  $OF_TOKEN

KEY_DENIED: the key `{key}` is denied by a `deny` rule
  agent: $STOP
  operator: a `deny` rule of the identity decided, or it is a control key, which stays denied
  if pattern_of=FT
  sentence: a `deny` rule may match a key `{key}` of the search index
  if pattern_of=SORT
  sentence: a `deny` rule may match a key of the SORT pattern `{key}`

CHANNEL_NOT_GRANTED: no grant of the token covers the channel `{channel}`
  agent: use another channel; $SEE
  operator: add a pattern to `channels` of a grant, $OWN
  $OF_TOKEN

INDEX_NOT_GRANTED: no grant of the token covers the search index `{index}`
  agent: use another index; $SEE
  operator: add a pattern to `indexes` of a grant, $OWN
  $OF_TOKEN
  if reason=unbound
  sentence: the token has no value for the filter of the search index `{index}`
  agent: use a token that is bound to a value, or ask the operator for one
  operator: `where` of the policy has a capture: issue a token with `--bind NAME=VALUE` for it
  if reason=value
  sentence: the token's value for the filter of the search index `{index}` cannot be one
  agent: $ASK: values of a filter have letters, digits and `_.@-` alone
  operator: issue a token that is bound to a value of letters, digits and `_.@-`
  if reason=case
  sentence: the filter of the search index `{index}` cannot tell upper-case letters apart
  agent: use another index, or report it: the operator can repair this
  operator: make the field CASESENSITIVE in the index, or bind tokens to lower-case values
  if reason=field
  sentence: the search index `{index}` has no field that fits the filter of the policy
  agent: use another index, or report it: the operator can repair this
  operator: `where` needs a TAG or NUMERIC field of that name in the index, for a NUMERIC one a
      whole number as value, for a TAG no SEPARATOR out of letters, digits and `_.@-`

KEYS_MISMATCH: the keys that were declared are not those of the command
  agent: $CLIENT
  operator: $NO_RULE: the caller is no client of keyleash, or one of another version

ARGS_TOO_MANY: the call has too many arguments, commands or changed keys
  agent: use several calls: this one has {amount}
  operator: $NO_RULE: a guard cannot handle {amount} at once

NOT_ACTIVE: the identity of the token is in no active policy
  agent: $REPORT
  operator: load a policy that has it with `keyleash load FILE`; if `keyleash status` lists it, its
      records were deleted: run `keyleash doctor`

RATE_LIMITED: `{limit}` is exceeded
  agent: try again in {retry_after}
  operator: it has room in {retry_after}; $RESET

BUDGET_EXHAUSTED: `{limit}` is exhausted
  agent: retry after {resets_at}
  operator: it resets at {resets_at}; $RESET
  if limit=token.bytes_written
  sentence: `{limit}` has less left than the call writes
  agent: write less in one call; a cap for the life of a token never resets: use a new token; others
      reset at {resets_at}
  operator: the token{inherited} has this cap: issue another
  if limit=token.
  agent: a cap for the life of a token never resets: use a new token; others reset at {resets_at}
  operator: the token{inherited} has this cap: issue another
  if limit=budget.bytes_written
  sentence: `{limit}` has less left than the call writes
  agent: write less in one call, or retry after {resets_at}

AUDIT_FULL: too many events await their export
  agent: retry later, and report it to the operator; reads that are not recorded still work
  operator: `audit.retain.hard_max` is {events}: export events with `keyleash audit export`

COUNTER_CORRUPT: the counter of `{limit}` is corrupt
  agent: $REPORT
  operator: find out what wrote to it, then reset it with `keyleash limits reset {identity}`

WORK_TOO_LARGE: `{command}` is more work than one call may be
  agent: use a range, COUNT or LIMIT, or split the value, as bytes are work: $UNITS
  operator: it is {work} units, and the policy allows {limit}: raise `limits: {{strings: …}}` for a
      call that reads many strings, else `limits: {{work: …}}`
  if command=EVAL
  agent: do less in one call of the script: $UNITS
  if command=FT.AGGREGATE, work=1000000000000000
  agent: make no lists: with a filter of the policy, TOLIST and RANDOM_SAMPLE are denied
  operator: with `where`, TOLIST and RANDOM_SAMPLE are denied: documents of others are not counted
  if command=TOPK.RESERVE|CMS.INIT|BF.|CF.|TDIGEST.CREATE
  agent: use a smaller capacity, or fewer counters: $UNITS
  if command=JSON.
  agent: use a path to one value, or smaller values: $UNITS

KEY_TOO_LONG: the name `{key}` of a key, channel or index is longer than allowed
  agent: use a shorter name: at most {limit} bytes, and it has {bytes}
  operator: it has {bytes} bytes; raise `limits: {{key_bytes: …}}` from {limit}

VALUE_TOO_LARGE: a value or element of `{key}` would be longer than allowed
  agent: use a shorter value: at most {limit} bytes, and it would have {bytes}
  operator: it would have {bytes} bytes; raise `values: {{max_bytes: …}}` of a grant from {limit}

VALUE_REFUSED: the rule `{rule}` does not allow the value that the call would leave in `{key}`
  agent: write at most {limit} in one call: this one writes {was}
  operator: `{rule}` of the policy allows {limit}, and the call leaves {was}
  if rule=only
  agent: write to a new key: this one exists
  if rule=ttl, was=none
  agent: leave its expiry, or set one of at most {limit}: it must expire
  if rule=ttl
  agent: set an expiry of at most {limit}: the call asks for {was}
  if rule=max_elements
  agent: write fewer elements: at most {limit}, and the call may leave {was}

DELEGATION_REFUSED: no child token is made: {reason}
  agent: $CLIENT
  operator: the restrictions of the token, or `delegate` of the policy, do not allow it
  if reason=bind
  sentence: no child token is made: this binding is not allowed
  agent: use another value than `{restriction}`: no pattern of the token has the capture `{capture}`
      with those that are bound, or it is bound to another value
  if reason=allow
  sentence: no child token is made: the token lacks the class
  agent: use classes of the token, not `{restriction}`
  if reason=keys
  sentence: no child token is made: the token lacks the key
  agent: use keys, or prefixes with `*`, within those of the token, not `{restriction}`; a brace is
      doubled: `{{{{42}}}}`
  if reason=budget
  sentence: no child token is made: a cap is malformed, or there are two of its counter
  agent: use `requests=200`, or `writes=50/hour`, once for each counter, not `{restriction}`
  if reason=meta
  sentence: no child token is made: a label is malformed, given twice or secret, or one too many
  agent: use labels of printable ASCII, with lower-case names, without tokens; not `{restriction}`
  if reason=ttl
  sentence: no child token is made: its life would be longer than `delegate.max_ttl`, or under 1s
  agent: use a shorter `ttl` than {life}, or leave it out for the longest
  if reason=outlives
  sentence: no child token is made: it would outlive the token
  agent: use a shorter `ttl` than {life}, or leave it out for the longest
  if reason=depth
  sentence: no child token is made: no deeper delegation is allowed
  agent: use the token itself
  if reason=children
  sentence: no child token is made: the token has as many as `delegate.children` allows
  agent: wait until some of them expire, and retry; revoked ones count until then
  if reason=rotated
  sentence: no child token is made: another token has replaced the token
  agent: use the new token to delegate
  if reason=size
  sentence: no child token is made: its restrictions are too long
  agent: use fewer or shorter ones; those of the token count too
  if reason=digest
  sentence: no child token is made: its digest is malformed or taken
  if reason=word
  sentence: no child token is made: a restriction has no text, or is of no kind
  agent: use `bind`, `allow`, `keys`, `budget` and `meta`, not `{restriction}`

IDEMPOTENCY_CONFLICT: the idempotency id belongs to another call
  agent: use an id of its own for each call, and repeat a call with the same arguments
  operator: $NO_RULE: the program used the id `{once}` for two calls

REPLAYED: the call was done before, and its reply is not stored, as it was too long
  agent: do not repeat it; use a command that reads what it wrote
  operator: raise `max_reply` of `idempotency` in the policy to store such replies

LEASE_NEEDED: the node of the cluster needs a lease
  agent: use `keyleash.RedisCluster`, which fetches leases
  operator: $NO_RULE: the caller does not fetch leases
  if reason
  agent: retry, since nothing ran; if it persists, report it to the operator ({reason})
  operator: load the policy again, which ends all leases; see also `keyleash doctor` ({reason})

LEASE_REFUSED: the cluster does not accept the lease
  agent: $CLIENT, which passes leases on as they are ({reason})
  operator: find out what changed requests or vouchers ({reason})

RENEWAL_REFUSED: the token is not renewed: {reason}
  agent: $ASK
  operator: only a live, issued token within `max_ttl` of the policy is renewed: $ISSUE
  if reason=max_ttl
  sentence: the token is not renewed: it lives as long as `max_ttl` of the policy allows
  if reason=replaced
  sentence: the token is not renewed: another token has replaced it
  agent: use the new token
  if reason=unknown
  sentence: the token is not renewed: its issue is not recorded
  if reason=delegated
  sentence: the token is not renewed: another token made it
  agent: ask the holder of its parent for another"""
"""The entry of each code: its sentence, the help of each reader, and after each `if` what differs.

The first `if` that fits decides: the details have all its names, and begin with one of the values
that it gives, which `|` parts. Six blanks continue a line.
"""


class Reason(NamedTuple):
    """A reason for which calls are denied, as templates of the details of a denial.

    Attributes:
        sentence: The reason, made of what the audit log records too.
        agent: What the holder of the token may do. It cannot change the policy.
        operator: The rule that decided, and what would change it.
        when: The details that a denial has for this reason, each with the beginning of its value.
    """

    sentence: str
    agent: str
    operator: str
    when: Mapping[str, str] = MappingProxyType({})


def _reasons(entry: str) -> Iterator[Reason]:
    """Yield the reasons of an entry of the catalog; each has the texts of the last but its own."""
    first, *others = re.sub(r"\n {6}", " ", entry).split("\n  if ")
    default: Reason | None = None
    for text in (first, *others):
        head, *lines = text.split("\n  ")
        texts = dict(line.split(": ", 1) for line in lines)
        if default is None:
            default = Reason(head.partition(": ")[2], texts["agent"], texts["operator"])
            continue
        pairs = (condition.partition("=") for condition in head.split(", "))
        yield default._replace(when={name: value for name, _, value in pairs}, **texts)
    assert default is not None  # noqa: S101 - an entry has a first part
    yield default


REASONS: Mapping[ReplyCode, tuple[Reason, ...]] = {
    ReplyCode(entry.partition(":")[0]): tuple(_reasons(entry))
    for entry in re.sub(r"\$([A-Z_]+)", lambda name: _PHRASES[name[1]], _CATALOG).split("\n\n")
}
"""The reasons of each code; the first that fits the details of a denial is its own."""

_INSTEAD = r"a \1 that fits a pattern in allowed_instead; replace {…} by a value"
_OVER = {"revoked": "was revoked", "rotated": "was rotated", "expired": "has expired"}


class Door(StrEnum):
    """Where a denial is read; the value is how its reader asks what the token allows."""

    PYTHON = "`client.whoami()`"
    CLI = "`keyleash whoami`"
    GATEWAY = "`KEYLEASH WHOAMI`"
    MCP = "the tool `whoami`"


def reason_of(error: Any, door: Door = Door.PYTHON) -> Reason:
    """Return the reason of a denial, with its details filled in; it contains no token."""
    details = {**error.details, "pattern_of": error.pattern_of}
    name, _, option = details.get("command", "").partition(" ")
    if option and "." in name:
        # Of a module, none of whose commands has sub-commands.
        details["option"] = option
    reason = next(
        reason
        for reason in REASONS[error.code]
        if all(
            name in details and details[name].startswith(tuple(reason.when[name].split("|")))
            for name in reason.when
        )
    )
    words = _words_of(error) | {"door": door}
    if error.is_to_stop:
        reason = reason._replace(agent=_PHRASES["STOP"])
    if "reason" not in details:
        reason = reason._replace(sentence=reason.sentence.removesuffix(": {reason}"))
    sentence, agent, operator = (with_links(text.format_map(words)) for text in reason[:3])
    if "at" in words:
        agent += f"; the script ended at `{words['at']}`, and what it wrote before stands"
    return Reason(sentence, agent, operator)


def advice(denial: Any, door: Door = Door.PYTHON, instead: Sequence[str] = ()) -> str:
    """Return what its reader may do after a denial, who may see where else it is allowed."""
    if door is Door.MCP and denial.code.startswith("TOKEN_"):
        return _PHRASES["REPORT"]
    text: str = (not denial.is_to_stop and denial.own_help) or reason_of(denial, door).agent
    return re.sub(r"another (key|channel|index); .*", _INSTEAD, text) if instead else text


def explain(denial: Any, door: Door = Door.PYTHON, instead: Sequence[str] = ()) -> tuple[str, str]:
    """Return the message, code first, and the advice; neither contains a token."""
    return f"{denial.code}: {reason_of(denial).sentence}", advice(denial, door, instead)


def _words_of(error: Any) -> defaultdict[str, str]:
    # A guard of another version may lack a detail. A container without its subcommand ends in a
    # blank.
    words = defaultdict(
        lambda: "?", {name: printable(value).rstrip() for name, value in error.details.items()}
    )
    name, _, words["option"] = words["command"].partition(" ")
    words["bounds"] = "searches" if name.startswith("FT.") else "commands-of-modules"
    words["identity"] = error.identity or "IDENTITY"
    words["on_key"] = f", on the key `{words['key']}`" if "key" in words else ""
    words["inherited"] = ", or one from which it was delegated," if "by" in words else ""
    if "retry_after_ms" in words:
        words["retry_after"] = _wait_text(int(words["retry_after_ms"]))
    for name in ("resets_at", "until"):
        if f"{name}_ms" in words:
            words[name] = clock_time(int(words[f"{name}_ms"]))
    amounts = [name for name in ("arguments", "commands", "keys") if name in words]
    words["amount"] = f"{words[amounts[0]]} {amounts[0]}" if amounts else "more"
    words["over"] = _OVER.get(words.get("state", ""), "is over")
    if "restriction" in words:
        words["life"] = span(int(words["restriction"])) if words["restriction"].isdecimal() else "?"
        words["capture"] = f"{{{words['restriction'].partition('=')[0]}}}"
    rule = words.get("rule", "")
    if rule == "ttl" or rule.endswith("bytes_written"):
        shown = _wait_text if rule == "ttl" else size
        amounts = [name for name in ("limit", "was") if words[name].isdecimal()]
        words.update({name: shown(int(words[name])) for name in amounts})
    return words


def _wait_text(wait_ms: int) -> str:
    return f"{wait_ms} ms" if wait_ms < 1000 else span(math.ceil(wait_ms / 1000))
