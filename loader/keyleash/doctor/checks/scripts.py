"""Whether a server has the scripts that its own records speak of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keyleash.deploy.standing import batches
from keyleash.deploy.watch.scripts import not_loaded, read_recorded
from keyleash.doctor.finding import Finding, Said, Severity
from keyleash.doctor.patient import Server
from keyleash.doctor.words import named, shown_key
from keyleash.protocol.active import Client, GuardRecord, guard_record
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.transport import LIBRARIES, Transport, function_name, library_code

NOT_LOADED = "script-not-loaded"
NO_TEXT = "script-without-text"
OTHER_TEXT = "script-text-changed"
OTHER_FUNCTION = "function-changed"
WATCH = "`keyleash watch` keeps them loaded on every server; with `--once` it does so now"
LOAD = "`keyleash load` the active policy again"


def check_scripts(server: Server, keyspace: Keyspace) -> Iterator[Said]:
    """Compare records, recorded texts, and what is loaded."""
    recorded = read_recorded(server.client, keyspace)
    for identity, digest in recorded.changed:
        key = shown_key(keyspace, keyspace.source(identity))
        yield _error(
            server,
            OTHER_TEXT,
            f"what is recorded as the script {digest} of `{identity}` is another text",
            f"find out who wrote to `{key}`, then {LOAD}",
        )
    for identity, digest in recorded.missing:
        yield _error(
            server,
            NO_TEXT,
            f"the script {digest} of `{identity}` is not recorded, so nobody can load it again",
            LOAD,
        )
    records = _records(server.client, keyspace)
    yield from _not_in_cache(server, records)
    yield from _functions(server, keyspace, records)


def _not_in_cache(server: Server, records: dict[str, GuardRecord]) -> Iterator[Said]:
    digests = {
        digest: name
        for name, record in records.items()
        if record.transport is Transport.EVALSHA
        for digest in (record.digest, record.batch_digest)
    }
    lacking = sorted({digests[one] for one in not_loaded(server.client, list(digests))})
    if lacking:
        yield _error(
            server,
            NOT_LOADED,
            f"guards are not loaded: {named(lacking)}; agents that may not load them wait in vain",
            WATCH,
        )


def _functions(
    server: Server, keyspace: Keyspace, records: dict[str, GuardRecord]
) -> Iterator[Said]:
    by_function = {
        name: one for name, one in records.items() if one.transport is Transport.FUNCTION
    }
    if not by_function:
        return
    held = _libraries(server.client)
    lacking, changed = set(), set()
    for some in batches(by_function):
        with server.client.pipeline(transaction=False) as pipe:
            for name in some:
                pipe.hgetall(keyspace.source(name))
            texts = pipe.execute()
        for name, source in zip(some, texts, strict=True):
            record = by_function[name]
            for digest in (record.digest, record.batch_digest):
                text = source.get(digest.encode())
                code = held.get(function_name(digest))
                if code is None:
                    lacking.add(name)
                elif text is not None and code != library_code(
                    name, digest, text.decode("latin-1")
                ):
                    changed.add(name)
    if lacking:
        yield _error(
            server, NOT_LOADED, f"functions are not loaded: {named(sorted(lacking))}", WATCH
        )
    if changed:
        yield _error(
            server,
            OTHER_FUNCTION,
            f"functions are not the guards that they are named after: {named(sorted(changed))}",
            f"suspend these identities, find out who replaced the functions, then {LOAD}",
        )


def _libraries(client: Client) -> dict[str, str]:
    """The texts of guards' libraries by name."""
    found: dict[str, str] = {}
    # Some at a time: the texts of a large policy are megabytes.
    for digit in "0123456789abcdef":
        for one in client.function_list(f"{LIBRARIES}{digit}*", withcode=True):
            fields = one if isinstance(one, dict) else dict(zip(one[::2], one[1::2], strict=True))
            found[_text(fields[b"library_name"])] = _text(fields[b"library_code"])
    return found


def _records(client: Client, keyspace: Keyspace) -> dict[str, GuardRecord]:
    found = {}
    for some in batches(sorted(client.hkeys(keyspace.layouts))):
        names = [name.decode() for name in some]
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(keyspace.guard(name))
            for name, raw in zip(names, pipe.execute(), strict=True):
                record = guard_record(raw)
                if record is not None:
                    found[name] = record
    return found


def _error(server: Server, code: str, message: str, help: str) -> Finding:
    return Finding(code, Severity.ERROR, message, help, server.name)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
