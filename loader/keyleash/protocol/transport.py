"""How a guard reaches the server: as a script of its cache, or as a function that it keeps.

Either way the Lua is the same text, known by the same digest, which a call names:

    EVALSHA <digest> <n> …
    FCALL leash_<digest> <n> …

A function's library has its name and holds nothing else. One library for a whole policy
would be compiled in one go, 1.5 s for 1,000 identities, in which the server serves nobody;
and since a digest is part of the name, the guards of two policies stand side by side, and
it is the activation that replaces all of one policy by all of the other.
"""

from __future__ import annotations

from enum import StrEnum

LIBRARIES = "leash_"
"""What the names of all libraries begin with."""

GUARD_OF = "guard of "
"""What stands before the identity in the description of a function."""

NOT_FOUND = "Function not found"
"""What servers answer to FCALL of a function that they lack, behind ERR."""


class Transport(StrEnum):
    """Which of the two."""

    EVALSHA = "evalsha"
    """By the script cache, which a restart, a failover and SCRIPT FLUSH empty."""
    FUNCTION = "function"
    """By functions, which are persisted and replicated with the data."""


def call_head(transport: Transport, digest: str) -> tuple[str, str]:
    """The words with which a call of the script with *digest* begins."""
    if transport is Transport.FUNCTION:
        return "FCALL", function_name(digest)
    return "EVALSHA", digest


def function_name(digest: str) -> str:
    """The name of the function, and of its library, that is the script with *digest*."""
    return f"{LIBRARIES}{digest}"


def library_code(identity: str, digest: str, script: str) -> str:
    """The library of a script, for FUNCTION LOAD.

    Args:
        identity: Whose guard it is: FUNCTION LIST tells it to people.
        digest: Of *script*.
    """
    name = function_name(digest)
    return (
        f"#!lua name={name}\n"
        f"redis.register_function{{function_name='{name}',description='{GUARD_OF}{identity}',"
        f"callback=function(KEYS,ARGV)\n{script}\nend}}\n"
    )
