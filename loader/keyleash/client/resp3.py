"""Replies of guards in the shapes of RESP3.

Guards reply in RESP2, where a map is a flat list in its order, and a double is text. redis-py
parses replies by the protocol that its pool was given, which is RESP3 by default from redis-py 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from keyleash.store.wire import Argument

Shape = Callable[[Any, list[str]], Any]


def as_resp3(words: Sequence[Argument], reply: Any) -> Any:
    """Return the *reply* to a command in the shape that it has in RESP3."""
    shape, carried = shape_of(words[0])
    if shape is None or reply is None or isinstance(reply, Exception):
        return reply
    arguments = [_upper(word) for word in words[1:] if isinstance(word, str | bytes)]
    return shape(reply, [*carried, *arguments])


@lru_cache(maxsize=512)
def shape_of(name: str | bytes) -> tuple[Shape | None, list[str]]:
    """Return the shape of a command, and the arguments that redis-py allows in its name."""
    first, *carried = _upper(name).split() or [""]
    return _SHAPES.get(first), carried


def _upper(word: Any) -> str:
    return (word.decode("latin-1") if isinstance(word, bytes) else str(word)).upper()


def _double(value: Any) -> Any:
    return float(value) if isinstance(value, bytes | str) else value


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _map(reply: Any, _arguments: Any = None) -> Any:
    return dict(_pairs(reply))


def _scores(reply: list[Any], _arguments: Any = None) -> Any:
    return [[member, _double(score)] for member, score in _pairs(reply)]


def _with(option: str, shape: Shape) -> Shape:
    return lambda reply, arguments: shape(reply, arguments) if option in arguments else reply


def _popped(reply: list[Any], arguments: list[str]) -> Any:
    # With a count it is a list of pairs, also of one.
    if len(arguments) > 1 or len(reply) > 2:
        return _scores(reply)
    return [*reply[:1], *map(_double, reply[1:])]


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


def _flag(reply: Any, _arguments: Any = None) -> Any:
    return bool(reply) if isinstance(reply, int) else reply


def _vsim(reply: list[Any], arguments: list[str]) -> Any:
    if {"WITHSCORES", "WITHATTRIBS"} <= {*arguments}:
        return {
            name: [_double(score), attributes]
            for name, score, attributes in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        }
    if "WITHSCORES" in arguments:
        return {name: _double(score) for name, score in _pairs(reply)}
    return _map(reply) if "WITHATTRIBS" in arguments else reply


_RANGES = ("ZRANGE", "ZREVRANGE", "ZRANGEBYSCORE", "ZREVRANGEBYSCORE", "ZDIFF", "ZINTER", "ZUNION")

_SHAPES: dict[str, Shape] = {
    "HGETALL": _map,
    "VEMB": lambda reply, arguments: (
        [*reply[:2], *map(_double, reply[2:])] if "RAW" in arguments else [*map(_double, reply)]
    ),
    "VINFO": _map,
    "VLINKS": _with(
        "WITHSCORES",
        lambda reply, _: [
            {name: _double(score) for name, score in _pairs(layer)} for layer in reply
        ],
    ),
    "VSIM": _vsim,
    **dict.fromkeys(("VADD", "VREM", "VISMEMBER", "VSETATTR"), _flag),
    "XREAD": lambda reply, _: dict(reply),
    "XREADGROUP": lambda reply, _: dict(reply),
    "XINFO": _xinfo,
    "LCS": _with("IDX", _map),
    "HRANDFIELD": _with("WITHVALUES", lambda reply, _: [list(pair) for pair in _pairs(reply)]),
    "ZADD": lambda reply, _: _double(reply),
    "ZSCORE": lambda reply, _: _double(reply),
    "ZINCRBY": lambda reply, _: _double(reply),
    "ZMSCORE": lambda reply, _: [_double(item) for item in reply],
    **dict.fromkeys(
        ("ZRANK", "ZREVRANK"),
        _with("WITHSCORE", lambda reply, _: [reply[0], _double(reply[1])]),
    ),
    **dict.fromkeys(
        [
            "ZRANGE",
            "ZREVRANGE",
            "ZRANGEBYSCORE",
            "ZREVRANGEBYSCORE",
            "ZDIFF",
            "ZINTER",
            "ZUNION",
            "ZRANDMEMBER",
        ],
        _with("WITHSCORES", _scores),
    ),
    **dict.fromkeys(("ZPOPMIN", "ZPOPMAX"), _popped),
    **dict.fromkeys(("BZPOPMIN", "BZPOPMAX"), lambda reply, _: [*reply[:2], _double(reply[2])]),
    **dict.fromkeys(
        ("ZMPOP", "BZMPOP"),
        lambda reply, _: [reply[0], [[name, _double(score)] for name, score in reply[1]]],
    ),
    **dict.fromkeys(
        ("GEORADIUS", "GEORADIUS_RO", "GEORADIUSBYMEMBER", "GEORADIUSBYMEMBER_RO", "GEOSEARCH"),
        _with(
            "WITHCOORD",
            lambda reply, _: [[*found[:-1], [*map(_double, found[-1])]] for found in reply],
        ),
    ),
    "GEOPOS": lambda reply, _: [item and [_double(number) for number in item] for item in reply],
}
