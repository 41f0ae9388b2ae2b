"""Reading a policy file, up to the guards that are made of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keyleash.commands import load_table
from keyleash.compiler import compile_policy
from keyleash.errors import OperationError, PolicyError, Problem, Span
from keyleash.policy import parse_policy
from keyleash.policy.canonical import policy_digest

if TYPE_CHECKING:
    from keyleash.compiler import CompiledGuard
    from keyleash.policy import Policy

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Document:
    """A policy file that is valid and compiles, for the commands of the shipped table.

    Attributes:
        file: As it was named.
        digest: Of the policy's meaning.
        servers: Those whose commands the shipped table has.
    """

    file: str
    policy: Policy
    guards: tuple[CompiledGuard, ...]
    digest: str
    servers: tuple[str, ...]


def read_policy(file: str) -> Document:
    """
    Read, check and compile a policy file without a server; `-` is standard input.

    Raises:
        PolicyError: With all its problems; bytes that are not UTF-8 are one.
        UnplacedKeysError: No guard can be made of it.
        OperationError (file): The file is missing, or cannot be read.
    """
    name, text = read_text(file)
    table = load_table()
    policy = parse_policy(text, file=name, commands=table)
    guards = compile_policy(policy, table)
    return Document(name, policy, guards, policy_digest(policy), table.servers)


def read_text(file: str) -> tuple[str, str]:
    """
    How a policy file is called in messages, and its text; `-` is standard input.

    Raises:
        PolicyError: It has bytes that are not UTF-8.
        OperationError (file): The file is missing, or cannot be read.
    """
    name = "<stdin>" if file == STANDARD_INPUT else file
    return name, _decoded(read_input(file), name)


def read_input(file: str) -> bytes:
    """
    Read a file that a command is about; `-` is standard input.

    Raises:
        OperationError (file): The file is missing, or cannot be read.
    """
    if file == STANDARD_INPUT:
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:
        # A name with a null byte is no OSError.
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise OperationError("file", f"cannot read `{file}`: {reason}") from None


def _decoded(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line_start = before.rfind(b"\n") + 1
        place = Span(
            file,
            before.count(b"\n") + 1,
            len(before[line_start:].decode("utf-8", "replace")) + 1,
        )
        problem = Problem(
            "not-utf-8",
            f"the file is not UTF-8 text: it has the byte `\\x{data[error.start]:02x}`",
            place,
            "save it as UTF-8, or check that it is a policy file",
        )
        raise PolicyError([problem]) from None
