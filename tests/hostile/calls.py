"""Calls of every command that ask a server for as much as they can, and batches of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from hostile.keys import HITS, PREFIX
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS

Call = tuple[bytes, ...]

GRAMMAR = """
APPEND str value
BITCOUNT str [index index [BYTE|BIT]]
BITFIELD str field-operation+
BITFIELD_RO str field-read+
BITOP AND|OR|XOR|NOT|DIFF|ONE to str+
BITPOS str bit [index [index [BYTE|BIT]]]
BLMOVE list list LEFT|RIGHT LEFT|RIGHT seconds
BLMPOP seconds count:list LEFT|RIGHT [COUNT number]
BLPOP list+ seconds
BRPOP list+ seconds
BRPOPLPUSH list list seconds
BZMPOP seconds count:zset MIN|MAX [COUNT number]
BZPOPMAX zset+ seconds
BZPOPMIN zset+ seconds
COPY any to [DB 0] [REPLACE]
DECR str
DECRBY str number
DEL any+
DELIFEQ str value
DUMP any
ECHO value
EXISTS any+
EXPIRE any number [NX|XX|GT|LT]
EXPIREAT any number [NX|XX|GT|LT]
EXPIRETIME any
FT.AGGREGATE hits query [LOAD 1 @t] [APPLY expression AS u] [APPLY lower(@u) AS l] [GROUPBY 1 @t] [LIMIT number number]
FT.SEARCH hits query [NOCONTENT] [RETURN 1 t] [SORTBY n] [WITHSCORES] [HIGHLIGHT|SUMMARIZE] [LIMIT 0 number]
GEOADD geo [NX|XX] [CH] located+
GEODIST geo member member unit
GEOHASH geo member+
GEOPOS geo member+
GEORADIUS geo degree degree radius unit [WITHCOORD] [WITHDIST] [COUNT number [ANY]] [ASC|DESC] [STORE|STOREDIST to]
GEORADIUSBYMEMBER geo member radius unit [WITHCOORD] [WITHHASH] [COUNT number [ANY]] [STORE|STOREDIST to]
GEORADIUSBYMEMBER_RO geo member radius unit [WITHCOORD] [WITHHASH] [COUNT number [ANY]] [ASC]
GEORADIUS_RO geo degree degree radius unit [WITHCOORD] [WITHHASH] [COUNT number [ANY]] [ASC]
GEOSEARCH geo place BYRADIUS radius unit [ASC|DESC] [COUNT number [ANY]] [WITHCOORD] [WITHDIST]
GEOSEARCHSTORE to geo place BYBOX radius radius unit [ASC|DESC] [COUNT number [ANY]] [STOREDIST]
GET str
GETBIT str number
GETDEL str
GETEX str [EX number]
GETRANGE str index index
GETSET str value
HDEL hash field+
HEXISTS hash field
HEXPIRE hash number FIELDS count:field
HEXPIREAT hash number FIELDS count:field
HEXPIRETIME hash FIELDS count:field
HGET hash field
HGETALL hash
HGETDEL hash FIELDS count:field
HGETEX hash [EX number] FIELDS count:field
HINCRBY hash field number
HINCRBYFLOAT hash field number
HKEYS hash
HLEN hash
HMGET hash field+
HMSET hash field-value+
HPERSIST hash FIELDS count:field
HPEXPIRE hash number FIELDS count:field
HPEXPIREAT hash number FIELDS count:field
HPEXPIRETIME hash FIELDS count:field
HPTTL hash FIELDS count:field
HRANDFIELD hash [number [WITHVALUES]]
HSCAN hash cursor [MATCH glob] [COUNT number] [NOVALUES]
HSET hash field-value+
HSETEX hash [EX number] FIELDS count:field-value
HSETNX hash field value
HSTRLEN hash field
HTTL hash FIELDS count:field
HVALS hash
INCR str
INCRBY str number
INCRBYFLOAT str number
JSON.ARRAPPEND doc path element+
JSON.ARRINDEX doc path element [index index]
JSON.ARRINSERT doc path position element+
JSON.ARRLEN doc path
JSON.ARRPOP doc path [position]
JSON.ARRTRIM doc path position index
JSON.CLEAR doc path
JSON.DEL doc path
JSON.FORGET doc path
JSON.GET doc path+
JSON.MERGE doc path element
JSON.MGET doc+ path
JSON.NUMINCRBY doc path number
JSON.OBJKEYS doc path
JSON.RESP doc path
JSON.SET doc path element
JSON.STRAPPEND doc path element
JSON.STRLEN doc path
JSON.TYPE doc path
LCS str str [LEN] [IDX] [MINMATCHLEN number] [WITHMATCHLEN]
LINDEX list index
LINSERT list BEFORE|AFTER word value
LLEN list
LMOVE list list LEFT|RIGHT LEFT|RIGHT
LMPOP count:list LEFT|RIGHT [COUNT number]
LPOP list [number]
LPOS list word [RANK index] [COUNT number] [MAXLEN number]
LPUSH list value+
LPUSHX list value+
LRANGE list index index
LREM list index word
LSET list index value
LTRIM list index index
MEMORY USAGE any [SAMPLES number]
MGET str+
MSET str-value+
MSETEX count:str-value [EX number]
MSETNX str-value+
OBJECT ENCODING any
OBJECT FREQ any
OBJECT IDLETIME any
OBJECT REFCOUNT any
PERSIST any
PEXPIRE any number [NX|XX|GT|LT]
PEXPIREAT any number
PEXPIRETIME any
PFADD hll value+
PFCOUNT hll+
PFMERGE to hll+
PING [value]
PSETEX str number value
PSUBSCRIBE scanned
PTTL any
PUBLISH channel value
PUBSUB NUMSUB channel+
PUBSUB SHARDNUMSUB channel+
RENAME any to
RENAMENX any to
RESTORE to 0 payload [REPLACE]
RPOP list [number]
RPOPLPUSH list list
RPUSH list value+
RPUSHX list value+
SADD set value+
SCAN cursor [MATCH scanned] [COUNT number] [TYPE type]
SCARD set
SDIFF set+
SDIFFSTORE to set+
SET str value [NX|XX|KEEPTTL] [GET] [EX number]
SETBIT str number bit
SETEX str number value
SETNX str value
SETRANGE str number value
SINTER set+
SINTERCARD count:set [LIMIT number]
SINTERSTORE to set+
SISMEMBER set member
SMEMBERS set
SMISMEMBER set member+
SMOVE set set member
SORT any [LIMIT number number] [BY pattern] [GET pattern] [GET pattern] [ASC|DESC] [ALPHA] [STORE to]
SORT_RO any [LIMIT number number] [BY pattern] [GET pattern] [ASC|DESC] [ALPHA]
SPOP set [number]
SPUBLISH channel value
SRANDMEMBER set [number]
SREM set member+
SSCAN set cursor [MATCH glob] [COUNT number]
SSUBSCRIBE channel
STRLEN str
SUBSCRIBE channel
SUBSTR str index index
SUNION set+
SUNIONSTORE to set+
TIME
TOUCH any+
TTL any
TYPE any
UNLINK any+
VADD vset [REDUCE number] vector member [CAS] [NOQUANT|BIN|Q8] [EF number] [SETATTR json] [M number]
VCARD vset
VDIM vset
VEMB vset member [RAW]
VGETATTR vset member
VINFO vset
VISMEMBER vset member
VLINKS vset member [WITHSCORES]
VRANDMEMBER vset [number]
VREM vset member
VSETATTR vset member json
VSIM vset vector|ELE-member [WITHSCORES] [COUNT number] [EF number] [FILTER filter] [FILTER-EF number] [TRUTH] [NOTHREAD]
XACK stream g id+
XADD stream [NOMKSTREAM] [MAXLEN|MINID number] * field-value+
XAUTOCLAIM stream g consumer 0 id [COUNT number] [JUSTID]
XCLAIM stream g consumer 0 id+ [IDLE number] [FORCE] [JUSTID]
XDEL stream id+
XGROUP CREATE stream group id [MKSTREAM] [ENTRIESREAD number]
XGROUP CREATECONSUMER stream group consumer
XGROUP DELCONSUMER stream group consumer
XGROUP DESTROY stream group
XGROUP SETID stream group id
XINFO CONSUMERS stream g
XINFO GROUPS stream
XINFO STREAM stream [FULL [COUNT number]]
XLEN stream
XPENDING stream g [IDLE number] [id id number [consumer]]
XRANGE stream id id [COUNT number]
XREAD [COUNT number] [BLOCK 1] streams
XREADGROUP GROUP g consumer [COUNT number] [BLOCK 1] [NOACK] streams
XREVRANGE stream id id [COUNT number]
XSETID stream id
XTRIM stream MAXLEN|MINID [=|~] number [LIMIT number]
ZADD zset [NX|XX|GT] [CH] score-member+
ZCARD zset
ZCOUNT zset score score
ZDIFF count:zset [WITHSCORES]
ZDIFFSTORE to count:zset
ZINCRBY zset number member
ZINTER count:zset [AGGREGATE MAX] [WITHSCORES]
ZINTERCARD count:zset [LIMIT number]
ZINTERSTORE to count:zset [AGGREGATE MAX]
ZLEXCOUNT zset lex lex
ZMPOP count:zset MIN|MAX [COUNT number]
ZMSCORE zset member+
ZPOPMAX zset [number]
ZPOPMIN zset [number]
ZRANDMEMBER zset [number [WITHSCORES]]
ZRANGE zset bound bound [BYSCORE|BYLEX] [REV] [LIMIT number number] [WITHSCORES]
ZRANGEBYLEX zset lex lex [LIMIT number number]
ZRANGEBYSCORE zset score score [WITHSCORES] [LIMIT number number]
ZRANGESTORE to zset bound bound [BYSCORE|BYLEX] [REV] [LIMIT number number]
ZRANK zset member [WITHSCORE]
ZREM zset member+
ZREMRANGEBYLEX zset lex lex
ZREMRANGEBYRANK zset index index
ZREMRANGEBYSCORE zset score score
ZREVRANGE zset index index [WITHSCORES]
ZREVRANGEBYLEX zset lex lex [LIMIT number number]
ZREVRANGEBYSCORE zset score score [WITHSCORES] [LIMIT number number]
ZREVRANK zset member
ZSCAN zset cursor [MATCH glob] [COUNT number]
ZSCORE zset member
ZUNION count:zset [AGGREGATE MAX] [WITHSCORES]
ZUNIONSTORE to count:zset [AGGREGATE MAX]
"""  # noqa: E501 - a line for each command
"""Commands with their arguments: words in small letters are drawn, `[…]` may be left out, `|`
separates alternatives, `+` means several, `count:` as many as a number before them says."""

NUMBERS = (
    b"0", b"1", b"2", b"-1", b"10", b"64", b"100", b"350", b"1000", b"5000", b"10000", b"17000",
    b"30000", b"80000", b"-1000", b"-5000", b"-100000", b"200000", b"1000000", b"50000000",
    b"536870911", b"9223372036854775807", b"-9223372036854775807", b"1e6", b"nan", b"inf", b"-inf",
)  # fmt: skip
INDEXES = (
    b"0", b"0", b"0", b"-1", b"-1", b"1", b"9", b"-10", b"99", b"1000", b"-1000", b"20000",
    b"-20000", b"50000", b"-100000", b"2000000", b"-2250000", b"9223372036854775807", b"x",
)  # fmt: skip
SCORES = (
    b"-inf", b"-inf", b"+inf", b"+inf", b"0", b"(0", b"1000", b"50000", b"(80000", b"1e300", b"inf",
    b"nan",
)  # fmt: skip
LEXES = (b"-", b"-", b"+", b"+", b"[m5", b"(m5", b"[m9", b"(m", b"[", b"x")
IDS = (
    b"-", b"0", b"0", b"0-1", b"+", b"$", b">", b">", b"5-5", b"(5-1", b"390000-1", b"1000",
    b"99999-0", b"x",
)  # fmt: skip
GLOBS = (
    b"*", b"*a*a*a*a*b", b"f*", b"m1*", b"*" * 300 + b"b", b"*[^x]*?*", b"?*?*?*z", b"\\*",
    b"*" + b"?*" * 200 + b"z", b"[" + b"a-z" * 500 + b"]*x", b"x" * 3000,
)  # fmt: skip
SIZES = (1, 1, 2, 3, 10, 100, 700, 2300, 6900)
TYPES = (b"string", b"list", b"set", b"zset", b"hash", b"stream", b"x")
PATHS = (
    b"$", b"$", b".", b"$.l", b"$.s", b"$[0]", b"$[0]", b"$[-1]", b"$.l[0]", b"$[*]", b"$.*",
    b"$..a", b"$[0:1000]", b"$[?(@>0)]", b"$.o", b"$..",
)  # fmt: skip
UNITS = (b"m", b"km", b"ft")
NEW = PREFIX + b"new:"
FRESH = tuple(NEW + b"%d" % number for number in range(3))
MAX_BYTES = 32_000_000
"""What a gateway takes as one request."""
LONG = (64_000, 200_000, 204_801, 1_000_000, 10_000_000, 16_777_216, MAX_BYTES)


class Draws:
    """Choices of one example.

    Args:
        keys: Key names by their word in the grammar.
        payloads: What RESTORE gets.
        colliding: Words that have one hash in the Lua of the server.
    """

    def __init__(
        self,
        seed: int | str,
        keys: Mapping[str, Sequence[bytes]],
        payloads: Sequence[bytes],
        colliding: Sequence[bytes],
    ) -> None:
        self.random = random.Random(seed)
        self.payloads = payloads
        self.colliding = colliding
        self._keys = keys
        self._every = [key for names in keys.values() for key in names]

    def pick(self, choices: Sequence[bytes]) -> bytes:
        return self.random.choice(choices)

    def chance(self, times: int) -> bool:
        return self.random.randrange(times) == 0

    def below(self, limit: int) -> int:
        return self.random.randrange(limit)

    def key(self, kind: str) -> bytes:
        """Return a key of a kind; now and then of another."""
        if self.chance(500):
            return NEW + b"n" * self.random.choice(LONG)
        names = self._keys.get(kind)
        if names is None or self.chance(25):
            names = self._every
        return self.pick([*names, *(FRESH if self.chance(10) else ())])

    def value(self) -> bytes:
        if self.chance(40):
            return b"x" * self.random.choice(LONG)
        if self.chance(20):
            return self.pick(self.colliding)
        return b"v" * (self.random.choice((*SIZES, 10_000)) if self.chance(8) else self.below(20))


def _member(draws: Draws) -> bytes:
    if draws.chance(5):
        return draws.pick(draws.colliding)
    number = b"%d" % draws.below(100_000)
    return draws.pick((b"m" + number, number))


def _field(draws: Draws) -> bytes:
    if draws.chance(5):
        return draws.pick(draws.colliding)
    return b"f%d" % draws.below(draws.random.choice((10, 10, 5000, 100_000)))


def _streams(draws: Draws) -> list[bytes]:
    count = draws.random.choice((1, 1, 1, 2, 20, 500))
    few = [draws.key("stream") for _ in range(min(count, 3))]
    keys = [few[i % len(few)] for i in range(count)]
    return [b"STREAMS", *keys, *(draws.pick(IDS) for _ in keys)]


def _place(draws: Draws) -> list[bytes]:
    if draws.chance(2):
        return [b"FROMMEMBER", b"m%d" % draws.below(40_000)]
    return [b"FROMLONLAT", _degree(draws), _degree(draws)]


def _degree(draws: Draws) -> bytes:
    return draws.pick((b"0", b"0.01", b"0.02", b"80", b"-30", b"nan"))


def _vector(draws: Draws) -> list[bytes]:
    count = draws.random.choice((1, 3, 3, 3, 500, 6900))
    if draws.chance(2):
        return [b"FP32", b"\x00\x00\x80\x3f" * count]
    return [b"VALUES", b"%d" % count, *[b"1"] * count]


def _field_operation(draws: Draws) -> list[bytes]:
    kind = draws.pick((b"u8", b"u1", b"i53"))
    place = draws.pick((b"0", b"#1000", b"#1048576", b"7", b"80000000", b"4294967295"))
    return draws.random.choice(
        ([b"GET", kind, place], [b"SET", kind, place, b"1"], [b"INCRBY", kind, place, b"1"])
    )


_WORDS: Mapping[str, Callable[[Draws], bytes | list[bytes]]] = {
    "to": lambda draws: draws.pick(FRESH) if draws.below(4) else draws.key("any"),
    "value": Draws.value,
    "word": lambda draws: draws.pick((b"1", b"word5-", b"2", b"z", b"a" * 1_048_448)),
    "number": lambda draws: draws.pick(NUMBERS),
    "index": lambda draws: draws.pick(INDEXES),
    "score": lambda draws: draws.pick(SCORES),
    "lex": lambda draws: draws.pick(LEXES),
    "bound": lambda draws: draws.pick(draws.random.choice((INDEXES, SCORES, LEXES))),
    "id": lambda draws: draws.pick(IDS),
    "glob": lambda draws: draws.pick(GLOBS),
    "scanned": lambda draws: PREFIX + draws.pick(GLOBS),
    "pattern": lambda draws: (
        PREFIX + draws.pick((b"str:*", b"hash:*->f1", b"*", b"str:m*", b"x"))
        if draws.below(5)
        else draws.pick((b"#", b"nosort"))
    ),
    "cursor": lambda draws: draws.pick((b"0", b"0", b"0", b"1", b"77777", b"x")),
    "seconds": lambda _: b"0.01",
    "bit": lambda draws: draws.pick((b"0", b"1")),
    "member": _member,
    "field": _field,
    "consumer": lambda draws: b"c%d" % draws.below(3),
    "group": lambda draws: draws.pick((b"g", b"g1", b"other")),
    "channel": lambda draws: draws.key("channel") if draws.chance(9) else PREFIX + b"channel",
    "type": lambda draws: draws.pick(TYPES),
    "unit": lambda draws: draws.pick(UNITS),
    "degree": _degree,
    "radius": lambda draws: draws.pick((b"1", b"100", b"10000", b"30000000", b"inf")),
    "place": _place,
    "located": lambda draws: [_degree(draws), _degree(draws), _member(draws)],
    "vector": _vector,
    "ELE-member": lambda draws: [b"ELE", b"m%d" % draws.below(800)],
    "json": lambda draws: b'{"n":1}' if draws.below(3) else b'{"n":"' + draws.value() + b'"}',
    "filter": lambda draws: draws.pick(
        (b".n > 100", b".n > 100 and " * 400 + b".n < 3", b".s in [" + b"1," * 3000 + b"1]")
    ),
    "streams": _streams,
    "path": lambda draws: draws.pick(PATHS),
    "position": lambda draws: draws.pick((b"0", b"0", b"1", *INDEXES)),
    "element": lambda draws: draws.pick(
        (b"1", b"1", b"7", b"{}", b'[{"a":1}]', b'"' + draws.value() + b'"')
    ),
    "hits": lambda _: HITS,
    "query": lambda draws: draws.pick((b"*", b"word", b"wor*", b"@n:[0 400]", b"-x", b"w" * 500)),
    "expression": lambda draws: draws.pick((b"upper(@t)", b"lower(@t)", b"format('%s', @t)")),
    "payload": lambda draws: draws.pick(draws.payloads),
    "field-value": lambda draws: [_field(draws), draws.value()],
    "str-value": lambda draws: [draws.key("str"), draws.value()],
    "score-member": lambda draws: [draws.pick((b"0", b"1", b"1e300", b"inf")), _member(draws)],
    "field-operation": _field_operation,
    "field-read": lambda draws: [b"GET", b"u8", draws.pick((b"0", b"#1000", b"80000000"))],
}


class _Piece(NamedTuple):
    """A part of a line of the grammar: a word, or an option with its own parts."""

    word: str
    option: tuple[_Piece, ...] = ()


@cache
def forms() -> Mapping[str, tuple[_Piece, ...]]:
    """Return the grammar's lines by the name of their command."""
    lines = (line.split() for line in GRAMMAR.strip().splitlines())
    parsed = {}
    for words in lines:
        named = 2 if words[0] in {"MEMORY", "OBJECT", "PUBSUB", "XGROUP", "XINFO"} else 1
        text = " ".join(words[named:]).replace("[", "[ ").replace("]", " ]")
        parsed[" ".join(words[:named])] = _parsed(iter(text.split()))
    return parsed


def _parsed(words: object) -> tuple[_Piece, ...]:
    pieces = []
    for word in words:  # type: ignore[attr-defined]
        if word == "]":
            break
        pieces.append(_Piece("", _parsed(words)) if word == "[" else _Piece(word))
    return tuple(pieces)


def hostile_call(draws: Draws, name: str) -> Call:
    """Draw one call of a command; sometimes with options twice, or a word that is another's."""
    argv = [word.encode() for word in name.split()]
    named = len(argv)
    options: list[list[bytes]] = []
    _fill(draws, forms()[name], argv, options)
    if options and draws.chance(4):
        # An option again, or as what belongs to another.
        argv += draws.random.choice(options)
    if len(argv) > named + 1 and draws.chance(6):
        place = named + draws.below(min(len(argv) - named, 12))
        words = (*NUMBERS, b"COUNT", b"LIMIT", b"BYSCORE", b"MATCH", b"ANY", b"STREAMS", b"count\0")
        argv[place : place + draws.below(2)] = [draws.pick(words)]
    return tuple(argv[:MAX_ARGUMENTS])


def _fill(
    draws: Draws, pieces: Sequence[_Piece], argv: list[bytes], options: list[list[bytes]]
) -> None:
    for piece in pieces:
        if piece.option:
            if draws.chance(2):
                start = len(argv)
                _fill(draws, piece.option, argv, options)
                options.append(argv[start : start + 3])
            continue
        word = draws.random.choice(piece.word.split("|"))
        if word.startswith("count:"):
            several = _several(draws, word.removeprefix("count:"))
            argv += [b"%d" % len(several), *(part for parts in several for part in parts)]
        elif word.endswith("+"):
            argv += [part for parts in _several(draws, word[:-1]) for part in parts]
        else:
            argv += _drawn(draws, word)


def _several(draws: Draws, word: str) -> list[list[bytes]]:
    count = draws.random.choice(SIZES)
    parts = [_drawn(draws, word) for _ in range(min(count, draws.random.choice((1, 3, 100, 7000))))]
    room = (MAX_ARGUMENTS - 50) // max(map(len, parts))
    # As many as are left of a few distinct ones.
    count = min(count, room, 1 + MAX_BYTES // (1 + max(sum(map(len, part)) for part in parts)))
    return [parts[i % len(parts)] for i in range(count)]


def _drawn(draws: Draws, word: str) -> list[bytes]:
    make = _WORDS.get(word)
    if make is not None:
        drawn = make(draws)
        return [drawn] if isinstance(drawn, bytes) else drawn
    if word in KINDS:
        return [draws.key(word)]
    return [word.encode()]


KINDS = frozenset(
    {"any", "doc", "str", "hll", "list", "set", "hash", "zset", "geo", "stream", "vset"}
)


def hostile_batch(draws: Draws, names: Sequence[str]) -> list[Call]:
    """Draw a batch: commands that change keys, then others again and again."""
    calls: list[Call] = []
    if draws.chance(20):
        calls = [(b"SETRANGE", NEW + b"%d" % i, b"1048575", b"x") for i in range(900)]
    for _ in range(draws.random.choice((1, 1, 2, 3, 6))):
        call = hostile_call(draws, draws.random.choice(names))
        times = draws.random.choice((1, 1, 2, 10, 17, 100, 400, 1000))
        calls += [call] * min(times, 1 + MAX_ARGUMENTS // len(call))
    if draws.chance(3):
        draws.random.shuffle(calls)
    return _within_bounds(calls)


def _within_bounds(calls: Sequence[Call]) -> list[Call]:
    taken: list[Call] = []
    words = sent = 0
    for call in calls[:MAX_BATCH_COMMANDS]:
        words += len(call)
        sent += sum(map(len, call))
        if words > MAX_ARGUMENTS or (taken and sent > MAX_BYTES):
            break
        taken.append(call)
    return taken
