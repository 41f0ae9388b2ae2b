"""The scripts of guards: loaded into a server, and their stored texts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Protocol

from redis.exceptions import RedisError, ResponseError

from keyleash.errors import OperationError
from keyleash.results import Progress
from keyleash.store.deployment import Node, each_at_once
from keyleash.store.identities import active_records, known_identities
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.records import GuardRecord, guard_record, packed_script
from keyleash.store.scripts import COLLECT
from keyleash.store.store import Store, batches
from keyleash.store.wire import reason_of


class GuardScripts(Protocol):
    """The scripts of one guard, by digest."""

    @property
    def identity(self) -> str: ...

    @property
    def scripts(self) -> Mapping[str, str]: ...

    @property
    def approved_names(self) -> Mapping[str, str]:
        """The names and files of its approved scripts, by digest."""


MANY = 100
"""Number of new scripts or changed identities from which the collector is run."""

STEP_KIB = 40
"""Step size of the collector, in its own unit; the server runs other commands in between."""

AT_ONCE = 16
"""The number of scripts that are sent before replies are read."""

LONGEST_S = 0.5
"""Upper bound of the time spent: enough for 1,000 identities on a server nearby."""


def step_lua_gc(store: Store) -> None:
    """Run the server's Lua garbage collector for a full cycle, in small steps.

    Left alone, it rests until its memory has doubled, and then sweeps the remains of thousands of
    scripts within one command: a SCRIPT LOAD, or a large activation.
    """
    step, until_s = COLLECT.text, time.monotonic() + LONGEST_S
    done_kib = 0
    try:
        # Ends after one cycle's worth of steps, because the server may complete the cycle itself.
        # EVAL, because scripts may be flushed meanwhile.
        while (held_kib := store.client.eval(step, 0, STEP_KIB)) and done_kib < held_kib:
            done_kib += STEP_KIB
            if time.monotonic() > until_s:
                return
    except ResponseError:
        # The load itself reports errors of the server.
        return


_COMPILE_ERROR = re.compile(r"Error compiling .*: *user_script:(\d+): (.*)")
_APPROVED = re.compile(r'__d == "([0-9a-f]{40})"')


@contextmanager
def compiling(guard: GuardScripts, text: str) -> Iterator[None]:
    """Load a text of a guard; name the approved script in it that a server does not compile.

    Raises:
        OperationError (script-rejected): The server does not compile an approved script.
    """
    try:
        yield
    except ResponseError as error:
        match = _COMPILE_ERROR.search(str(error))
        before = "\n".join(text.split("\n")[: int(match[1])]) if match else ""
        digests = _APPROVED.findall(before)
        if not match or not digests:
            raise
        raise OperationError(
            "script-rejected",
            f"the server does not compile the script {guard.approved_names[digests[-1]]}"
            f" of `{guard.identity}`: {match[2]}",
            help="simplify it, for example with local variables or smaller functions",
        ) from None


def load_scripts(
    store: Store,
    guards: Sequence[GuardScripts],
    report: Progress | None = None,
    packed: dict[str, bytes] | None = None,
) -> None:
    """Load the guards that the server lacks, and compare its digests with ours.

    Args:
        report: Called with the number of loaded guards and the total.
        packed: Filled with the stored forms of their texts, by digest.

    Raises:
        OperationError (digest-mismatch): The server computes another digest; nothing is activated
            then.
        OperationError (script-rejected): The server does not compile an approved script.
    """
    loaded = 0
    with ThreadPoolExecutor(1) as beside:
        for batch in batches(guards):
            scripts = [(guard, *script) for guard in batch for script in guard.scripts.items()]
            in_cache = store.client.script_exists(*(digest for _, digest, _ in scripts))
            missing = [
                script for script, present in zip(scripts, in_cache, strict=True) if not present
            ]
            for some in batches(missing, AT_ONCE):
                if packed is not None:
                    # zlib needs no lock of the interpreter, so it runs while the server compiles.
                    # While the interpreter exits, no thread starts.
                    with suppress(RuntimeError):
                        beside.submit(_pack, packed, some)
                _load(store, some)
            if len(missing) >= MANY:
                step_lua_gc(store)
            loaded += len(batch)
            if report is not None:
                report(loaded, len(guards))


def _pack(packed: dict[str, bytes], scripts: Sequence[tuple[GuardScripts, str, str]]) -> None:
    packed |= {digest: packed_script(text) for _, digest, text in scripts}


def _load(store: Store, scripts: Sequence[tuple[GuardScripts, str, str]]) -> None:
    """Load texts and compare their digests; the next is sent while the server compiles one."""
    with store.client.pipeline(transaction=False) as pipe:
        for _, _, text in scripts:
            pipe.script_load(text)
        replies = pipe.execute(raise_on_error=False)
    for (guard, expected, text), reply in zip(scripts, replies, strict=True):
        answered = reply
        if isinstance(reply, ResponseError):
            with compiling(guard, text):
                # Fails again, with an error that names the call.
                answered = store.client.script_load(text)
        digest = answered.decode() if isinstance(answered, bytes) else answered
        if digest != expected:
            raise OperationError(
                "digest-mismatch",
                f"the server gives the guard of `{guard.identity}` the digest `{digest}`,"
                f" expected `{expected}`",
            )


def load_on_nodes(store: Store, guards: Sequence[GuardScripts]) -> dict[str, str]:
    """Load guards into all nodes of a cluster but the home's, as `load_scripts` does.

    Returns:
        The reason for each node that could not be reached, by its name; clients load
        missing scripts there. Empty on one server.
    """
    if store.cluster is None:
        return {}
    home = store.cluster.find(HOME_TAG)
    other_nodes = [node for node in store.cluster.nodes if node != home]

    def load_into(node: Node) -> str:
        try:
            load_scripts(store.on_node(node.server.quick), guards)
        except RedisError as error:
            return reason_of(error)
        return ""

    reasons = zip(other_nodes, each_at_once(load_into, other_nodes), strict=True)
    return {str(node): reason for node, reason in reasons if reason}


def record_sources(
    store: Store, guards: Sequence[GuardScripts], packed: Mapping[str, bytes] | None = None
) -> None:
    """Store each script's text, for those who may load scripts. Adds, never replaces.

    Args:
        packed: Stored forms of texts by digest; the others are made here.
    """
    ready = packed or {}
    for batch in batches(guards):
        with store.client.pipeline(transaction=False) as pipe:
            for guard in batch:
                texts = {
                    digest: ready.get(digest) or packed_script(text)
                    for digest, text in guard.scripts.items()
                }
                pipe.hset(store.keys.source(guard.identity), mapping=texts)
            pipe.execute()


def retire_sources(store: Store, guards: Sequence[GuardScripts], removed: Sequence[str]) -> None:
    """Delete the texts of scripts that no guard record names."""
    for batch in batches(guards):
        with store.client.pipeline(transaction=False) as pipe:
            for guard in batch:
                pipe.hkeys(store.keys.source(guard.identity))
            held = pipe.execute()
        with store.client.pipeline(transaction=False) as pipe:
            for guard, digests in zip(batch, held, strict=True):
                old = [digest for digest in digests if digest.decode() not in guard.scripts]
                if old:
                    pipe.hdel(store.keys.source(guard.identity), *old)
            pipe.execute()
    for names in batches(removed):
        store.client.unlink(*map(store.keys.source, names))


def scripts_without_text(store: Store) -> list[tuple[str, str]]:
    """Return identity and digest of scripts in guard records whose text is not stored."""
    missing = list[tuple[str, str]]()
    for identities in batches(known_identities(store)):
        with store.client.pipeline(transaction=False) as pipe:
            for identity in identities:
                pipe.hgetall(store.keys.guard(identity))
                pipe.hkeys(store.keys.source(identity))
            replies = iter(pipe.execute())
        for identity in identities:
            record = guard_record(next(replies))
            texts = {digest.decode("latin-1") for digest in next(replies)}
            named = () if record is None else record.digests
            missing += [(identity, digest) for digest in named if digest not in texts]
    return missing


def active_scripts(store: Store, identities: Iterable[str]) -> dict[str, str]:
    """Return the identity of each script in the guard records of *identities*, by digest."""
    records: dict[str, GuardRecord] = {}
    for batch in batches(identities):
        records |= active_records(store, batch)
    return {digest: name for name, record in records.items() for digest in record.digests}


def owners_not_loaded(store: Store, owners: Mapping[str, str]) -> list[str]:
    """Return the identities of which a script is not loaded; *owners* has them by digest."""
    return sorted({owners[digest] for digest in not_loaded(store, owners)})


def not_loaded(store: Store, digests: Iterable[str]) -> Iterator[str]:
    """Yield the *digests* whose script is not loaded."""
    for batch in batches(digests):
        for digest, is_loaded in zip(batch, store.client.script_exists(*batch), strict=True):
            if not is_loaded:
                yield digest
