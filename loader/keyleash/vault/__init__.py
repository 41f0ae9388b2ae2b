"""The vault: data and control keys under random prefixes that agents do not know.

Not for Redis Cluster: a guard reaches keys that its caller did not declare.
"""

from keyleash.vault.adoption import adopt_keys, release_keys
from keyleash.vault.change import ChangeResult, Hooks, rotate, seal, unseal
from keyleash.vault.moving import Moved, Progress

__all__ = [
    "ChangeResult",
    "Hooks",
    "Moved",
    "Progress",
    "adopt_keys",
    "release_keys",
    "rotate",
    "seal",
    "unseal",
]
