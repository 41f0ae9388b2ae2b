"""Calls that become possible or impossible, as examples on a line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from keyleash.cli.text import printable
from keyleash.commands import OperationClass
from keyleash.policy.diff import Gain

SHOWN = 4
"""So many examples are shown of an identity; `--json` has all."""

_FAMILIAR = ("GET", "SET", "DEL", "INCR", "LPOP", "EXISTS", "PUBLISH", "SCAN", "COPY", "PING")


def examples(gains: Iterable[Gain]) -> Iterator[str]:
    """The most telling ones, and how many others there are."""
    ordered = sorted(gains, key=_rank)
    yield from map(example, ordered[:SHOWN])
    others = {name for gain in ordered[SHOWN:] for name in gain.commands}
    others -= {name for gain in ordered[:SHOWN] for name in gain.commands}
    if others:
        yield f"and calls of {_commands(len(others), others)}"


def example(gain: Gain) -> str:
    """One call, and how many commands are allowed alike."""
    name = _familiar(gain)
    said = f"{name} {_arguments(gain)}".rstrip()
    if _is_set_with_get(name, gain):
        said += " … GET"
    if gain.shown is not None:
        return f"{said} shows {_key(gain.shown)}"
    alike = len(gain.commands) - 1
    return said + (f", and {_commands(alike, gain.commands)} alike" if alike else "")


def _arguments(gain: Gain) -> str:
    if gain.glob is not None:
        return f"MATCH `{printable(gain.glob)}`"
    if gain.channel is not None:
        return f"`{printable(gain.channel)}`"
    return " ".join(map(_key, gain.keys))


def _key(key: bytes | None) -> str:
    if key is None:
        return "some key"
    return f"`{printable(key)}`" if key else "the empty key"


def _familiar(gain: Gain) -> str:
    known = [name for name in _FAMILIAR if name in gain.commands]
    plain = (name for name in known if not _is_set_with_get(name, gain))
    return next(plain, (*known, *gain.commands)[0])


def _is_set_with_get(name: str, gain: Gain) -> bool:
    """Whether the calls are SET … GET: a plain SET reads nothing, and may be allowed as before."""
    return name == "SET" and any(OperationClass.READ in needs for needs in gain.form.needs)


def _rank(gain: Gain) -> tuple[int, int]:
    name = _familiar(gain)
    place = _FAMILIAR.index(name) if name in _FAMILIAR else len(_FAMILIAR)
    # What every identity may do tells least.
    return (len(gain.form.needs) or (9 if name == "PING" else 1), place)


def _commands(count: int, names: Iterable[str]) -> str:
    listed = sorted(names)
    if count == 1 and len(listed) == 1:
        return f"one other command, {listed[0]}"
    return "one other command" if count == 1 else f"{count} other commands"
