"""Users as text for servers whose ACL is managed elsewhere; it has hashes and no password."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.fence import Wanted


def aclfile(wanted: Sequence[Wanted]) -> str:
    """Lines for an aclfile."""
    return "".join(f"user {one.fence.identity} {' '.join(one.user.words)}\n" for one in wanted)


def redis_cli(wanted: Sequence[Wanted]) -> str:
    """Lines for the standard input of redis-cli or valkey-cli."""
    return "".join(
        f"ACL SETUSER {one.fence.identity} {' '.join(map(_quoted, one.user.words))}\n"
        for one in wanted
    )


def _quoted(word: str) -> str:
    if not set(word) & {" ", "\\"}:
        return word
    return '"' + word.replace("\\", "\\\\") + '"'
