"""The work of commands, which a guard estimates before one runs.

Weights were measured inside a script on Redis 8.0.2, Valkey 8.1.1 and Valkey 9.1.2; the slowest
counts: `python -m benchmarks.work`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from keyleash.commands.spec import Bound, Join, Lengthening, Lengthens, Work

Fact = TypeVar("Fact")

DEFAULT_WORK = 250_000
"""Default bound on the units of work of one call or batch: about 25 ms."""

DEFAULT_STRINGS = 10_000
"""Default bound on the strings that one call or batch reads: about 200 ms if they collide.

The Lua of every server hashes strings without a secret, so that an agent can choose strings of
which each is compared with all before it.
"""

DEFAULT_KEY_BYTES = 1024
"""Default bound on a name, since events and denials have it."""

COMPARED_STRINGS = 100
"""Number of strings of a reply, or of a stored result, from which their bytes count."""

PLAIN_STRING_BYTES, COMPARED_BYTES = 144, 40
"""Memory of a string that does not count; further bytes that are as much work as one string."""

SEARCH_WORK, DOCUMENT_WORK, SUMMARY_WORK, HIT_WORK, MARKING_WORK = 2_000, 60, 300, 6, 3
"""Work of a call of an index, of a document in its reply, of its summary, and of a key alone; of a
byte of a document in which matches are marked."""

MAX_QUERY_BYTES, MAX_EXPANDED_TERMS, MAX_NEIGHBOURS, MAX_INKEYS = 4096, 32, 1000, 100
MAX_SEARCH_STEPS, MAX_EXPRESSION_BYTES, MAX_RETURNED, MAX_FORMATTED, MAX_CALLS = 8, 1024, 32, 8, 16
MAX_WORD_BYTES, MAX_MARK_BYTES, MAX_PARAM_BYTES = 512, 32, 64 * 1024
MAX_INDEX_WORDS, MAX_INDEXES, MAX_SEARCH_OPTIONS, MAX_ROWS = 1024, 256, 64, 1_000_000
MAX_VECTOR_RANGES, TIMED_ROWS = 4, 100
"""Bounds on what the time limit of a search does not stop; rows after which it is looked at."""

MANY_ARGUMENTS = 2_000
"""Arguments of a call from which a guard collects garbage: less than a twentieth of its time."""

COLLECTED_KIB = 16 * 1024
"""Memory of a server's Lua after which it stops to collect garbage: about 20 ms."""

UNASKED_WORK = 1_000
"""Work up to which no size is read: reading it costs as much."""

PLAIN_BYTES = 64 * 1024
"""Length up to which extending a string is no work."""

ASKING_WORK = 100
"""Work of an estimate."""

QUESTION_WORK = 25
"""Work of each size that an estimate reads from the server."""

LOOKUP_WORK = 10
"""Work of a key that a pattern of SORT names, besides its bytes; of a field three times as much."""

PATTERN_WORK = 0.35
"""Work of a byte of a pattern of SORT, which is compared with grants and deny rules."""

USAGE_WORK = 0.5
"""Work of an element that MEMORY USAGE samples."""

STRING_WORK = 1 / 40
"""Work of a byte that a script reads."""

WORD_WORK = 0.9
"""Work of a word of a reply that a script reads."""

GROUP_WORK = 60
"""Work of a consumer group in the reply of XINFO GROUPS."""

CONSUMER_WORK = 50
"""Work of a consumer in the reply of XINFO CONSUMERS."""

BYTE_WORK, ECHO_BYTE_WORK = 1 / 70, 1 / 4
"""Work of a byte of the arguments of a call, or by which it extends a string; and of one that comes
back without a grant, by PING and ECHO. By default a call has 17 MB."""

PLAIN_WORDS = 100
"""Words of a stream entry that one XADD may have within the default bound."""

PLAIN_ENTRIES = 100
"""Number of stream entries with `PLAIN_WORDS` words within the default bound."""

UNASKED_READS = 16
"""Number of strings that a batch reads whole before lengths are checked."""

UNASKED_KEYS = 2
"""Number of keys of an MGET or PFCOUNT up to which its work is not estimated."""

DEFAULT_VALUE_BYTES = 16 * 1024 * 1024
"""Default bound on the length that a call may give a string: to read one takes 75 ms."""

DEFAULT_ELEMENT_BYTES = 200 * 1024
"""Default bound on an element, and on an entry of a stream: `COMPARED_STRINGS` are 20 MB."""

UNNOTED_BYTES = 64 * 1024
"""Length up to which a batch under the default bound does not note the string that it writes."""

IMAGE_WORK = 0.45
"""Work of a byte of a before-image or of an after-digest; of a string a sixth of it."""

BYTES_PER_ELEMENT = 250
"""Bytes of a key that are as much work as one element, for `ANY_SIZE`."""

ANY_SIZE = "ANY"

SIZE_BY_TYPE: Mapping[str, str] = {
    "string": "STRLEN",
    "list": "LLEN",
    "set": "SCARD",
    "zset": "ZCARD",
    "hash": "HLEN",
    "stream": "XLEN",
    "vectorset": "VCARD",
    "none": "EXISTS",
}
"""The command that returns the size of a key, by the reply of TYPE, for `ANY_SIZE`."""


PATH_BYTES, PATH_STEPS, PATH_LISTS, SPREAD_BYTES = 512, 32, 8, 1024
"""Most bytes, steps and commas of a JSON path, and bytes of new values where it selects several.

A deep value stops a server that reads it, so a path has few steps.
"""

DOCUMENT_SHRINKS = 16
"""Memory of a JSON document for a byte of its before-image, up to which one is made."""

BRANCH_WORK, PATH_LOOKUPS, DESCENT_WORK, DESCENT_LOOKUPS = 0.08, 5, 4, 7.5
"""Work of a byte of a document for a JSON path that may select several values, and how many times
as much a change is; for one with `..`, which may return each value as often as it is deep, and for
a change by one."""

MOVE_WORK, COPIED_ELEMENTS, MEASURE_WORK = 0.005, 2, 0.014
"""Work of an element that a change of an array moves; how many elements a byte of a copied string
counts as; work of a byte of a document that MEMORY USAGE visits."""

JSON_WORK = 0.12
"""Work of a byte of JSON that a call writes."""


def each(names: str, fact: Fact) -> dict[str, Fact]:
    """Return the same fact about several commands."""
    return dict.fromkeys(names.split(), fact)


SKETCHES: Mapping[str, str] = {
    "BF.RESERVE": "bn",
    "CF.RESERVE": "n",
    "CMS.INITBYDIM": "nd",
    "CMS.INITBYPROB": "ep",
    "TOPK.RESERVE": "dnd",
    "TDIGEST.CREATE": "-d",
}
"""How the numbers of a call make the size of a sketch: a letter for each, and 8 bytes times all.

`n` is a number, and `d` one of which each element of a later call visits all; `e` is an error, `p`
and `b` are probabilities.
"""


WORK: Mapping[str, Work] = {
    # Whole values.
    "HGETALL": Work(7, "HLEN", 2),
    **each("HKEYS HVALS", Work(6, "HLEN", 1)),
    "SMEMBERS": Work(3, "SCARD", 1),
    "COPY": Work(5, ANY_SIZE, bound=Bound.WHOLE),
    "DUMP": Work(10, ANY_SIZE, bound=Bound.WHOLE),
    "RESTORE": Work(1.5, None, bound=Bound.BYTES, place=3),
    **each("LREM LPOS LINSERT", Work(0.5, "LLEN")),
    "LTRIM": Work(0.1, "LLEN"),
    **each("BITCOUNT BITPOS", Work(0.003, "STRLEN")),
    **each("SORT SORT_RO", Work(20, ANY_SIZE, 1, bound=Bound.PATTERNS, place=2)),
    **each("HMGET HGETDEL HGETEX", Work(0.5, "HLEN", 1, bound=Bound.REPEATS, place=2, default=5)),
    # Several values.
    **each("SUNION SDIFF", Work(3, "SCARD", 1, last=0)),
    **each("SUNIONSTORE SDIFFSTORE", Work(3, "SCARD", first=2, last=0)),
    "SINTER": Work(5, "SCARD", 1, join=Join.LEAST, last=0),
    "SINTERSTORE": Work(5, "SCARD", join=Join.LEAST, first=2, last=0),
    "SINTERCARD": Work(2, "SCARD", join=Join.LEAST, last=0),
    **each("ZUNION ZDIFF", Work(12, ANY_SIZE, 1, last=0)),
    **each("ZUNIONSTORE ZDIFFSTORE", Work(6, ANY_SIZE, first=2, last=0)),
    "ZINTER": Work(12, ANY_SIZE, 1, join=Join.LEAST, last=0),
    "ZINTERSTORE": Work(10, ANY_SIZE, join=Join.LEAST, first=2, last=0),
    "ZINTERCARD": Work(10, ANY_SIZE, join=Join.LEAST, last=0),
    "BITOP": Work(0.012, "STRLEN", join=Join.MOST, first=2, last=0),
    "LCS": Work(0.04, "STRLEN", join=Join.PRODUCT, last=2),
    "MGET": Work(STRING_WORK, "STRLEN", 1, last=0, bound=Bound.KEY_COUNT, default=UNASKED_KEYS),
    "PFCOUNT": Work(80, None, last=0, bound=Bound.KEY_COUNT, default=UNASKED_KEYS),
    # A sparse destination is written register by register, even from one source.
    "PFMERGE": Work(8_000, None, last=0, bound=Bound.KEY_COUNT),
    # Parts of a value.
    "LRANGE": Work(1.5, "LLEN", 1, bound=Bound.RANGE, place=2),
    **each("LINDEX LSET", Work(0.05, "LLEN", bound=Bound.INDEX, place=2)),
    "ZREMRANGEBYRANK": Work(5, "ZCARD", bound=Bound.RANGE, place=2),
    **each(
        "ZRANGE ZREVRANGE ZRANGEBYSCORE ZREVRANGEBYSCORE ZRANGEBYLEX ZREVRANGEBYLEX",
        Work(8, "ZCARD", 1, bound=Bound.RANGE, place=2),
    ),
    "ZRANGESTORE": Work(8, "ZCARD", first=2, last=2, bound=Bound.RANGE, place=3),
    **each("ZREMRANGEBYSCORE ZREMRANGEBYLEX", Work(5, "ZCARD", bound=Bound.RANGE, place=2)),
    # Members within a distance cannot be counted without visiting them.
    **each(
        "GEOSEARCH GEORADIUS GEORADIUS_RO GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO",
        Work(10, "ZCARD", 1, bound=Bound.ANY, place=2),
    ),
    "GEOSEARCHSTORE": Work(10, "ZCARD", first=2, last=2, bound=Bound.ANY, place=3),
    **each("LPOP RPOP", Work(4, "LLEN", 1, bound=Bound.COUNT, place=2)),
    "SPOP": Work(12, "SCARD", 1, bound=Bound.COUNT, place=2),
    "SRANDMEMBER": Work(40, "SCARD", 1, bound=Bound.COUNT, place=2),
    "HRANDFIELD": Work(28, "HLEN", 1, bound=Bound.COUNT, place=2),
    "ZRANDMEMBER": Work(34, "ZCARD", 1, bound=Bound.COUNT, place=2),
    "VRANDMEMBER": Work(40, "VCARD", 1, bound=Bound.COUNT, place=2),
    **each("ZPOPMIN ZPOPMAX", Work(13, "ZCARD", 2, bound=Bound.COUNT, place=2)),
    **each("LMPOP BLMPOP", Work(4, "LLEN", 1, last=0, bound=Bound.OPTION, default=1)),
    **each("ZMPOP BZMPOP", Work(13, "ZCARD", 2, last=0, bound=Bound.OPTION, default=1)),
    "SCAN": Work(10, None, 1, bound=Bound.SCAN, place=2, default=10),
    "HSCAN": Work(13, "HLEN", 2, bound=Bound.SCAN, place=3, default=10),
    "SSCAN": Work(7, "SCARD", 1, bound=Bound.SCAN, place=3, default=10),
    "ZSCAN": Work(19, "ZCARD", 2, bound=Bound.SCAN, place=3, default=10),
    "MEMORY USAGE": Work(1.3, ANY_SIZE, bound=Bound.OPTION, default=5),
    # Streams. An entry is handled whole, however many words it has.
    **each("XRANGE XREVRANGE", Work(14, "XLEN", bound=Bound.ENTRIES, place=2)),
    **each("XREAD XREADGROUP", Work(14, "XLEN", last=0, bound=Bound.STREAMS)),
    "XADD": Work(2_500, None, bound=Bound.WORDS, default=PLAIN_WORDS + 2),
    "XCLAIM": Work(2_400, "XLEN", bound=Bound.REPEATS, place=4, default=20),
    "XAUTOCLAIM": Work(2_400, "XLEN", bound=Bound.OPTION, default=100),
    "XINFO GROUPS": Work(GROUP_WORK, "XLEN", bound=Bound.GROUPS),
    "XINFO CONSUMERS": Work(CONSUMER_WORK, "XLEN", bound=Bound.GROUPS, place=3),
    "XPENDING": Work(CONSUMER_WORK, "XLEN", bound=Bound.GROUPS, place=2),
    "XGROUP DELCONSUMER": Work(3.5, "XLEN", bound=Bound.GROUPS, place=3),
    "XGROUP DESTROY": Work(1.5, "XLEN", bound=Bound.GROUPS, place=3),
    "XINFO STREAM": Work(2.5, "XLEN", bound=Bound.FULL, place=3),
    # Sketches and time series. One call makes 64 MB at most within the default bound.
    **dict.fromkeys(SKETCHES, Work(1 / 256, None, bound=Bound.SKETCH, place=2)),
    **each("TS.RANGE TS.REVRANGE", Work(6, None, 1, bound=Bound.SAMPLES, place=4)),
    **each("CMS.MERGE TDIGEST.MERGE", Work(0.002, None, last=0, bound=Bound.SAMPLES, place=2)),
    # JSON.
    **each(
        "JSON.GET JSON.MGET", Work(STRING_WORK, None, last=0, bound=Bound.PATHS, place=2, default=2)
    ),
    **each(
        "JSON.ARRINDEX JSON.ARRPOP", Work(STRING_WORK, None, bound=Bound.PATHS, place=2, default=5)
    ),
    "JSON.OBJKEYS": Work(0.03, None, 1, bound=Bound.PATHS, place=2),
    "JSON.RESP": Work(0.3, None, 1, bound=Bound.PATHS, place=2),
    **each(
        "JSON.TYPE JSON.ARRLEN JSON.OBJLEN JSON.NUMINCRBY JSON.NUMMULTBY JSON.TOGGLE"
        " JSON.DEL JSON.FORGET JSON.CLEAR",
        Work(0, None, bound=Bound.PATHS, place=2, default=4),
    ),
    **each("JSON.ARRTRIM JSON.STRLEN", Work(0, None, bound=Bound.PATHS, place=2, default=1)),
    **each(
        "JSON.SET JSON.MERGE JSON.ARRAPPEND",
        Work(0, None, join=Join.PRODUCT, bound=Bound.PATHS, place=2, default=4),
    ),
    **each(
        "JSON.ARRINSERT JSON.STRAPPEND",
        Work(0, None, join=Join.PRODUCT, bound=Bound.PATHS, place=2, default=1),
    ),
    "JSON.MSET": Work(0, None, join=Join.PRODUCT, last=0, bound=Bound.PATHS, place=2, default=3),
    # Vector sets.
    "VSIM": Work(10, "VCARD", 1, bound=Bound.OPTION, default=10),
    "VADD": Work(0.04, None, bound=Bound.REDUCE, place=2),
}
"""Estimates of the work of commands. Arguments bound the work of all others."""


READS: Mapping[str, Work] = {
    **each("GET GETDEL GETEX GETSET MGET SET", Work(STRING_WORK, "STRLEN", last=0)),
    **each("GETRANGE SUBSTR", Work(STRING_WORK, "STRLEN", bound=Bound.RANGE, place=2)),
}
"""Estimates of the work of reading strings, for a batch that reads many."""

RETURNS = frozenset((
    "BITFIELD", "BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH",
    "BZMPOP", "BZPOPMAX", "BZPOPMIN", "GETDEL", "GETEX", "GETSET",
    "HGETDEL", "HGETEX", "LMOVE", "LMPOP", "LPOP", "RPOP",
    "RPOPLPUSH", "SPOP", "TOPK.ADD", "TOPK.INCRBY", "XAUTOCLAIM", "XCLAIM",
    "XREADGROUP", "ZMPOP", "ZPOPMAX", "ZPOPMIN",
))  # fmt: skip
"""The commands that change a key and return its old value, beside SET with the option GET."""

LENGTHENS: Mapping[str, Lengthens] = {
    **dict.fromkeys(("SET", "SETNX", "GETSET"), Lengthens(Lengthening.ARGUMENT, 2)),
    **dict.fromkeys(("SETEX", "PSETEX", "RESTORE"), Lengthens(Lengthening.ARGUMENT, 3)),
    **dict.fromkeys(("MSET", "MSETNX"), Lengthens(Lengthening.PAIRS, 2)),
    "MSETEX": Lengthens(Lengthening.PAIRS, 3),
    "APPEND": Lengthens(Lengthening.APPEND, 2),
    "SETRANGE": Lengthens(Lengthening.RANGE, 2),
    "SETBIT": Lengthens(Lengthening.BIT, 2),
    "BITFIELD": Lengthens(Lengthening.FIELDS, 2),
    "BITOP": Lengthens(Lengthening.LONGEST, 3),
    "COPY": Lengthens(Lengthening.COPY, 1),
    **each(
        "SADD LPUSH RPUSH LPUSHX RPUSHX HSET HMSET HSETNX HSETEX HINCRBY HINCRBYFLOAT ZADD ZINCRBY"
        " GEOADD LINSERT LSET VADD VSETATTR",
        Lengthens(Lengthening.ELEMENTS, 2),
    ),
    **dict.fromkeys(("XREADGROUP", "XCLAIM", "XAUTOCLAIM"), Lengthens(Lengthening.NAMES, 2)),
    **dict.fromkeys(("XGROUP CREATE", "XGROUP CREATECONSUMER"), Lengthens(Lengthening.NAMES, 3)),
    "XADD": Lengthens(Lengthening.ENTRY, 2),
}
"""The commands that may lengthen a string, or add an element."""
