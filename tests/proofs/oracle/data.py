"""The data of a server, as the model of a guard reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from redis.crc import key_slot
from redis.exceptions import ResponseError

from keyleash.commands import CommandSpec
from keyleash.commands.spec import Bound
from keyleash.commands.work import WORK
from keyleash.compiler.quoting import Text
from keyleash.compiler.render import environment
from keyleash.compiler.sizes import SIZE_COMMANDS, plans_of
from keyleash.evaluate.access import Argv
from keyleash.evaluate.state import ModelState
from keyleash.evaluate.trace import Decision, Trace
from keyleash.policy import Identity
from keyleash.store.shards import at_slot
from keyleash.store.store import Store
from proofs.oracle.judge_indexes import ServerIndexCall
from proofs.oracle.judge_size import judge_size
from proofs.oracle.judge_values import judge_values

_ASK = """
local head, call = tonumber(ARGV[1]), {}
for at = 2, head + 1 do call[#call + 1] = ARGV[at] end
for at = 1, #KEYS do call[#call + 1] = KEYS[at] end
for at = head + 2, #ARGV do call[#call + 1] = ARGV[at] end
local reply = redis.call(unpack(call))
return type(reply) == 'table' and reply.ok or reply
"""
"""Replies as servers give them, which a client would reshape."""

_ESTIMATE = """
local call, find = redis.call, string.find
local keys, argv = KEYS, ARGV
local units = tonumber(argv[2])
--% include "authorize/estimate_work.lua"
local work, asked = weigh(argv[3], argv, 4, #argv, keys, tonumber(argv[1]))
return string.format('%.3f', work + asked)
"""
"""Returns the work of a call; ARGV: the work that is left, that of a string, the name, the call."""


@cache
def _estimate_script() -> str:
    return (
        environment()
        .from_string(_ESTIMATE)
        .render(
            plans=plans_of(WORK),
            bounds=frozenset(Bound),
            patterns=(),
            batch=False,
            work_limit=0,
            string_units=Text("units"),
            spare=8,
            sizes=SIZE_COMMANDS,
        )
    )


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of keys of a server, and its replies to commands that read."""

    store: Store

    def length(self, key: bytes) -> int:
        """Return the length of a string in bytes; 0 for a key of another type."""
        return int(self.ask(("STRLEN",), (key,), ()) or 0)

    def ask(self, head: Sequence[str], keys: Sequence[bytes], words: Sequence[bytes]) -> Any:
        """Return the reply to a command that only reads; None after an error."""
        try:
            return self._run(_ASK, keys, len(head), *head, *words)
        except ResponseError:
            return None

    def work(
        self, spec: CommandSpec, argv: Argv, keys: Argv, left: float, string_units: float
    ) -> float:
        """Return the units of work of a call, as the guard estimates it."""
        return float(self._run(_estimate_script(), keys, left, string_units, spec.name, *argv))

    def _run(self, script: str, keys: Sequence[bytes], *words: Any) -> Any:
        def run(node: Store) -> Any:
            return node.client.eval(script, len(keys), *keys, *words)

        return at_slot(self.store, key_slot(keys[0]), run) if keys else run(self.store)


@dataclass(frozen=True, slots=True)
class ServerData:
    """The checks of a guard that depend on what keys hold; without a server each key is absent."""

    sizes: Sizes | None

    def judge_index(self, *call: Any) -> Iterator[Decision]:
        """Yield the verdicts on the search index of a call."""
        return ServerIndexCall(*call).checks()

    def judge(
        self,
        identity: Identity,
        spec: CommandSpec,
        argv: Argv,
        keys: Argv,
        now_us: int,
        trace: Trace,
    ) -> Iterator[Decision]:
        """Yield the verdicts on the work of a call, the sizes of strings, and values."""
        yield judge_size(identity, spec, argv, keys, self.sizes, trace)
        yield judge_values(identity, spec, argv, keys, self.sizes, now_us, trace)


def model_state(store: Store | None = None, **fields: Any) -> ModelState:
    """Return a state with unused limits, that knows the data of a server, or that there is none."""
    return ModelState(data=ServerData(None if store is None else Sizes(store)), **fields)
