"""The operators' Lua scripts: static files, with key names as KEYS and constants as ARGV."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from keyleash.doubles import MOST
from keyleash.policy.quantities import MAX_SIZE_BYTES
from keyleash.store.keyspace import OPERATORS, Keyspace
from keyleash.store.leases import EPOCH_FIELD, MAX_SHARDS, PLACES
from keyleash.store.state import MAX_REASON_BYTES
from keyleash.store.token import (
    FLAG_BOUND,
    FLAG_ROTATED,
    KEEP_AFTER_EXPIRY_MS,
    RECORD_BYTES,
    REVOKED_OFFSET,
    USE_NOTED_IDLE_US,
    USE_NOTED_US,
)

REMOVED_KEEP_MS = 32 * 86_400_000
"""How long the state of a removed identity is stored: longer than any budget lasts."""
KEPT_POLICIES = 20
"""The number of policies in the history."""
STAGED_KEEP_MS = 10 * 60_000
"""How long staged keys outlive a load that dies: longer than any load takes."""
OPERATORS_RETAIN = 100_000
"""The number of events in the audit stream of undos."""
UNDO_MAX_BYTES = 64 * 1024 * 1024
"""The most bytes that an undo moves: the server serves no other client meanwhile."""
UNDO_KEYS_PER_EVENT = 1000
"""The most keys in one event of an undo: a script passes at most 7,999 words to a command."""
SHORT_ELEMENTS, SHORT_BYTES = 4, 48
"""How much is read of a value that is shown on one line."""

_INCLUDE = re.compile(r'^--% include "(.+)"\n', re.MULTILINE)
_PLACE = re.compile(r"\{\{ (\w+) \}\}")
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OperatorScript:
    """A script that operators run; the header of its file describes keys and arguments.

    Attributes:
        name: Its file in `lua/operator/`, without the suffix.
        keys: The members of `Keyspace` that are its KEYS.
        prefixes: The members of `Keyspace` that are its first arguments; a method gets "".
        constants: The arguments after these.
    """

    name: str
    keys: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    constants: tuple[str | int, ...] = ()

    @property
    def text(self) -> str:
        """The Lua text, with its includes and the places of `store.leases`."""
        return _text(f"operator/{self.name}.lua")

    def arguments(
        self, keyspace: Keyspace, *words: str | bytes | int
    ) -> tuple[str | bytes | int, ...]:
        """Return what follows the script or digest in EVAL and EVALSHA."""
        keys = [_named(keyspace, name) for name in self.keys]
        prefixes = [_named(keyspace, name) for name in self.prefixes]
        return (len(keys), *keys, *prefixes, *self.constants, *words)


def _named(keyspace: Keyspace, name: str) -> str:
    if name == "operators":
        return keyspace.audit(OPERATORS)
    member = getattr(keyspace, name)
    return str(member("") if callable(member) else member)


@cache
def _text(name: str) -> str:
    folders = (lua_root() / "guard", lua_root())
    path = next(folder / name for folder in folders if (folder / name).is_file())
    text = _INCLUDE.sub(lambda match: _text(match[1]), path.read_text(encoding="utf-8"))
    return _PLACE.sub(lambda match: str(PLACES[match[1]]), _COMMENT.sub("", text))


def lua_root() -> Path:
    """The folder of the Lua sources: in the wheel beside the package, else in the checkout."""
    return shipped("lua")


def shipped(folder: str) -> Path:
    """A folder that the wheel has in the package and a checkout at its top."""
    package = Path(__file__).resolve().parents[1]
    inside = package / folder
    return inside if inside.is_dir() else package.parents[1] / folder


_STATES = ("state_root", "guard_root")
_TOKENS = ("guard_root", "tokens", "token_root")
_TOKEN_TIMES = (USE_NOTED_US, USE_NOTED_IDLE_US, KEEP_AFTER_EXPIRY_MS)
_RECORDS = ("layouts", "control")

ACTIVATE = OperatorScript(
    "activate",
    ("policy", "history", "layouts", "control"),
    ("staged_prefix", "state_root", "guard_root", "suspension", "stored_policy_root"),
    (REMOVED_KEEP_MS, KEPT_POLICIES, MOST),
)
COLLECT = OperatorScript("collect")
COLLECT_CREDIT = OperatorScript("collect_credit", (), ("state_root",))
CONFIRM = OperatorScript("confirm", ("confirmed",))
EXPIRE_LEASES = OperatorScript("expire_leases", (), ("state_root", "suspension", "refused"))
FREEZE = OperatorScript(
    "freeze", _RECORDS, (*_STATES, "suspension"), constants=(MOST, MAX_REASON_BYTES)
)
ISSUE_TOKENS = OperatorScript("issue_tokens", ("control",), _TOKENS, (*_TOKEN_TIMES, FLAG_BOUND))
NEXT_EPOCH = OperatorScript("next_epoch", ("layouts",), ("leases",), (EPOCH_FIELD, MAX_SHARDS))
READ_VALUE = OperatorScript(
    "read_value", (), ("undo_prefix",), (MAX_SIZE_BYTES, SHORT_ELEMENTS, SHORT_BYTES)
)
RESET_LIMITS = OperatorScript("reset_limits", _RECORDS, (*_STATES, "leases"), (EPOCH_FIELD,))
RETURN_CREDIT = OperatorScript("return_credit", _RECORDS, ("leases",), (EPOCH_FIELD,))
RENEW_TOKEN = OperatorScript(
    "renew_token",
    ("control",),
    (*_TOKENS, "children_root"),
    (KEEP_AFTER_EXPIRY_MS, FLAG_BOUND, RECORD_BYTES),
)
REVOKE = OperatorScript(
    "revoke",
    ("layouts", "control"),
    ("tokens", "token_root", "leases", "delegated"),
    (REVOKED_OFFSET,),
)
ROTATE_TOKEN = OperatorScript(
    "rotate_token",
    ("control",),
    (*_TOKENS, "children_root"),
    (*_TOKEN_TIMES, FLAG_BOUND, RECORD_BYTES, FLAG_ROTATED, REVOKED_OFFSET),
)
STAGE = OperatorScript("stage", (), ("state_root", "staged_prefix"), (STAGED_KEEP_MS, MOST))
THAW = OperatorScript("thaw", _RECORDS, (*_STATES, "suspension", "refused"))
TRY_KEYS = OperatorScript("try_keys", (), ("none",))
UNDO = OperatorScript(
    "undo",
    ("operators", "operators_seq", "control"),
    (),
    (MAX_SIZE_BYTES, UNDO_KEYS_PER_EVENT, OPERATORS_RETAIN),
)
UNDO_AT_SHARD = replace(UNDO, keys=("operators", "operators_seq"))
