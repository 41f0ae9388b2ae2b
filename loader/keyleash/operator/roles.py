"""ACL users of Redis: three roles of operators, and the user of a trusted agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keyleash.errors import OperationError, UsageError
from keyleash.operations import operation
from keyleash.operator.tokens.issue import require_identity
from keyleash.policy import Identity
from keyleash.policy.parse import active_policy
from keyleash.policy.problems import listing
from keyleash.results import Result
from keyleash.store.acl_rules import acl_glob
from keyleash.store.identities import require_active
from keyleash.store.keyspace import Keyspace, account
from keyleash.store.records import database_of
from keyleash.store.store import Store
from keyleash.text import json_object, printable

RESET = "on resetkeys resetchannels clearselectors -@all"
"""The rules before those of each user: of the earlier ones nothing remains but the passwords."""
AGENT = "agent"
"""The word in place of a role for the user of an identity."""


@dataclass(frozen=True, slots=True)
class Role(Result):
    """The operations of one kind of operator or program.

    Attributes:
        operations: Those that it allows, by their commands; of `admin` those of no other role.
        rules: The ACL rules; `KL/` is the beginning of the names of control keys.
        cluster_rules: What they are followed by on a cluster.
    """

    name: str
    summary: str
    operations: tuple[str, ...]
    rules: str
    cluster_rules: str = ""

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
            "+info +client|setinfo +ping +time +wait"
            " (+hgetall +hget +hmget +zrevrange %R~KL/policy* %R~KL/history %R~KL/guard:*)"
            " (+hgetall +hget +hkeys +hlen +get +mget +getrange +xlen +zcount +eval +set +setrange"
            " +del +unlink +hset +hdel +pexpireat +xadd ~KL/token* ~KL/delegated:* ~KL/children:*"
            " ~KL/control ~KL/layouts ~KL/confirmed ~KL/leases:*)",
            "+cluster|slots +cluster|shards +eval (+exists %R~KL/none)"
            " (+get +hlen +hkeys +hincrby +hset +unlink +setrange +persist +eval ~KL/state:*"
            " ~KL/leases:* ~KL/layouts)",
        ),
        Role(
            "reader",
            "reads policies, tokens, the audit log, and all values; changes nothing",
            ("audit log", "audit show", "audit timeline", "audit stats", "audit follow",
             "audit as-of", "audit report", "audit verify --recorded", "undo --dry-run", "plan",
             "policy show", "policy history", "token list", "token tree", "token show",
             "status", "metrics", "explain", "can-i", "scripts pending", "learn", "backtest",
             "unused"),
            "+@read +@connection -@dangerous +info +time +command +script|load +script|exists"
            " +evalsha %R~* (+restore +set +del ~KL/undo:*)",
            "+cluster|slots +cluster|shards +eval",
        ),
        Role(
            "admin",
            "does everything, also to users and to the server",
            ("load", "rollback", "freeze", "thaw", "limits reset", "budget collect", "undo",
             "audit export", "doctor"),
            "+@all ~* &*",
        ),
    )
}  # fmt: skip


def help_of_roles(operation: str) -> str | None:
    """Return the help of an operation whose user lacks a right; None if no role has it."""
    for role in ROLES.values():
        if operation in role.operations:
            line = f"`keyleash acl {role.name}` prints the rules of its user"
            return f"the role `{role.name}` has this right; {line}"
    return None


@dataclass(frozen=True, slots=True)
class AclUser(Result):
    """An ACL user.

    Attributes:
        user: The name of the user.
        rules: The words behind `ACL SETUSER NAME`, which replace all rules but no password.
        role: The role, or `agent`.
        operations: Those of the role; none of an agent.
        nodes: The nodes of a cluster, each of which needs the user; empty on one server.
    """

    user: str
    rules: tuple[str, ...]
    role: str
    operations: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that creates the user, or sets its rules."""
        return " ".join(("ACL SETUSER", self.user, *self.rules))

    def to_dict(self) -> dict[str, Any]:
        """Return the user as `--json` prints it."""
        shown = json_object(self, "role", "user", "operations", "rules", "command")
        return {**shown, **(json_object(self, "nodes") if self.nodes else {})}


@operation()
def acl_user(
    store: Store, role: str, identity: str | None = None, *, user: str | None = None
) -> AclUser:
    """Return the ACL user of a role of operators, or of a trusted agent; nothing is changed.

    Args:
        role: `issuer`, `reader` or `admin`; `agent` for that of an identity.
        identity: The identity of an agent.
        user: The name of the user; `keyleash-ROLE`, or `keyleash-IDENTITY`, if None.

    Raises:
        OperationError (unknown-role): there is no such role.
        OperationError (no-policy): an agent is named, and no policy is active.
        OperationError (unknown-identity): the active policy has no such identity.
        OperationError (unsayable-pattern): ACL rules cannot express a pattern of its grants.
        UsageError: *user* cannot be the name of an ACL user, or *identity* has no place.
    """
    if role not in (*ROLES, AGENT):
        raise OperationError(
            "unknown-role",
            f"there is no role `{printable(role)}`",
            help=f"roles are {listing((*ROLES, AGENT))}",
        )
    if (role == AGENT) != (identity is not None):
        raise UsageError(f"`{role}` takes {'an' if role == AGENT else 'no'} identity")
    name = f"keyleash-{identity or role}" if user is None else user
    if not name.isprintable() or not name or set(name) & set(" \"'\\"):
        raise UsageError(
            f"`{printable(name)}` cannot be the name of an ACL user",
            help="use letters, digits, `-` and `_`",
        )
    if identity is None:
        chosen = ROLES[role]
        text = f"{chosen.rules} {chosen.cluster_rules if store.cluster else ''}"
        rules = text.replace("KL/", _any_shard(store.keys).root).split()
        operations = chosen.operations
    else:
        policy = active_policy(require_active(store).document)
        rules, operations = agent_rules(require_identity(policy, identity), store.keys), ()
    database = database_of(store.client)
    select = [f"+select|{database}"] if database and role != "admin" else []
    nodes = () if store.cluster is None else tuple(map(str, store.cluster.nodes))
    return AclUser(name, (*RESET.split(), *rules, *select), role, operations, nodes)


def agent_rules(identity: Identity, keyspace: Keyspace) -> list[str]:
    """Return the ACL rules of a trusted agent that calls its guard by itself.

    They have the keys and channels of its grants as globs, and the control keys of its guard. They
    have no command of `@admin`, and do not keep it from writing its own control keys.

    Raises:
        OperationError (unsayable-pattern): ACL rules cannot express a pattern.
    """
    text = "+@all -@admin -@dangerous -@scripting +evalsha +script|load +restore +sort +info"
    rules = [*text.split(), "+cluster|slots", "+cluster|shards"]
    for grant in identity.grants:
        # Also for reads: to a server, a script may write each key of its call.
        rules += [f"~{acl_glob(pattern)}" for pattern in grant.keys]
        rules += [f"&{acl_glob(pattern)}" for pattern in grant.channels]
    keys, name = _any_shard(keyspace), identity.name
    rules += [f"%R~{key}" for key in (keys.layouts, keys.source("*"))]
    # A lease of a cluster names the guard record as a key of its script.
    rules.append(f"{'' if keyspace.tag else '%R'}~{keys.guard(name)}")
    own = (keys.tokens, keys.delegated, keys.delegations, keys.scratch, keys.leases)
    prefixes = [f"{keys.undo_prefix}*", f"{keys.children_prefix(name)}*"]
    if keyspace.tag:
        prefixes += [of(account(name, "*")) for of in (keys.leases, keys.state)]
        prefixes.append(f"{keys.limit_prefix(name, '*')}*")
    control = *keys.control_patterns(name), *(key(name) for key in own), *prefixes
    return list(dict.fromkeys((*rules, *(f"~{key}" for key in control))))


def _any_shard(keyspace: Keyspace) -> Keyspace:
    """Return names with a glob in place of the hash tag of a cluster."""
    return keyspace.at_shard("*") if keyspace.tag else keyspace
