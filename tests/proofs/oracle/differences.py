"""Every case in which a guard intends to decide otherwise than a native ACL user would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keyleash.commands import CHANNEL_CLASSES, CommandSpec, KeyUse, OperationClass
from keyleash.commands.keys import patterns_of, refused_option
from keyleash.commands.spec import StreamKeys
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import matches
from keyleash.evaluate.trace import Decision
from keyleash.policy import Grant, Identity
from keyleash.store.keyspace import CONTROL_PREFIX
from proofs.oracle.arguments import Call
from proofs.oracle.native import natively_allowed
from proofs.oracle.placements import DIFFERENCES as PLACEMENTS
from proofs.oracle.placements import EVERYWHERE, VALKEYS, Uses

READ, WRITE, DELETE = OperationClass.READ, OperationClass.WRITE, OperationClass.DELETE


@dataclass(frozen=True)
class Example:
    """
    A call on which the guard and the native user disagree.

    Attributes:
        identity: The identity of the guard.
        spec: The command's row.
        call: The call.
        ours: Its keys; None if the guard denies the call for an option.
        theirs: Its keys according to the server; None if it finds none.
        decision: The decision of the guard.
        invalid: Whether the server rejects the arguments for every user.
    """

    identity: Identity
    spec: CommandSpec
    call: Call
    ours: Uses | None
    theirs: Uses | None
    decision: Decision
    invalid: bool

    @property
    def code(self) -> ReplyCode | None:
        return self.decision.code

    @property
    def grants(self) -> list[Grant]:
        """Return the grants that apply to the command."""
        return [grant for grant in self.identity.grants if grant.applies_to(self.spec)]

    @property
    def places_agree(self) -> bool:
        """Return whether the server finds the same keys, and needs the same on them."""
        return self.ours is not None and Counter(self.ours) == Counter(self.theirs or [])

    def granted(self, uses: Sequence[KeyUse]) -> bool:
        """Return whether grants give every class that the keys need."""
        return all(
            set(use.needs) <= {cls for grant in known for cls in grant.allow} and bool(known)
            for use in uses
            for known in [self.matching(use.key)]
        )

    def matching(self, key: bytes) -> list[Grant]:
        return [grant for grant in self.grants if any(matches(item, key) for item in grant.keys)]

    def with_delete_as_write(self) -> Example:
        """The same example if a grant of the one were a grant of the other."""
        either = {WRITE, DELETE}
        grants = tuple(
            replace(grant, allow=tuple({*grant.allow, *either}))
            if either & {*grant.allow}
            else grant
            for grant in self.identity.grants
        )
        return replace(self, identity=replace(self.identity, grants=grants))


@dataclass(frozen=True)
class Difference:
    """
    An intended difference, with an example that shows that it is there.

    Attributes:
        why: Why the guard is right.
        applies: Whether this explains an example.
        grants: The example's grants.
        call: The example's call.
        deny: The example's deny rules.
        allows: Whether it is the guard that allows, and the native user that does not.
        servers: The beginnings of the labels of servers on which the example differs.
    """

    why: str
    applies: Callable[[Example], bool]
    grants: list[dict[str, Any]]
    call: str
    deny: list[str] | None = None
    allows: bool = False
    servers: tuple[str, ...] = EVERYWHERE


def grant(*allow: str, keys: str, **narrowed: list[str]) -> dict[str, Any]:
    return {"allow": [*allow], "keys": keys.split(), **narrowed}


ALL = [grant("read", "write", "delete", "scan", keys="*")]
RW = ("read", "write")
LISTEN = {"allow": ["subscribe"], "channels": ["a*"]}


REFUSED_BY_COMMAND = (ReplyCode.COMMAND_REFUSED, ReplyCode.CLASS_NOT_GRANTED)
"""Whichever of the two the guard sees first."""


def is_in_upper_case(it: Example) -> bool:
    return it.call[0] == it.call[0].upper()


def is_option(it: Example) -> bool:
    """Return whether the call is denied for an option."""
    return (
        it.code in REFUSED_BY_COMMAND
        and it.spec.refused is None
        and it.ours is None
        and is_in_upper_case(it)
    )


def is_pattern(it: Example) -> bool:
    """Return whether the call is denied for a pattern of keys."""
    named = it.decision.details.get("key", "").encode("utf-8", "surrogateescape")
    return (
        it.code in (ReplyCode.KEY_NOT_GRANTED, ReplyCode.KEY_DENIED)
        and it.places_agree
        and b"*" in named
        and named in patterns_of(it.spec, it.call)
    )


def is_empty_key(it: Example) -> bool:
    return (
        it.code is None
        and it.places_agree
        and it.ours is not None
        and natively_allowed(it.grants, it.ours)
        and any(use.key == b"" for use in it.ours)
    )


def is_one_pattern(it: Example) -> bool:
    if it.code is not None or not it.places_agree or it.ours is None or not it.granted(it.ours):
        return False
    apart = [use for use in it.ours if not natively_allowed(it.grants, [use])]
    return bool(apart) and all(use.needs for use in apart)


def is_bare_scan_grant(it: Example) -> bool:
    if it.code is not None or not it.places_agree or it.ours is None:
        return False
    apart = [use for use in it.ours if not natively_allowed(it.grants, [use])]
    return any(
        not use.needs and all({*item.allow} <= {OperationClass.SCAN, *CHANNEL_CLASSES}
                              for item in it.matching(use.key))
        for use in apart
    )  # fmt: skip


def is_delete_apart(it: Example) -> bool:
    return (
        it.code is ReplyCode.CLASS_NOT_GRANTED
        and it.places_agree
        and it.ours is not None
        and not it.granted(it.ours)
        and it.with_delete_as_write().granted(it.ours)
    )


def is_invalid(it: Example) -> bool:
    return (
        it.invalid
        and bool(it.spec.keys)
        and it.ours is not None
        and it.code in (None, ReplyCode.CLASS_NOT_GRANTED, ReplyCode.KEY_NOT_GRANTED)
        and (not it.places_agree or not it.ours)
    )


def is_placement(name: str) -> Callable[[Example], bool]:
    def applies(it: Example) -> bool:
        return (
            not it.invalid
            and it.code is not ReplyCode.KEY_DENIED
            and it.ours is not None
            and not it.places_agree
            and PLACEMENTS[name].applies(it.call, it.ours, it.theirs or [])
        )

    return applies


DIFFERENCES: dict[str, Difference] = {
    # The guard refuses what the native user may do.
    "refused command": Difference(
        "A command without keys, or one that runs scripts, leaves the database or is about the "
        "connection cannot be scoped to keys. A native user that has it by name or category may "
        "run it, whatever its key patterns are.",
        lambda it: it.code is ReplyCode.COMMAND_REFUSED and it.spec.refused is not None,
        ALL,
        "FLUSHALL",
    ),
    "name not in upper case": Difference(
        "The call of a guard has the command in upper case; clients see to it.",
        lambda it: (
            it.code is ReplyCode.COMMAND_REFUSED
            and it.spec.refused is None
            and not is_in_upper_case(it)
        ),
        ALL,
        "get a",
    ),
    "option that reaches other keys": Difference(
        "COPY … DB leaves the database.",
        lambda it: is_option(it) and refused_option(it.spec, it.call) is not None,
        ALL,
        "COPY a b DB 1",
    ),
    "pattern of SORT": Difference(
        "BY and GET read keys that are made up from data; servers themselves want rights on all "
        "keys, and look at these only when the command runs.",
        is_pattern,
        [grant("read", keys="a")],
        "SORT a BY b*",
    ),
    "unknown option before STREAMS": Difference(
        "STREAMS may be its value, so the position of the option is unknown.",
        lambda it: is_option(it) and any(isinstance(search, StreamKeys) for search in it.spec.keys),
        ALL,
        "XREADGROUP GROUP g c LATER 1 STREAMS a >",
    ),
    "integer that Lua rounds": Difference(
        "The reply would be wrong without an error.",
        lambda it: (
            it.code is ReplyCode.COMMAND_REFUSED
            and it.spec.name in ("BITFIELD", "BITFIELD_RO")
            and is_in_upper_case(it)
        ),
        ALL,
        "BITFIELD_RO a GET i64 0",
    ),
    "several channels in a call": Difference(
        "The event of a subscription names one channel.",
        lambda it: (
            it.code is ReplyCode.COMMAND_REFUSED
            and it.spec.subscribes is not None
            and is_in_upper_case(it)
        ),
        [LISTEN],
        "SUBSCRIBE a a",
    ),
    "channels of PUBSUB NUMSUB and SHARDNUMSUB": Difference(
        "ACLs do not check them.",
        lambda it: (
            it.spec.counts
            and it.code in (ReplyCode.CLASS_NOT_GRANTED, ReplyCode.CHANNEL_NOT_GRANTED)
        ),
        [LISTEN],
        "PUBSUB NUMSUB a b",
    ),
    "pattern within a granted one": Difference(
        "ACLs compare the pattern of PSUBSCRIBE with theirs byte by byte; here it may be narrower.",
        lambda it: it.code is None and it.spec.name == "PSUBSCRIBE",
        [LISTEN],
        "PSUBSCRIBE ab*",
        allows=True,
    ),
    "deny rule": Difference(
        "ACL patterns only allow.",
        lambda it: (
            it.code is ReplyCode.KEY_DENIED
            and not it.decision.details["key"].startswith(CONTROL_PREFIX)
        ),
        ALL,
        "GET secret",
        deny=["secret"],
    ),
    "control key": Difference(
        "keyleash's own keys are never granted.",
        lambda it: (
            it.code is ReplyCode.KEY_DENIED
            and it.decision.details["key"].startswith(CONTROL_PREFIX)
        ),
        ALL,
        "SET keyleash:state:one x",
    ),
    "delete is no write": Difference(
        "Native ACLs have one permission for both; here they are two classes.",
        is_delete_apart,
        [grant("write", keys="*")],
        "DEL a",
    ),
    "glob of SCAN": Difference(
        "Native ACLs let SCAN list all keys; here its MATCH must lie within the granted keys.",
        lambda it: it.code is ReplyCode.KEY_NOT_GRANTED and it.spec.scans,
        [grant("scan", "read", keys="a:*")],
        "SCAN 0 MATCH b:*",
    ),
    "claims read": Difference(
        PLACEMENTS["claims read"].why,
        lambda it: it.code is ReplyCode.CLASS_NOT_GRANTED and is_placement("claims read")(it),
        [grant("write", "delete", keys="*")],
        "XCLAIM s g c 0 1-1",
    ),
    "PFMERGE without sources": Difference(
        "Servers lose the target and then check nothing: a native user that may touch nothing "
        "but `a` makes `b`.",
        lambda it: it.code is not None and is_placement("PFMERGE without sources")(it),
        [grant(*RW, keys="a")],
        "PFMERGE b",
    ),
    # The guard allows what the native user may not do.
    "classes by several patterns": Difference(
        "Each class may come from another grant that matches the key, as the policy reference "
        "says; a native user needs one pattern that gives them all. No key is touched in a way "
        "that no grant gives.",
        is_one_pattern,
        [grant("read", keys="a*"), grant("write", keys="ab")],
        "INCR ab",
        allows=True,
    ),
    "any grant": Difference(
        "EXISTS, TYPE and LLEN need no class, so any grant on the key will do, one of `scan` "
        "too: that a key is there and how large it is are what a scanner learns, or near it. "
        "ACLs have no pattern without a permission, so the native user has none for that grant.",
        is_bare_scan_grant,
        [grant("scan", keys="a")],
        "EXISTS a",
        allows=True,
    ),
    "empty key": Difference(
        "`*` is any bytes or none, as the policy reference says; to the glob of a server the "
        "empty text is no match for it, so the user that may read everything may not read that.",
        is_empty_key,
        [grant("read", keys="*")],
        "GET ",
        allows=True,
    ),
    # Either way: what the server checks are not the keys that the command acts on, as
    # tests/commands/test_keys.py shows by running it. These examples show the guard allowing;
    # for the other way round the grants would be on the server's keys.
    "target of SORT named like an option": Difference(
        PLACEMENTS["target of SORT named like an option"].why,
        is_placement("target of SORT named like an option"),
        [grant("read", keys="a"), grant("write", keys="b")],
        "SORT a STORE LIMIT STORE b",
        allows=True,
        servers=VALKEYS,
    ),
    "two targets of GEORADIUS": Difference(
        PLACEMENTS["two targets of GEORADIUS"].why,
        is_placement("two targets of GEORADIUS"),
        [grant("read", keys="a"), grant("write", keys="b")],
        "GEORADIUS a 1 1 9 km STORE c STORE b",
        allows=True,
        servers=("valkey 8.1",),
    ),
    "target of GEORADIUS named like an option": Difference(
        PLACEMENTS["target of GEORADIUS named like an option"].why,
        is_placement("target of GEORADIUS named like an option"),
        [grant("read", keys="a"), grant("write", keys="STOREDIST")],
        "GEORADIUS a 1 1 9 km STORE STOREDIST ASC",
        allows=True,
        servers=("valkey 8.1",),
    ),
    "group or consumer named STREAMS": Difference(
        PLACEMENTS["group or consumer named STREAMS"].why,
        is_placement("group or consumer named STREAMS"),
        [grant("read", keys="a")],
        "XREADGROUP COUNT 1 GROUP STREAMS c STREAMS a >",
        allows=True,
        servers=VALKEYS,
    ),
    "invalid arguments": Difference(
        "The server rejects the arguments for every user (each call is tried), and "
        "places no keys, or others, or forgets their permissions; the guard judges those that "
        "are there, and asks for the command's classes in any case.",
        is_invalid,
        [grant("read", keys="a")],
        "ZUNION 2 b",
    ),
}


def reasons(example: Example) -> list[str]:
    """The names of all differences that explain an example."""
    return [name for name, item in DIFFERENCES.items() if item.applies(example)]
