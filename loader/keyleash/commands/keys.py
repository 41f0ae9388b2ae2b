"""From a call's arguments to its keys, and what each key needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyleash.commands.spec import (
    CommandSpec,
    KeyRange,
    KeySearch,
    Needs,
    NumberedKeys,
    OptionKey,
    StreamKeys,
)
from keyleash.errors import KeyleashError, Span

_NUMBER = re.compile(rb"\s*\+?([0-9]+)")


class UnplacedKeysError(KeyleashError):
    """The keys of a command, or of a call, that guards refuse were asked for."""

    code = "unplaced-keys"
    exit_code = 65

    def __init__(self, command: str, reason: str, span: Span | None = None) -> None:
        super().__init__(
            f"cannot place every key of `{command}`: {reason}",
            help="grant a command whose keys can be placed instead",
            span=span,
        )
        self.command = command
        self.reason = reason


@dataclass(frozen=True, slots=True)
class KeyUse:
    """
    One key of one call.

    Attributes:
        key: The key.
        needs: The classes that the call needs on it.
    """

    key: bytes
    needs: Needs


def keys_of(spec: CommandSpec, argv: Sequence[bytes]) -> tuple[KeyUse, ...]:
    """
    Say which keys a call touches, and how.

    The answer is complete or there is none: a command whose keys cannot all be
    placed is refused, because a missed key is a missed permission check.

    Args:
        spec: The command's row in the table.
        argv: The call as the client would send it, command name first. A call that is
            too short, or that counts more keys than it has, has the keys that are there;
            the server will say what it misses.

    Returns:
        One entry per key, in argument order; a key given twice is there twice.

    Raises:
        UnplacedKeysError: *spec* is refused, or the call has an option that is, or that hides
            its keys.
    """
    needs = _needs_instead(spec, argv)
    return tuple(
        KeyUse(argv[place], search.needs if needs is None else needs)
        for place, search in _placed(spec, argv)
    )


def key_places(spec: CommandSpec, argv: Sequence[bytes]) -> tuple[int, ...]:
    """Say where the keys of a call stand; see `keys_of`, which says also what they need."""
    return tuple(place for place, _ in _placed(spec, argv))


def is_option(argument: bytes, word: str) -> bool:
    r"""
    Tell whether the server takes an argument for an option word.

    Redis compares options as C strings, so what follows a NUL does not count:
    `get\0junk` is GET.
    """
    return argument.split(b"\0", 1)[0].upper() == word.encode()


def refused_option(spec: CommandSpec, argv: Sequence[bytes]) -> str | None:
    """The option word for which a guard refuses the call, if it has one."""
    rest = argv[spec.options_start :]
    return next((word for word in spec.refused_if if any(is_option(a, word) for a in rest)), None)


def only_gets(argv: Sequence[bytes]) -> bool:
    """Whether a BITFIELD has no operation but GET and OVERFLOW, as the server reads it."""
    at = 2
    while at < len(argv):
        if is_option(argv[at], "GET") and at + 2 < len(argv):
            at += 3
        elif is_option(argv[at], "OVERFLOW") and at + 1 < len(argv):
            at += 2
        else:
            return False
    return True


def _needs_instead(spec: CommandSpec, argv: Sequence[bytes]) -> Needs | None:
    if spec.variant is None:
        return None
    option = spec.variant.option
    # Any argument after key and value counts, also one that another option takes as
    # its own: it is what Redis's setGetKeys does, and it errs on the strict side.
    holds = only_gets(argv) if option is None else any(is_option(arg, option) for arg in argv[3:])
    return spec.variant.needs if holds else None


def _placed(spec: CommandSpec, argv: Sequence[bytes]) -> Iterator[tuple[int, KeySearch]]:
    if spec.refused is not None:
        raise UnplacedKeysError(spec.name, spec.refused)
    option = refused_option(spec, argv)
    if option is not None:
        raise UnplacedKeysError(spec.name, f"the option {option} reaches other keys")
    return ((place, search) for search in spec.keys for place in _places(spec, search, argv))


def _places(spec: CommandSpec, search: KeySearch, argv: Sequence[bytes]) -> Iterator[int]:
    match search:
        case KeyRange():
            last = search.last if search.last >= 0 else len(argv) + search.last
            return iter(range(search.first, min(last, len(argv) - 1) + 1, search.step))
        case NumberedKeys():
            count = _number(argv, search.count_at)
            end = min(search.first + count * search.step, len(argv))
            return iter(range(search.first, end, search.step))
        case OptionKey():
            return _behind_option(search, argv)
        case StreamKeys():
            return _streams(spec, search, argv)


def _number(argv: Sequence[bytes], place: int) -> int:
    """As C's atoi, which is what Redis's key specs read a number with; 0 if there is none."""
    found = _NUMBER.match(argv[place]) if place < len(argv) else None
    return int(found[1]) if found else 0


def _behind_option(search: OptionKey, argv: Sequence[bytes]) -> Iterator[int]:
    place, at = 0, search.start
    while at < len(argv) - 1:
        if any(is_option(argv[at], word) for word in search.words):
            at += 1
            place = at
        at += 1
    if place:
        yield place


def _streams(spec: CommandSpec, search: StreamKeys, argv: Sequence[bytes]) -> Iterator[int]:
    at = 1
    while at < len(argv):
        if is_option(argv[at], "STREAMS"):
            yield from range(at + 1, at + 1 + (len(argv) - at - 1) // 2)
            return
        skipped = next((n for word, n in search.options if is_option(argv[at], word)), None)
        if skipped is None:
            shown = argv[at].decode("utf-8", "backslashreplace")
            raise UnplacedKeysError(spec.name, f"unknown option `{shown}`")
        at += 1 + skipped
