"""Replies of guards in the shapes of RESP3.

Guards reply in RESP2, where a map is a flat list in its order, and a double is text. redis-py
parses replies by the protocol that its pool was given, which is RESP3 by default from redis-py 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keyleash.store.wire import Argument

Shape = Callable[[Any, list[str]], Any]


def as_resp3(words: Sequence[Argument], reply: Any) -> Any:
    """Return the *reply* to a command in the shape that it has in RESP3."""
    name, *arguments = [
        *_upper(words[0]).split(),
        *(_upper(word) for word in words[1:] if isinstance(word, str | bytes)),
    ]
    shape = _SHAPES.get(name)
    if shape is None or reply is None or isinstance(reply, Exception):
        return reply
    return shape(reply, arguments)


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


_RANGES = ("ZRANGE", "ZREVRANGE", "ZRANGEBYSCORE", "ZREVRANGEBYSCORE", "ZDIFF", "ZINTER", "ZUNION")

_SHAPES: dict[str, Shape] = {
    "HGETALL": _map,
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
