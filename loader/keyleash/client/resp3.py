"""Replies of guards in the shapes of RESP3.

Guards reply in RESP2, where a map is a flat list in its order, and a double is text. redis-py
parses replies by the protocol that its pool was given, which is RESP3 by default from redis-py 8.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from redis.exceptions import ResponseError

from keyleash.client.command_words import upper
from keyleash.client.retries import mark_run
from keyleash.commands.facts import INDEX_OPTIONS
from keyleash.store.wire import WRONG, Argument

Shape = Callable[[Any, Any], Any]


class Text(bytes):
    """A string whose number becomes a `Double`: of programs that pass replies on."""


class Double(bytes):
    """A double, with the digits of the server."""


class _Arguments(list[str]):
    """Arguments in upper case; `name` makes a name of a map that a reply in RESP2 lacks."""

    name: Callable[[str], Any] = staticmethod(str.encode)


def as_resp3(words: Sequence[Argument], reply: Any, *, is_text: bool = False) -> Any:
    """Return the *reply* to a command in the shape that it has in RESP3.

    Args:
        is_text: Whether strings are decoded.

    Raises:
        ResponseError: it has another form than Redis and Valkey give it.
    """
    shape, carried = shape_of(words[0])
    if shape is None or reply is None or isinstance(reply, Exception):
        return reply
    arguments = _Arguments([*carried, *map(upper, words[1:])])
    if is_text:
        arguments.name = str
    try:
        return shape(reply, arguments)
    except WRONG as error:
        what = f"the reply to {upper(words[0]).split()[0]} cannot be given the form of RESP3"
        raise mark_run(ResponseError(f"{what}; the command has run")) from error


@lru_cache(maxsize=512)
def shape_of(name: str | bytes) -> tuple[Shape | None, list[str]]:
    """Return the shape of a command, and the arguments that redis-py allows in its name."""
    first, *carried = upper(name).split() or [""]
    return _SHAPES.get(first), carried


def _double(value: Any, _arguments: Any = None) -> Any:
    """Return a double; of a list all its strings as doubles."""
    if isinstance(value, list):
        return [*map(_double, value)]
    if isinstance(value, Text):
        return Double(value)
    return float(value) if isinstance(value, bytes | str) else value


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _map(reply: Any, _arguments: Any = None) -> Any:
    return dict(_pairs(reply))


def _scores(reply: list[Any], _arguments: Any = None) -> Any:
    return [[member, _double(score)] for member, score in _pairs(reply)]


def _with(option: str, behind: int | Callable[[list[str]], int], shape: Shape) -> Shape:
    """Shape the reply if an option is given.

    Args:
        behind: The number of arguments that are no options, such as keys and members, or a
            function that returns it.
    """

    def shaped(reply: Any, arguments: list[str]) -> Any:
        first = behind if isinstance(behind, int) else behind(arguments)
        return shape(reply, arguments) if option in arguments[first:] else reply

    return shaped


def _behind_keys(arguments: list[str]) -> int:
    """Return the number of arguments up to the last key, where the first is the number of keys."""
    return 1 + int(arguments[0])


def _behind_center(arguments: list[str]) -> int:
    """Return the number of arguments up to the member or the point that GEOSEARCH looks around."""
    at = 1
    while arguments[at] not in ("FROMMEMBER", "FROMLONLAT"):
        # BYRADIUS and BYBOX may come first; their values are numbers and units.
        at += 1
    return at + (2 if arguments[at] == "FROMMEMBER" else 3)


def _behind_vector(arguments: list[str]) -> int:
    return 3 + int(arguments[2]) if arguments[1] == "VALUES" else 3


def _popped(reply: list[Any], arguments: list[str]) -> Any:
    # With a count it is a list of pairs, also of one.
    if len(arguments) > 1 or len(reply) > 2:
        return _scores(reply)
    return [*reply[:1], *_double(reply[1:])]


def _xinfo(reply: Any, arguments: list[str]) -> Any:
    if arguments[0] in ("GROUPS", "CONSUMERS"):
        return [_map(item) for item in reply]
    info = _map(reply)
    for groups in ("groups", b"groups"):
        if isinstance(info.get(groups), list):
            info[groups] = [_map(item) for item in info[groups]]
            for group in info[groups]:
                for consumers in ("consumers", b"consumers"):
                    if consumers in group:
                        group[consumers] = [_map(item) for item in group[consumers]]
    return info


def _coordinates(reply: list[Any], _arguments: Any = None) -> Any:
    return [[*item[:-1], _double(item[-1])] for item in reply]


def _numbers(reply: bytes | str, _arguments: Any = None) -> list[Any]:
    parsed = json.loads(reply)
    return parsed if isinstance(parsed, list) else [parsed]


def _flag(reply: Any, _arguments: Any = None) -> Any:
    if isinstance(reply, list):
        return [*map(_flag, reply)]
    return reply > 0 if isinstance(reply, int) else reply


def _facts(reply: list[Any], arguments: _Arguments, parent: str = "") -> Any:
    return {name: _fact(upper(name), item, arguments, parent) for name, item in _pairs(reply)}


def _fact(name: str, value: Any, arguments: _Arguments, parent: str) -> Any:
    """Return a value of FT.INFO, TS.INFO or TOPK.INFO; *parent* is the map that has it."""
    if name in ("CURSOR_STATS", "DIALECT_STATS", "GC_STATS", "INDEX ERRORS", "INDEX_DEFINITION"):
        return _facts(value, arguments, name)
    if name in ("ATTRIBUTES", "FIELD STATISTICS"):
        shape = _attribute if name == "ATTRIBUTES" else _facts
        return [shape(item, arguments) for item in value]
    if name in ("LABELS", "RULES"):
        return {item: rest[0] if name == "LABELS" else rest for item, *rest in value}
    return _double(value) if name.endswith(_DOUBLES) or parent == "GC_STATS" else value


def _attribute(words: list[Any], arguments: _Arguments) -> Any:
    attribute, flags, rest = {}, [], iter(words)
    for word in rest:
        if word.isupper() and upper(word) not in ("M", "PHONETIC", "SEPARATOR", "WEIGHT"):
            flags.append(word)
        else:
            attribute[word] = _double(next(rest)) if upper(word) == "WEIGHT" else next(rest)
    return {**attribute, arguments.name("flags"): flags}


def _search(reply: list[Any], arguments: _Arguments) -> Any:
    options, at = dict[str, int](), 2
    while at < len(arguments):
        count = _VALUES.get(arguments[at], 0)
        options[arguments[at]] = 1 + int(arguments[at + 1]) if count is None else count
        at += 1 + options[arguments[at]]
    parts = ["id", *(part for option, part in _PARTS.items() if option in options)]
    if "NOCONTENT" not in options and options.get("RETURN") != 1:
        parts.append("extra_attributes")
    return _found(reply, parts, arguments)


def _found(reply: list[Any], parts: list[str], arguments: _Arguments) -> Any:
    """Shape what was found; replies in RESP2 have no warnings."""
    name = arguments.name
    names = [name(part) for part in (*parts, "values")]
    rows = zip(*[iter(reply[1:])] * len(parts), strict=True)
    results = [dict(zip(names, (*map(_part, parts, row), []), strict=True)) for row in rows]
    values: tuple[Any, ...] = [], reply[0], name("STRING"), results, []
    return dict(zip(map(name, _RESULT), values, strict=True))


def _part(part: str, value: Any) -> Any:
    if part == "score":
        return [_double(value[0]), *value[1:]] if isinstance(value, list) else _double(value)
    return _map(value) if part == "extra_attributes" and value is not None else value


_RESULT = ("attributes", "total_results", "format", "results", "warning")
_PARTS = {"WITHSCORES": "score", "WITHPAYLOADS": "payload", "WITHSORTKEYS": "sortkey"}
_VALUES = {
    option: int(count[0]) if count[0].isdigit() else None
    for option, _, count in (item.partition("=") for item in INDEX_OPTIONS["FT.SEARCH"].split())
}
"""The numbers of values of options of FT.SEARCH; None if the first value says how many follow."""
_DOUBLES = ("DECAY", "MAXVALDIFF", "_AVG", "_INDEXED", "_MB", "_SCORE", "_TIME")
"""How names of doubles in FT.INFO, TS.INFO and TOPK.INFO end."""


def _vsim(reply: list[Any], arguments: list[str]) -> Any:
    arguments = arguments[_behind_vector(arguments) :]
    if {"WITHSCORES", "WITHATTRIBS"} <= {*arguments}:
        return {
            name: [_double(score), attributes]
            for name, score, attributes in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        }
    if "WITHSCORES" in arguments:
        return {name: _double(score) for name, score in _pairs(reply)}
    return _map(reply) if "WITHATTRIBS" in arguments else reply


_SHAPES: dict[str, Shape] = {
    "CLIENT": lambda reply, words: _map(reply) if words[0] == "TRACKINGINFO" else reply,
    "HGETALL": _map,
    "JSON.TYPE": lambda reply, _: [reply],
    **dict.fromkeys(("JSON.NUMINCRBY", "JSON.NUMMULTBY"), _numbers),
    **dict.fromkeys(("BF.ADD", "BF.EXISTS", "CF.ADD", "CF.ADDNX", "CF.DEL", "CF.EXISTS"), _flag),
    **dict.fromkeys(("BF.INSERT", "BF.MADD", "BF.MEXISTS", "CF.INSERT", "CF.MEXISTS"), _flag),
    **dict.fromkeys(("TOPK.QUERY", "VADD", "VREM", "VISMEMBER", "VSETATTR"), _flag),
    **dict.fromkeys(("CF.INFO", "CMS.INFO", "FT.INFO"), _facts),
    **dict.fromkeys(("TDIGEST.INFO", "TOPK.INFO", "TS.INFO"), _facts),
    "BF.INFO": lambda reply, arguments: reply if len(arguments) > 1 else _map(reply),
    "FT.SEARCH": _search,
    "FT.AGGREGATE": lambda reply, arguments: _found(reply, ["extra_attributes"], arguments),
    **dict.fromkeys(("TDIGEST.BYRANK", "TDIGEST.BYREVRANK", "TDIGEST.CDF"), _double),
    **dict.fromkeys(("TDIGEST.MAX", "TDIGEST.MIN", "TDIGEST.QUANTILE"), _double),
    **dict.fromkeys(("TDIGEST.TRIMMED_MEAN", "TS.GET", "TS.RANGE", "TS.REVRANGE"), _double),
    "VEMB": lambda reply, arguments: (
        [*reply[:2], *_double(reply[2:])] if "RAW" in arguments[2:] else _double(reply)
    ),
    "VINFO": _map,
    "VLINKS": _with(
        "WITHSCORES",
        2,
        lambda reply, _: [
            {name: _double(score) for name, score in _pairs(layer)} for layer in reply
        ],
    ),
    "VSIM": _vsim,
    **dict.fromkeys(("GEOPOS", "ZADD", "ZSCORE", "ZINCRBY", "ZMSCORE"), _double),
    "XREAD": lambda reply, _: dict(reply),
    "XREADGROUP": lambda reply, _: dict(reply),
    "XINFO": _xinfo,
    "LCS": _with("IDX", 2, _map),
    "HRANDFIELD": _with("WITHVALUES", 2, lambda reply, _: [list(pair) for pair in _pairs(reply)]),
    **dict.fromkeys(
        ("ZRANK", "ZREVRANK"), _with("WITHSCORE", 2, lambda reply, _: [reply[0], _double(reply[1])])
    ),
    **dict.fromkeys(
        ("ZRANGE", "ZREVRANGE", "ZRANGEBYSCORE", "ZREVRANGEBYSCORE"),
        _with("WITHSCORES", 3, _scores),
    ),
    **dict.fromkeys(("ZDIFF", "ZINTER", "ZUNION"), _with("WITHSCORES", _behind_keys, _scores)),
    "ZRANDMEMBER": _with("WITHSCORES", 2, _scores),
    **dict.fromkeys(("ZPOPMIN", "ZPOPMAX"), _popped),
    **dict.fromkeys(("BZPOPMIN", "BZPOPMAX"), lambda reply, _: [*reply[:2], _double(reply[2])]),
    **dict.fromkeys(
        ("ZMPOP", "BZMPOP"),
        lambda reply, _: [reply[0], [[name, _double(score)] for name, score in reply[1]]],
    ),
    **dict.fromkeys(("GEORADIUS", "GEORADIUS_RO"), _with("WITHCOORD", 5, _coordinates)),
    **dict.fromkeys(
        ("GEORADIUSBYMEMBER", "GEORADIUSBYMEMBER_RO"), _with("WITHCOORD", 4, _coordinates)
    ),
    "GEOSEARCH": _with("WITHCOORD", _behind_center, _coordinates),
}
