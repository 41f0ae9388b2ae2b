"""Find the keys of a call in its arguments, and the classes that each key needs."""

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
    Variant,
)
from keyleash.errors import UnplacedKeysError

_NUMBER = re.compile(rb"\s*\+?([0-9]+)")


@dataclass(frozen=True, slots=True)
class KeyUse:
    """One key of one call, and the classes that the call needs on it."""

    key: bytes
    needs: Needs


def keys_of(spec: CommandSpec, argv: Sequence[bytes]) -> tuple[KeyUse, ...]:
    """Return the keys that a call touches, in argument order, repeated ones included.

    The result is complete: a missed key would be a missed permission check. A call that is too
    short, or that counts more keys than it has, has the keys that are there: the server reports
    the error.

    Raises:
        UnplacedKeysError: *spec* is refused, or the call has an option that is refused or hides
            its keys.
    """
    variant = spec.variant if spec.variant and is_variant(spec.variant, argv) else None
    return tuple(
        KeyUse(argv[place], variant.needs if variant else search.needs)
        for place, search in _placed(spec, argv)
    )


def key_places(spec: CommandSpec, argv: Sequence[bytes]) -> tuple[int, ...]:
    """Return the places of a call's keys; otherwise like `keys_of`."""
    return tuple(place for place, _ in _placed(spec, argv))


def is_option(argument: bytes, word: str) -> bool:
    r"""Return whether the server reads an argument as the option *word*.

    Redis compares options as C strings, up to a NUL byte: `get\0junk` is GET.
    """
    return argument.split(b"\0", 1)[0].upper() == word.encode()


def refused_option(spec: CommandSpec, argv: Sequence[bytes]) -> str | None:
    """Return the last of the option words for which a guard refuses the call, or None."""
    rest = argv[spec.options_start :]
    used = [word for word in spec.refused_if if any(is_option(argument, word) for argument in rest)]
    return used[-1] if used else None


def patterns_of(spec: CommandSpec, argv: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the patterns of keys of a call (SORT … GET), also those that name none, such as `#`."""
    at = spec.options_start
    while at < len(argv) - 1:
        if any(is_option(argv[at], word) for word in spec.patterns):
            at += 1
            yield argv[at]
        at += 1


def only_gets(argv: Sequence[bytes]) -> bool:
    """Return whether a BITFIELD has only the operations GET and OVERFLOW, like the server."""
    at = 2
    while at < len(argv):
        if is_option(argv[at], "GET") and at + 2 < len(argv):
            at += 3
        elif is_option(argv[at], "OVERFLOW") and at + 1 < len(argv):
            at += 2
        else:
            return False
    return True


def is_variant(variant: Variant, argv: Sequence[bytes]) -> bool:
    """Return whether the keys of a call have the needs of a variant of its command."""
    if variant.option is None:
        return only_gets(argv)
    # Any argument after key and value counts, also the value of another option: Redis's
    # setGetKeys does the same, and it errs on the strict side.
    return any(is_option(argument, variant.option) for argument in argv[3:])


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
            return behind_option(search, argv)
        case StreamKeys():
            return _streams(spec, search, argv)


def _number(argv: Sequence[bytes], place: int) -> int:
    """Read a number like C's atoi, as Redis's key specs do; 0 if there is none."""
    found = _NUMBER.match(argv[place]) if place < len(argv) else None
    return int(found[1]) if found else 0


def behind_option(search: OptionKey, argv: Sequence[bytes]) -> Iterator[int]:
    """Yield the place of the key after an option, if the call has it."""
    place, at = 0, search.start
    while at < len(argv) - 1:
        if any(is_option(argv[at], word) for word in search.words):
            at += 1
            place = at
        elif any(is_option(argv[at], word) for word in search.skipped):
            at += 1
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
