"""From a call's arguments to its keys, and what each key needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyleash.commands.spec import CommandSpec, KeyRange, OperationClass
from keyleash.errors import CompileError, Span


class UnplacedKeysError(CompileError):
    """The keys of a command that guards refuse were asked for."""

    code = "unplaced-keys"

    def __init__(self, command: str, reason: str, span: Span | None = None) -> None:
        super().__init__(
            f"cannot place every key of `{command}`: {reason}",
            help="grant a command with fixed key positions instead",
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
        needs: The classes that the call needs on it, in the order of `OperationClass`;
            empty means that any grant on the key will do.
    """

    key: bytes
    needs: tuple[OperationClass, ...]


def keys_of(spec: CommandSpec, argv: Sequence[bytes]) -> tuple[KeyUse, ...]:
    """
    Say which keys a call touches, and how.

    The answer is complete or there is none: a command whose keys cannot all be
    placed is refused, because a missed key is a missed permission check.

    Args:
        spec: The command's row in the table.
        argv: The call as the client would send it, command name first. A call that is
            too short has the keys that are there; the server will say what it misses.

    Returns:
        One entry per key, in argument order; a key given twice is there twice.

    Raises:
        UnplacedKeysError: *spec* is refused.
    """
    if spec.refused is not None:
        raise UnplacedKeysError(spec.name, spec.refused)
    also_reads = _has_option(spec, argv)
    return tuple(
        KeyUse(argv[place], _with_read(keys.needs) if also_reads else keys.needs)
        for keys in spec.ranges
        for place in _places(keys, len(argv))
    )


def is_option(argument: bytes, word: str) -> bool:
    r"""
    Tell whether the server takes an argument for an option word.

    Redis compares options as C strings, so what follows a NUL does not count:
    `get\0junk` is GET.
    """
    return argument.split(b"\0", 1)[0].upper() == word.encode()


def _has_option(spec: CommandSpec, argv: Sequence[bytes]) -> bool:
    # Any argument after key and value counts, also one that another option takes as
    # its own: it is what Redis's setGetKeys does, and it errs on the strict side.
    if spec.reads_if is None:
        return False
    return any(is_option(arg, spec.reads_if) for arg in argv[spec.ranges[-1].last + 2 :])


def _with_read(needs: tuple[OperationClass, ...]) -> tuple[OperationClass, ...]:
    return tuple(cls for cls in OperationClass if cls is OperationClass.READ or cls in needs)


def _places(keys: KeyRange, argc: int) -> Iterator[int]:
    last = keys.last if keys.last >= 0 else argc + keys.last
    return iter(range(keys.first, min(last, argc - 1) + 1, keys.step))
