"""Operator roles with least privilege: their operations, and ACL rules.

`ROLES` lists the operations of each role; `RIGHTS` has what each of them needs. A user with the
rules of a role can do nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keyleash.errors import OperationError, UsageError
from keyleash.operations import operation
from keyleash.operations.rights import CONNECT, RIGHTS, Right
from keyleash.policy.parse import active_policy
from keyleash.policy.problems import listing
from keyleash.results import Result
from keyleash.store.acl_rules import Rules, Selector, acl_glob
from keyleash.store.identities import require_active
from keyleash.store.keyspace import OPERATORS, Keyspace
from keyleash.store.records import database_of
from keyleash.store.server import known_commands
from keyleash.store.store import Store
from keyleash.text import json_object, printable

_AT_SHARDS = frozenset(
    ("audit", "denied", "exported", "none", "operators", "operators_seq", "refused", "repeats",
     "state", "suspension", "token", "undo_prefix")
)  # fmt: skip
"""The names of `Keyspace` that the shards of a cluster have as well, each with its own tag."""
_BESIDE_DATA = frozenset(("limit_prefix",))
"""The names of `Keyspace` without the tag of a cluster: their keys have hash tags of data."""


@dataclass(frozen=True, slots=True)
class Role(Result):
    """The operations of one kind of operator or program; of `admin` those of no other role."""

    name: str
    summary: str
    operations: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the role as `--json` prints it."""
        return json_object(self, "role=name", "summary", "operations")


ROLES: Mapping[str, Role] = {
    role.name: role
    for role in (
        Role(
            "issuer",
            "issues, lists, renews, rotates and revokes tokens",
            ("token issue", "token list", "token tree", "token renew", "token rotate",
             "token revoke", "policy show", "policy history"),
        ),
        Role(
            "loader",
            "plans, loads and rolls back policies",
            ("plan", "load", "rollback", "policy show", "policy history"),
        ),
        Role(
            "auditor",
            "reads the audit log, and values for reports and undo plans",
            ("audit log", "audit show", "audit timeline", "audit stats", "audit follow",
             "audit as-of", "audit report", "audit verify --recorded", "undo --dry-run",
             "policy show", "policy history", "token list", "token tree", "token show",
             "status", "metrics", "explain", "can-i", "scripts pending", "learn",
             "backtest", "unused"),
        ),
        Role(
            "incident-responder",
            "freezes and thaws identities, resets limits, revokes tokens, undoes changes",
            ("freeze", "thaw", "limits reset", "budget collect", "token revoke", "undo",
             "undo --dry-run", "audit log", "audit show", "audit timeline", "audit stats",
             "audit follow", "audit as-of", "audit report", "audit verify --recorded",
             "policy show", "policy history", "token list", "token tree", "token show",
             "status", "metrics", "explain", "can-i", "scripts pending", "learn",
             "backtest", "unused"),
        ),
        Role(
            "exporter",
            "exports audit streams, trims exported ones, verifies archives",
            ("audit export", "audit verify --recorded", "policy show"),
        ),
        Role("scraper", "reads metrics and status", ("metrics", "status", "policy show")),
        Role(
            "admin",
            "everything, also managing ACL users; to replace the user `default`",
            ("doctor",),
        ),
    )
}  # fmt: skip


def require_role(name: str) -> Role:
    """Return the role *name*.

    Raises:
        OperationError (unknown-role): There is none.
    """
    if name not in ROLES:
        raise OperationError(
            "unknown-role", f"there is no role `{name}`", help=f"roles are {listing(ROLES)}"
        )
    return ROLES[name]


def _rights(role: Role, *, on_cluster: bool) -> Iterator[Right]:
    """Yield the rights of all operations of a role but `admin`, some of them several times."""
    for command in role.operations:
        for right in (*CONNECT, *RIGHTS[command]):
            if right.is_of_cluster <= on_cluster:
                yield right


def roles_with(operation: str) -> list[str]:
    """Return the names of the roles that have an operation, the smallest one first."""
    found = [role for role in ROLES.values() if operation in role.operations]
    return [role.name for role in sorted(found, key=lambda role: len(role.operations))]


def help_of_roles(operation: str) -> str | None:
    """Return the help of an operation whose user lacks a right; None if no role has it."""
    roles = roles_with(operation)
    if not roles:
        return None
    shown = " or ".join(f"`{name}`" for name in roles)
    return (
        f"the role {shown} has this right; `keyleash acl {roles[0]}` prints the rules of its user"
    )


@dataclass(frozen=True, slots=True)
class RoleUser(Result):
    """The ACL user of a role.

    Attributes:
        user: The name of the user.
        rules: The words behind `ACL SETUSER NAME`, which replace all rules but no password.
        nodes: The nodes of a cluster, each of which needs the user; empty on one server.
    """

    role: Role
    user: str
    rules: tuple[str, ...]
    nodes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that creates the user, or sets its rules."""
        return " ".join(("ACL SETUSER", self.user, *self.rules))

    def to_dict(self) -> dict[str, Any]:
        """Return the user as `--json` prints it."""
        shown = {"role": self.role.name, "user": self.user}
        return {
            **shown,
            **json_object(self.role, "operations"),
            **json_object(self, "rules", "command"),
            **(json_object(self, "nodes") if self.nodes else {}),
        }


@operation()
def role_user(store: Store, role: str, *, user: str | None = None) -> RoleUser:
    """Return the ACL user who can do what a role of operators does; nothing is changed.

    Args:
        role: The role, such as `issuer`, `loader` or `auditor`.
        user: The name of the user; `keyleash-ROLE` if None.

    Raises:
        OperationError (unknown-role): there is no such role.
        OperationError (no-policy): the rules name key patterns, and no policy is active.
        UsageError: *user* cannot be the name of an ACL user.
    """
    chosen = require_role(role)
    name = f"keyleash-{role}" if user is None else user
    if not name.isprintable() or not name or set(name) & set(" \"'\\"):
        raise UsageError(
            f"`{printable(name)}` cannot be the name of an ACL user",
            help="use letters, digits, `-` and `_`",
        )
    rules = read_role_rules(store, chosen)
    words = ("on", "resetkeys", "resetchannels", "clearselectors", "-@all", *rules.words)
    nodes = () if store.cluster is None else tuple(map(str, store.cluster.nodes))
    return RoleUser(chosen, name, words, nodes)


def read_role_rules(store: Store, role: Role) -> Rules:
    """Return the ACL rules of a role for a server; nothing is changed.

    Its keys of agents are the key patterns of the active policy. Commands that the server lacks are
    left out.

    Raises:
        OperationError (no-policy): The role uses keys of agents, and no policy is active.
        OperationError (unsayable-pattern): ACL rules cannot express a pattern.
    """
    if role.name == "admin":
        return Rules(Selector(("@all",), ("~*", "&*")), ())
    data: tuple[str, ...] = ()
    rights = _rights(role, on_cluster=False)
    if any(key.endswith("~data") for right in rights for key in right.keys):
        data = _policy_keys(store)
    rules = role_rules(role, store.keys, data, database_of(store.client))
    # A first argument, as that of SELECT, is no command of its own.
    names = sorted({name for item in rules.selectors for name in item.commands})
    known = known_commands(store.client, names)

    def on_server(item: Selector) -> Selector:
        return replace(item, commands=tuple(name for name in item.commands if name in known))

    return Rules(rules.root, tuple(map(on_server, rules.selectors)))


def _policy_keys(store: Store) -> tuple[str, ...]:
    document = require_active(store).document
    policy = active_policy(document)
    globs = dict.fromkeys(
        acl_glob(pattern)
        for identity in policy.identities
        for grant in identity.grants
        for pattern in grant.keys
    )
    return ("*",) if "*" in globs else tuple(globs)


def role_rules(role: Role, keyspace: Keyspace, data: Sequence[str], database: int = 0) -> Rules:
    """Return the ACL rules of a role.

    Args:
        data: Globs of the keys of agents.
        database: The number of the database with the keys.
    """
    root = dict.fromkeys([f"select|{database}"] if database else [])
    by_key: dict[str, dict[str, None]] = {}
    by_keys: dict[tuple[str, ...], dict[str, None]] = {}
    for right in _rights(role, on_cluster=bool(keyspace.tag)):
        commands = dict.fromkeys(right.commands.split())
        rules = tuple(rule for key in right.keys for rule in _key_rules(key, keyspace, data))
        if right.is_joint and rules:
            by_keys.setdefault(rules, {}).update(commands)
        elif not right.keys:
            root.update(commands)
        else:
            for rule in rules:
                by_key.setdefault(rule, {}).update(commands)
    # Keys with the same commands share a selector.
    shared: dict[tuple[str, ...], list[str]] = {}
    for rule, commands in by_key.items():
        shared.setdefault(tuple(sorted(commands)), []).append(rule)
    selectors = [Selector(commands, tuple(rules)) for commands, rules in shared.items()]
    selectors += [Selector(tuple(commands), rules) for rules, commands in by_keys.items()]
    return Rules(Selector(tuple(root)), tuple(_without_covered(selectors)))


def _without_covered(selectors: Sequence[Selector]) -> Iterator[Selector]:
    for at, item in enumerate(selectors):
        words = set(item.words)
        # Of equal selectors the first stays.
        is_equal = any(words == set(other.words) for other in selectors[:at])
        if not is_equal and not any(words < set(other.words) for other in selectors):
            yield item


def _key_rules(key: str, keyspace: Keyspace, data: Iterable[str]) -> tuple[str, ...]:
    access, _, name = key.partition("~")
    if name == "data":
        return tuple(f"{access}~{glob}" for glob in data)
    return (f"{access}~{_glob(keyspace, name)}",)


def _glob(keyspace: Keyspace, name: str) -> str:
    if keyspace.tag and name in _AT_SHARDS:
        keyspace = keyspace.at_shard("*")
    elif name in _BESIDE_DATA:
        keyspace = keyspace.at_shard("")
    if name == "operators":
        return keyspace.audit(OPERATORS)
    member = getattr(keyspace, name)
    if callable(member):
        member = member(*"*" * len(inspect.signature(member).parameters))
    return f"{member}*" if name.endswith("_prefix") else str(member)
