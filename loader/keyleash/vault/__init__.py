"""The vault: data and control keys under random prefixes that agents do not know."""

from keyleash.vault.change import (
    ChangeResult,
    adopt_keys,
    change_prefixes,
    release_keys,
    rotate,
    seal,
    unseal,
)

__all__ = [
    "ChangeResult",
    "adopt_keys",
    "change_prefixes",
    "release_keys",
    "rotate",
    "seal",
    "unseal",
]
