"""The rights that operations need: commands, and the keys on which they need them."""

from __future__ import annotations

from typing import NamedTuple


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


def each(commands: str, *keys: str) -> Right:
    return Right(commands, keys)


def joint(commands: str, *keys: str) -> Right:
    return Right(commands, keys, is_joint=True)


def cluster(commands: str, *keys: str) -> Right:
    return Right(commands, keys, is_of_cluster=True)


RIGHTS: dict[str, tuple[Right, ...]] = {}
"""The rights of each command, besides those to connect; of none that only `admin` may run.

Modules of operations fill it when they are imported: `keyleash.api` imports all of them.
"""

CONNECT = (
    each("info client|setinfo"),
    # PING finds the nodes that are down, EXISTS the one with the home.
    cluster("cluster|slots cluster|shards ping"), cluster("exists", "%R~none"),
)  # fmt: skip
"""The rights of every operation: the client's handshake."""

CLOCK = each("time")
ACTIVE = each("hgetall", "%R~policy")
IDENTITIES = each("hkeys", "%R~layouts")
LOG_ACTION = each("xadd", "%W~control")
HISTORY = (each("zrevrange", "%R~history"), each("hgetall", "%R~stored_policy"))

TAGS = cluster("hkeys", "%R~leases")
SHARDS = (
    cluster("hgetall", "%R~leases"), cluster("get", "%R~state"),
    cluster("xlen", "%R~audit", "%R~denied"),
)  # fmt: skip
EXPIRE = (
    # The wait for replicas.
    each("wait"), each("eval set del", "~confirmed"),
    # The epoch, and each shard's own; when leases end that no operator reaches.
    cluster("eval", "~layouts"), cluster("hincrby hset hlen hkeys unlink", "~leases"),
    cluster("eval"), cluster("get setrange persist", "~state"),
    cluster("zrevrange", "%R~history"), cluster("hgetall", "%R~stored_policy"),
)  # fmt: skip

NEW_TOKEN = (
    ACTIVE, CLOCK, LOG_ACTION,
    each("eval", "~control"),
    each("hmget hget", "%R~guard"), each("hlen", "%R~tokens"), each("xlen", "%R~control"),
    each("hset", "%W~tokens"), each("set", "%W~token"),
)  # fmt: skip
TOKENS = (
    CLOCK, IDENTITIES, ACTIVE,
    each("hgetall", "%R~guard", "%R~tokens", "%R~delegated"), each("mget", "%R~token"),
)  # fmt: skip
REPEATS = each("hgetall", "%R~repeats")

CHANGE_STATES = (
    ACTIVE, CLOCK, IDENTITIES, LOG_ACTION,
    joint("eval", "~layouts", "~control"),
    joint("exists", "%R~guard", "%R~state"), each("strlen getrange", "%R~state"),
    each("setrange", "%W~state"), *EXPIRE,
)  # fmt: skip

FREEZE = (
    *CHANGE_STATES, each("hset del", "%W~suspension"), each("hget", "%R~suspension"),
)  # fmt: skip

EVENTS = (
    ACTIVE, CLOCK, IDENTITIES, REPEATS,
    each("xrange xrevrange", "%R~audit", "%R~denied", "%R~control"), TAGS,
)  # fmt: skip
READ_DATA = (
    "type pexpiretime memory|usage dump strlen get getrange llen lrange scard smembers sscan hlen"
    " hgetall hscan hpexpiretime zcard zrange xlen xrange"
)
VALUES = (
    *EVENTS, *HISTORY,
    each("script|load evalsha"),
    each(READ_DATA, "%R~data", "%R~undo_prefix"),
    each("restore set del", "%W~undo_prefix"),
)  # fmt: skip
STATUS = (
    ACTIVE, CLOCK, REPEATS, each("mget", "%R~token"), each("get", "%R~state"),
    each("hgetall", "%R~tokens", "%R~delegated", "%R~suspension", "%R~layouts"),
    cluster("hgetall", "%R~guard"), cluster("script|exists"),
    each("xrange xrevrange", "%R~denied"), each("xlen", "%R~audit", "%R~denied"), TAGS, *SHARDS,
)  # fmt: skip
