"""Guards as Redis Functions: load, compare and delete them.

No command here blocks the server for more than some milliseconds, even for large policies: a
library contains one script, and many libraries are listed by the first digit of their digests.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from redis.exceptions import NoPermissionError, ResponseError, WatchError

from keyleash.errors import OperationError
from keyleash.results import Progress
from keyleash.store.records import DIGEST_FIELDS, database_of
from keyleash.store.store import Store, batches
from keyleash.store.wire import GUARD_OF, LIBRARIES, Transport, function_name, library_code


class GuardScripts(Protocol):
    """The scripts of one guard, by digest."""

    @property
    def identity(self) -> str: ...

    @property
    def scripts(self) -> Mapping[str, str]: ...

    @property
    def approved_names(self) -> Mapping[str, str]:
        """The names and files of its approved scripts, by digest."""


FEW = 10
"""Libraries deleted per transaction, and the most of a digit where others are listed together."""
DIGITS = "0123456789abcdef"


_COMPILE_ERROR = re.compile(r"Error compiling .*: *user_(?:script|function):(\d+): (.*)")
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
        found = _COMPILE_ERROR.search(str(error))
        before = "\n".join(text.split("\n")[: int(found[1])]) if found else ""
        digests = _APPROVED.findall(before)
        if not found or not digests:
            raise
        raise OperationError(
            "script-rejected",
            f"the server does not compile the script {guard.approved_names[digests[-1]]}"
            f" of `{guard.identity}`: {found[2]}",
            help="simplify it, for example with local variables or smaller functions",
        ) from None


def load_functions(
    store: Store, guards: Sequence[GuardScripts], report: Progress | None = None
) -> None:
    """Load the guards that the server lacks, beside the active ones.

    Library texts are compared: unlike a script digest, a library name may have any text.

    Args:
        report: Called with the number of loaded guards and the total.

    Raises:
        OperationError (script-rejected): The server does not compile an approved script.
        redis.ResponseError: The user may not load functions.
    """
    codes: dict[str, dict[str, str]] = defaultdict(dict)
    owners: dict[str, GuardScripts] = {}
    for guard in guards:
        for digest, script in guard.scripts.items():
            code = library_code(guard.identity, digest, script)
            codes[digest[:2]][function_name(digest)] = code
            owners[function_name(digest)] = guard
    loaded, of_a_guard = 0, sum(len(guard.scripts) for guard in guards) / max(len(guards), 1)
    for digits, wanted in codes.items():
        held = library_texts(store, digits)
        for name, code in wanted.items():
            if held.get(name) != code:
                with compiling(owners[name], code):
                    store.client.function_load(code, replace=True)
        loaded += len(wanted)
        if report is not None:
            report(int(loaded / of_a_guard), len(guards))


def unused_functions(
    store: Store, guards: Sequence[GuardScripts], transport: Transport
) -> set[str]:
    """Return the functions that no guard record names; empty if the user may not list functions.

    This includes the functions of interrupted loads. All databases share the functions: those that
    the policies of others name are in use. Functions of *guards* that are missing are loaded.
    """
    by_function = guards if transport is Transport.FUNCTION else ()
    needed = {function_name(digest) for guard in by_function for digest in guard.scripts}
    try:
        held = _guards(store)
        unused = held.keys() - needed
        unused -= _named_elsewhere(store, {held[name] for name in unused})
    except NoPermissionError:
        # A user that may only load scripts. Stale functions are harmless: they grant nothing new.
        return set()
    if not held.keys() >= needed:
        # Another load deleted them before the activation.
        load_functions(store, by_function)
    return unused


def delete_functions(store: Store, unused: Iterable[str], generation: int) -> None:
    """Delete functions until another policy than *generation* is active."""
    for names in batches(sorted(unused), FEW):
        with store.client.pipeline(transaction=True) as pipe:
            pipe.watch(store.keys.policy)
            if int(pipe.hget(store.keys.policy, "generation") or 0) != generation:
                return
            pipe.multi()
            for name in names:
                pipe.function_delete(name)
            try:
                pipe.execute(raise_on_error=False)
            except WatchError:
                return


def library_texts(store: Store, digits: str) -> dict[str, str]:
    """Return the texts of the guards' libraries whose digests begin with *digits*, by name."""
    return {
        fields[b"library_name"].decode(): fields[b"library_code"].decode("latin-1")
        for fields in _libraries(store, digits, with_code=True)
    }


def held_functions(store: Store) -> set[str]:
    """Return the names of all guards that the server has as functions.

    Raises:
        NoPermissionError: The user may not list functions.
    """
    return set(_guards(store))


def _guards(store: Store) -> dict[str, str]:
    """Return the identity of each guard that the server has as a function, by its name."""
    libraries = [*_libraries(store, DIGITS[0])]
    # Digests are evenly distributed: where a digit has few, all have few together.
    parts = [f"[{DIGITS[1:]}]"] if len(libraries) <= FEW else DIGITS[1:]
    libraries += [fields for part in parts for fields in _libraries(store, part)]
    return {fields[b"library_name"].decode(): _identity(fields) for fields in libraries}


def _identity(library: dict[bytes, Any]) -> str:
    """Return the identity in a library's description."""
    for function in library[b"functions"]:
        description = _fields(function)[b"description"] or b""
        return bytes(description).decode("utf-8", "replace").removeprefix(GUARD_OF)
    return ""


def _named_elsewhere(store: Store, identities: set[str]) -> set[str]:
    """Return the functions that the guard records of *identities* name in other databases."""
    names: set[str] = set()
    # A cluster has database 0 alone.
    if not identities or store.nodes is not None:
        return names
    client = store.client
    own = database_of(client)
    others = {int(label.removeprefix("db")) for label in client.info("keyspace")} - {own}
    for number in sorted(others):
        with client.pipeline(transaction=True) as pipe:
            pipe.execute_command("SELECT", number)
            for identity in sorted(identities):
                pipe.hmget(store.keys.guard(identity), "transport", *DIGEST_FIELDS)
            pipe.execute_command("SELECT", own)
            _, *records, _ = pipe.execute(raise_on_error=False)
        for record in records:
            # Foreign records must not fail a load of this database.
            if isinstance(record, list) and record[0] == Transport.FUNCTION.value.encode():
                names |= {function_name(digest.decode()) for digest in record[1:] if digest}
    return names


def _libraries(store: Store, digits: str, *, with_code: bool = False) -> Iterator[dict[bytes, Any]]:
    """Yield the libraries of digests that begin with *digits*, a glob pattern."""
    for item in store.client.function_list(f"{LIBRARIES}{digits}*", withcode=with_code):
        yield _fields(item)


def _fields(library: Any) -> dict[bytes, Any]:
    """Return a library as a map; RESP2 sends it as a flat list."""
    if isinstance(library, dict):
        return library
    return dict(zip(library[::2], library[1::2], strict=True))
