"""Decide invariants of a policy, for all keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, combinations, product, starmap
from pathlib import Path

from keyleash.addons.policy_tests.model import Invariant, InvariantRule
from keyleash.addons.policy_tests.parse import parse_cases, unknown_names
from keyleash.commands import CommandTable, OperationClass
from keyleash.errors import (
    KeyleashError,
    OperationError,
    PolicyError,
    Problem,
    RegionsTooComplexError,
)
from keyleash.operator.decisions import explain_command
from keyleash.policy import Identity, Policy
from keyleash.policy.diff.diff_text import familiar, rank
from keyleash.policy.diff.permissions import Access, Reach
from keyleash.policy.files import read_text
from keyleash.policy.keysets import Region, find_key
from keyleash.policy.pattern_lists import THINGS
from keyleash.policy.patterns import keys_under
from keyleash.policy.problems import listing
from keyleash.store.keyspace import CONTROL_PREFIX
from keyleash.text import printable

_CONTROL = (keys_under(CONTROL_PREFIX.encode()),)


_User = tuple[str, Reach]
"""The name of an identity, and something that it may use."""


def broken_by(
    invariant: Invariant, policy: Policy, table: CommandTable, file: str
) -> tuple[Problem, ...]:
    """Return a problem, with an example, for each identity or pair that breaks an invariant.

    The examples name the policy *file*.
    """
    is_only = invariant.rule is InvariantRule.MAY_ONLY
    members = [
        [(identity.name, reach) for reach in _reaches(invariant, identity, table)]
        for identity in policy.identities
        if (identity.name in invariant.names) is is_only
    ]
    groups: Iterable[Iterable[tuple[_User, ...]]]
    if invariant.rule is InvariantRule.NO_TWO_MAY:
        groups = starmap(product, combinations(map(_widest, members), 2))
    else:
        groups = (zip(users, strict=True) for users in members)
    found = (_broken(invariant, table, file, choices) for choices in groups)
    return tuple(filter(None, found))


def may_name(file: str, policy: Policy, identity: str) -> bool:
    """Return whether a test file that a policy names has an identity, or cannot be read."""
    try:
        for name, _ in policy.tests:
            path = str(Path(file).parent / name)
            cases = parse_cases(read_text(path)[1], path)
            names = {case.identity for case in cases.cases}
            if identity in names.union(*(rule.names for rule in cases.invariants)):
                return True
    except KeyleashError:
        return True
    return False


def require_invariants(policy: Policy, file: str, table: CommandTable) -> None:
    """
    Check the invariants in the test files that a policy names.

    Raises:
        PolicyError: Some are broken, or a test file cannot be read or has problems.
    """
    problems: list[Problem] = []
    for name, span in policy.tests:
        path = str(Path(file).parent / name)
        try:
            cases = parse_cases(read_text(path)[1], path)
        except OperationError as error:
            help = "write a path relative to the folder of the policy, or an absolute path"
            problems.append(Problem("test-file", error.message, span, help))
            continue
        except PolicyError as error:
            problems += error.problems
            continue
        problems += unknown_names(cases, policy)
        for invariant in cases.invariants:
            problems += broken_by(invariant, policy, table, file)
    if problems:
        raise PolicyError(problems)


def _reaches(invariant: Invariant, identity: Identity, table: CommandTable) -> list[Reach]:
    """Return what an identity may use that an invariant is about, best examples first."""
    classes = {*invariant.classes}
    if invariant.rule is InvariantRule.MAY_ONLY:
        classes = {*OperationClass} - classes
    found: dict[object, Reach] = {}
    for reach in sorted(Access.of(identity, _CONTROL).reaches(table), key=rank):
        used = tuple(cls for cls in reach.classes if cls in classes)
        if not used or (invariant.scope and reach.named not in invariant.scope):
            continue
        region = Region(reach.region.groups, reach.region.excluded + invariant.excepted)
        if invariant.scope:
            region = region.within(invariant.scope[reach.named])
        part = replace(reach, classes=used, region=region)
        found.setdefault((region, reach.named), part)
    return [*found.values()]


def _widest(users: Sequence[_User]) -> list[_User]:
    """Return those that are not within an earlier one."""
    found: list[_User] = []
    for user in users:
        if not any(_is_within(user[1], reach) for _, reach in found):
            found.append(user)
    return found


def _is_within(reach: Reach, other: Reach) -> bool:
    """Return whether one region is a part of the other, as their groups show."""
    inner, outer = reach.region, other.region
    return (
        reach.named == other.named
        and {*inner.groups} >= {*outer.groups}
        and {*inner.excluded} >= {*outer.excluded}
    )


def _broken(
    invariant: Invariant, table: CommandTable, file: str, choices: Iterable[tuple[_User, ...]]
) -> Problem | None:
    """Return the problem of the first users that share a key, channel or index; None if none do."""
    for users in choices:
        if len({reach.named for _, reach in users}) > 1:
            continue
        regions = [reach.region for _, reach in users]
        groups = tuple(chain.from_iterable(region.groups for region in regions))
        excluded = tuple(chain.from_iterable(region.excluded for region in regions))
        found: bytes | RegionsTooComplexError | None
        try:
            found = find_key(Region(groups, excluded))
        except RegionsTooComplexError as error:
            found = error
        if found is not None:
            return _problem(invariant, table, file, users, found)
    return None


def _problem(
    invariant: Invariant,
    table: CommandTable,
    file: str,
    users: Sequence[_User],
    found: bytes | RegionsTooComplexError,
) -> Problem:
    """Return what breaks an invariant: an example, or that it cannot be decided."""
    title = f"{printable(invariant.name)}: " if invariant.name else ""
    who, reach = listing(name for name, _ in users), users[0][1]
    does = f"{who} may {' or '.join(reach.classes)}"
    if isinstance(found, RegionsTooComplexError):
        message = f"{title}it cannot be decided whether {does} {reach.named} that it is about"
        return Problem("invariant", message, invariant.span, f"{found.message}; {found.help}")
    commands = (
        explain_command(name, used.call(familiar(used), table, found), file) for name, used in users
    )
    message = f"{title}{does} the {THINGS[reach.named]} `{printable(found)}`"
    return Problem("invariant", message, invariant.span, f"see `{'` and `'.join(commands)}`")
