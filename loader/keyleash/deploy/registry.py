"""Scripts on the server: loaded, compared by digest, kept as source, retired."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.compiler import CompiledGuard, Report
from keyleash.deploy.collector import MANY, come_around
from keyleash.deploy.standing import batches
from keyleash.errors import DigestMismatchError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace


def load_scripts(
    client: Client, guards: Sequence[CompiledGuard], report: Report | None = None
) -> None:
    """Load the guards that the server lacks, and compare its digests with ours.

    Args:
        report: Told now and then how many are there.

    Raises:
        DigestMismatchError: the server names a script otherwise than we do. A guard's
            digest is its identity: nothing is activated then.
    """
    loaded = 0
    for batch in batches(guards):
        scripts = [(guard, *script) for guard in batch for script in guard.scripts.items()]
        known = client.script_exists(*(digest for _, digest, _ in scripts))
        for (guard, expected, script), present in zip(scripts, known, strict=True):
            if present:
                continue
            answered = client.script_load(script)
            digest = answered.decode() if isinstance(answered, bytes) else answered
            if digest != expected:
                raise DigestMismatchError(
                    f"the server gives the guard of `{guard.identity}` the digest `{digest}`,"
                    f" expected `{expected}`"
                )
        if len(known) - sum(known) >= MANY:
            come_around(client)
        loaded += len(batch)
        if report is not None:
            report(loaded, len(guards))


def record_sources(client: Client, keyspace: Keyspace, guards: Sequence[CompiledGuard]) -> None:
    """Put each script's text where those who may load can find it. Adds, never replaces."""
    for batch in batches(guards):
        with client.pipeline(transaction=False) as pipe:
            for guard in batch:
                pipe.hset(keyspace.source(guard.identity), mapping=dict(guard.scripts))
            pipe.execute()


def retire_sources(
    client: Client, keyspace: Keyspace, guards: Sequence[CompiledGuard], removed: Sequence[str]
) -> None:
    """Forget the texts of scripts that no record names any more."""
    for batch in batches(guards):
        with client.pipeline(transaction=False) as pipe:
            for guard in batch:
                pipe.hkeys(keyspace.source(guard.identity))
            held = pipe.execute()
        with client.pipeline(transaction=False) as pipe:
            for guard, digests in zip(batch, held, strict=True):
                old = [digest for digest in digests if digest.decode() not in guard.scripts]
                if old:
                    pipe.hdel(keyspace.source(guard.identity), *old)
            pipe.execute()
    for names in batches(removed):
        client.unlink(*map(keyspace.source, names))
