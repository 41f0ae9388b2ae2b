"""A sealed server, as tests need it, with prefixes that are easily seen in what goes wrong."""

from __future__ import annotations

from typing import Any

from keyleash.store.keyspace import Keyspace
from keyleash.store.server_check import Client

SEALED = Keyspace(prefix="c0ffee" * 5 + "00:", vault="decade" * 5 + "00:")
SECRETS = (SEALED.prefix, SEALED.vault)


def record(admin: Client, keyspace: Keyspace = SEALED) -> None:
    """Put the prefixes in force, as sealing would on a server without keys."""
    admin.hset(keyspace.sealed, mapping={"control": keyspace.prefix, "vault": keyspace.vault})


def assert_hidden(*output: Any) -> None:
    """Assert that no value contains a prefix."""
    for item in output:
        shown = str(item) if isinstance(item, Exception) else repr(item)
        assert not any(secret.rstrip(":") in shown for secret in SECRETS), shown
