"""Guards as functions of the server: loaded and compared, and those of other policies retired.

No command here keeps the server for more than some milliseconds, however many identities a
policy has: a library is one script, and libraries are listed by the first digits of the
digests in their names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from redis.exceptions import NoPermissionError, WatchError

from keyleash.compiler import CompiledGuard, Report
from keyleash.operator.load.plan import batches
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client, database_of
from keyleash.store.wire import GUARD_OF, LIBRARIES, Transport, function_name, library_code

FEW = 10
"""Libraries that are deleted in one transaction."""
_DIGITS = "0123456789abcdef"


def load_functions(
    client: Client, guards: Sequence[CompiledGuard], report: Report | None = None
) -> None:
    """Load the guards that the server lacks, beside those that are in force.

    The text that it has is compared: unlike a script's, the name of a library may be given
    to any other text.

    Args:
        report: Told now and then how many are there.

    Raises:
        redis.ResponseError: the user may not load functions.
    """
    codes: dict[str, dict[str, str]] = defaultdict(dict)
    for guard in guards:
        for digest, script in guard.scripts.items():
            code = library_code(guard.identity, digest, script)
            codes[digest[:2]][function_name(digest)] = code
    loaded = 0
    for digits, wanted in codes.items():
        held = {
            fields[b"library_name"].decode(): fields[b"library_code"].decode("latin-1")
            for fields in _libraries(client, digits, with_code=True)
        }
        for name, code in wanted.items():
            if held.get(name) != code:
                client.function_load(code, replace=True)
        loaded += len(wanted)
        if report is not None:
            # A guard is two functions, the second one for batches.
            report(loaded // 2, len(guards))


def retire_functions(
    client: Client,
    keyspace: Keyspace,
    guards: Sequence[CompiledGuard],
    transport: Transport,
    generation: int,
) -> None:
    """Delete the functions that no record names any more, once *generation* is active.

    With them go those of a load that died. If another policy becomes active meanwhile, the
    rest is left to whoever made it so. All databases share the functions: what the policy of
    another database names stays.
    """
    by_function = guards if transport is Transport.FUNCTION else ()
    kept = {function_name(digest) for guard in by_function for digest in guard.scripts}
    try:
        held = _guards(client)
        unused = held.keys() - kept
        unused -= _named_elsewhere(client, {held[name] for name in unused})
    except NoPermissionError:
        # Of somebody who may load scripts alone. What is left behind is stale, or is a guard in
        # force by its other name: it lets nothing through that is not granted.
        return
    if not held.keys() >= kept:
        # Another load deleted them before the activation, as none of its own.
        load_functions(client, by_function)
    for names in batches(sorted(unused), FEW):
        with client.pipeline(transaction=True) as pipe:
            pipe.watch(keyspace.policy)
            if int(pipe.hget(keyspace.policy, "generation") or 0) != generation:
                return
            pipe.multi()
            for name in names:
                pipe.function_delete(name)
            try:
                pipe.execute(raise_on_error=False)
            except WatchError:
                return


def held_functions(client: Client) -> set[str]:
    """The names of all guards that the server has as functions, whatever their texts are.

    Raises:
        NoPermissionError: the user may not list functions.
    """
    return set(_guards(client))


def _guards(client: Client) -> dict[str, str]:
    """Return the identity of each guard that the server has as a function, by its name."""
    return {
        fields[b"library_name"].decode(): _identity(fields)
        for digit in _DIGITS
        for fields in _libraries(client, digit)
    }


def _identity(library: dict[bytes, Any]) -> str:
    """Return whose guard a library says that it is."""
    for function in library[b"functions"]:
        description = _fields(function)[b"description"] or b""
        return bytes(description).decode("utf-8", "replace").removeprefix(GUARD_OF)
    return ""


def _named_elsewhere(client: Client, identities: set[str]) -> set[str]:
    """Return the functions that the guard records of *identities* name in other databases."""
    names: set[str] = set()
    if not identities:
        return names
    own = database_of(client)
    keyspace = Keyspace()
    others = {int(label.removeprefix("db")) for label in client.info("keyspace")} - {own}
    for number in sorted(others):
        with client.pipeline(transaction=True) as pipe:
            pipe.execute_command("SELECT", number)
            for identity in sorted(identities):
                pipe.hmget(keyspace.guard(identity), "transport", "digest", "batch_digest")
            pipe.execute_command("SELECT", own)
            _, *records, _ = pipe.execute(raise_on_error=False)
        for record in records:
            # What is no guard record must not fail a load of this database.
            if isinstance(record, list) and record[0] == Transport.FUNCTION.value.encode():
                names |= {function_name(digest.decode()) for digest in record[1:] if digest}
    return names


def _libraries(
    client: Client, digits: str, *, with_code: bool = False
) -> Iterator[dict[bytes, Any]]:
    """The libraries for digests that begin with *digits*, on demand with their texts."""
    for item in client.function_list(f"{LIBRARIES}{digits}*", withcode=with_code):
        yield _fields(item)


def _fields(library: Any) -> dict[bytes, Any]:
    """One library as RESP3 tells it, or RESP2."""
    if isinstance(library, dict):
        return library
    return dict(zip(library[::2], library[1::2], strict=True))
