"""Facts about commands that COMMAND does not report, by name.

COMMAND reports flags and key specs. It does not report why a command is not for agents, what an
option changes, or what a blocking command waits for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from keyleash.commands.spec import (
    KeyRange,
    KeySearch,
    Needs,
    NumberedKeys,
    OperationClass,
    OptionKey,
    Subscribes,
    Variant,
    Waits,
)
from keyleash.commands.work import (
    MAX_CALLS,
    MAX_EXPANDED_TERMS,
    MAX_EXPRESSION_BYTES,
    MAX_FORMATTED,
    MAX_INDEX_WORDS,
    MAX_INDEXES,
    MAX_INKEYS,
    MAX_MARK_BYTES,
    MAX_NEIGHBOURS,
    MAX_QUERY_BYTES,
    MAX_RETURNED,
    MAX_ROWS,
    MAX_SEARCH_STEPS,
    MAX_VECTOR_RANGES,
    MAX_WORD_BYTES,
    PATH_BYTES,
    PATH_LISTS,
    PATH_STEPS,
    SPREAD_BYTES,
)
from keyleash.errors.sentences import LEFT_OUT, NO_INDEXES, NO_SERVER_HAS, NOT_CHECKED

READ, WRITE, DELETE = OperationClass.READ, OperationClass.WRITE, OperationClass.DELETE

CONTROL_PREFIX = "keyleash:"
"""The prefix of all control keys, which no command of an agent may name."""
CONTAINER = "name its sub-command"
NO_SUBCOMMAND = "no policy can allow this command or any of its sub-commands"
NO_KEY = "it names no key that a grant could cover"
UNPLACED = "keyleash cannot determine which of its arguments are keys"
SERVERS_DIFFER = "servers place its keys differently"
ABSENT = "it may be called without one of its keys"
NOT_ONE_WALK = "its keys do not follow each other"
LEAVES_DATABASE = "it reaches into another database"
LEAVES_SERVER = "it sends keys to another server"
ABOUT_THE_CONNECTION = "it acts on the client's connection, which a guard cannot reach"
FLUSHES = "it deletes the keys of all clients"
UNSUBSCRIBES = "it needs no right: send it without the guard"
SCRIPTS = "a script or function may touch any key"
LISTENERS = "it shows who listens to which channels"
TRANSACTS = "a guard's call is atomic by itself; use a batch instead of WATCH and MULTI"

REFUSING_FLAGS: Mapping[str, str] = {
    "noscript": "it cannot run inside a script",
    "admin": "it administers the server",
    "pubsub": LISTENERS,
    "asking": "it belongs to cluster migration",
}
"""Refused command flags; a command with several has the first reason."""

SCANNED = {
    "DBSIZE": frozenset({OperationClass.SCAN}),
    **dict.fromkeys(("FLUSHDB", "FLUSHALL"), frozenset({OperationClass.SCAN, DELETE})),
}
"""Commands that connections make of SCAN and UNLINK, and the classes of the grants that count."""

SCRIPT_CALLS = ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO")

REFUSED: Mapping[str, str] = {
    "MOVE": LEAVES_DATABASE,
    "MIGRATE": LEAVES_SERVER,
    **dict.fromkeys(("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"), UNSUBSCRIBES),
    **dict.fromkeys(SCRIPT_CALLS, SCRIPTS),
    **dict.fromkeys(("FCALL", "FCALL_RO"), SCRIPTS),
    **dict.fromkeys(("WATCH", "UNWATCH", "MULTI", "EXEC", "DISCARD"), TRANSACTS),
    "MONITOR": "it shows the commands of all clients",
    "KEYS": "it lists all keys at once; use SCAN",
    "DBSIZE": "it counts what SCAN lists: no grant allows that, or the server has too many keys",
    **dict.fromkeys(("FLUSHDB", "FLUSHALL"), FLUSHES),
    "INFO": "it describes the whole server",
    **dict.fromkeys(("AUTH", "HELLO", "QUIT", "RESET"), ABOUT_THE_CONNECTION),
    "CLIENT NO-EVICT": "it lifts the server's bound on the memory of its connection",
    **dict.fromkeys(
        [f"CLIENT {name}" for name in ("LIST", "KILL", "PAUSE", "UNPAUSE", "UNBLOCK")],
        "it reaches the connections of all clients",
    ),
    **dict.fromkeys(
        [f"PUBSUB {name}" for name in ("CHANNELS", "NUMPAT", "SHARDCHANNELS")], LISTENERS
    ),
    **dict.fromkeys(("SELECT", "READONLY", "READWRITE"), ABOUT_THE_CONNECTION),
}
"""Commands refused by name. A grant is for the keys of the guard's own database."""

REFUSED_CONTAINERS: Mapping[str, str] = {
    "CLIENT": ABOUT_THE_CONNECTION,
    "SCRIPT": SCRIPTS,
    "FUNCTION": SCRIPTS,
}
"""Commands refused with all their sub-commands."""

INDEXES: Mapping[str, OperationClass] = {
    **dict.fromkeys(("FT.SEARCH", "FT.AGGREGATE", "FT.INFO", "FT._LIST"), READ),
    **dict.fromkeys(("FT.CREATE", "FT.ALTER"), WRITE),
    "FT.DROPINDEX": DELETE,
}
"""The commands of search indexes, and the class that each needs on its index.

Servers declare the index as a key, or no key; its documents are keys that no call names.
"""

INDEX_OPTIONS: Mapping[str, str] = {
    "FT.CREATE": " ON=1 PREFIX=nt STOPWORDS=nt LANGUAGE=1 LANGUAGE_FIELD=1 SCORE=1 SCORE_FIELD=1"
    " PAYLOAD_FIELD=1 FILTER=1x INDEXALL=1 MAXTEXTFIELDS=0 NOOFFSETS=0 NOHL=0 NOFIELDS=0 NOFREQS=0"
    " SKIPINITIALSCAN=0 ",
    "FT.SEARCH": " NOCONTENT=0 VERBATIM=0 NOSTOPWORDS=0 WITHSCORES=0 WITHPAYLOADS=0 WITHSORTKEYS=0"
    " FILTER=3 GEOFILTER=5 INKEYS=nt INFIELDS=n RETURN=n SUMMARIZE=0 HIGHLIGHT=0 FIELDS=n FRAGS=1"
    " LEN=1 SEPARATOR=1m TAGS=2m SLOP=1 TIMEOUT=1 INORDER=0 LANGUAGE=1 EXPANDER=1 SCORER=1"
    " PAYLOAD=1p EXPLAINSCORE=0 SORTBY=1 ASC=0 DESC=0 WITHCOUNT=0 LIMIT=2d PARAMS=np DIALECT=1 ",
    "FT.AGGREGATE": " VERBATIM=0 INORDER=0 SLOP=1 ADDSCORES=0 SCORER=1 LOAD=* TIMEOUT=1 GROUPBY=n"
    " REDUCE=r AS=1 SORTBY=n MAX=1d WITHCOUNT=0 APPLY=1x LIMIT=2d FILTER=1x PARAMS=np"
    " DIALECT=1 ",
}
"""The options that commands of indexes may have, with the number of words after each.

`n` is a count and as many words, `r` a word and the same, `*` the same or a `*`. A word that the
server takes for an option only after another one is an error elsewhere.

A letter says what these words are: `d` numbers of rows, `m` marks between words, `p` parameters,
`t` texts, `x` an expression; without one they are names of fields, or paths.
"""

TEXT_FUNCTIONS = (
    " case contains format lower parsetime startswith strlen substr timefmt to_str upper "
)
FUNCTIONS = (
    f"{TEXT_FUNCTIONS}abs ceil day dayofmonth dayofweek dayofyear exists exp floor geodistance hour"
    " log log2 minute month monthofyear sqrt to_number year "
)
"""The functions that read texts or make some, and all that an expression may call.

`split` makes as many strings as a text has parts, and `matched_terms` allocates as many as a call
asks for.
"""

VECTOR_OPTIONS = (
    " DIM=8192 INITIAL_CAP=1000000 BLOCK_SIZE=1024 M=1024 EF_CONSTRUCTION=4096 EF_RUNTIME=4096"
    " TYPE= DISTANCE_METRIC= EPSILON= "
)
"""The options of a vector field, and the most that its numbers add up to in one call.

The first document of an index takes memory for a thousand vectors.
"""

LISTS_INDEXES = "FT._LIST"
"""The command that lists the names of all indexes; any other names its index first."""

NO_SEARCH = "this server has no module Search"
OF_SEVERAL_NODES = "searches of several nodes cannot run in a guard"
OF_ALL_DATABASES = "indexes have keys of all databases, so only database 0 has searches"
REFUSED_OPTIONS: Mapping[str, str] = {
    "OPTION": "guards do not know one of its options, or its number of words",
    "TEMPORARY": "documents are deleted when such an index expires",
    "FT.DROPINDEX": "an index was dropped earlier in the batch",
    "BATCH": "a command before it in the batch changes something, so its size is not known",
    "DD": "with DD it is a call of its own, whose event has the number of documents",
    "WITHCURSOR": "a guard does not check the reads of a cursor",
    "INDEXES": f"the patterns of a caller have at most {MAX_INDEXES} indexes",
    "QUERY": f"a query has at most {MAX_QUERY_BYTES} bytes, with `w'` {MAX_WORD_BYTES}, and with"
    f" `*` or `%` words up to {MAX_WORD_BYTES}",
    "WORDS": f"names and texts have at most {MAX_WORD_BYTES} bytes, `TAGS` and `SEPARATOR`"
    f" {MAX_MARK_BYTES}, and an index {MAX_INDEX_WORDS} words",
    "PARAMS": "names of parameters have letters, digits and `_`, and values above"
    f" {MAX_WORD_BYTES} bytes are vectors",
    "ROWS": f"a search has at most {MAX_ROWS} rows",
    "TERMS": f"a query has at most {MAX_EXPANDED_TERMS} terms with a wildcard, `%` or a prefix, or"
    " half as many negations",
    "GEOSHAPE": "a comparison with a shape visits all documents",
    "BRACKETS": "with a filter of the policy, brackets and quotes of a query stand in pairs",
    **dict.fromkeys(
        ("WITHSCORES", "EXPLAINSCORE", "ADDSCORES", "SCORER"),
        "with a filter of the policy, scores but DOCSCORE would count words of other documents",
    ),
    "EXPANSIONS": "with a filter of the policy, `%` and `*` in words would find those of other"
    " documents, up to a number",
    "KNN": f"a query asks for at most {MAX_NEIGHBOURS} neighbours, in batches of 10 or more, and"
    f" has {MAX_VECTOR_RANGES} ranges of vectors",
    **dict.fromkeys(
        ("INKEYS", "FRAGS", "LEN"), f"a search has at most {MAX_INKEYS} keys, fragments and words"
    ),
    "STEPS": f"an aggregation has at most {MAX_SEARCH_STEPS} steps APPLY, FILTER, GROUPBY and"
    f" REDUCE, of up to {MAX_EXPRESSION_BYTES} bytes, with {MAX_CALLS} calls of functions, one"
    f" `format` of {MAX_FORMATTED}"
    f" values, without `split` and `matched_terms`, and samples of {MAX_INKEYS}",
    **dict.fromkeys(("HIGHLIGHT", "SUMMARIZE"), "beside KNN it may stop the server"),
    "DIALECT": "dialect 4 may stop the server: use 1, 2 or 3",
    "WITHOUTCOUNT": "missing counts may stop the server",
    "FIELDS": f"more than {MAX_RETURNED} words, or paths with `..`, `?`, a comma or NUL, may select"
    " too much",
    "WITHSUFFIXTRIE": "the suffixes of one document may take gigabytes",
    **dict.fromkeys(
        ("VECTOR", *(item.partition("=")[0] for item in VECTOR_OPTIONS.split())),
        f"the numbers of vectors are at most{VECTOR_OPTIONS.partition(' TYPE')[0]} in all",
    ),
}
"""The reasons why some words are denied in commands of indexes."""

UNCHECKED = "keyleash does not check this command of a module"
_UNCHECKED = re.compile(
    # Searches, indexes and time series by label reach keys that a call does not name; functions
    # of a module any key.
    r"_?FT\.|SEARCH\.|TIMESERIES\.|RG\.|TF(CALL|CALLASYNC|FUNCTION)\b"
    r"|TS\.(MGET|M(REV)?RANGE|QUERYINDEX)$"
    # A change that is declared as a read, what stopped servers for series that have rules, and what
    # is for developers of modules.
    r"|CF\.COMPACT$|TS\.DEL$|.*\.(LOAD|DEBUG)\b"
)


def is_unchecked(name: str) -> bool:
    """Return whether a command may reach more than its keys, or has paths that are not bounded."""
    has_paths = name.startswith("JSON.") and name not in MODULE_KEYS
    return name not in INDEXES and (has_paths or _UNCHECKED.match(name) is not None)


def why_unknown(name: str) -> str:
    """Return the reason why a command that no table has is denied."""
    if is_unchecked(name):
        return UNCHECKED
    if name in INDEXES:
        return NO_INDEXES
    if name in MODULE_KEYS:
        return LEFT_OUT
    module, dot, _ = name.partition(".")
    is_reviewed = any(known.startswith(f"{module}.") for known in MODULE_KEYS)
    return NOT_CHECKED if dot and not is_reviewed else f"{NO_SERVER_HAS} it"


LONG_PLACE = "[%[,:][%s-]*" + "%d" * 19
"""The Lua pattern of a place in an array that RedisJSON cannot hold: it stops the server."""

PATHS = "PATHS"
"""What a denial names if the JSON paths of a call may select too much."""

TOO_MANY_PATHS = (
    "its paths may select too much: keyleash allows in each one `..` or `?`, places in arrays of up"
    f" to 18 digits, {PATH_LISTS} commas,"
    f" {PATH_STEPS} steps and {PATH_BYTES} bytes, new values of {SPREAD_BYTES} bytes where it may"
    " select several, and no arrays and objects after `..`"
)

REFUSED_IF: Mapping[str, tuple[str, ...]] = {
    "COPY": ("DB",),
    # A text before each value, as often as it is deep.
    "JSON.GET": ("INDENT", "NEWLINE", "SPACE"),
    # A sketch that grows many times over, or whose elements take long; a chunk for each series.
    "BF.RESERVE": ("EXPANSION",),
    "BF.INSERT": ("CAPACITY", "ERROR", "EXPANSION"),
    "CF.RESERVE": ("EXPANSION", "MAXITERATIONS"),
    **dict.fromkeys(("CF.INSERT", "CF.INSERTNX"), ("CAPACITY",)),
    **dict.fromkeys(("TS.CREATE", "TS.ALTER", "TS.ADD", "TS.INCRBY", "TS.DECRBY"), ("CHUNK_SIZE",)),
    "TDIGEST.MERGE": ("COMPRESSION",),
    # A reply for each interval between two samples, and for each chunk.
    **dict.fromkeys(("TS.RANGE", "TS.REVRANGE"), ("EMPTY",)),
    "TS.INFO": ("DEBUG",),
}
"""Commands refused if they carry one of these option words."""

PATTERNS: Mapping[str, tuple[str, ...]] = dict.fromkeys(("SORT", "SORT_RO"), ("BY", "GET"))
"""Option words before a pattern, whose `*` the server replaces with each element of the key."""

MAY_REPLICATE = frozenset({"PFCOUNT", "PUBLISH", "SPUBLISH"})
"""The commands without the flag `write` that a server denies in a read-only script."""

NEEDS_ALL_KEYS = "servers allow its patterns only to ACL users with all keys"
"""Why a pattern is denied if the server's user may not read all keys."""

KEYLESS_PASSES = frozenset({"PING", "ECHO", "TIME"})
"""Keyless commands that are allowed: they touch no data, and clients need them."""

SUBSCRIPTIONS: Mapping[str, Subscribes] = {
    "SUBSCRIBE": Subscribes.CHANNEL,
    "SSUBSCRIBE": Subscribes.CHANNEL,
    "PSUBSCRIBE": Subscribes.PATTERN,
}
"""Commands that subscribe. A guard checks one channel, or one pattern, in a call."""

COUNTS_SUBSCRIBERS = ("PUBSUB NUMSUB", "PUBSUB SHARDNUMSUB")
"""The commands that count the subscribers of channels."""

CHANNELS: Mapping[str, int] = {
    **dict.fromkeys(("PUBLISH", "SPUBLISH", *SUBSCRIPTIONS), 1),
    **dict.fromkeys(COUNTS_SUBSCRIBERS, 2),
}
"""Commands with channels, and the place of the first one."""

SCANS = frozenset({"SCAN"})

VECTOR_SETS = frozenset(
    {"VADD", "VCARD", "VDIM", "VEMB", "VGETATTR", "VINFO"}
    | {"VISMEMBER", "VLINKS", "VRANDMEMBER", "VREM", "VSETATTR", "VSIM"}
)
"""The commands of Redis's own module, which were reviewed: they touch the keys that they name.

Those of other modules may touch more. A search index reads keys that its queries do not name, and
the server invents the key specs of most modules.
"""

NAMED_ONLY = frozenset({"RESTORE", "BF.LOADCHUNK", "CF.LOADCHUNK"})
"""Commands that a grant gives only if its `only` names them.

They store their payload unchanged. A server that does not validate payloads aborts when any
client reads a corrupt one.
"""


def _first_key(names: str, *needs: OperationClass) -> dict[str, tuple[KeySearch, ...]]:
    module, *rest = names.split()
    return dict.fromkeys((f"{module}.{name}" for name in rest), (KeyRange(1, 1, 1, needs),))


_MERGES: tuple[KeySearch, ...] = (KeyRange(1, 1, 1, (WRITE,)), NumberedKeys(2, 3, 1, (READ,)))

MODULE_KEYS: Mapping[str, tuple[KeySearch, ...]] = {
    # A filter in a path reveals content, so lengths count as content too.
    **_first_key("JSON GET TYPE STRLEN ARRLEN ARRINDEX OBJKEYS OBJLEN RESP", READ),
    "JSON.MGET": (KeyRange(1, -2, 1, (READ,)),),
    **_first_key("JSON SET MERGE ARRAPPEND ARRINSERT STRAPPEND", WRITE),
    "JSON.MSET": (KeyRange(1, -1, 3, (WRITE,)),),
    **_first_key("JSON NUMINCRBY NUMMULTBY TOGGLE", READ, WRITE),
    **_first_key("JSON DEL FORGET ARRTRIM CLEAR", DELETE),
    **_first_key("JSON ARRPOP", READ, DELETE),
    **_first_key("BF EXISTS MEXISTS CARD INFO SCANDUMP", READ),
    **_first_key("BF ADD MADD INSERT RESERVE LOADCHUNK", WRITE),
    **_first_key("CF EXISTS MEXISTS COUNT INFO SCANDUMP", READ),
    **_first_key("CF ADD ADDNX INSERT INSERTNX RESERVE LOADCHUNK", WRITE),
    **_first_key("CF DEL", DELETE),
    **_first_key("CMS QUERY INFO", READ),
    **_first_key("CMS INITBYDIM INITBYPROB", WRITE),
    **_first_key("CMS INCRBY", READ, WRITE),
    **_first_key("TOPK QUERY COUNT LIST INFO", READ),
    **_first_key("TOPK RESERVE", WRITE),
    # They return the items that they drop.
    **_first_key("TOPK ADD INCRBY", READ, WRITE),
    **_first_key("TDIGEST MIN MAX QUANTILE CDF TRIMMED_MEAN RANK REVRANK BYRANK BYREVRANK", READ),
    **_first_key("TDIGEST INFO", READ),
    **_first_key("TDIGEST CREATE ADD", WRITE),
    **_first_key("TDIGEST RESET", DELETE),
    **dict.fromkeys(("CMS.MERGE", "TDIGEST.MERGE"), _MERGES),
    **_first_key("TS GET INFO RANGE REVRANGE", READ),
    **_first_key("TS CREATE ALTER ADD INCRBY DECRBY", WRITE),
    "TS.MADD": (KeyRange(1, -1, 3, (WRITE,)),),
    # A rule copies what is written to the first key later.
    **dict.fromkeys(("TS.CREATERULE", "TS.DELETERULE"), (KeyRange(1, 2, 1, (READ, WRITE)),)),
}
"""The keys of commands of modules that were reviewed, which need no name in `only`.

The server invents the key specs of most modules, and some declare the first of several keys.
"""

VARIANTS: Mapping[str, Variant] = {
    "SET": Variant("GET", (READ, WRITE)),
    "BITFIELD": Variant(None, (READ,)),
}
"""The needs of some calls of these commands, whose key specs have `variable_flags`."""

UNFLAGGED_NEEDS: Mapping[str, Needs] = {
    # Without the option GET no value is returned.
    "SET": (WRITE,),
    # Both return entries and change their owner, but no server flags ACCESS: a write-only
    # identity could read a stream with them.
    "XAUTOCLAIM": (READ, WRITE),
    "XCLAIM": (READ, WRITE),
}
"""The needs of commands whose key-spec flags report too little, or too much."""

STORES: Mapping[str, tuple[KeySearch, ...]] = {
    "SORT": (KeyRange(1, 1, 1, (READ,)), OptionKey(("STORE",), 2, (WRITE,), PATTERNS["SORT"])),
    "SORT_RO": (KeyRange(1, 1, 1, (READ,)),),
}
"""The key searches of commands whose key specs are `unknown`; see `sortGetKeys` in Redis."""

STREAM_OPTIONS: Mapping[str, tuple[tuple[str, int], ...]] = {
    "XREAD": (("COUNT", 1), ("BLOCK", 1)),
    "XREADGROUP": (("GROUP", 2), ("COUNT", 1), ("BLOCK", 1), ("NOACK", 0), ("CLAIM", 1)),
}
"""The options before STREAMS and their numbers of arguments; a group may be named `STREAMS`."""

WAITS: Mapping[str, Waits] = {
    **dict.fromkeys(("BLPOP", "BRPOP", "BLMPOP"), Waits.ANY_KEY),
    **dict.fromkeys(("BZPOPMIN", "BZPOPMAX", "BZMPOP"), Waits.ANY_KEY),
    **dict.fromkeys(("BLMOVE", "BRPOPLPUSH"), Waits.FIRST_KEY),
    **dict.fromkeys(("XREAD", "XREADGROUP"), Waits.BLOCK),
}
"""Blocking commands that clients poll."""

OF_THE_CONNECTION = (
    "SETINFO", "SETNAME", "GETNAME", "ID", "INFO", "GETREDIR", "TRACKINGINFO", "NO-TOUCH"
)  # fmt: skip
"""The sub-commands of CLIENT that are about the caller's connection alone."""

CLASS_OF_FLAG: Mapping[str, OperationClass] = {
    "access": READ,
    "insert": WRITE,
    "update": WRITE,
    "delete": DELETE,
}
