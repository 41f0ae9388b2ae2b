"""Random sessions of commands whose replies do not depend on time or chance.

They have no command that guards deny (`docs/reference/gateway.md` lists what is denied), and none
whose reply is another one each time.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from typing import TypeAlias

from support.gateways import request

Command: TypeAlias = tuple[bytes, ...]
Step: TypeAlias = list[Command] | tuple[str, str]
"""Commands, or a message of another client: the channel and the text."""

GROUPS = {
    "string": """
        SET K V | SET K V EX 9000 | SET K V NX | SET K V XX GET | SET K I | SET K V KEEPTTL
        SET K D | GET K | GET K | GETRANGE K N I | SETRANGE K N V | APPEND K V | STRLEN K | INCR K
        DECR K | INCRBY K I | DECRBY K I | INCRBYFLOAT K D | MSET K V K V | MSETNX K V K V
        MGET K K K | GETSET K V | GETDEL K | GETEX K | GETEX K PERSIST | SETNX K V | SETEX K 9000 V
        PSETEX K 9000000 V | SUBSTR K N I | LCS K K | LCS K K LEN | LCS K K IDX WITHMATCHLEN
    """,
    "bits": """
        SETBIT K N B | GETBIT K N | BITCOUNT K | BITCOUNT K 0 -1 BIT | BITPOS K B | BITPOS K B I I
        BITOP AND K K K | BITOP NOT K K | BITFIELD K SET u8 0 N GET u4 0
        BITFIELD K OVERFLOW FAIL INCRBY u2 1 1 | BITFIELD_RO K GET i16 0 | SET K V
    """,
    "hyperloglog": "PFADD K V V | PFADD K | PFCOUNT K | PFCOUNT K K | PFMERGE K K K",
    "hash": """
        HSET K M V M V | HSET K M I | HSET K M D | HSETNX K M V | HGET K M | HGET K V
        HMGET K M M M | HMSET K M V | HGETALL K | HGETALL K | HKEYS K | HVALS K | HLEN K
        HEXISTS K M | HDEL K M M | HINCRBY K M I | HINCRBYFLOAT K M D | HSTRLEN K M | HSCAN K 0
        HSCAN K 0 MATCH P COUNT 100 | HSCAN K 0 NOVALUES | HRANDFIELD K 0 | HRANDFIELD K -1 0
        HEXPIRE K 0 FIELDS 1 M | HPERSIST K FIELDS 2 M M | HTTL K FIELDS 1 M
        HEXPIREAT K 4102444800 FIELDS 1 M | HEXPIRETIME K FIELDS 1 M
    """,
    "list": """
        LPUSH K V V | RPUSH K V V V | LPUSHX K V | RPUSHX K V | LPOP K | RPOP K | LPOP K N
        RPOP K N | LLEN K | LRANGE K 0 -1 | LRANGE K J J | LINDEX K I | LSET K I V | LREM K 0 V
        LTRIM K 0 3 | LINSERT K BEFORE V V | LPOS K V | LPOS K V COUNT 0 | LMOVE K K LEFT RIGHT
        RPOPLPUSH K K | LMPOP 2 K K LEFT | LMPOP 1 K RIGHT COUNT 3 | BLPOP K 0.01 | BRPOP K K 0.01
        BLMOVE K K RIGHT LEFT 0.01 | BRPOPLPUSH K K 0.01 | BLMPOP 0.01 1 K LEFT COUNT 2
        SORT K ALPHA | SORT K ALPHA DESC LIMIT 0 2 | SORT_RO K | SORT K ALPHA STORE K
    """,
    "set": """
        SADD K M M M | SADD K I | SREM K M | SMEMBERS K | SMEMBERS K | SISMEMBER K M
        SMISMEMBER K M M | SCARD K | SINTER K K | SUNION K K | SDIFF K K | SINTERCARD 2 K K LIMIT 1
        SINTERSTORE K K K | SUNIONSTORE K K | SDIFFSTORE K K K | SMOVE K K M | SPOP K 0
        SPOP K 100 | SRANDMEMBER K 100 | SRANDMEMBER K 0 | SSCAN K 0 | SSCAN K 0 MATCH P
    """,
    "sorted": """
        ZADD K D M D M | ZADD K D M | ZADD K D M | ZADD K NX CH D M | ZADD K GT INCR D M
        ZADD K XX INCR D M | ZINCRBY K D M | ZSCORE K M | ZSCORE K M | ZMSCORE K M M M | ZCARD K
        ZCOUNT K -inf +inf | ZCOUNT K (D D | ZRANK K M | ZREVRANK K M | ZRANK K M WITHSCORE
        ZREVRANK K M WITHSCORE | ZRANGE K 0 -1 | ZRANGE K 0 -1 WITHSCORES | ZRANGE K J J REV
        ZRANGE K -inf +inf BYSCORE LIMIT 0 3 WITHSCORES | ZRANGE K - + BYLEX
        ZREVRANGE K 0 -1 WITHSCORES | ZRANGEBYSCORE K -inf D WITHSCORES | ZREVRANGEBYSCORE K D -inf
        ZRANGEBYLEX K - + | ZREVRANGEBYLEX K + - | ZLEXCOUNT K - + | ZREM K M M | ZPOPMIN K
        ZPOPMAX K | ZPOPMIN K N | ZPOPMAX K N | ZMPOP 2 K K MIN | ZMPOP 1 K MAX COUNT 2
        BZPOPMIN K 0.01 | BZPOPMAX K K 0.01 | BZMPOP 0.01 1 K MIN COUNT 2 | ZUNION 2 K K
        ZUNION 2 K K WITHSCORES | ZINTER 2 K K WITHSCORES | ZDIFF 2 K K WITHSCORES | ZDIFF 1 K
        ZUNIONSTORE K 2 K K WEIGHTS D 1 | ZINTERSTORE K 2 K K AGGREGATE MAX | ZDIFFSTORE K 2 K K
        ZINTERCARD 2 K K | ZRANGESTORE K K 0 -1 | ZREMRANGEBYRANK K 5 9 | ZREMRANGEBYSCORE K D D
        ZREMRANGEBYLEX K [x [y | ZRANDMEMBER K 0 | ZRANDMEMBER K 100 WITHSCORES | ZSCAN K 0
        ZSCAN K 0 MATCH P
    """,
    "geo": """
        GEOADD K L L M | GEOADD K L L M L L M | GEOADD K NX CH L L M | GEOPOS K M M | GEOPOS K
        GEODIST K M M | GEODIST K M M km | GEOHASH K M M
        GEOSEARCH K FROMMEMBER M BYRADIUS 8000 km ASC
        GEOSEARCH K FROMLONLAT L L BYBOX 8000 8000 km ASC WITHCOORD WITHDIST WITHHASH
        GEORADIUS K L L 8000 km WITHCOORD ASC | GEORADIUSBYMEMBER_RO K M 9000 km WITHDIST ASC
        GEORADIUS K L L 8000 km ASC COUNT 1 | GEOSEARCHSTORE K K FROMMEMBER M BYRADIUS 90 km
    """,
    "stream": """
        XADD K N-1 M V | XADD K 9-* M V M V | XADD K MAXLEN 3 N-2 M V | XADD K NOMKSTREAM 7-1 M V
        XLEN K | XRANGE K - + | XRANGE K 1 5 COUNT 2 | XREVRANGE K + - COUNT 2 | XREAD STREAMS K 0
        XREAD COUNT 2 STREAMS k:stream0 k:stream1 0 N | XREAD BLOCK 10 STREAMS K $
        XREAD BLOCK 10 STREAMS K 99999 | XDEL K N-1 | XTRIM K MAXLEN 2 | XSETID K 99-1
        XGROUP CREATE K g 0 MKSTREAM | XGROUP CREATE K g N | XGROUP DESTROY K g
        XGROUP CREATECONSUMER K g c | XGROUP DELCONSUMER K g c | XGROUP SETID K g 0
        XREADGROUP GROUP g c STREAMS K > | XREADGROUP GROUP g c COUNT 1 STREAMS K 0
        XREADGROUP GROUP g c BLOCK 10 STREAMS K > | XACK K g N-1 | XPENDING K g
        XCLAIM K g d 0 N-1 JUSTID | XCLAIM K g d 0 N-1 | XAUTOCLAIM K g d 0 0 | XINFO GROUPS K
        XAUTOCLAIM K g d 0 0 JUSTID | XINFO STREAM K
    """,
    "any": """
        DEL K | DEL K K | UNLINK K | EXISTS K K | TYPE K | TOUCH K K | EXPIRE K 9000
        EXPIRE K 9000 NX | EXPIREAT K 4102444800 | EXPIRETIME K | PEXPIRE K 9000000 | PERSIST K
        EXPIRE K -1 | TTL K | RENAME K K | RENAMENX K K | COPY K K | COPY K K REPLACE
        OBJECT ENCODING K | DUMP K | SCAN 0 MATCH K COUNT 9999
        SCAN 0 MATCH K TYPE hash COUNT 9999 | SORT K | GET K | HGETALL K | LRANGE K 0 -1
        SMEMBERS K | ZRANGE K 0 -1 WITHSCORES | XRANGE K - + | ECHO V | PING | PING V
        PUBLISH c:1 V | PUBSUB NUMSUB c:1 | COMMAND GETKEYS MSET K V K V | CLUSTER INFO
        SELECT 0 | CLIENT GETNAME | CLIENT SETNAME w
    """,
}  # fmt: skip
"""Commands by the type of their keys. Words of one letter stand for random ones."""
_TEMPLATES = {
    group: [
        tuple(template.split()) for line in text.strip().split("\n") for template in line.split("|")
    ]
    for group, text in GROUPS.items()
}
WHOLE = {
    **dict.fromkeys(("OBJECT", "XGROUP", "XINFO"), 2),
    **dict.fromkeys(("CLUSTER", "COMMAND", "HRANDFIELD", "PUBSUB", "SCAN", "SPOP"), 9),
    **dict.fromkeys(("SRANDMEMBER", "ZRANDMEMBER"), 9),
}
"""The words without which a guard denies a command, or chance decides, by its name."""
WITHIN_MULTI: tuple[Command, ...] = (
    (b"MULTI",), (b"MULTI", b"x"), (b"WATCH", b"k:set0"), (b"WATCH",), (b"UNWATCH",),
    (b"UNSUBSCRIBE",), (b"PUNSUBSCRIBE", b"c:1", b"c:2"), (b"CLIENT", b"SETNAME", b"v"),
    (b"CLIENT", b"nothing"), (b"INFO", b"cluster"), (b"ASKING",),
)  # fmt: skip
"""Commands about the transaction and the connection, which servers queue or answer at once."""
_ABSOLUTE = re.compile("EXPIRETIME|EXPIREAT")
_RELATIVE = re.compile("9000|TTL K")
TYPES = sorted(GROUPS.keys() - {"any"})
KEYS = [f"k:{kind}{number}" for kind in TYPES for number in (0, 1)]
INTEGERS = (
    "0", "1", "-1", "2", "-2", "5", "10", "100", "2147483648", "9007199254740991",
    "9007199254740992", "9007199254740993", "-9007199254740993", "9223372036854775807",
    "-9223372036854775808", "9223372036854775808", "99999999999999999999", "01", "+1", "1.0", "x",
    "",
)  # fmt: skip
POSITIONS = ("0", "1", "-1", "-2", "5", "-100", "100", "x", "", "1.0")
NUMBERS = ("0", "1", "2", "3", "7")
DOUBLES = (
    "0", "-0", "1", "1.5", "0.1", "-3.25", "3.0", "1e15", "1e16", "1e17", "1e20", "1e21", "1e22",
    "123456789012345678", "1234567890.125", "1e-4", "1e-5", "1e-7", "0.3333333333333333", "1e300",
    "-1e-300", "5e-324", "1.7976931348623157e308", "inf", "-inf", "+inf", "nan", "x", "1e400",
    "0x10",
)  # fmt: skip
SHORT = ("1.5", "-0.25", "3.0", "1e5", "inf", "nan", "x")
VALUES = (
    b"", b"v", b"w", b"10", b"value", b"\r\n", b"\x00\xff\xfe", b"$-1\r\n", b"*-1\r\n", b"OK",
    b"+OK\r\n", "ü€".encode(), b"9007199254740993", b"k:set0", b"x" * 70, b"y" * 2000, b"z" * 70,
)  # fmt: skip
MEMBERS = (b"a", b"b", b"c", b"d", b"\xffm", b"7", b"")
PATTERNS = (b"*", b"a*", b"[ab]", b"\xff?")


class Draws(random.Random):
    """The random choices of one session.

    Attributes:
        skipped: Templates that it has not: an absolute time after a relative one would tell when
            the session ran, and so would the reverse; and commands that the server lacks.
    """

    def __init__(self, seed: str, known: Collection[str] = ()) -> None:
        super().__init__(seed)
        is_absolute = self.random() < 0.5
        self.skipped = {
            template
            for templates in _TEMPLATES.values()
            for template in templates
            if (_ABSOLUTE if not is_absolute else _RELATIVE).search(" ".join(template))
            or (known and template[0] not in known)
        }

    def double(self) -> str:
        """Return a number, of any magnitude."""
        if self.random() < 0.5:
            return self.choice(DOUBLES)
        number = self.choice((-1, 1)) * self.random() * 10 ** self.randrange(-20, 25)
        return repr(round(number, self.randrange(20)))

    def word(self, kind: str, group: str) -> bytes | str:
        """Return a word for a letter of a template."""
        match kind:
            case "K":
                of = group if self.random() < 0.9 and group != "any" else self.choice(TYPES)
                return f"k:{of}{self.randrange(2)}"
            case "V":
                # The order of a hash with long values depends on when its table grows, and on
                # Redis that of one with expiry times on these: all that are given are the same.
                return self.choice(VALUES[:-3] if group == "hash" else VALUES)
            case "M":
                return self.choice(MEMBERS)
            case "I":
                return self.choice(INTEGERS)
            case "J":
                return self.choice(POSITIONS)
            case "N":
                return self.choice(NUMBERS)
            case "B":
                return self.choice("01")
            case "D":
                return self.choice(SHORT) if group == "hash" else self.double()
            case "(D":
                return f"({self.double()}"
            case "L":
                return repr(round(self.uniform(-85, 85), self.randrange(12)))
            case "P":
                return self.choice(PATTERNS)
            case "N-1" | "N-2":
                return self.choice(NUMBERS) + kind[1:]
        return kind

    def command(self, groups: Sequence[str]) -> Command:
        """Return a command, at times with wrong words."""
        while True:
            group = self.choice(groups)
            template = self.choice(_TEMPLATES[group])
            # The payload of a stream contains times.
            if not (template in self.skipped or (template[0] == "DUMP" and "stream" in groups)):
                break
        words = [self.word(word, group) for word in template]
        chance = self.random()
        if chance < 0.02:
            words = words[: self.randrange(WHOLE.get(template[0], 1), 10)]
        elif chance < 0.03 and template[0][0] not in "BP":
            words.append("k:string0")
        elif chance < 0.06:
            words[0] = str(words[0]).lower()
        return tuple(word if isinstance(word, bytes) else word.encode() for word in words)


def commands_of(draws: Draws) -> list[Command]:
    """Return the commands of a session."""
    groups = [*draws.sample(TYPES, draws.choice((1, 1, 2, 3))), "any"]
    groups += groups[:-1] * 2
    commands: list[Command] = []
    wanted = 200 if draws.random() < 0.03 else draws.choice((2, 5, 10, 20, 40))
    while len(commands) < wanted:
        if draws.random() < 0.08:
            commands += _transaction(draws, groups)
        else:
            commands.append(draws.command(groups))
    return commands[:200]


def _transaction(draws: Draws, groups: Sequence[str]) -> list[Command]:
    """Return a transaction, at times under WATCH, and at times with errors inside."""
    commands: list[Command] = []
    if draws.random() < 0.4:
        commands.append((b"WATCH", draws.choice(KEYS).encode()))
        commands += [draws.command(groups) for _ in range(draws.randrange(3))]
        if draws.random() < 0.2:
            commands.append((b"UNWATCH",))
    commands.append((b"MULTI",))
    for _ in range(draws.choice((0, 1, 2, 5, 12))):
        commands.append(
            draws.choice(WITHIN_MULTI) if draws.random() < 0.15 else draws.command(groups)
        )
    commands.append((b"DISCARD",) if draws.random() < 0.15 else (b"EXEC",))
    if draws.random() < 0.05:
        commands[-1] += (b"x",)
    if draws.random() < 0.1:
        commands.append((draws.choice((b"EXEC", b"DISCARD", b"UNWATCH")),))
    return commands


def packets(draws: Draws, commands: Sequence[Command]) -> list[bytes]:
    """Return the bytes of commands, cut at random places."""
    forms = (_inline, request) if draws.random() < 0.3 else (request,)
    whole = b"".join(draws.choice(forms)(words) for words in commands)
    cuts = sorted(draws.randrange(len(whole)) for _ in range(draws.choice((0, 0, 1, 3, 10))))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def _inline(words: Command) -> bytes:
    """Return a command as a person types it, quoted where that is needed."""
    parts = (
        word if word.isalnum() else b'"%b"' % b"".join(b"\\x%02x" % byte for byte in word)
        for word in words
    )
    return b" ".join(parts) + b"\r\n"


CHANNELS = (b"c:1", b"c:2", b"c:\xff")
GLOBS = (b"c:*", b"c:[12]")


def listening_of(draws: Draws) -> list[Step]:
    """Return the steps of a session with subscriptions."""
    steps: list[Step] = []
    active: dict[bytes, set[bytes]] = {b"": set(), b"P": set()}
    for _ in range(draws.randrange(2, 15)):
        kind = draws.choice((b"", b"", b"P"))
        names, chance = (
            draws.sample(CHANNELS if not kind else GLOBS, draws.randrange(1, 3)),
            draws.random(),
        )
        if chance < 0.3:
            active[kind] |= {*names}
            steps.append([(kind + b"SUBSCRIBE", *names)])
        elif chance < 0.45:
            active[kind] -= {*names}
            steps.append([(kind + b"UNSUBSCRIBE", *names)])
        elif chance < 0.55 and len(active[kind]) < 2:
            # Of several, a server confirms in another order.
            active[kind].clear()
            steps.append([(kind + b"UNSUBSCRIBE",)])
        elif chance < 0.8:
            steps.append((draws.choice(("c:1", "c:2", "c:3")), draws.choice(("", "hello", "\r\n"))))
        elif chance < 0.9:
            steps.append([(b"PING",)])
        else:
            steps.append([(b"SET", b"k:string0", b"v"), (b"get", b"k:string0"), (b"SUBSCRIBE",)])
    return steps
