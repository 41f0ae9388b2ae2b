"""Operator roles with least privilege: operations, the commands and keys they need, ACL rules.

`OPERATIONS` lists the rights of each operation by commands and by names of `Keyspace`; `ROLES`
lists the operations of each role. A user with the rules of a role can do nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from keyleash.errors import OperationError, UsageError
from keyleash.fence.acl import Rules, Selector, acl_glob
from keyleash.policy import parse_policy
from keyleash.policy.problems import listing
from keyleash.results import Result
from keyleash.store.identities import require_active
from keyleash.store.keyspace import OPERATORS, Keyspace
from keyleash.store.records import database_of
from keyleash.store.server import known_commands
from keyleash.store.store import Store
from keyleash.text import json_object, printable


class Right(NamedTuple):
    """Commands, and the keys on which an operation needs them.

    Attributes:
        commands: Names as in ACL rules, separated by blanks.
        keys: Names of `Keyspace` behind an ACL access: `%R~` to read, `%W~` to write, `~` for both.
            `data` are the keys of agents, `operators` is the audit stream of undos. A method
            stands for the keys of all identities.
        is_joint: Whether one call names keys of several kinds, so that one selector must allow
            all of them.
        is_of_cluster: Whether only the operators of clusters need the right.
    """

    commands: str
    keys: tuple[str, ...] = ()
    is_joint: bool = False
    is_of_cluster: bool = False


def _each(commands: str, *keys: str) -> Right:
    return Right(commands, keys)


def _joint(commands: str, *keys: str) -> Right:
    return Right(commands, keys, is_joint=True)


def _cluster(commands: str, *keys: str) -> Right:
    return Right(commands, keys, is_of_cluster=True)


_AT_SHARDS = frozenset(
    ("audit", "denied", "none", "operators", "operators_seq", "refused", "repeats", "state",
     "suspension", "token", "undo_prefix")
)  # fmt: skip
"""The names of `Keyspace` that the shards of a cluster have as well, each with its own tag."""
_BESIDE_DATA = frozenset(("limit_prefix",))
"""The names of `Keyspace` without the tag of a cluster: their keys have hash tags of data."""

_CONNECT = (
    _each("info client|setinfo"), _each("hgetall", "%R~sealed"),
    # PING finds the nodes that are down.
    _cluster("cluster|slots cluster|shards ping"),
)  # fmt: skip
"""The rights of every operation: the client's handshake, and the prefixes of a sealed server."""

_CLOCK = _each("time")
_ACTIVE = _each("hgetall", "%R~policy")
_IDENTITIES = _each("hkeys", "%R~layouts")
_IN_FORCE = _each("hmget", "%R~sealed")
_LOG_ACTION = _each("xadd", "%W~control")
_HISTORY = (_each("zrevrange", "%R~history"), _each("hgetall", "%R~stored_policy"))

_TAGS = _cluster("hkeys", "%R~leases")
_SHARDS = (
    _cluster("hgetall", "%R~leases"), _cluster("get", "%R~state"),
    _cluster("xlen", "%R~audit", "%R~denied"),
)  # fmt: skip
_EXPIRE = (
    # The wait for replicas.
    _each("wait"), _each("eval set del", "~confirmed"),
    # The epoch, and each shard's own; when leases end that no operator reaches.
    _cluster("eval", "~layouts"), _cluster("hincrby hset hlen hkeys unlink", "~leases"),
    _cluster("eval"), _cluster("get setrange persist", "~state"),
    _cluster("zrevrange", "%R~history"), _cluster("hgetall", "%R~stored_policy"),
)  # fmt: skip

_NEW_TOKEN = (
    _ACTIVE, _CLOCK, _IN_FORCE, _LOG_ACTION,
    _joint("eval", "~sealed", "~control"),
    _each("hmget hget", "%R~guard"), _each("hlen", "%R~tokens"), _each("xlen", "%R~control"),
    _each("hset", "%W~tokens"), _each("set", "%W~token"),
)  # fmt: skip
_TOKENS = (
    _CLOCK, _IDENTITIES, _ACTIVE,
    _each("hgetall", "%R~guard", "%R~tokens", "%R~delegated"), _each("mget", "%R~token"),
)  # fmt: skip
_REPEATS = _each("hscan", "%R~repeats")

_CHANGE_STATES = (
    _ACTIVE, _CLOCK, _IDENTITIES, _IN_FORCE, _LOG_ACTION,
    _joint("eval", "~sealed", "~layouts", "~control"),
    _joint("exists", "%R~guard", "%R~state"), _each("strlen getrange", "%R~state"),
    _each("setrange", "%W~state"), *_EXPIRE,
)  # fmt: skip

_FREEZE = (
    *_CHANGE_STATES, _each("hset del", "%W~suspension"), _each("hget", "%R~suspension"),
)  # fmt: skip

_PLAN = (
    _ACTIVE, _CLOCK, _each("command dbsize"),
    _each("hgetall", "%R~layouts", "%R~guard"), _each("getrange strlen", "%R~state"),
    _each("hkeys", "%R~source"),
    _cluster("eval"), _cluster("exists", "%R~none"), _cluster("get", "%R~mac_key"),
)  # fmt: skip
_LOAD = (
    *_PLAN, _IN_FORCE, _LOG_ACTION,
    _each("hgetall", "%R~fence"),
    # Guards and their sources.
    _each("script|exists script|load eval"),
    _each("hset hdel unlink", "%W~source"),
    # Staged records.
    _each("hset pexpire persist unlink set", "%W~staged_prefix"), _each("get", "%R~state"),
    # The activation.
    _joint("evalsha", "~sealed", "~policy", "~history", "~layouts", "~control"),
    _each("hget", "%R~policy", "%R~suspension"),
    _each("xlen", "%R~control"), _each("zcard zrange", "%R~history"),
    _each("exists", "%R~staged_prefix", "%R~suspension"), _each("mget", "%R~state"),
    _each("mset setrange pexpire persist", "%W~state"), _each("hset", "%W~guard"),
    _joint("rename", "~staged_prefix", "%W~state", "%W~guard", "%W~policy", "%W~stored_policy",
           "%W~layouts"),
    _joint("del", "%W~guard", "%W~state"), _each("del", "%W~stored_policy"),
    _each("persist", "%W~policy", "%W~stored_policy", "%W~layouts"),
    _each("zadd zrem", "%W~history"),
    _cluster("set", "%W~mac_key"), *_EXPIRE,
)  # fmt: skip

_EVENTS = (
    _ACTIVE, _CLOCK, _IDENTITIES, _REPEATS,
    _each("xrange xrevrange", "%R~audit", "%R~denied", "%R~control"), _TAGS,
)  # fmt: skip
_READ_DATA = (
    "type pexpiretime memory|usage dump strlen get getrange llen lrange scard smembers sscan hlen"
    " hgetall hscan hpexpiretime zcard zrange xlen xrange"
)
_VALUES = (
    *_EVENTS, *_HISTORY,
    # Who could forge events depends on the server's users.
    _each("script|load evalsha acl|users"),
    _each(_READ_DATA, "%R~data", "%R~undo_prefix"),
    _each("restore set del", "%W~undo_prefix"),
    _each("smismember", "%R~forgeable"),
)  # fmt: skip
_STATUS = (
    _ACTIVE, _CLOCK, _REPEATS,
    _each("hgetall", "%R~tokens", "%R~delegated", "%R~fence", "%R~suspension", "%R~layouts"),
    _each("mget", "%R~token"), _each("get", "%R~state"),
    _each("xrange xrevrange", "%R~denied"), _each("xlen", "%R~audit", "%R~denied"), _TAGS, *_SHARDS,
)  # fmt: skip
_DECISION = (
    *_TOKENS, _each("command|info command"), _each("hget", "%R~layouts", "%R~suspension"),
    _each("get", "%R~state", "%R~limit_prefix"), _each("xlen", "%R~audit"),
    # The estimate of a call's work.
    _each("script|load evalsha"), _each(_READ_DATA, "%R~data"),
)  # fmt: skip

OPERATIONS: Mapping[str, tuple[Right, ...]] = {
    "token issue": _NEW_TOKEN,
    "token list": _TOKENS,
    "token tree": _TOKENS,
    "token show": (*_TOKENS, _REPEATS, _each("xrange", "%R~audit", "%R~denied")),
    "token rotate": (
        *_EXPIRE,
        # HDEL is for `token list`, which deletes details of expired tokens if it may.
        *_NEW_TOKEN, _each("hdel", "%W~tokens"),
        _each("hgetall hget", "%R~tokens"), _each("get", "%R~token"),
        _each("setrange pexpireat", "%W~token"), _each("zcount", "%R~children_prefix"),
    ),
    "token renew": (
        *_TOKENS, _IN_FORCE, _LOG_ACTION,
        _joint("eval", "~sealed", "~control"), _each("xlen", "%R~control"),
        _each("hget", "%R~guard", "%R~tokens"), _each("hdel", "%W~tokens"),
        _each("get", "%R~token"), _each("set", "%W~token"),
        _each("pexpireat", "%W~children_prefix"),
    ),
    "token revoke": (
        *_EXPIRE,
        _CLOCK, _ACTIVE, _IDENTITIES, _LOG_ACTION,
        _joint("eval", "~layouts", "~control"), _each("hgetall", "%R~tokens"),
        _each("hget", "%R~delegated"), _each("getrange", "%R~token"), _each("setrange", "%W~token"),
        _each("unlink", "%W~leases"), _each("scan"), _each("hgetall", "%R~guard"),
    ),
    "policy show": (_ACTIVE,),
    "policy history": (_ACTIVE, *_HISTORY),
    "plan": _PLAN,
    "load": _LOAD,
    "rollback": (*_LOAD, *_HISTORY),
    "audit log": _EVENTS,
    "audit show": _VALUES,
    "audit timeline": _EVENTS,
    "audit stats": _EVENTS,
    "audit follow": (*_EVENTS, _each("xread", "%R~audit", "%R~denied", "%R~control")),
    "audit as-of": (*_VALUES, _each("exists xinfo|stream", "%R~audit")),
    "audit report": (*_VALUES, *_STATUS, *_TOKENS),
    "undo --dry-run": _VALUES,
    "undo": (
        *_VALUES, _LOG_ACTION,
        _joint("evalsha", "~operators", "~operators_seq", "~control"),
        _joint("rename", "~undo_prefix", "%W~data"), _each("del", "%W~data"),
        _each("get", "%R~operators_seq"), _each("set", "%W~operators_seq"),
        _each("xadd xdel", "%W~operators"),
    ),
    "freeze": _FREEZE,
    "thaw": (
        *_CHANGE_STATES, _joint("del", "%W~suspension", "%W~refused"),
        _cluster("exists", "%R~guard"),
    ),
    "limits reset": (
        *_CHANGE_STATES, _each("scan"), _each("hget", "%R~layouts"), _each("exists", "%R~leases"),
        _each("del", "%W~limit_prefix"), _cluster("unlink", "%W~limit_prefix"),
    ),
    "budget collect": (
        _ACTIVE, _LOG_ACTION, *_SHARDS, _each("hget", "%R~layouts"),
        _cluster("eval wait"), _cluster("get setrange", "~state"),
        _joint("eval", "~sealed", "~layouts", "~control"), _IN_FORCE,
        _cluster("get strlen getrange setrange", "~state"), _cluster("hget hset", "~leases"),
    ),
    "audit export": (
        _ACTIVE, _CLOCK, _IDENTITIES, _LOG_ACTION,
        _each("exists xinfo|groups xinfo|consumers xreadgroup",
              "%R~audit", "%R~denied", "%R~control"),
        _each("xgroup|create xgroup|createconsumer xgroup|destroy xack",
              "%W~audit", "%W~denied", "%W~control"),
        _each("xtrim", "%W~audit"), _TAGS,
    ),
    "audit verify --recorded": (_each("xrange", "%R~control"),),
    "explain": _DECISION,
    "can-i": _DECISION,
    "status": _STATUS,
    "metrics": _STATUS,
    "watch": (
        _IDENTITIES, _each("script|exists script|load"),
        _each("hmget", "%R~policy"), _each("hgetall", "%R~guard", "%R~source"),
        _each("hget", "%R~source"),
        # Of identities that the circuit breaker of a node suspended.
        _cluster("hgetall", "%R~fence", "%R~layouts"), _cluster("hget", "%R~leases"),
        *(right._replace(is_of_cluster=True) for right in (*_FREEZE, *_SHARDS)),
    ),
}  # fmt: skip
"""The rights of each operation, by its command of `keyleash`, besides those to connect."""


@dataclass(frozen=True, slots=True)
class Role(Result):
    """The operations of one kind of operator or program; of `admin` those of no other role."""

    name: str
    summary: str
    operations: tuple[str, ...]

    def rights(self, *, on_cluster: bool = False) -> Iterator[Right]:
        """Yield the rights of all operations, some of them several times."""
        for operation in self.operations:
            for right in (*_CONNECT, *OPERATIONS[operation]):
                if right.is_of_cluster <= on_cluster:
                    yield right

    @property
    def uses_data(self) -> bool:
        """True if the role reads or writes keys of agents."""
        return any(key.endswith("~data") for right in self.rights() for key in right.keys)

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
             "status", "metrics", "explain", "can-i"),
        ),
        Role(
            "incident-responder",
            "freezes and thaws identities, resets limits, revokes tokens, undoes changes",
            ("freeze", "thaw", "limits reset", "budget collect", "token revoke", "undo",
             "undo --dry-run", "audit log", "audit show", "audit timeline", "audit stats",
             "audit follow", "audit as-of", "audit report", "audit verify --recorded",
             "policy show", "policy history", "token list", "token tree", "token show",
             "status", "metrics", "explain", "can-i"),
        ),
        Role(
            "exporter",
            "exports audit streams, trims exported ones, verifies archives",
            ("audit export", "audit verify --recorded", "policy show"),
        ),
        Role("scraper", "reads metrics and status", ("metrics", "status", "policy show")),
        Role("watcher", "keeps guards loaded on a primary and its replicas", ("watch",)),
        Role(
            "admin",
            "everything, also managing ACL users; to replace the user `default`",
            ("doctor", "fence plan", "fence apply", "fence rotate", "fence remove", "vault seal",
             "vault adopt", "vault release", "vault rotate", "vault unseal"),
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


def roles_with(operation: str) -> list[str]:
    """Return the names of the roles that have an operation, the smallest one first."""
    found = [role for role in ROLES.values() if operation in role.operations]
    return [role.name for role in sorted(found, key=lambda role: len(role.operations))]


@dataclass(frozen=True, slots=True)
class RoleUser(Result):
    """The ACL user of a role.

    Attributes:
        role: The role.
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


def role_user(store: Store, role: str, user: str | None = None) -> RoleUser:
    """Return the ACL user of a role for a server; nothing is changed.

    Args:
        store: The server.
        role: The name of the role.
        user: The name of the user; `keyleash-ROLE` if None.

    Raises:
        OperationError (unknown-role): There is no such role.
        UsageError: *user* cannot be the name of an ACL user.
        Otherwise as `read_role_rules`.
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
    nodes = () if store.nodes is None else tuple(map(str, store.nodes.all))
    return RoleUser(chosen, name, words, nodes)


def read_role_rules(store: Store, role: Role) -> Rules:
    """Return the ACL rules of a role for a server; nothing is changed.

    Its keys of agents are those of the vault, or the key patterns of the active policy. Commands
    that the server lacks are left out.

    Raises:
        OperationError (no-policy): The role uses keys of agents, the server is not sealed, and no
            policy is active.
        OperationError (unsayable-pattern): ACL rules cannot express a pattern.
    """
    if role.name == "admin":
        return Rules(Selector(("@all",), ("~*", "&*")), ())
    data: tuple[str, ...] = ()
    if role.uses_data:
        data = (f"{store.keys.vault}*",) if store.keys.vault else _policy_keys(store)
    rules = role_rules(role, store.keys, data, database_of(store.client))
    # A first argument, as that of SELECT, is no command of its own.
    names = sorted({name for item in rules.selectors for name in item.commands})
    known = known_commands(store.client, names)

    def on_server(item: Selector) -> Selector:
        return replace(item, commands=tuple(name for name in item.commands if name in known))

    return Rules(rules.root, tuple(map(on_server, rules.selectors)))


def _policy_keys(store: Store) -> tuple[str, ...]:
    document = require_active(store).document
    policy = parse_policy(document, file="<active policy>", commands=None)
    globs = dict.fromkeys(
        acl_glob(pattern)
        for identity in policy.identities
        for grant in identity.grants
        for pattern in grant.keys
    )
    return ("*",) if "*" in globs else tuple(globs)


def role_rules(
    role: Role,
    keyspace: Keyspace,
    data: Sequence[str],
    database: int = 0,
) -> Rules:
    """Return the ACL rules of a role.

    Args:
        role: The role.
        keyspace: The prefixes in force.
        data: Globs of the keys of agents.
        database: The number of the database with the keys.
    """
    root = dict.fromkeys([f"select|{database}"] if database else [])
    by_key: dict[str, dict[str, None]] = {}
    by_keys: dict[tuple[str, ...], dict[str, None]] = {}
    for right in role.rights(on_cluster=bool(keyspace.tag)):
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
    for item in selectors:
        others = (other for other in selectors if other is not item)
        if not any(set(item.words) <= set(other.words) for other in others):
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
