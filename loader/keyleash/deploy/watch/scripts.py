"""Which scripts and functions a server should have loaded, which it has, and loading the rest.

This is all that a watcher knows of how guards are called. Functions are kept and replicated by
the servers: what is lacking was taken away, and a primary gives it to its replicas.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from keyleash.deploy.functions import held_functions
from keyleash.deploy.standing import batches
from keyleash.errors import DigestMismatchError
from keyleash.protocol.active import Client, GuardRecord, guard_record
from keyleash.protocol.keyspace import Keyspace, script_digest
from keyleash.protocol.transport import Transport, function_name, library_code


@dataclass(slots=True)
class Recorded:
    """
    The scripts that a server's own records speak of.

    Attributes:
        owners: The identity of each script whose text is there and is its digest's.
        functions: The same of those that are called as functions.
        missing: Identity and digest of what a guard record names and nobody has the text of.
        changed: Identity and digest of a text that is another script's.
    """

    owners: dict[str, str] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)
    changed: list[tuple[str, str]] = field(default_factory=list)


def read_recorded(client: Client, keyspace: Keyspace) -> Recorded:
    """Read records and texts, and compare every text with its digest.

    Texts that no record names yet are of a load that is under way, and loaded as well: then
    they are there when it activates.
    """
    recorded = Recorded()
    for names in batches(sorted(client.hkeys(keyspace.layouts))):
        identities = [name.decode() for name in names]
        with client.pipeline(transaction=False) as pipe:
            for identity in identities:
                pipe.hgetall(keyspace.guard(identity))
                pipe.hgetall(keyspace.source(identity))
            replies = iter(pipe.execute())
        for identity in identities:
            _sort(recorded, identity, guard_record(next(replies)), next(replies))
    return recorded


def _sort(
    recorded: Recorded,
    identity: str,
    record: GuardRecord | None,
    texts: Mapping[bytes, bytes],
) -> None:
    held = {digest.decode("latin-1"): text for digest, text in texts.items()}
    named = () if record is None else (record.digest, record.batch_digest)
    by_function = named if record and record.transport is Transport.FUNCTION else ()
    for digest, text in held.items():
        if not is_text_of(text, digest):
            recorded.changed.append((identity, digest))
        elif digest in by_function:
            recorded.functions[digest] = identity
        else:
            recorded.owners[digest] = identity
    recorded.missing += [(identity, digest) for digest in named if digest not in held]


def is_text_of(text: bytes, digest: str) -> bool:
    """Whether *text* is the script of that digest, and in ASCII as guards are."""
    script = text.decode("latin-1")
    return script.isascii() and script_digest(script) == digest


def not_loaded(client: Client, digests: Iterable[str]) -> Iterator[str]:
    """Which of *digests* the server would answer with NOSCRIPT."""
    for some in batches(digests):
        for digest, is_there in zip(some, client.script_exists(*some), strict=True):
            if not is_there:
                yield digest


def not_kept(client: Client, digests: Collection[str]) -> list[str]:
    """Which of *digests* the server has no function of."""
    held = held_functions(client) if digests else set()
    return [digest for digest in digests if function_name(digest) not in held]


def load_recorded(
    client: Client, keyspace: Keyspace, identity: str, digest: str, transport: Transport
) -> bool:
    """Load a script, or a function, from its recorded text.

    Returns:
        Whether it was; False if the text is gone or is another script's.

    Raises:
        DigestMismatchError: the server names it otherwise.
    """
    text = client.hget(keyspace.source(identity), digest)
    # It may have been changed since it was compared.
    if text is None or not is_text_of(text, digest):
        return False
    if transport is Transport.FUNCTION:
        client.function_load(library_code(identity, digest, text.decode("ascii")))
        return True
    answered = client.script_load(text)
    named = answered.decode() if isinstance(answered, bytes) else answered
    if named != digest:
        raise DigestMismatchError(f"the server gives the digest `{named}`, expected `{digest}`")
    return True
