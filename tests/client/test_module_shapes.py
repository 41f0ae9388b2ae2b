"""Replies of modules in the shapes of RESP3, compared with those of a server."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import redis

from client.twin import answer
from keyleash.client.resp3 import as_resp3
from support.command_table import words_of
from support.gateways import gateway_to
from support.leash import Leash, grant
from support.servers import RealServer

SEED = r"""
FT.CREATE ix PREFIX 1 d: SKIPINITIALSCAN SCHEMA t TEXT SORTABLE t2 TEXT WEIGHT 2.5 PHONETIC dm:en
 NOSTEM g TAG SEPARATOR ; n NUMERIC SORTABLE UNF v VECTOR FLAT 6 TYPE FLOAT32 DIM 1
 DISTANCE_METRIC L2 o GEO
FT.CREATE 123 ON JSON PREFIX 1 j: STOPWORDS 1 the SKIPINITIALSCAN SCHEMA $.a AS a TAG CASESENSITIVE
 $.v AS v VECTOR HNSW 6 TYPE FLOAT32 DIM 1 DISTANCE_METRIC COSINE
HSET d:1 t "hello world" g a;b n 1 v "\x00\x00\x80?" o 1,2
HSET d:2 t hello n 2 return x
JSON.SET j:1 $ '{"a": "x", "v": [1], "n": 1.5, "c": {"a": 2}, "l": [1, "2.5", null], "t": true}'
BF.RESERVE bf:one 0.01 1 NONSCALING
CF.RESERVE cf:one 2 BUCKETSIZE 1 EXPANSION 0
CF.ADD cf x
CMS.INITBYDIM cms 10 3
TOPK.RESERVE topk 1
TDIGEST.CREATE td
TDIGEST.CREATE td:none
TDIGEST.ADD td 1 2.5 9
TS.CREATE ts LABELS a b c d
TS.CREATE ts:none
TS.CREATERULE ts ts:none AGGREGATION avg 10
TS.MADD ts 1 1.5 ts 2 0.1
""".replace("\n ", " ")
CALLS = r"""
FT._LIST
FT.SEARCH ix none
FT.SEARCH ix hello
FT.SEARCH ix hello NOCONTENT
FT.SEARCH ix hello RETURN 0
FT.SEARCH ix hello RETURN 3 t AS nocontent
FT.SEARCH ix hello RETURN 1 none
FT.SEARCH ix hello LIMIT 0 0
FT.SEARCH ix NOCONTENT WITHSCORES
FT.SEARCH ix hello WITHSCORES LIMIT 0 1
FT.SEARCH ix hello WITHSCORES EXPLAINSCORE NOCONTENT
FT.SEARCH ix hello withscores WITHPAYLOADS WITHSORTKEYS SORTBY n DESC
FT.SEARCH ix hello SORTBY return LANGUAGE english SCORER TFIDF TIMEOUT 100 SLOP 1 INORDER
FT.SEARCH ix hello FILTER n 0 5 GEOFILTER o 1 2 9 km INKEYS 1 d:1 INFIELDS 1 t VERBATIM
FT.SEARCH ix hello SUMMARIZE FIELDS 1 t FRAGS 2 LEN 3 SEPARATOR nocontent
FT.SEARCH ix hello HIGHLIGHT FIELDS 1 t TAGS <b> </b>
FT.SEARCH ix "*=>[KNN 1 @v $b AS s]" PARAMS 4 b "\x00\x00\x80?" x NOCONTENT DIALECT 2 RETURN 1 s
FT.SEARCH 123 @a:{x} DIALECT 3 RETURN 2 a n
FT.SEARCH missing hello
FT.AGGREGATE ix *
FT.AGGREGATE ix * LOAD 2 @t @n SORTBY 2 @n DESC
FT.AGGREGATE ix hello GROUPBY 0 REDUCE COUNT 0 AS c REDUCE TOLIST 1 @n AS l
FT.AGGREGATE ix none
FT.INFO ix
FT.INFO 123
FT.INFO missing
FT.ALTER ix SCHEMA ADD z TEXT
FT.DROPINDEX ix
JSON.GET j:1 $..a
JSON.GET j:none
JSON.MGET j:1 j:none $.n
JSON.TYPE j:1 $.n
JSON.TYPE j:1 n
JSON.OBJKEYS j:1 $..c
JSON.ARRLEN j:1 $.l
JSON.RESP j:1 $.c
JSON.NUMINCRBY j:1 $..a 2
JSON.NUMINCRBY j:1 .n 2
JSON.NUMMULTBY j:1 $.c.a 1.5
JSON.TOGGLE j:1 $.t
JSON.TOGGLE j:1 t
JSON.ARRPOP j:1 $.l
JSON.STRAPPEND j:1 $.a '"y"'
JSON.SET j:1 $.none.a 1
JSON.DEL j:1 $.c
BF.ADD bf x
BF.ADD bf x
BF.MADD bf x y
BF.MADD bf:one a b c
BF.INSERT bf ITEMS y z
BF.EXISTS bf x
BF.MEXISTS bf x q
BF.CARD bf
BF.INFO bf
CF.ADD cf y
CF.ADDNX cf y
CF.COUNT cf y
CF.INSERT cf ITEMS z
CF.INSERT cf:one ITEMS a b c d e
CF.INSERTNX cf:one ITEMS a b c d e
CF.EXISTS cf x
CF.MEXISTS cf x q
CF.DEL cf x
CF.DEL cf q
CF.INFO cf
CMS.INCRBY cms a 1 b 2
CMS.QUERY cms a q
CMS.INFO cms
TOPK.ADD topk a b
TOPK.QUERY topk a q
TOPK.COUNT topk a q
TOPK.LIST topk WITHCOUNT
TOPK.INFO topk
TDIGEST.MIN td
TDIGEST.MAX td
TDIGEST.TRIMMED_MEAN td 0.1 0.9
TDIGEST.QUANTILE td 0 0.5
TDIGEST.CDF td 2
TDIGEST.RANK td 2
TDIGEST.REVRANK td 2
TDIGEST.BYRANK td 0 7
TDIGEST.BYREVRANK td 0
TDIGEST.INFO td
TDIGEST.MIN td:none
TDIGEST.CDF td:none 2
TS.ADD ts 3 2
TS.GET ts
TS.GET ts:none
TS.RANGE ts - +
TS.RANGE ts - + AGGREGATION avg 2
TS.REVRANGE ts - + COUNT 1
TS.INFO ts
"""


CHANGES = re.compile(r"'(Memory usage|memoryUsage)'[:,] \d+")
"""What differs from one time to the next."""


def lines_of(text: str) -> list[tuple[bytes, ...]]:
    return [words_of(line) for line in text.strip().splitlines()]


@pytest.mark.parametrize("decoded", [False, True], ids=["bytes", "text"])
def test_replies_of_modules_are_shaped_as_servers_shape_them(
    stack_server: RealServer, decoded: bool
) -> None:
    """Each call is made in both protocols, on the same data."""
    in_resp2, in_resp3 = (
        replies_in(stack_server, stack_server.client(**options(decoded, protocol)))
        for protocol in (2, 3)
    )
    shaped = [
        reply if isinstance(reply, tuple) else as_resp3(words, reply, is_text=decoded)
        for words, reply in zip(lines_of(CALLS), in_resp2, strict=True)
    ]
    assert differing(shaped, in_resp3) == {}


@pytest.mark.parametrize("decoded", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_of_modules_are_the_same_guarded_as_raw(
    stack_server: RealServer, protocol: int, decoded: bool
) -> None:
    """From a guarded connection, and from a gateway."""
    leash = Leash(stack_server)
    keys = ["d:*", "j:*", "bf*", "cf*", "cms", "topk", "td*", "ts*"]
    grants = [{**grant("read", "write", "delete", keys=keys), "indexes": ["ix", "123", "missing"]}]
    leash.load(one={"grants": grants})
    token, spoken = leash.issue("one").token, options(decoded, protocol)

    raw = replies_in(stack_server, stack_server.client(**spoken))
    guarded = replies_in(stack_server, stack_server.guarded(token, **spoken))
    with gateway_to(stack_server.url) as gateway:
        url = f"redis://one:{token}@127.0.0.1:{gateway.port}"
        with redis.Redis.from_url(url, **spoken) as client:
            by_gateway = replies_in(stack_server, client)

    assert (differing(guarded, raw), differing(by_gateway, raw)) == ({}, {})


def options(decoded: bool, protocol: int) -> dict[str, Any]:
    return {
        "protocol": protocol, "decode_responses": decoded, "encoding_errors": "surrogateescape"
    }  # fmt: skip


def differing(replies: list[Any], others: list[Any]) -> dict[bytes, Any]:
    return {
        b" ".join(words): (reply, other)
        for words, reply, other in zip(lines_of(CALLS), replies, others, strict=True)
        if comparable(words, reply) != comparable(words, other)
    }


def comparable(words: tuple[bytes, ...], reply: Any) -> str:
    """Return a reply as text, in which an error and a NaN are equal to others of the same text."""
    if words[0] != b"FT.INFO":
        return CHANGES.sub("", repr(reply))
    # Statistics of an index change by themselves.
    return repr(reply).partition("num_docs")[0] + repr(outline(reply))


def outline(value: Any) -> Any:
    """Return the names in a reply, and the types of its values."""
    if isinstance(value, dict):
        return {name: outline(item) for name, item in value.items()}
    return [*map(outline, value)] if isinstance(value, list) else type(value)


def replies_in(server: RealServer, client: Any) -> list[Any]:
    """Return the reply to each call, or its error, on data that is made again."""
    admin = server.client()
    client.response_callbacks.clear()
    for name in admin.keys("[^k]*"):
        admin.delete(name)
    for name in admin.execute_command("FT._LIST"):
        admin.execute_command("FT.DROPINDEX", name)
    for words in lines_of(SEED):
        admin.execute_command(*words)
    return [answer(partial(client.execute_command, *words)) for words in lines_of(CALLS)]
